"""Where *Train on product* puts what it trains on."""

import pytest

panel_buttons = pytest.importorskip('ptychopinn_plugin.host.panel_buttons')


def test_each_product_has_a_folder_of_its_own() -> None:
    names = ['scan_1', 'scan 1', 'scan/1', 'scan  1', 'Probe-2.5+']
    folders = [panel_buttons.training_folder_name(name) for name in names]
    assert folders[0] == 'scan_1-training'
    assert folders[4] == 'Probe-2.5+-training'
    assert len(set(folders)) == len(names)
    assert not any(set(folder) & set('/ ') for folder in folders)
