"""Draw the default network and write its table of layers into docs/network.md.

    python docs/network_diagram.py

Both come from `ptychopinn_plugin.network.describe_network`; `tests/docs/test_network_page.py`
compares the page and the figure with it.
"""

import math
from collections.abc import Iterator
from pathlib import Path

from ptychopinn_plugin.config import ModelConfig
from ptychopinn_plugin.network import Layer, NetworkDescription, describe_network

DOCS = Path(__file__).parent
PAGE = DOCS / 'network.md'
FIGURE = DOCS / 'images' / 'sweepnet.svg'
START, END = '<!-- layers -->', '<!-- end of layers -->'

WINDOW_PX = 32
"""Any multiple of 4: the table names sides as fractions of it."""

BOX_PX = (156, 42)
COLUMN_PX, ROW_PX = 184, 58
COLOURS = {1: '#dbe9f6', 2: '#c6e3cf', 4: '#f6e2c0'}
"""One for each scale: pixels of the window for a pixel of the layer."""

OPERATIONS = {
    'input': 'six images',
    'conv': 'convolution 3 x 3',
    'average-pool': 'mean of 2 x 2',
    'upsample': 'each pixel to 2 x 2',
    'space-to-depth': '2 x 2 to channels',
    'depth-to-space': 'channels to 2 x 2',
    'add': 'sum',
}


def sweepnet() -> NetworkDescription:
    """Return the network with the default settings."""
    return describe_network(ModelConfig(), WINDOW_PX)


def scales(description: NetworkDescription) -> dict[str, int]:
    """Return how many pixels of the window a pixel of each layer stands for, along a side."""
    found: dict[str, int] = {}
    for layer in description.layers:
        before = found[layer.inputs[0]] if layer.inputs else 1
        if layer.kind in ('average-pool', 'space-to-depth'):
            before *= layer.size
        elif layer.kind in ('upsample', 'depth-to-space'):
            before //= layer.size
        found[layer.name] = before
    return found


def weight_counts(description: NetworkDescription) -> dict[str, int]:
    """Return the number of weights, biases included, of each layer that has any."""
    counts: dict[str, int] = {}
    for name, shape in description.weight_shapes().items():
        layer = name.rpartition('/')[0]
        counts[layer] = counts.get(layer, 0) + math.prod(shape)
    return counts


def table(description: NetworkDescription) -> list[str]:
    """Return the lines of the table of layers."""
    lines = ['| layer | made from | operation | channels | side | weights |', '|' + '---|' * 6]
    sides, counts = scales(description), weight_counts(description)
    for layer in description.layers:
        operation = OPERATIONS[layer.kind]
        if layer.activation != 'none':
            operation += f', {layer.activation}'
        cells = (
            f'`{layer.name}`',
            ', '.join(f'`{name}`' for name in layer.inputs),
            operation,
            str(layer.out_channels),
            _side(sides[layer.name]),
            f'{counts[layer.name]:,}' if layer.name in counts else '',
        )
        lines.append(f'| {" | ".join(cells)} |')
    lines.append(f'| in all | | | | | {sum(counts.values()):,} |')
    return lines


def page_with_table(text: str, lines: list[str]) -> str:
    """Return the page with the table between its marks."""
    head, _, rest = text.partition(START)
    _, mark, tail = rest.partition(END)
    assert mark, f'{PAGE} must hold the marks {START} and {END}.'
    rows = '\n'.join(lines)
    return f'{head}{START}\n\n{rows}\n\n{END}{tail}'


def figure(description: NetworkDescription) -> str:
    """Return the drawing as SVG: layers from top to bottom, scales from left to right."""
    sides = scales(description)
    columns = sorted(set(sides.values()))
    places = {}
    for number, layer in enumerate(description.layers):
        x = 14 + columns.index(sides[layer.name]) * COLUMN_PX
        # What comes back up lies between two scales, so that the skip can pass beside it.
        x += COLUMN_PX // 2 if layer.kind == 'upsample' else 0
        places[layer.name] = (x, 14 + number * ROW_PX)
    width = 12 + len(columns) * COLUMN_PX
    height = 12 + len(description.layers) * ROW_PX
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">',
        '<title>The layers of sweepnet</title>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#444"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        *_arrows(description, places),
        *(_box(layer, places[layer.name], sides[layer.name]) for layer in description.layers),
        '</svg>',
    ]
    return '\n'.join(parts) + '\n'


def _side(scale: int) -> str:
    return 'W' if scale == 1 else f'W/{scale}'


def _box(layer: Layer, place: tuple[int, int], scale: int) -> str:
    (x, y), (width, height) = place, BOX_PX
    operation = OPERATIONS[layer.kind]
    texts = (
        (operation, 18, 'font-weight="bold"'),
        (f'{layer.name}: {layer.out_channels} at {_side(scale)}', 34, 'font-size="11"'),
    )
    labels = ''.join(
        f'<text x="{x + width // 2}" y="{y + down}" text-anchor="middle" {style}>{text}</text>'
        for text, down, style in texts
    )
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" '
        f'fill="{COLOURS[scale]}" stroke="#555"/>{labels}'
    )


def _arrows(description: NetworkDescription, places: dict[str, tuple[int, int]]) -> Iterator[str]:
    width, height = BOX_PX
    names = [layer.name for layer in description.layers]
    for layer in description.layers:
        for source in layer.inputs:
            (x, y), (to_x, to_y) = places[source], places[layer.name]
            path = f'M{x + width // 2} {y + height} L{to_x + width // 2} {to_y}'
            if names.index(layer.name) - names.index(source) > 1:
                # The skip: an arc beside what lies between.
                y, to_y, left = y + height // 2, to_y + height // 2, x - 44
                path = f'M{x} {y} C{left} {y} {left} {to_y} {to_x} {to_y}'
            yield f'<path d="{path}" fill="none" stroke="#444" marker-end="url(#tip)"/>'


def main() -> None:
    """Write the figure and the table."""
    description = sweepnet()
    FIGURE.write_text(figure(description), encoding='utf-8')
    text = PAGE.read_text(encoding='utf-8')
    PAGE.write_text(page_with_table(text, table(description)), encoding='utf-8')


if __name__ == '__main__':
    main()
