"""`ptychopinn inspect`: what a file holds, in plain words."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ptychopinn_plugin.cli.common import is_reconstruction_file, read_scans, report
from ptychopinn_plugin.cli.options import READING, AsJson, Given, takes_settings
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.text import count

_UNITS = {'m': 'm', 'eV': 'eV'}


@takes_settings(READING)
def inspect_command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar='FILE',
            help='A scan (a file or folder), a model, a reconstruction, a product.h5, or '
            "'built-in' for the model that comes with the package.",
        ),
    ],
    as_json: AsJson = False,
    *,
    given: Given,
) -> None:
    """Describe in plain words what a scan, a model, a reconstruction or a product holds.

    \b
    Examples:
      ptychopinn inspect scan.npz
      ptychopinn inspect run/wts.h5.zip --json
      ptychopinn inspect result/reconstruction.npz
      ptychopinn inspect result/product.h5
      ptychopinn inspect built-in
    """
    from ptychopinn_plugin.data import describe_scan, is_product_file
    from ptychopinn_plugin.legacy.models import is_bare_pickle
    from ptychopinn_plugin.model_file import describe_model, is_model_file, read_model
    from ptychopinn_plugin.opening import BUILT_IN_KEYWORD, open_model

    # A file of this name goes before the model of the package.
    if str(file) == BUILT_IN_KEYWORD and not file.exists():
        values = describe_model(open_model(file))
        lines = _prior_lines(values)
    elif not file.exists():
        raise DataError(f'There is no file {file}. Check the path.')
    # Models and pickles come first: reading them as anything else would end in a message about
    # scans, where the user must learn that the file is never executed.
    elif is_model_file(file) or is_bare_pickle(file):
        values = describe_model(read_model(file))
        lines = _prior_lines(values) if values['is_prior'] else _model_lines(values)
    elif is_reconstruction_file(file):
        values = _describe_reconstruction(file)
        lines = _reconstruction_lines(values)
    elif is_product_file(file):
        values = _describe_product(file)
        lines = _product_lines(values)
    else:
        values = {'kind': 'scan', **describe_scan(read_scans([file], given)[0])}
        lines = _scan_lines(values)
    values = {'file': file, **values}
    report(values, [f'{file}: {lines[0]}', *(f'  {line}' for line in lines[1:])], as_json=as_json)


def _scan_lines(values: dict[str, Any]) -> list[str]:
    height, width = values['shape_px']
    counts, positions = values['counts_per_pattern'], values['positions_px']
    object_shape = values['object_shape_px']
    lines = [
        f'a scan of {count(values["patterns"], "pattern")}, {height} x {width} px '
        f'({values["dtype"]})',
        f'counts in a pattern: {counts["mean"]:.4g} on average, {counts["min"]:.4g} to '
        f'{counts["max"]:.4g}; brightest pixel {values["brightest_pixel"]:.4g}',
        f'positions: y {_range(positions["y"])} px, x {_range(positions["x"])} px'
        + ('' if values['step_px'] is None else f'; neighbours {values["step_px"]:.3g} px apart'),
        f'probe: {count(values["probe_modes"], "mode")}, about '
        f'{values["probe_diameter_px"]:.3g} px wide'
        + ('' if values['overlap'] is None else f'; neighbours overlap {values["overlap"]:.0%}'),
        f'bad pixels: {values["bad_pixels"]}',
        'object: not in the file'
        if object_shape is None
        else f'object: {object_shape[0]} x {object_shape[1]} px, to compare with or to learn from',
    ]
    if values['exposures'] > 1:
        lines.append(f'exposures: {values["exposures"]}')
    lines += _geometry_lines(values['geometry'])
    return [*lines, *(f'note: {note}' for note in values['notes'])]


def _geometry_lines(geometry: dict[str, float]) -> list[str]:
    if not geometry:
        return ['geometry: not in the file, so lengths stay in pixels']
    parts = ['near field'] if geometry.get('near_field') else []
    for name, value in geometry.items():
        if name == 'near_field':
            continue
        words, _, unit = name.rpartition('_')
        parts.append(f'{words.replace("_", " ")} {value:.4g} {_UNITS.get(unit, unit)}')
    return [f'geometry: {", ".join(parts)}']


def _model_lines(values: dict[str, Any]) -> list[str]:
    size, data, provenance = values['pattern_size_px'], values['data'], values['provenance']
    source = provenance.get('imported_from')
    network = (
        f'network: {values["architecture"]}, {values["weights"]:,} weights, window of '
        f'{values["window_px"]} px, {count(values["passes"], "pass", "es")}'
        + (', attention in the encoder' if 'channel-gate' in values['network_layers'] else '')
    )
    lines = [
        f'a model for patterns of {size} x {size} px, '
        + (f'trained with {values["backend"]}' if source is None else f'in {source}'),
        network,
        f'groups of {count(values["gridsize"] ** 2, "pattern")} '
        f'(gridsize {values["gridsize"]}), '
        + (count(values['probe_modes'], 'probe mode') if values['probe_modes'] else 'no probe'),
        f'normalization: {values["photons_per_pattern"]:.4g} counts in a pattern, intensity scale '
        f'{values["intensity_scale"]:.4g}',
        'training can be continued with --resume'
        if values['can_resume']
        else 'training cannot be continued exactly, only fine-tuned with --base-model',
    ]
    if data:
        scans = ', '.join(map(str, data.get('scans', ())))
        patterns = data.get('patterns')
        number = 'an unknown number of patterns' if patterns is None else count(patterns, 'pattern')
        lines.append(f'trained on: {number} ({scans})')
    shown = {name: value for name, value in provenance.items() if name != 'imported_from'}
    return [*lines, *(f'{name}: {value}' for name, value in shown.items())]


def _prior_lines(values: dict[str, Any]) -> list[str]:
    provenance = {name: value for name, value in values['provenance'].items() if name != 'recipe'}
    before, between = values['iterations_before'], values['iterations_between']
    return [
        'a learned prior, which corrects objects between iterations: any probe, pattern size and '
        'dose, no training',
        f'network: {values["weights"]:,} weights',
        f'{count(values["passes"], "pass", "es")}, the first after {count(before, "iteration")}, '
        f'with {count(between, "iteration")} between them',
        'it runs on every backend and cannot be fine-tuned',
        *(f'{name}: {value}' for name, value in provenance.items()),
    ]


def _describe_reconstruction(path: Path) -> dict[str, Any]:
    import dataclasses

    from ptychopinn_plugin.data import read_reconstruction

    found = read_reconstruction(path)
    geometry = dataclasses.asdict(found.geometry)
    return {
        'kind': 'reconstruction',
        'name': found.name,
        'backend': found.backend,
        'object_shape_px': list(found.object_.shape),
        'origin_px': [float(value) for value in found.origin_px],
        'covered_share': float((found.coverage > 0).mean()),
        'patterns': len(found.positions_px),
        'probe_modes': len(found.probe),
        'iterations': max(0, len(found.likelihoods) - 1),
        'likelihoods': list(found.likelihoods),
        'amplitude_residual': found.amplitude_residual,
        'timing': dict(found.timing),
        'geometry': {name: value for name, value in geometry.items() if value},
    }


def _reconstruction_lines(values: dict[str, Any]) -> list[str]:
    height, width = values['object_shape_px']
    y, x = values['origin_px']
    timing = ', '.join(f'{name} {value:.2f} s' for name, value in values['timing'].items())
    return [
        f'a reconstruction of {values["name"]} by {values["backend"]}, {height} x {width} px',
        f'pixel [0, 0] lies at position (y, x) = ({y:g}, {x:g}) px; '
        f'{values["covered_share"]:.0%} of the pixels were illuminated',
        f'from {count(values["patterns"], "pattern")}, '
        f'{count(values["probe_modes"], "probe mode")}, '
        f'{count(values["iterations"], "iteration")} of refinement',
        f'amplitude residual: {values["amplitude_residual"]:.4g}',
        f'time: {timing or "not in the file"}',
        *_geometry_lines(values['geometry']),
    ]


def _describe_product(path: Path) -> dict[str, Any]:
    import dataclasses

    from ptychopinn_plugin.data import read_product

    found = read_product(path)
    geometry = dataclasses.asdict(found.geometry)
    y_m, x_m = found.positions_m.T.tolist()
    assert found.probe is not None
    return {
        'kind': 'product',
        'name': found.name,
        'comments': found.comments,
        'object_shape_px': None if found.object_ is None else list(found.object_.shape),
        'positions': len(y_m),
        'positions_m': {'y': [min(y_m), max(y_m)], 'x': [min(x_m), max(x_m)]} if y_m else None,
        'far_field': not found.geometry.is_near_field,
        'probe_modes': len(found.probe),
        'probe_shape_px': list(found.probe.shape[-2:]),
        'losses': list(found.losses),
        'geometry': {name: value for name, value in geometry.items() if value},
        'notes': list(found.notes),
    }


def _product_lines(values: dict[str, Any]) -> list[str]:
    shape, losses, positions = values['object_shape_px'], values['losses'], values['positions_m']
    height, width = values['probe_shape_px']
    lines = [
        f'a product of Ptychodus, {values["name"] or "without a name"}',
        'object: not in the file' if shape is None else f'object: {shape[0]} x {shape[1]} px',
        f'positions: {values["positions"]:,}, y {_range(positions["y"])} m, '
        f'x {_range(positions["x"])} m'
        if positions
        else 'positions: not in the file',
        f'probe: {count(values["probe_modes"], "mode")}, {height} x {width} px',
        f'losses: {len(losses):,}, {losses[0]:.4g} at first, {losses[-1]:.4g} at last'
        if losses
        else 'losses: not in the file',
        *_geometry_lines(values['geometry']),
    ]
    if values['comments']:
        lines.append(f'comments: {values["comments"]}')
    return [*lines, *(f'note: {note}' for note in values['notes'])]


def _range(limits: list[float]) -> str:
    return f'{limits[0]:.4g} to {limits[1]:.4g}'
