"""Docs check: the page of the networks and its figures show the layers that the code makes."""

from pathlib import Path
from types import ModuleType

import pytest
from programs import load_program

DOCS = Path(__file__).parents[2] / 'docs'
NAMES = ('sweepnet', 'prior', 'cnn')


@pytest.fixture(scope='module')
def script() -> ModuleType:
    return load_program('docs/network_diagram.py')


def test_the_tables_list_the_layers_of_the_default_networks(script: ModuleType) -> None:
    text = script.PAGE.read_text(encoding='utf-8')
    assert script.page_with_tables(text) == text, 'Run python docs/network_diagram.py.'
    assert tuple(script.networks()) == NAMES


@pytest.mark.parametrize('name', NAMES)
def test_the_figure_shows_the_layers(script: ModuleType, name: str) -> None:
    drawn = script.figure_path(name).read_text(encoding='utf-8')
    assert drawn == script.figure(script.networks()[name]), 'Run python docs/network_diagram.py.'
    assert f'(images/{name}.svg)' in script.PAGE.read_text(encoding='utf-8')


@pytest.mark.parametrize('name', NAMES)
def test_each_layer_has_a_row_and_a_box_of_its_own(script: ModuleType, name: str) -> None:
    description = script.networks()[name]
    rows = script.table(description)
    assert len(rows) == len(description.layers) + 3
    place = script._branches if name == 'cnn' else script._scales
    # A character of the names takes some 5.5 px.
    assert max(len(f'{layer.name}: 32 at 1/2') for layer in description.layers) <= 30
    boxes = sorted(place(description).values())
    assert len(set(boxes)) == len(description.layers)
    width, height = script.BOX_PX
    for number, (x, y) in enumerate(boxes):
        for other_x, other_y in boxes[number + 1 :]:
            assert abs(other_x - x) >= width or abs(other_y - y) >= height


def test_the_table_counts_the_weights_that_a_backend_would_hold(script: ModuleType) -> None:
    rows = script.table(script.networks()['sweepnet'])
    # A convolution from 24 to 32 channels has 24 * 32 kernels of 9 weights, and 32 biases.
    assert '| `fine/1` | `fine/folded` | convolution 3 x 3, relu | 32 | 1/2 | 6,944 |' in rows


def test_sides_are_those_of_the_patch(script: ModuleType) -> None:
    """A network returns images of the side of its input; the middle of a patch is half of it."""
    for description in script.networks().values():
        found = script.sides(description)
        assert {found[name] for name in description.outputs} == {1}
    assert found['amplitude/last'] == found['amplitude/rest'] * 1 == 0.5
