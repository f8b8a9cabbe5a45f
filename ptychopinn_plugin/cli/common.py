"""What the commands share: reading scans, their notes, figures, durations."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ptychopinn_plugin.cli.log import show_note
from ptychopinn_plugin.cli.options import Given, ScanReading
from ptychopinn_plugin.cli.outputs import to_json
from ptychopinn_plugin.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ptychopinn_plugin.data import Geometry, Scan
    from ptychopinn_plugin.evaluation import Evaluation


def read_scans(paths: Sequence[Path], given: Given) -> list['Scan']:
    """Read scans with the options of the section 'reading'.

    Parameters
    ----------
    paths : sequence of Path
    given : dict of dict
        The section 'reading'.

    Raises
    ------
    DataError, ConfigError
        If a file is no scan, or options do not go together.
    """
    from ptychopinn_plugin.data import load_scan

    reading = ScanReading.from_dict(given['reading'])
    for name in ('product', 'positions'):
        if getattr(reading, name) is not None and len(paths) > 1:
            raise DataError(
                f'--{name} belongs to one scan; got {len(paths)} scans. Give folders that hold '
                'diffraction.h5 and product.h5, or train on one scan after the other with '
                '--base-model.'
            )
    return [
        load_scan(
            path,
            domain=reading.domain,
            reader=reading.reader,
            product=reading.product,
            positions=reading.positions,
            positions_reader=reading.positions_reader,
            probe_from=reading.probe_from,
            probe_from_patterns=reading.probe_from_patterns,
            probe_modes=reading.probe_modes,
            scan_step_m=reading.scan_step_m,
            scan_shape=pair_of('--scan-shape', reading.scan_shape, '64,128'),
            geometry=reading_geometry(reading),
            beam_center_px=pair_of('--beam-center', reading.beam_center, '512,498'),
            mask=reading.mask,
            mask_hot=reading.mask_hot,
            photons=reading.photons,
            single_shot=reading.single_shot,
            frame_margin_px=reading.frame_margin_px,
            allow_links=reading.allow_links,
            max_gib=reading.max_gib,
            max_memory_gib=reading.max_memory_gib,
            orientation=reading.orientation(),
        )
        for path in paths
    ]


def reading_geometry(reading: ScanReading) -> 'Geometry | None':
    """Return what the options give of energy, distance and pixels; None where they give nothing.

    Raises
    ------
    ConfigError
        If the beam is of photons and of electrons.
    """
    from ptychopinn_plugin.data import Geometry
    from ptychopinn_plugin.data.readers.matching import photon_energy_of_electrons

    energy, of_electrons = reading.photon_energy_eV, reading.electron_energy_eV
    if of_electrons is not None:
        if energy is not None:
            raise ConfigError(
                'The beam is of photons or of electrons; got --photon-energy and '
                '--electron-energy. Give one of them.'
            )
        energy = photon_energy_of_electrons(of_electrons)
    # An energy of electrons becomes the photon energy of the same wavelength, on which alone the
    # size of an object pixel depends.
    geometry = Geometry(
        photon_energy_eV=energy,
        detector_distance_m=reading.detector_distance_m,
        detector_pixel_height_m=reading.detector_pixel_m,
        detector_pixel_width_m=reading.detector_pixel_m,
        near_field=reading.near_field,
        focus_object_distance_m=reading.focus_distance_m,
    )
    return None if geometry == Geometry() else geometry


def pair_of(option: str, text: str | None, example: str) -> tuple[int, int] | None:
    """Return the two whole numbers of an option.

    Raises
    ------
    ConfigError
        If it is something else; the message names the option and shows the example.
    """
    if text is None:
        return None
    try:
        first, second = (int(part) for part in text.split(','))
    except ValueError as error:
        raise ConfigError(
            f'{option} must be two whole numbers, as {example}; got {text!r}.'
        ) from error
    return first, second


def show_notes(scans: Iterable['Scan']) -> None:
    """Show what was assumed or changed in scans as notes."""
    for scan in scans:
        for line in scan.notes:
            show_note(f'{scan.name}: {line}')


def is_reconstruction_file(path: Path) -> bool:
    """Return whether a file is an NPZ of an object and where it lies."""
    from ptychopinn_plugin.storage.untrusted import zip_names

    return {'object.npy', 'origin_px.npy', 'coverage.npy'} <= set(zip_names(path))


def summarize_evaluation(evaluation: 'Evaluation') -> list[str]:
    """Return the figures of an evaluation in a few plain lines."""
    lines = [
        f'{name}: SSIM {part.ssim:.3f}, PSNR {part.psnr_db:.1f} dB, MAE {part.mae:.4f}{unit}'
        for name, part, unit in (
            ('amplitude', evaluation.amplitude, ''),
            ('phase', evaluation.phase, ' rad'),
        )
    ]
    crossings = evaluation.ring_correlation.crossings()
    reached = ', '.join(f'{name} at {value:.3f}' for name, value in crossings.items())
    return [*lines, f'FRC, share of Nyquist: {reached}']


def report(values: Mapping[str, Any], lines: Sequence[str], *, as_json: bool) -> None:
    """Print the end of a command on stdout: JSON, or a few plain lines."""
    typer.echo(to_json(values) if as_json else '\n'.join(lines))


def duration_in_words(seconds: float) -> str:
    """Return a duration in the unit that suits it."""
    if seconds < 10:
        return f'{seconds:.2f} s'
    if seconds < 90:
        return f'{seconds:.1f} s'
    return f'{seconds / 60:.1f} min' if seconds < 5400 else f'{seconds / 3600:.1f} h'
