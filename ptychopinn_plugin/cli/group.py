"""`ptychopinn group`: the grouped patterns of a scan, as PtychoPINN's loader takes them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ptychopinn_plugin.cli.common import read_scans, report, show_notes
from ptychopinn_plugin.cli.log import collecting_notes, notes_by_scan
from ptychopinn_plugin.cli.options import READING, AsJson, Given, Section, takes_settings
from ptychopinn_plugin.errors import OutputError
from ptychopinn_plugin.legacy.group_options import GroupOptions
from ptychopinn_plugin.text import count


@takes_settings(Section('groups', GroupOptions, 'Groups'), READING)
def group_command(
    scan: Annotated[Path, typer.Argument(metavar='SCAN', help='A scan (a file or folder).')],
    out: Annotated[Path, typer.Argument(metavar='OUT.npz', help='The file to write.')],
    no_cache: Annotated[
        bool,
        typer.Option(
            '--no-cache',
            help='Neither read nor write SCAN.groups_cache.npz, which keeps the groups.',
        ),
    ] = False,
    as_json: AsJson = False,
    *,
    given: Given,
) -> None:
    """Group a scan's patterns and write the arrays that PtychoPINN's loader takes.

    Training here needs no such file: it groups by itself.

    \b
    Examples:
      ptychopinn group scan.npz grouped.npz --gridsize 2
      ptychopinn group scan.npz grouped.npz --gridsize 2 --n-groups 5000 --enable-oversampling
    """
    import numpy as np

    from ptychopinn_plugin.legacy.group_cache import cache_path
    from ptychopinn_plugin.legacy.groups import group_scan, groups_are_kept
    from ptychopinn_plugin.storage.atomic import atomic_path, check_output_file

    if out.suffix != '.npz':
        raise OutputError(f'Groups are written as .npz; got {out}. Try {out.with_suffix(".npz")}.')
    options = GroupOptions.from_dict(given['groups'])
    check_output_file(out, scan, given['reading'].get('probe_from'))
    with collecting_notes() as shown:
        loaded = read_scans([scan], given)[0]
        show_notes([loaded])
        cache = None if no_cache else cache_path(scan)
        grouped = group_scan(loaded, options, cache=cache)
    if cache is not None and not groups_are_kept(cache, loaded.positions_px, options):
        # It could not be written; a warning in the log has the reason.
        cache = None
    arrays: dict[str, Any] = {name: x for name, x in grouped.items() if x is not None}
    with atomic_path(out) as partial:
        np.savez(partial, probeGuess=loaded.probe[0], **arrays)
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    values = {
        'file': out,
        'cache': cache,
        'shapes': shapes,
        'notes': notes_by_scan(shown, [loaded.name]),
    }
    n_groups, size = arrays['nn_indices'].shape
    lines = [
        f'Wrote {count(n_groups, "group")} of {count(size, "pattern")} to {out}',
        f'arrays: {", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())}',
        f'groups kept in: {cache or "no file"}',
    ]
    report(values, lines, as_json=as_json)
