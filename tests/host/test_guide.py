"""The guide and the trial scans: what a newcomer meets first."""

from pathlib import Path

import h5py
import numpy as np

import ptychopinn_plugin as pp
from ptychopinn_plugin.host.example_scans import write_example_scans
from ptychopinn_plugin.host.settings import ROWS

GUIDE = Path(__file__).parents[2] / 'docs' / 'ptychodus.md'


def settings_table() -> str:
    """Return the table of settings as the guide holds it."""
    head = ('| box | row | in the settings file | what it does |', '|---|---|---|---|')
    rows = (f'| {row.group} | {row.label} | `{row.key}` | {row.tool_tip} |' for row in ROWS)
    return '\n'.join((*head, *rows))


def test_the_guide_lists_the_settings_as_they_are() -> None:
    table = settings_table()
    assert table in GUIDE.read_text(encoding='utf-8'), f'Put this into {GUIDE.name}:\n{table}'


def test_the_pictures_of_the_guide_are_there_and_small() -> None:
    text = GUIDE.read_text(encoding='utf-8')
    for name in ('panel', 'training', 'result'):
        picture = GUIDE.parent / 'images' / f'ptychodus-{name}.png'
        assert f'images/{picture.name}' in text
        assert 10_000 < picture.stat().st_size < 300_000


def test_the_trial_scans_are_what_batch_mode_and_the_window_read(tmp_path: Path) -> None:
    known, unseen = write_example_scans(tmp_path)
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
