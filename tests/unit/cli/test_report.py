"""The report: one page that needs nothing else, with everything in it escaped."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ptychopinn_plugin.cli.report import Picture, ReportPage, write_report
from ptychopinn_plugin.errors import OutputError

EVIL = '<script>alert("&")</script>'
UNCLOSED = {'meta', 'img'}


def make_row(title: str, **changes: Any) -> dict[str, Any]:
    values = {
        'title': title,
        'amplitude_ssim': 0.5,
        'phase_ssim': 0.25,
        'frc_0.5': 0.5,
        'amplitude_residual': 0.1,
        'seconds': 1.0,
        'patterns_per_second': 1234.5,
    }
    return {**values, **changes}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / 'a.png'
    path.write_bytes(b'\x89PNG and so on')
    return path


def write(folder: Path, picture: Path, rows: list[dict[str, Any]], text: str = 'text') -> str:
    shown = Picture(picture, text)
    narrow = Picture(picture, text, narrow=True)
    facts = {text: {text: text, 'on_or_off': True, 'numbers': [1, 2.5]}}
    report = ReportPage(text, text, rows, shown, {text: narrow}, facts, {text: {text: 0.1 + 0.2}})
    write_report(folder / 'report.html', report)
    return (folder / 'report.html').read_text(encoding='utf-8')


class Tags(HTMLParser):
    """Collects what is open, and every attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in UNCLOSED:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_whole_and_needs_nothing_else(tmp_path: Path, picture: Path) -> None:
    page = write(tmp_path, picture, [make_row('one')])
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    sources = [value for name, value in tags.attributes if name in ('src', 'href')]
    encoded = base64.b64encode(picture.read_bytes()).decode()
    assert sources == [f'data:image/png;base64,{encoded}'] * 2
    assert not re.search(r'https?://|@import|url\(', page)
    assert "default-src 'none'" in page
    assert 'prefers-color-scheme: dark' in page
    assert 'width=device-width' in page


def test_everything_is_escaped(tmp_path: Path, picture: Path) -> None:
    page = write(tmp_path, picture, [make_row(EVIL)], EVIL)
    assert '<script' not in page
    # Title twice, introduction, two captions and their alternatives, ...
    assert page.count('&lt;script&gt;alert(&quot;&amp;&quot;)&lt;/script&gt;') >= 10


def test_best_values_are_marked(tmp_path: Path, picture: Path) -> None:
    rows = [
        make_row('slow', seconds=2.0, phase_ssim=0.7501),
        # Reads the same as the row above: neither is better.
        make_row('fast', seconds=1.0, phase_ssim=0.7504, patterns_per_second=None),
        make_row('poor', seconds=9.0, phase_ssim=0.1, patterns_per_second=10.0),
    ]
    page = write(tmp_path, picture, rows)
    assert page.count('<td class="number best">0.750</td>') == 2
    assert '<td class="number">0.100</td>' in page
    assert '<td class="number best">1.00</td>' in page
    assert '<td class="number">n/a</td>' in page
    assert '<td class="number best">1,234</td>' in page


def test_plain_words_for_values(tmp_path: Path, picture: Path) -> None:
    page = write(tmp_path, picture, [make_row('one')])
    assert '<th scope="row">on or off</th><td class="value">on</td>' in page
    assert '<td class="value">1, 2.5</td>' in page
    # 0.1 + 0.2, without the digits that nobody set.
    assert '<td class="value">0.3</td>' in page


def test_folder_that_is_not_there(tmp_path: Path, picture: Path) -> None:
    report = ReportPage('', '', [make_row('one')], Picture(picture, ''), {}, {}, {})
    with pytest.raises(OutputError, match='there is no folder'):
        write_report(tmp_path / 'none' / 'report.html', report)
