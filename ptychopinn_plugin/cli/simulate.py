"""`ptychopinn simulate`: a scan with its true object, to try and to compare with."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from ptychopinn_plugin.cli.common import report
from ptychopinn_plugin.cli.options import AsJson, Given, Section, takes_settings
from ptychopinn_plugin.cli.outputs import output_folder
from ptychopinn_plugin.data import Scan, describe_scan, read_probe, write_scan
from ptychopinn_plugin.data import simulation as simulations
from ptychopinn_plugin.data.simulation import SimulationConfig
from ptychopinn_plugin.errors import ConfigError, DataError, OutputError
from ptychopinn_plugin.storage import atomic
from ptychopinn_plugin.text import count

_PANELS = {
    'Object': ('object_kind', 'object_file'),
    'Probe': ('probe_kind', 'pupil_radius', 'defocus', 'n_modes', 'mode_decay'),
    'Near field': ('fresnel_number',),
    'Positions': (
        'path_kind',
        'n_positions',
        'rows',
        'columns',
        'step_px',
        'jitter_px',
        'position_noise_px',
    ),
    'Beam': ('photons', 'beam_drift', 'beam_flicker', 'probe_wobble'),
}


_OPTIONS = {
    'object_kind': 'object',
    'probe_kind': 'probe',
    'path_kind': 'path',
    'n_positions': 'positions',
    'n_modes': 'modes',
    'step_px': 'step',
    'jitter_px': 'jitter',
    'position_noise_px': 'position-noise',
}


@takes_settings(
    Section('simulation', SimulationConfig, 'Detector', options=_OPTIONS, panels=_PANELS)
)
def simulate_command(
    out: Annotated[Path, typer.Argument(metavar='OUT.npz', help='The file to write.')],
    probe_file: Annotated[
        Path | None,
        typer.Option(
            metavar='FILE',
            help='Take the probe of this scan, product or reconstruction; its size is the '
            "pattern's. A probe of one mode can be given more with --modes.",
            rich_help_panel='Probe',
        ),
    ] = None,
    as_json: AsJson = False,
    *,
    given: Given,
) -> None:
    """Simulate a scan with its true object, to try and to compare with.

    The defaults are the scan that the benchmarks use. Another number of photons, other noise or
    dead pixels leave object and positions as they are; another seed changes all.

    \b
    Examples:
      ptychopinn simulate scan.npz
      ptychopinn simulate test.npz --seed 2 --positions 1024
      ptychopinn simulate star.npz --object siemens --path fermat --step 4
      ptychopinn simulate x.npz --object image --object-file x.png --modes 3
      ptychopinn simulate near.npz --fresnel-number 0.05 --probe diffuser --rows 12 --columns 12
    """
    if out.suffix != '.npz':
        better = out.with_suffix('.npz') if out.name else out / 'scan.npz'
        raise OutputError(f'A scan is written as .npz; got {out}. Try {better}.')
    settings = dict(given['simulation'])
    if 'n_positions' in settings and 'rows' in settings:
        raise ConfigError(
            'The number of patterns is --positions, or --rows times --columns; got both. Leave '
            'one of them out.'
        )
    if 'jitter_px' in settings and settings.get('path_kind', 'jittered') != 'jittered':
        raise ConfigError(
            f'--jitter belongs to --path jittered; got --path {settings["path_kind"]}. Leave one '
            'of them out.'
        )
    probe = None
    if probe_file is not None:
        probe = read_probe(probe_file)
        # The pattern has the pixels of the probe: no other size has a meaning here.
        if probe.shape[-1] != settings.setdefault('size', int(probe.shape[-1])):
            raise DataError(
                f'--size must be that of the probe in {probe_file}, {probe.shape[-1]} px; got '
                f'{settings["size"]}. Leave --size out.'
            )
        _refuse_other_probes(settings, probe_file, len(probe))
        probe = probe[0] if len(probe) == 1 else probe
    config = SimulationConfig.from_dict(settings)
    object_file = None if config.object_file is None else Path(config.object_file)
    with output_folder(out.parent):
        atomic.check_output_file(out, probe_file, object_file)
        scan = simulations.simulate(config, probe=probe)
        write_scan(out, scan)
    values = {'file': out, 'kind': 'scan', **describe_scan(scan)}
    values['settings'] = dataclasses.asdict(config)
    report(values, _summary(out, scan, config), as_json=as_json)


def _refuse_other_probes(settings: dict[str, Any], path: Path, n_modes: int) -> None:
    """Refuse what describes a probe, where a file already holds it."""
    held = ['probe_kind', 'pupil_radius', 'defocus']
    held += ['n_modes', 'mode_decay'] if n_modes > 1 else []
    for name in held:
        if name in settings:
            option = _OPTIONS.get(name, name.replace('_', '-'))
            raise ConfigError(
                f'The probe of {path} ({count(n_modes, "mode")}) is taken as it is; got '
                f'--{option} as well. Leave --{option} or --probe-file out.'
            )


def _summary(out: Path, scan: Scan, config: SimulationConfig) -> list[str]:
    assert scan.object_ is not None
    height, width = scan.object_.shape
    return [
        f'Simulated {count(len(scan), "pattern")} of {config.size} x {config.size} px with '
        f'{config.photons:.4g} {"count" if config.photons == 1 else "counts"} each '
        f'(seed {config.seed})',
        f'object: {config.object_kind}, {height} x {width} px, in the file as the truth',
        f'path: {config.path_kind}, steps of {config.step_px:g} px; '
        f'probe: {count(len(scan.probe), "mode")}',
        f'written: {out}',
        f'next: ptychopinn train {out} --output DIR',
    ]
