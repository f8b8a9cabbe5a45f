"""Draw the layers of the package from its imports, and write their table into architecture.md.

    python docs/architecture.py            # writes docs/architecture.md and images/architecture.svg
    python docs/architecture.py --check    # exits with 1 where they are not up to date

The layers are those of the contract in pyproject.toml that `lint-imports` checks. An arrow is an
import that no chain of other arrows implies. Needs `pip install 'ptychopinn-plugin[lint]'`.
"""

import argparse
import ast
import sys
import tomllib
from pathlib import Path
from xml.sax.saxutils import escape

import grimp

DOCS = Path(__file__).parent
PAGE, PICTURE = DOCS / 'architecture.md', DOCS / 'images' / 'architecture.svg'
BEGIN, END = '<!-- layers -->\n', '<!-- end of layers -->\n'

WIDTH, ROW, BOX_HEIGHT, MARGIN, GAP = 1000, 92, 34, 20, 14
CHARACTER = 7.6

STYLE = (
    'text{font:13px sans-serif;text-anchor:middle;fill:#1b1b1b}'
    '.layer{fill:#f2f4f8}.box{fill:#fff;stroke:#33518a;stroke-width:1.2}'
    '.arrow{fill:none;stroke:#33518a;stroke-opacity:.5}'
)

Layers = list[list[str]]
Arrows = set[tuple[str, str]]


def read_layers() -> tuple[str, Layers]:
    """Return the package and its layers, the outermost first, from the contract."""
    settings = tomllib.loads((DOCS.parent / 'pyproject.toml').read_text(encoding='utf-8'))
    linter = settings['tool']['importlinter']
    contract = next(one for one in linter['contracts'] if one['type'] == 'layers')
    rows = [layer.replace(':', '|').split('|') for layer in contract['layers']]
    layers = [[name.strip(' ()') for name in row] for row in rows]
    root: str = linter['root_package']
    return root, [
        [name if name.startswith(root) else f'{root}.{name}' for name in row] for row in layers
    ]


def find_arrows(root: str, layers: Layers) -> Arrows:
    """Return who imports whom, without what other arrows imply."""
    graph = grimp.build_graph(root)
    names = [name for row in layers for name in row if name in graph.modules]
    owner = {
        module: name
        for name in names
        for module in {name, *graph.find_descendants(name)}
        if not any(module.startswith(f'{other}.') for other in names if len(other) > len(name))
    }
    found = {
        (owner[module], owner[imported])
        for module in owner
        for imported in graph.find_modules_directly_imported_by(module)
        if imported in owner
    }
    level = {name: depth for depth, row in enumerate(layers) for name in row}
    below = {name: {b for a, b in found if a == name and level[b] > level[a]} for name in names}

    def reach(name: str) -> set[str]:
        return below[name].union(*map(reach, below[name]))

    return {
        (name, target)
        for name in names
        for target in below[name]
        if not any(target in reach(other) for other in below[name] - {target})
    }


def describe(module: str) -> str:
    """Return the first sentence of a module's docstring."""
    path = DOCS.parent / Path(*module.split('.'))
    file = path / '__init__.py' if path.is_dir() else path.with_suffix('.py')
    text = ast.get_docstring(ast.parse(file.read_text(encoding='utf-8'))) or ''
    return ' '.join(text.split('\n\n')[0].split()).replace('|', '\\|')


def make_table(root: str, layers: Layers) -> str:
    """Return the table of layers in Markdown."""
    lines = ['| layer | module | what it is |', '|---|---|---|']
    for number, row in enumerate(layers):
        for name in row:
            short = name.removeprefix(f'{root}.')
            lines.append(f'| {len(layers) - number} | `{short}` | {describe(name)} |')
    return '\n'.join(lines) + '\n'


def place_boxes(root: str, layers: Layers) -> dict[str, tuple[float, float, float]]:
    """Return the middle, the upper edge and the width of each box; each layer is centred."""
    boxes = {}
    for number, row in enumerate(layers):
        widths = [CHARACTER * len(name.removeprefix(f'{root}.')) + 18 for name in row]
        spare = (WIDTH - 2 * MARGIN - sum(widths)) / (len(row) + 1)
        x = MARGIN + spare
        for name, width in zip(row, widths, strict=True):
            boxes[name] = (x + width / 2, MARGIN + ROW * number + GAP, width)
            x += width + spare
    return boxes


def draw(root: str, layers: Layers, arrows: Arrows) -> str:
    """Return the picture as SVG, the same for the same imports."""
    boxes = place_boxes(root, layers)
    height = 2 * MARGIN + ROW * len(layers) - ROW + BOX_HEIGHT + 2 * GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'role="img" aria-label="Layers of the package and what imports what">',
        f'<style>{STYLE}</style>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="#33518a"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for number in range(len(layers)):
        top, band = MARGIN + ROW * number, BOX_HEIGHT + 2 * GAP
        parts.append(
            f'<rect class="layer" x="{MARGIN}" y="{top}" width="{WIDTH - 2 * MARGIN}" '
            f'height="{band}" rx="8"/>'
        )
    for name, target in sorted(arrows):
        (x, y, _), (end_x, end_y, _) = boxes[name], boxes[target]
        start_y = y + BOX_HEIGHT
        parts.append(
            f'<path class="arrow" marker-end="url(#tip)" d="M{x:.1f} {start_y:.1f}C{x:.1f} '
            f'{start_y + ROW / 2:.1f} {end_x:.1f} {end_y - ROW / 2:.1f} {end_x:.1f} {end_y:.1f}"/>'
        )
    for name, (x, y, width) in boxes.items():
        parts.append(
            f'<rect class="box" x="{x - width / 2:.1f}" y="{y:.1f}" width="{width:.1f}" '
            f'height="{BOX_HEIGHT}" rx="5"/>'
            f'<text x="{x:.1f}" y="{y + 22:.1f}">{escape(name.removeprefix(f"{root}."))}</text>'
        )
    return '\n'.join([*parts, '</svg>']) + '\n'


def main() -> int:
    """Write the page and the picture, or compare them."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--check', action='store_true', help='write nothing; 1 where they differ')
    check = parser.parse_args().check
    sys.path.insert(0, str(DOCS.parent))
    root, layers = read_layers()
    text = PAGE.read_text(encoding='utf-8')
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    wanted = {
        PAGE: text[:begin] + make_table(root, layers) + text[end:],
        PICTURE: draw(root, layers, find_arrows(root, layers)),
    }
    stale = [
        path
        for path, new in wanted.items()
        if not path.exists() or path.read_text(encoding='utf-8') != new
    ]
    for path in stale:
        if check:
            print(f'{path.name} is not as the imports are. Run: python docs/architecture.py')
        else:
            path.write_text(wanted[path], encoding='utf-8')
    return int(check and bool(stale))


if __name__ == '__main__':
    sys.exit(main())
