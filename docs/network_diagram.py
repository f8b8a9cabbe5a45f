"""Draw the networks and write their tables of layers into docs/network.md.

    python docs/network_diagram.py

All come from the descriptions that the backends build; `tests/docs/test_network_page.py` compares
the page and the figures with them.
"""

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from ptychopinn_plugin.config import ModelConfig
from ptychopinn_plugin.network import Layer, NetworkDescription, describe_network
from ptychopinn_plugin.pretraining.architecture import describe_prior

DOCS = Path(__file__).parent
PAGE = DOCS / 'network.md'

WINDOW_PX = 32
"""The table gives sides as parts of this one, so that any multiple of 8 does."""

CNN_PX = 64
"""The network `cnn` is shown for patterns of this size."""

BOX_PX = (166, 42)
COLUMN_PX, ROW_PX = 194, 58
COLOURS = {1: '#dbe9f6', 2: '#c6e3cf', 4: '#f6e2c0', 8: '#ecd3e4'}
"""Images have a colour for each of these parts of the input's side: 1, 1/2, 1/4 and 1/8."""

INPUTS = {'sweepnet': 'six images', 'prior': 'eleven images', 'cnn': 'amplitudes'}

OPERATIONS = {
    'conv': 'convolution 3 x 3',
    'average-pool': 'mean of 2 x 2',
    'max-pool': 'maximum of 2 x 2',
    'upsample': 'each pixel to 2 x 2',
    'space-to-depth': '2 x 2 to channels',
    'depth-to-space': 'channels to 2 x 2',
    'add': 'sum',
    'pad': 'zeros around',
    'border': 'zeros in the middle',
}

BRANCHES = ('amplitude', 'amplitude border', 'phase', 'phase border')
"""The decoders of `cnn` are drawn beside each other, with the branches of their borders."""


def networks() -> dict[str, NetworkDescription]:
    """Return the networks with the default settings, by the name of the architecture."""
    cnn = ModelConfig(architecture='cnn', pattern_size=CNN_PX)
    return {
        'sweepnet': describe_network(ModelConfig(), WINDOW_PX),
        'prior': describe_prior(),
        'cnn': describe_network(cnn, CNN_PX),
    }


def figure_path(name: str) -> Path:
    """Return where the figure of a network lies."""
    return DOCS / 'images' / f'{name}.svg'


def sides(description: NetworkDescription) -> dict[str, Fraction]:
    """Return the side of the images of each layer, as a part of the input's."""
    found: dict[str, Fraction] = {}
    for layer in description.layers:
        side = found[layer.inputs[0]] if layer.inputs else Fraction(1)
        if layer.kind in ('average-pool', 'max-pool', 'space-to-depth'):
            side /= layer.size
        elif layer.kind in ('upsample', 'depth-to-space'):
            side *= layer.size
        elif layer.kind == 'pad':
            side += Fraction(2 * layer.size, description.window_px)
        found[layer.name] = side
    return found


def weight_counts(description: NetworkDescription) -> dict[str, int]:
    """Return the number of weights, biases included, of each layer that has any."""
    counts: dict[str, int] = {}
    for name, shape in description.weight_shapes().items():
        layer = name.rpartition('/')[0]
        counts[layer] = counts.get(layer, 0) + math.prod(shape)
    return counts


def operation(description: NetworkDescription, layer: Layer) -> str:
    """Return what a layer computes, in words."""
    if layer.kind == 'input':
        return INPUTS[description.architecture]
    if layer.kind == 'channels':
        return f'channels {layer.start + 1} to {layer.stop}'
    return OPERATIONS[layer.kind]


def table(description: NetworkDescription) -> list[str]:
    """Return the lines of the table of layers."""
    lines = ['| layer | made from | operation | channels | side | weights |', '|' + '---|' * 6]
    parts, counts = sides(description), weight_counts(description)
    for layer in description.layers:
        activation = '' if layer.activation == 'none' else f', {layer.activation}'
        cells = (
            f'`{layer.name}`',
            ', '.join(f'`{name}`' for name in layer.inputs),
            operation(description, layer) + activation,
            str(layer.out_channels),
            str(parts[layer.name]),
            f'{counts[layer.name]:,}' if layer.name in counts else '',
        )
        lines.append(f'| {" | ".join(cells)} |')
    lines.append(f'| in all | | | | | {sum(counts.values()):,} |')
    return lines


