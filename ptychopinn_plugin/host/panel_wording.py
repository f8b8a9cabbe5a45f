"""Messages in the words of Ptychodus' window: rows and buttons in place of options and commands.

The command line, Python and the window share their messages, which name an option of the command
line, a setting or an argument, as '--single-shot (reading.single_shot)'. Nobody can type one of
those into the window.
"""

import logging
import re
from collections.abc import Mapping

from ptychopinn_plugin.host.previews import has_window
from ptychopinn_plugin.host.settings import ROWS, Row

ELSEWHERE: Mapping[str, str] = {
    'scale-positions': 'the factors of x and y in the box Transformation of the editor under '
    'Positions',
    'probe-from': 'the probe of the product',
    'photon-energy': 'the photon energy of the product',
    'electron-energy': 'that of a photon of the same wavelength',
    'detector-distance': 'the detector distance of the product',
    'detector-pixel': 'the pixel size of the detector under Diffraction',
}
"""What these options do is done in parts of Ptychodus' window that are not ours."""

_PHRASES = (
    (
        re.compile(r"--backend [\w-]+, (\w+=[\w-]+), or Backend in Ptychodus' panel"),
        r'"Backend" in the box Run, or \1',
    ),
    (
        re.compile(r'ptychopinn train --base-model MODEL'),
        'tick "Fine-tune" in the box Training',
    ),
    (
        re.compile(
            r'Compare likelihoods of ptychopinn refine with --flip, --transpose or '
            r'--swap-positions yourself\.'
        ),
        'Load the patterns again with other flips ticked in the box Transform of the dialog under '
        'Diffraction, click "Infer" for each, and keep the object of the lowest loss.',
    ),
    # It is the argument in Python for the options before it.
    (re.compile(r' \(geometry=Geometry\([^()]*\)\)'), ''),
)

_CHECK_COMMAND = re.compile(
    r'The command "ptychopinn check" on the scan|ptychopinn check(?: SCAN)?(?![\w-])'
)

OF_OTHER_PROGRAMS = ('upgrade', 'force-reinstall', 'no-deps', 'shm-size')
"""These options are those of pip and of containers, in commands for a terminal."""

# An argument, as domain='counts', beam_center_px=(31, 30) or max_gib, or a setting.
_NAME = (
    r"(?P<name>[a-z]+\.[a-z_]+|(?:[a-z]+(?:_[a-z]+)+|[a-z]+(?==))(?:=(?:'[^']*'|\([^()]*\)|\w+))?)"
)
_OPTION = r'--(?P<option>[a-z]+(?:-[a-z]+)*)'
_VALUE = r'(?: (?P<value>[A-Z]+(?:,[A-Z]+)*|[\d.]+(?:,[\d.]+)*)(?!\w))?'

_FORMS = (
    # As domain='counts' (--domain counts).
    re.compile(rf'{_NAME} \({_OPTION}(?: (?P<value>[^()]*))?\)'),
    # As --refine-probe (refinement.probe).
    re.compile(rf'{_OPTION}{_VALUE} \({_NAME}\)'),
    # As --drop-outliers.
    re.compile(rf'(?P<name>){_OPTION}{_VALUE}'),
)

_SETTING = re.compile(r'(?<![\w/.-])(?:model|training|inference|refinement|reading)\.[a-z_]+')


def in_words_of_the_panel(text: str) -> str:
    """Return a message with rows where it names options or settings.

    Parameters
    ----------
    text : str

    Returns
    -------
    str
        An option that no row stands for is named as one of the command line, without its dashes.
    """
    for pattern, words in _PHRASES:
        text = pattern.sub(words, text)
    for form in _FORMS:
        text = form.sub(_words_of_option, text)
    text = _SETTING.sub(lambda found: _words_of_setting(found[0]) or found[0], text)
    return _CHECK_COMMAND.sub('"Check scan"', text) if has_window() else text


def _words_of_option(found: re.Match[str]) -> str:
    option, value = found['option'], found['value']
    if option in OF_OTHER_PROGRAMS:
        return found[0]
    words = ELSEWHERE.get(option) or _words_of_setting(found['name'].partition('=')[0])
    if words:
        return words
    # Options are named as rows are.
    label = option.replace('-', ' ').capitalize()
    rows = [row for row in ROWS if row.label.partition(' [')[0] == label]
    if rows:
        return _words_of_row(rows[0]) if len(rows) == 1 else f'"{label}"'
    return f'the option "{option}{f" {value}" if value else ""}" of the command line'


def _words_of_setting(name: str) -> str:
    """Return the row of a setting in words; empty where it has none."""
    # What the command line sets with the reading of a scan, the panel has among its own options.
    name = name.removeprefix('reading.')
    return next((_words_of_row(row) for row in ROWS if name in row.names), '')


def _words_of_row(row: Row) -> str:
    return f'"{row.label}" in the box {row.group}'


class PanelWording(logging.Filter):
    """Puts every line that a handler gets into the words of the panel.

    A line is changed in place: on the first handler of a logger it is the same for all of them.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Change a line; none is held back."""
        text = record.getMessage()
        worded = in_words_of_the_panel(text)
        if worded != text:
            record.msg, record.args = worded, None
        return True
