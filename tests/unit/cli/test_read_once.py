"""Whoever reads a scan fits it and checks it, once: nothing below does it again (decision 31)."""

from pathlib import Path
from typing import Any

import pytest

from ptychopinn_plugin import api, data
from ptychopinn_plugin.data import Scan, grouping, write_scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate


@pytest.fixture
def large_scan(tmp_path: Path) -> Path:
    """Return a file with patterns that the model of these tests takes cropped."""
    scan = simulate(SimulationConfig(size=48, rows=8, columns=8, step_px=5.0))
    write_scan(tmp_path / 'large.npz', scan)
    return tmp_path / 'large.npz'


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """Return the numbers of patterns that were fitted and checked, call by call."""
    seen: dict[str, list[int]] = {'fitted': [], 'checked': []}
    fit, check = data.fit_to_size, grouping.check_positions

    def fit_to_size(scan: Scan, size: int) -> Scan:
        seen['fitted'].append(len(scan))
        return fit(scan, size)

    def check_positions(scan: Scan) -> None:
        seen['checked'].append(len(scan))
        check(scan)

    monkeypatch.setattr(data, 'fit_to_size', fit_to_size)
    for module in (grouping, api):
        monkeypatch.setattr(module, 'check_positions', check_positions)
    return seen


@pytest.mark.usefixtures('backend')
def test_a_scan_is_fitted_and_checked_once(
    run: Any, calls: dict[str, list[int]], large_scan: Path, model_file: Path, tmp_path: Path
) -> None:
    commands: list[tuple[tuple[Any, ...], list[int], list[int]]] = [
        (('train', large_scan, '--pattern-size', 32, '-o', tmp_path / 'a'), [64], [64]),
        (('train', large_scan, '--base-model', model_file, '-o', tmp_path / 'b'), [64], [64]),
        (('reconstruct', model_file, large_scan, '-o', tmp_path / 'c'), [64], [64]),
        (('refine', large_scan, '-o', tmp_path / 'd'), [], [64]),
        # Each half is checked, as its illuminations must overlap.
        (('evaluate', '--half-scans', large_scan, '--model', model_file), [64], [32, 32]),
    ]
    for words, fitted, checked in commands:
        done = run(*words)
        assert done.code == 0, done.err
        assert calls == {'fitted': fitted, 'checked': checked}, words
        for numbers in calls.values():
            numbers.clear()
    api.reconstruct(model_file, large_scan)
    assert calls == {'fitted': [64], 'checked': [64]}


def test_no_backend_fits_or_checks_a_scan() -> None:
    backends = Path(api.__file__).parent / 'backends'
    for path in backends.rglob('*.py'):
        text = path.read_text(encoding='utf-8')
        for name in ('fit_to_size', 'check_positions', 'check_before_run'):
            assert f'{name}(' not in text, path
