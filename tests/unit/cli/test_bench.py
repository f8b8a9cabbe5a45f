"""`ptychopinn bench`: its options, its exit codes and its table."""

import json
from pathlib import Path
from typing import Any

import pytest

from ptychopinn_plugin import bench
from ptychopinn_plugin.bench.measurement import BenchRow


def test_the_command_ends_with_1_where_something_is_slower(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By files, with figures that were not measured."""

    def measured(share: float) -> dict[str, Any]:
        row = BenchRow('iteration', 'pytorch', 64, 32, 800.0, 'patterns/s', share, 0.1, 900.0)
        machine = {'processor': 'x', 'cores': 2, 'load': 1.0}
        peaks = {'operations_per_second': 1e10, 'bytes_per_second': 1e10}
        rows = [{**vars(row), 'key': row.key}]
        return {'machine': machine, 'peaks': peaks, 'rows': rows}

    old = tmp_path / 'old.json'
    old.write_text(json.dumps(measured(0.2)))
    for share, code in ((0.19, 0), (0.1, 1), (0.4, 0)):
        monkeypatch.setattr(bench, 'run_bench', lambda *_, share=share: measured(share))
        shown = run('bench', '--quick', '--compare', str(old))
        assert shown.code == code
        assert ('SLOWER' in shown.out) == (code == 1)
    as_json = json.loads(run('bench', '--compare', str(old), '--json').out)
    assert as_json['comparison'][0]['ratio'] == pytest.approx(2)


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (('--sizes', '64;128'), '--sizes must be whole numbers of at least 16'),
        (('--batch-sizes', '0'), '--batch-sizes must be whole numbers of at least 1'),
        (('--precision', 'float8'), 'precision'),
        (('--against', 'ptypy'), '--against must be ptychi'),
        (('--compare', 'missing.json'), 'expected to be a report'),
    ],
)
def test_wrong_values_end_before_anything_is_measured(
    run: Any, arguments: tuple[str, ...], expected: str
) -> None:
    shown = run('bench', *arguments)
    assert shown.code == 2
    assert expected in shown.err
