"""Docs check: the page of the networks and its figure show the layers that the code makes."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / 'docs'


@pytest.fixture(scope='module')
def script() -> ModuleType:
    found = importlib.util.spec_from_file_location('network_diagram', DOCS / 'network_diagram.py')
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_table_lists_the_layers_of_the_default_network(script: ModuleType) -> None:
    text = script.PAGE.read_text(encoding='utf-8')
    renewed = script.page_with_table(text, script.table(script.sweepnet()))
    assert renewed == text, 'Run python docs/network_diagram.py.'


def test_the_figure_shows_the_layers_of_the_default_network(script: ModuleType) -> None:
    drawn = script.FIGURE.read_text(encoding='utf-8')
    assert drawn == script.figure(script.sweepnet()), 'Run python docs/network_diagram.py.'


def test_the_table_counts_the_weights_that_a_backend_would_hold(script: ModuleType) -> None:
    description = script.sweepnet()
    rows = script.table(description)
    assert len(rows) == len(description.layers) + 3
    # A convolution from 24 to 32 channels has 24 * 32 kernels of 9 weights, and 32 biases.
    assert '| `fine/1` | `fine/folded` | convolution 3 x 3, relu | 32 | W/2 | 6,944 |' in rows
