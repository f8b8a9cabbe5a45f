"""`ptychopinn check`: whether patterns and positions of a scan go together."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptychopinn_plugin.cli.common import read_scans, report, show_notes
from ptychopinn_plugin.cli.log import collecting_notes, notes_by_scan
from ptychopinn_plugin.cli.options import (
    ORIENTING,
    READING,
    AsJson,
    BackendName,
    Given,
    ScanReading,
    takes_settings,
)
from ptychopinn_plugin.cli.outputs import staged_outputs, write_json
from ptychopinn_plugin.orientation import Orientation

if TYPE_CHECKING:
    from ptychopinn_plugin.backends.selection import Choice
    from ptychopinn_plugin.checking.search import Check
    from ptychopinn_plugin.checking.trials import Trial
    from ptychopinn_plugin.data import Scan

CHECK_FILES = ('check.png', 'check.json')

MAX_LINES = 8
"""The table has at most this number of trials; the file has all."""


@takes_settings(READING)
def check_command(
    scan: Annotated[Path, typer.Argument(metavar='SCAN', help='A scan (a file or folder).')],
    output: Annotated[
        Path | None,
        typer.Option(
            '--output',
            '-o',
            metavar='DIR',
            help='Folder for check.png, the objects of all trials, and check.json.',
        ),
    ] = None,
    backend: BackendName = None,
    device: Annotated[
        str, typer.Option(metavar='NAME', help='auto, cpu, cuda, cuda:1, mps.')
    ] = 'auto',
    as_json: AsJson = False,
    *,
    given: Given,
) -> None:
    """Find out whether the patterns and the positions of a scan go together.

    A part of the scan is reconstructed as it is, with patterns flipped and transposed, with
    positions swapped, inverted and scaled, and judged by patterns that were held out. Where a
    change is clearly better, the options that mend the scan are printed; every command takes them.

    \b
    Examples:
      ptychopinn check scan.npz
      ptychopinn check scan.npz -o checked
      ptychopinn check scan.npz --json
    """
    from ptychopinn_plugin import api
    from ptychopinn_plugin.backends.selection import choose
    from ptychopinn_plugin.checking.contact_sheet import plot_check

    with ExitStack() as stack:
        shown = stack.enter_context(collecting_notes())
        stage = None
        if output is not None:
            stage = stack.enter_context(staged_outputs(output, CHECK_FILES))
        choice = choose(backend)
        read, more = _read(scan, given, choice, device)
        show_notes([read])
        found = api.check(read, backend=choice, device=device, on_trial=_show_trial)
        _end_of_trials()
        values = _values(scan, found, given, more)
        values['notes'] = notes_by_scan(shown, [read.name])
        if stage is not None:
            plot_check(found, stage / 'check.png')
            write_json(stage / 'check.json', values)
    lines = _lines(scan, values, found)
    if output is not None:
        lines.append(f'written to {output}: {", ".join(CHECK_FILES)}')
    report(values, lines, as_json=as_json)


def _read(path: Path, given: Given, choice: 'Choice', device: str) -> tuple['Scan', list[str]]:
    """Return the scan with the beam in the middle, and the option that puts it there."""
    from ptychopinn_plugin.backends.selection import create_backend
    from ptychopinn_plugin.checking.search import is_clearly_less
    from ptychopinn_plugin.checking.trials import check_field
    from ptychopinn_plugin.data.readers.frame_centre import find_beam_center

    (read,) = read_scans([path], given)
    check_field(read)
    reading = given['reading']
    if 'beam_center' in reading:
        return read, []
    # The place of the beam is given in the frames as they are stored, before they are turned.
    stored = {name: value for name, value in reading.items() if name not in ORIENTING}
    (plain,) = read_scans([path], {**given, 'reading': stored})
    assert plain.bad_pixels is not None
    beam_center_px = find_beam_center(plain.patterns, plain.bad_pixels, plain.probe)
    if beam_center_px is None:
        return read, []
    centre = ','.join(map(str, beam_center_px))
    (centred,) = read_scans([path], {**given, 'reading': {**reading, 'beam_center': centre}})
    if not is_clearly_less(centred, read, create_backend(choice.name), device=device):
        return read, []
    return centred, ['--beam-center', centre]


def _show_trial(number: int, trial: 'Trial') -> None:
    if sys.stderr.isatty():
        words = ' '.join(trial.orientation.to_words()) or 'as given'
        typer.echo(f'\rtrial {number}: {words}\033[K', nl=False, err=True)


def _end_of_trials() -> None:
    if sys.stderr.isatty():
        typer.echo('\r\033[K', nl=False, err=True)


def _values(path: Path, found: 'Check', given: Given, more: list[str]) -> dict[str, Any]:
    """Return what is reported; options are those to give in place of all that turned the scan."""
    before = ScanReading.from_dict(given['reading']).orientation()
    values = found.to_dict()
    if found.verdict == 'unclear':
        more = []
    if found.orientation != Orientation() or more:
        values['options'] = found.orientation.after(before).to_words()
        values['equally_good'] = [other.after(before).to_words() for other in found.equals]
    values['options'] = [*more, *values['options']]
    values['equally_good'] = [[*more, *other] for other in values['equally_good']]
    if more and found.verdict == 'right':
        values['verdict'] = 'wrong'
    return {'scan': path, **values}


def _lines(path: Path, values: dict[str, Any], found: 'Check') -> list[str]:
    from ptychopinn_plugin.checking.wording import (
        PROBE_CORRECTED,
        VERDICTS,
        remainder_note,
        scale_note,
    )

    lines = [f'{path}: {VERDICTS[values["verdict"]]}']
    if values['verdict'] == 'wrong' and not values['options']:
        lines.append('it is right without the options that turn it: leave them out')
    if values['options']:
        lines.append(f'options that mend it: {" ".join(values["options"])}')
        lines += [
            f'equally good, with another orientation of the object: {" ".join(other)}'
            for other in values['equally_good']
        ]
        scale = found.orientation.scale_positions
        if scale is not None:
            lines.append(scale_note(scale))
            if found.best.refines_probe:
                lines.append(PROBE_CORRECTED)
    if found.much_over_noise is not None:
        note = remainder_note(found.much_over_noise)
        lines.append(f'{note}; --mask FILE and --refine-probe are for these')
    lines.append(
        'residual of held-out patterns (and of those that were fitted); without an object '
        f'{found.uninformed_residual:.4g}:'
    )
    for trial in found.trials[:MAX_LINES]:
        words = ' '.join(trial.orientation.to_words()) or 'as given'
        refined = ', probe corrected' if trial.refines_probe else ''
        lines.append(f'  {trial.residual:.4g} ({trial.fit:.4g})  {words}{refined}')
    return lines
