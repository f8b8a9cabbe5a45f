"""The trial scans: what a newcomer meets first."""

from pathlib import Path

import h5py
import numpy as np
import pytest

import ptychopinn_plugin as pp
from ptychopinn_plugin.host import example_scans


def test_the_trial_scans_are_what_batch_mode_and_the_window_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr('sys.argv', ['example_scans', str(tmp_path)])
    assert example_scans.main() == 0
    known, unseen = tmp_path / 'known', tmp_path / 'unseen'
    reported = capsys.readouterr().out
    assert reported.startswith(f'{known}\n{unseen}\n')
    for number, step in enumerate(example_scans.WINDOW_STEPS, 1):
        assert f'  {number}. {step.format(folder=tmp_path)}\n' in reported
    for folder in (known, unseen):
        scan = pp.load_scan(folder)
        assert scan.patterns.shape == (1024, 64, 64)
        assert scan.geometry.pixel_width_m is not None
        assert 'Algorithm = ptychopinn-plugin_PINN' in (folder / 'settings.ini').read_text()
        with np.load(tmp_path / f'{folder.name}-patterns.npz') as arrays:
            np.testing.assert_array_equal(arrays['patterns'], scan.patterns)
            assert set(arrays) == {'patterns', 'indexes', 'bad_pixels'}
        with h5py.File(folder / 'product.h5') as file:
            assert np.all(file['object'][()] == 1)
