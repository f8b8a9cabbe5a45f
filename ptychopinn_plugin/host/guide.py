"""The guide to the plugin in Ptychodus, which the package carries: a beamline may have no network.

`docs/ptychodus.md` is written for Sphinx. What only Sphinx understands becomes plain Markdown here.
"""

import re
from importlib.metadata import metadata
from pathlib import Path

from ptychopinn_plugin.errors import DataError

PAGE = 'ptychodus.md'

_IN_PACKAGE = Path(__file__).parent / 'pages'
"""The wheel has the page and its pictures there, see `pyproject.toml`."""

_IN_SOURCE_TREE = Path(__file__).parents[2] / 'docs'

_COMMENT = re.compile(r'<!--.*?-->\n?', re.DOTALL)
_WARNING = re.compile(r'^:::\{warning\}\n(.*?)^:::\n', re.DOTALL | re.MULTILINE)
_TERM = re.compile(r'\{term\}`([^`<]+?)\s*(?:<[^`>]+>)?`')
_PAGE_LINK = re.compile(r'\{doc\}`([^`]+)`')


def guide_folder() -> Path:
    """Return the folder of the guide and its pictures.

    Raises
    ------
    DataError
        If neither the package nor a source tree around it has one.
    """
    for folder in (_IN_PACKAGE, _IN_SOURCE_TREE):
        if (folder / PAGE).is_file():
            return folder
    raise DataError(
        f'The guide {PAGE} is missing from this installation. Install the package anew, or read '
        f'{guide_url()}.'
    )


def guide_markdown() -> str:
    """Return the guide as plain Markdown, with its address on the web at its beginning.

    Raises
    ------
    DataError
        As `guide_folder`.
    """
    text = (guide_folder() / PAGE).read_text(encoding='utf-8')
    text = _COMMENT.sub('', text)
    text = _WARNING.sub(lambda found: _quoted(f'**Warning.** {found[1]}'), text)
    text = _TERM.sub(r'\1', text)
    text = _PAGE_LINK.sub(lambda found: f'[{found[1]}]({page_url(found[1])})', text)
    title, _, rest = text.partition('\n')
    return f'{title}\n\nThis page on the web: <{guide_url()}>\n{rest}'


def _quoted(text: str) -> str:
    return ''.join(f'> {line}\n' for line in text.splitlines())


def guide_url() -> str:
    """Return the address of the guide on the web."""
    return page_url(PAGE.removesuffix('.md'))


def page_url(name: str) -> str:
    """Return the address of a page of the documentation, of which `name` is the file's stem."""
    urls = metadata('ptychopinn-plugin').get_all('Project-URL') or ()
    by_name = dict(entry.split(', ', 1) for entry in urls)
    folder, _, _ = by_name['Documentation'].rpartition('/')
    return f'{folder}/{name}.md'