def page_with_tables(text: str) -> str:
    """Return the page with each table between its marks."""
    for name, description in networks().items():
        start, end = f'<!-- layers of {name} -->', f'<!-- end of layers of {name} -->'
        head, _, rest = text.partition(start)
        _, mark, tail = rest.partition(end)
        assert mark, f'{PAGE} must hold the marks {start} and {end}.'
        rows = '\n'.join(table(description))
        text = f'{head}{start}\n\n{rows}\n\n{end}{tail}'
    return text


def figure(description: NetworkDescription) -> str:
    """Return the drawing as SVG, from the input at the top to what the network returns."""
    parts = sides(description)
    draw_places = _branches if description.architecture == 'cnn' else _scales
    places = draw_places(description)
    width = 12 + max(x for x, _ in places.values()) + BOX_PX[0] + 14
    height = 12 + max(y for _, y in places.values()) + BOX_PX[1] + 4
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">',
        f'<title>The layers of {description.architecture}</title>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#444"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        *_arrows(description, places),
        *(
            _box(operation(description, layer), layer, places[layer.name], parts[layer.name])
            for layer in description.layers
        ),
        '</svg>',
    ]
    return '\n'.join(drawn) + '\n'


def _scales(description: NetworkDescription) -> dict[str, tuple[int, int]]:
    """Place layers from top to bottom, and scales from left to right."""
    parts = sides(description)
    columns = sorted(set(parts.values()), reverse=True)
    places = {}
    for number, layer in enumerate(description.layers):
        x = 14 + columns.index(parts[layer.name]) * COLUMN_PX
        # What comes back up lies between two scales, so that the skip can pass beside it.
        x += COLUMN_PX // 2 if layer.kind == 'upsample' else 0
        places[layer.name] = (x, 14 + number * ROW_PX)
    return places


def _branches(description: NetworkDescription) -> dict[str, tuple[int, int]]:
    """Place layers below what they are made from, and branches beside each other."""
    rows: dict[str, int] = {}
    places = {}
    for layer in description.layers:
        rows[layer.name] = 1 + max((rows[name] for name in layer.inputs), default=-1)
        decoder, _, rest = layer.name.partition('/')
        column = 1.5
        if decoder in BRANCHES:
            is_border = rest.startswith(('border', 'rest'))
            column = BRANCHES.index(f'{decoder} border' if is_border else decoder)
        places[layer.name] = (14 + round(column * COLUMN_PX), 14 + rows[layer.name] * ROW_PX)
    return places


def _box(what: str, layer: Layer, place: tuple[int, int], side: Fraction) -> str:
    (x, y), (width, height) = place, BOX_PX
    texts = (
        (what, 18, 'font-weight="bold"'),
        (f'{layer.name}: {layer.out_channels} at {side}', 34, 'font-size="10"'),
    )
    labels = ''.join(
        f'<text x="{x + width // 2}" y="{y + down}" text-anchor="middle" {style}>{text}</text>'
        for text, down, style in texts
    )
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" '
        f'fill="{COLOURS[side.denominator]}" stroke="#555"/>{labels}'
    )


def _arrows(description: NetworkDescription, places: dict[str, tuple[int, int]]) -> Iterator[str]:
    width, height = BOX_PX
    boxes = set(places.values())
    for layer in description.layers:
        for source in layer.inputs:
            (x, y), (to_x, to_y) = places[source], places[layer.name]
            path = f'M{x + width // 2} {y + height} L{to_x + width // 2} {to_y}'
            rows_between = range(y + ROW_PX, to_y, ROW_PX)
            between = [box for box in boxes if box[1] in rows_between and abs(box[0] - x) < width]
            if x == to_x and between:
                # The skip: an arc beside what lies between.
                y, to_y, left = y + height // 2, to_y + height // 2, x - 44
                path = f'M{x} {y} C{left} {y} {left} {to_y} {to_x} {to_y}'
            yield f'<path d="{path}" fill="none" stroke="#444" marker-end="url(#tip)"/>'


def main() -> None:
    """Write the figures and the tables."""
    for name, description in networks().items():
        figure_path(name).write_text(figure(description), encoding='utf-8')
    PAGE.write_text(page_with_tables(PAGE.read_text(encoding='utf-8')), encoding='utf-8')


if __name__ == '__main__':
    main()
