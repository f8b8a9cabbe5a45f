"""A run is worse where a share of the floor fell by more than the noise."""

from pathlib import Path
from typing import Any

import pytest

from ptychopinn_plugin import bench
from ptychopinn_plugin.errors import DataError


def report(**shares: float) -> dict[str, Any]:
    return {'rows': [{'key': key, 'share': value, 'noise': 0.1} for key, value in shares.items()]}


def test_only_what_is_worse_than_the_noise_counts() -> None:
    old = report(training=0.1, iteration=0.2, prediction=0.3, gone=1.0)
    new = report(training=0.095, iteration=0.12, prediction=0.6, fresh=0.01)
    rows, worse = bench.compare(old, new)
    assert worse == ['iteration']
    assert {row['key']: round(row['ratio'], 2) for row in rows} == {
        'training': 0.95,
        'iteration': 0.6,
        'prediction': 2.0,
    }
    with pytest.raises(DataError, match='figures in common'):
        bench.compare(report(one=1.0), report(other=1.0))


@pytest.mark.parametrize('text', ['', '{}', '{"rows": [{"key": "a", "share": 0, "noise": 0}]}'])
def test_another_file_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / 'old.json'
    path.write_text(text)
    with pytest.raises(DataError, match='expected to be a report of ptychopinn bench'):
        bench.read_report(path)
