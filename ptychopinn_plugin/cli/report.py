"""`report.html`: one page with the pictures inside, readable offline and on a phone."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from ptychopinn_plugin.cli.outputs import write_text

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2530; --paper: #fff; --soft: #f2f4f7;
  --line: #d5dae1; --dim: #5b6675; --accent: #0b63b0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --paper: #14181e;
  --soft: #1f252d; --line: #39424e; --dim: #9aa6b5; --accent: #7db8f0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, 'Segoe UI', sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
p { max-width: 46rem; } .dim { color: var(--dim); font-size: .9rem; }
figure { margin: 1rem 0; overflow-x: auto; }
figure img { width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 6px; }
figure.narrow { max-width: 44rem; }
figcaption { color: var(--dim); font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .4rem .7rem; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { font-weight: 600; } thead th { background: var(--soft); white-space: nowrap; }
td.number, th.number { text-align: right; white-space: nowrap; }
td.best { color: var(--accent); font-weight: 600; }
td.value { overflow-wrap: anywhere; }
tbody th { min-width: 8rem; }
details { border: 1px solid var(--line); border-radius: 6px; margin: .6rem 0;
  padding: .4rem .8rem; }
summary { cursor: pointer; font-weight: 600; }
/* On a phone a picture keeps a size at which its words can be read, and is moved sideways. */
@media (max-width: 44rem) { figure img { min-width: 54rem; }
  figure.narrow img { min-width: 34rem; } figcaption { position: sticky; left: 0; } }
"""

# The page loads and runs nothing, which its policy enforces: it is passed on, and holds names that
# others have given to files.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body><main>
{body}
</main></body>
</html>
"""


@dataclass(frozen=True)
class Column:
    """A column of the comparison.

    Attributes
    ----------
    heading : str
    key : str
        Of the row's value.
    digits : str
        The format of a number, as `format` takes it; empty for text.
    best : 'high', 'low' or ''
        Which value of the column is set off.
    """

    heading: str
    key: str
    digits: str
    best: str = ''


COMPARISON = (
    Column('', 'title', ''),
    Column('Amplitude SSIM', 'amplitude_ssim', '.3f', 'high'),
    Column('Phase SSIM', 'phase_ssim', '.3f', 'high'),
    Column('FRC-0.5', 'frc_0.5', '.3f', 'high'),
    Column('Amplitude residual', 'amplitude_residual', '.4f', 'low'),
    Column('Seconds', 'seconds', '.2f', 'low'),
    Column('Patterns/s', 'patterns_per_second', ',.0f', 'high'),
)


@dataclass(frozen=True)
class Picture:
    """A PNG and what it shows.

    Attributes
    ----------
    path : Path
    caption : str
    narrow : bool
        Whether it is drawn over less than the whole width.
    """

    path: Path
    caption: str
    narrow: bool = False


@dataclass(frozen=True)
class ReportPage:
    """The contents of the page.

    Attributes
    ----------
    title, introduction : str
    rows : sequence of mappings
        The comparison; keys as in `COMPARISON`.
    comparison : Picture
    opening : tuple of (str, Picture), optional
        A text and a picture that come first.
    pictures : mapping of str to Picture
        By heading.
    facts : mapping of str to mapping
        Tables by heading: the run, the machine.
    settings : mapping of str to mapping
        As in `Config.to_dict`.
    """

    title: str
    introduction: str
    rows: Sequence[Mapping[str, Any]]
    comparison: Picture
    pictures: Mapping[str, Picture]
    facts: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Mapping[str, Any]]
    opening: tuple[str, Picture] | None = None


def write_report(path: Path, report: ReportPage) -> None:
    """Write the page, with style and pictures inside.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    parts = [
        f'<h1>{escape(report.title)}</h1>',
        *_opening(report),
        f'<p>{escape(report.introduction)}</p>',
        _figure(report.comparison),
        '<h2>Side by side</h2>',
        _comparison(report.rows),
        '<p class="dim">SSIM and the Fourier ring correlation are measured against the true '
        'object within the scanned box, after sub-pixel registration and removal of the global '
        'phase and scale. FRC-0.5 is the frequency, as a share of Nyquist, up to which the '
        'correlation stays above one half. Seconds hold prediction, stitching and iterations, not '
        'the training of the network, which is done once for many scans.</p>',
    ]
    for heading, picture in report.pictures.items():
        parts += [f'<h2>{escape(heading)}</h2>', _figure(picture)]
    for heading, facts in report.facts.items():
        parts += [f'<h2>{escape(heading)}</h2>', _facts(facts)]
    parts.append('<h2>Settings in force</h2>')
    parts += [
        f'<details><summary>{escape(section)}</summary>{_facts(values)}</details>'
        for section, values in report.settings.items()
    ]
    page = _PAGE.format(title=escape(report.title), style=_STYLE, body='\n'.join(parts))
    write_text(path, page)


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.path.read_bytes()).decode('ascii')
    caption = escape(picture.caption)
    kind = ' class="narrow"' if picture.narrow else ''
    return (
        f'<figure{kind}><img alt="{caption}" src="data:image/png;base64,{data}">'
        f'<figcaption>{caption}</figcaption></figure>'
    )


def _opening(report: ReportPage) -> list[str]:
    if report.opening is None:
        return []
    text, picture = report.opening
    return [f'<p>{escape(text)}</p>', _figure(picture)]


def _comparison(rows: Sequence[Mapping[str, Any]]) -> str:
    heads = ''.join(
        f'<th scope="col"{_number_class(column)}>{escape(column.heading)}</th>'
        for column in COMPARISON
    )
    best = {column.key: _best(column, rows) for column in COMPARISON}
    lines = [''.join(_cell(column, row, best[column.key]) for column in COMPARISON) for row in rows]
    body = ''.join(f'<tr>{line}</tr>' for line in lines)
    return (
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead>'
        f'<tbody>{body}</tbody></table></div>'
    )


def _number_class(column: Column) -> str:
    return ' class="number"' if column.digits else ''


def _best(column: Column, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the best value as it is shown, so that what reads the same is marked the same."""
    values = [row[column.key] for row in rows if row[column.key] is not None]
    if not values or not column.best:
        return ''
    return format(max(values) if column.best == 'high' else min(values), column.digits)


def _cell(column: Column, row: Mapping[str, Any], best: str) -> str:
    value = row[column.key]
    if not column.digits:
        return f'<th scope="row">{escape(str(value))}</th>'
    text = 'n/a' if value is None else format(value, column.digits)
    kind = 'number best' if text == best else 'number'
    return f'<td class="{kind}">{escape(text)}</td>'


def _facts(values: Mapping[str, Any]) -> str:
    rows = ''.join(
        f'<tr><th scope="row">{escape(name.replace("_", " "))}</th>'
        f'<td class="value">{escape(_plain(value))}</td></tr>'
        for name, value in values.items()
    )
    return f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>'


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return 'on' if value else 'off'
    if isinstance(value, float):
        return f'{value:.6g}'
    if isinstance(value, list | tuple):
        return ', '.join(_plain(item) for item in value)
    return str(value)
