"""`ptychopinn reproduce`: run again what has made a result, and compare."""

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptychopinn_plugin.cli.common import report
from ptychopinn_plugin.cli.options import AsJson, Given
from ptychopinn_plugin.cli.provenance import FILE_OPTIONS, hash_of
from ptychopinn_plugin.config import Config
from ptychopinn_plugin.errors import ConfigError, DataError
from ptychopinn_plugin.schemas import provenance_schema, validate

if TYPE_CHECKING:
    from ptychopinn_plugin.data import Reconstruction

DIFFERS = 1
"""The command exits with this code where the result is another one."""

OTHER_ORDER_TOLERANCE = 1e-3
"""GPUs, and other numbers of threads, add in another order; iterations carry differences on."""

_ARRAYS = ('object_', 'probe', 'positions_px', 'origin_px')


def reproduce_command(
    output: Annotated[
        Path, typer.Argument(metavar='OUTPUT', help='A folder of reconstruct or refine.')
    ],
    scan: Annotated[
        Path | None, typer.Option(metavar='SCAN', help='Where the scan lies now, if it was moved.')
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(metavar='MODEL', help='Where the model lies now, if it was moved.'),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar='NUMBER',
            help='Largest difference that counts as the same, as a share of the largest number '
            'of an array. Where not given, 0 for a CPU (the same bits) with '
            'the same number of threads throughout, and 0.001 for others.',
        ),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option('--output', '-o', metavar='DIR', help='Keep the new result in this folder.'),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run again what has made a result, and compare the two.

    Scan, model and settings are those in metrics.json, and files must be the same by their SHA-256.
    The exit code is 0 where the results are the same, 1 where they differ and 2 for an error.

    \b
    Examples:
      ptychopinn reproduce result
      ptychopinn reproduce result --scan moved/scan.npz
    """
    from ptychopinn_plugin.data import read_reconstruction

    if keep is not None and keep.exists() and keep.samefile(output):
        raise ConfigError(
            '--output must be another folder than that of the result, which is to be confirmed and '
            'not replaced.'
        )
    run = _read_run(output)
    paths = _find_inputs(run, output, {'scan': scan, 'model': model})
    before = read_reconstruction(output / 'reconstruction.npz')
    # By the command's own functions, with settings in place of options: what is compared is the
    # whole way from the file to the object.
    with ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        _run_again(run, paths, folder)
        after = read_reconstruction(folder / 'reconstruction.npz')
    values = _compare(before, after, tolerance)
    values = {'output': output, 'kept': keep, **values}
    report(values, _summary(values), as_json=as_json)
    if not values['same']:
        raise typer.Exit(DIFFERS)


def _read_run(output: Path) -> dict[str, Any]:
    path = output / 'metrics.json'
    try:
        values = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise DataError(
            f'{path} must hold the figures of a reconstruction; it is missing or no JSON. Give a '
            'folder that ptychopinn reconstruct or refine has written.'
        ) from error
    run = values.get('provenance') if isinstance(values, dict) else None
    if not isinstance(run, dict) or run.get('command') not in ('reconstruct', 'refine'):
        raise DataError(
            f'{path} must hold what was run (provenance of reconstruct or refine); it does not. '
            'Run it by hand. A training is repeated by: ptychopinn train --config config.toml.'
        )
    validate(run, provenance_schema(), f'{path}: provenance', DataError)
    try:
        limit = Config.from_dict(run['settings']).refinement.max_seconds
    except ConfigError as error:
        raise DataError(f'{path}: provenance.settings: {error}') from error
    if limit is not None:
        raise DataError(
            f'{path}: this run had a limit of {limit:g} s, and followed the clock: a repetition '
            'would make another number of iterations, so that nothing can be compared. Run it with '
            'a number of iterations in place of --max-seconds.'
        )
    return run


def _find_inputs(
    run: dict[str, Any], output: Path, moved: dict[str, Path | None]
) -> dict[str, Path]:
    """Return where the files of a run lie, after a look at their content."""
    found = {}
    recorded = {**run['inputs'], **({'model': run['model']} if run['model'] else {})}
    for name, item in recorded.items():
        path = moved.get(name)
        if path is None and item['path'] is None:
            path = Path(item['name'])
            if name != 'model' or item['name'] == 'in memory':
                raise DataError(f'Where the {name} ({path}) lies is unknown. Give --{name} FILE.')
            found[name] = path
            continue
        path = path or output / item['path']
        # A device would be read for ever.
        if not (path.is_file() or path.is_dir()):
            remedy = f'use --{name} FILE' if name in moved else 'put it back there'
            raise DataError(f'The {name} {path} is missing. If it was moved, {remedy}.')
        if hash_of(path) != item['sha256']:
            raise DataError(
                f'The {name} {path} must be the file that was used, of SHA-256 {item["sha256"]}; '
                'it has another content. Give the former file.'
            )
        found[name] = Path(f'{path}:{item["dataset"]}') if item.get('dataset') else path
    return found


def _run_again(run: dict[str, Any], paths: dict[str, Path], folder: Path) -> None:
    from ptychopinn_plugin.cli.reconstruct import reconstruct_into, refine_into

    reading = {**run['reading'], **{n: paths[n] for n in FILE_OPTIONS if n in paths}}
    given: Given = {**run['settings'], 'reading': reading}
    if run['command'] == 'refine':
        device = str(run.get('asked_device', 'auto'))
        refine_into(folder, paths['scan'], run['backend'], device, given)
    else:
        reconstruct_into(folder, paths['model'], paths['scan'], run['backend'], given)


def _compare(
    before: 'Reconstruction', after: 'Reconstruction', tolerance: float | None
) -> dict[str, Any]:
    """Compare array by array; differences are shares of the largest number of each."""
    import numpy as np

    devices = [str(found.provenance.get('device', 'unknown')) for found in (before, after)]
    if tolerance is None:
        on_cpu = all('cpu' in device.lower() for device in devices)
        # Sums in another order, as other numbers of threads make them, round otherwise.
        threads = [found.provenance.get('threads') or [] for found in (before, after)]
        ranks = [found.provenance.get('ranks', 1) for found in (before, after)]
        same_order = threads[0] == threads[1] and len(threads[0]) < 2 and ranks[0] == ranks[1]
        tolerance = 0.0 if on_cpu and same_order else OTHER_ORDER_TOLERANCE
    differences: dict[str, float | None] = {}
    for name in _ARRAYS:
        old, new = getattr(before, name), getattr(after, name)
        if old.shape != new.shape:
            differences[name.rstrip('_')] = None
            continue
        peak = float(np.abs(old).max()) or 1.0
        differences[name.rstrip('_')] = float(np.abs(old - new).max()) / peak
    changed = {
        name: [before.provenance.get(name), after.provenance.get(name)]
        for name in ('package', 'framework', 'python', 'numpy', 'device')
        if before.provenance.get(name) != after.provenance.get(name)
    }
    same = all(value is not None and value <= tolerance for value in differences.values())
    return {
        'same': same,
        'tolerance': tolerance,
        'differences': differences,
        'changed': changed,
        'devices': devices,
    }


def _summary(values: dict[str, Any]) -> list[str]:
    largest = {
        name: 'another shape' if value is None else f'{value:.3g}'
        for name, value in values['differences'].items()
    }
    bits = values['tolerance'] == 0
    verdict = 'the same bits' if bits else f'the same within {values["tolerance"]:g}'
    lines = [
        f'{values["output"]}: {verdict if values["same"] else "another result"}',
        'largest differences, as shares: ' + ', '.join(f'{n} {v}' for n, v in largest.items()),
    ]
    lines += [f'{name}: {old} before, {new} now' for name, (old, new) in values['changed'].items()]
    return lines if values['kept'] is None else [*lines, f'the new result: {values["kept"]}']
