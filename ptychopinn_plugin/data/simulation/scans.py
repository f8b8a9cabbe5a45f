"""From settings to a scan: object, probe, path, expected counts, counted photons."""

import numpy as np
from scipy.ndimage import map_coordinates

from ptychopinn_plugin.array_types import ComplexArray, FloatArray, RealArray
from ptychopinn_plugin.data.geometry import Geometry, wavelength_m
from ptychopinn_plugin.data.scan import Scan
from ptychopinn_plugin.data.simulation.configuration import SimulationConfig
from ptychopinn_plugin.data.simulation.objects import make_object
from ptychopinn_plugin.data.simulation.paths import ScanPath, make_path
from ptychopinn_plugin.data.simulation.probes import make_probe, wobble_amounts, wobbling_probe
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.physics import make_modes, predict_patterns
from ptychopinn_plugin.storage.scratch import Usage, converted, new_array

_BATCH = 128

_PHOTON_ENERGY_EV, _PIXEL_M = 1e4, 1e-7
"""Scans in the near field have these; their distance follows from their Fresnel number."""


def simulate(
    config: SimulationConfig,
    *,
    object_: ComplexArray | None = None,
    probe: ComplexArray | None = None,
) -> Scan:
    r"""Simulate a scan with its ground truth, :math:`k_j \sim \mathrm{Poisson}(I_j)`.

    The same seed gives the same scan; other photons, noise or dead pixels leave its object and
    its positions as they are.

    Parameters
    ----------
    config : SimulationConfig
    object_ : ndarray of complex, shape (object_height, object_width), optional
        Scanned around its middle, in place of the one that `config` describes.
    probe : ndarray of complex, shape (size, size) or (n_modes, size, size), optional
        In place of the one that `config` describes; its scale is set by ``config.photons``. One
        image becomes ``config.n_modes`` modes.

    Returns
    -------
    Scan
        `patterns` in uint16, or uint32 where a count needs it (without Poisson noise float32),
        `positions_px` as reported, in pixel indices of `object_`, and the probe scaled so that a
        pattern holds ``config.photons`` on average.

    Raises
    ------
    DataError
        If the object is too small for the scan, or the probe is of another size.
    """
    path = make_path(config)
    needed = _object_shape(config, path)
    if object_ is None:
        object_ = make_object(config, needed)
    _check_object(object_, needed)
    middle = (np.array(object_.shape) - 1) / 2
    reported, true = path.reported_px + middle, path.true_px + middle
    # The scan will hold it in this precision, so that it explains its patterns exactly.
    object_ = object_.astype(np.complex64)
    modes = _modes(config, probe)
    modes = modes * np.sqrt(config.photons / _mean_transmission(object_, modes, reported))
    modes = modes.astype(np.complex64)
    bad_pixels = _dead_pixels(config)
    geometry = _geometry(config)
    transfer = geometry.transfer_function((config.size, config.size))
    patterns = _count(config, object_, modes, true, transfer)
    patterns[:, bad_pixels] = 0
    return Scan(
        patterns=patterns,
        positions_px=reported,
        probe=modes,
        object_=object_,
        bad_pixels=bad_pixels,
        nominal_positions_px=reported.copy(),
        geometry=geometry,
        name=f'simulated-{config.object_kind}-{config.seed}',
    )


def _geometry(config: SimulationConfig) -> Geometry:
    """Return nothing for the far field, as all lengths are in pixels, and else what it needs."""
    if config.fresnel_number is None:
        return Geometry()
    distance_m = _PIXEL_M**2 / (wavelength_m(_PHOTON_ENERGY_EV) * config.fresnel_number)
    return Geometry(
        pixel_height_m=_PIXEL_M,
        pixel_width_m=_PIXEL_M,
        photon_energy_eV=_PHOTON_ENERGY_EV,
        detector_distance_m=distance_m,
        detector_pixel_height_m=_PIXEL_M,
        detector_pixel_width_m=_PIXEL_M,
        near_field=True,
    )


def beam_intensities(config: SimulationConfig, n_patterns: int) -> FloatArray:
    """Return the intensity of the beam at each pattern, in times of their mean."""
    drift = np.linspace(0, np.log1p(config.beam_drift), n_patterns)
    stream = config.random_streams()['beam']
    intensities = np.exp(drift + config.beam_flicker * stream.standard_normal(n_patterns))
    return np.asarray(intensities / intensities.mean())


def _object_shape(config: SimulationConfig, path: ScanPath) -> tuple[int, int]:
    # It has two pixels more, as rounding and interpolation reach one pixel further on each side.
    height, width = (int(np.ceil(extent)) + config.size + 2 for extent in path.extent_px)
    return height, width


def _check_object(object_: ComplexArray, needed: tuple[int, int]) -> None:
    if object_.ndim != 2 or any(h < n for h, n in zip(object_.shape, needed, strict=True)):
        raise DataError(
            f'The object must have at least {needed[0]} x {needed[1]} pixels for this scan; got '
            f'shape {object_.shape}. Take fewer positions, smaller steps or a larger object.'
        )
    if not np.isfinite(object_).all():
        raise DataError('The object must be finite; it holds NaN or infinity. Replace them.')


def _modes(config: SimulationConfig, probe: ComplexArray | None) -> ComplexArray:
    if probe is None:
        return make_probe(config)
    if probe.shape[-2:] != (config.size, config.size) or probe.ndim not in (2, 3):
        raise DataError(
            f'probe must have shape ({config.size}, {config.size}) or (n_modes, {config.size}, '
            f'{config.size}); got {probe.shape}. Resample it, or set size.'
        )
    if probe.ndim == 2:
        return make_modes(probe.astype(np.complex128), config.n_modes, config.mode_decay)
    return probe.astype(np.complex128)


def _mean_transmission(
    object_: ComplexArray, modes: ComplexArray, positions_px: FloatArray
) -> float:
    """Return the mean energy of an exit wave, from the intensities of object and probe alone."""
    # It takes most of a second to import, which commands that simulate nothing do not wait for.
    from scipy.signal import fftconvolve

    intensity = (np.abs(modes) ** 2).sum(axis=0)
    # The correlation has an even size: its pixel [0, 0] is the patch whose origin is there.
    transmitted = fftconvolve(np.abs(object_) ** 2, intensity[::-1, ::-1], mode='valid')
    patch_origins_px = positions_px - np.array(intensity.shape) // 2
    energies = map_coordinates(transmitted, patch_origins_px.T, order=1, mode='nearest')
    return float(energies.mean())


def _dead_pixels(config: SimulationConfig) -> RealArray:
    bad = np.zeros((config.size, config.size), dtype=bool)
    stream = config.random_streams()['detector']
    bad.flat[stream.choice(config.size**2, config.dead_pixels, replace=False)] = True
    return bad


def _count(
    config: SimulationConfig,
    object_: ComplexArray,
    modes: ComplexArray,
    positions_px: FloatArray,
    transfer: ComplexArray | None,
) -> RealArray:
    """Return the counts of each pattern, shape (n_positions, size, size); see `simulate`."""
    stream = config.random_streams()['counts']
    shape = (len(positions_px), config.size, config.size)
    patterns = new_array(shape, np.uint32 if config.poisson_noise else np.float32)
    usage, brightest = Usage(patterns), 0.0
    # Expectations are those of the rounded object and probe that the scan holds, in double
    # precision.
    exact, exact_modes = object_.astype(np.complex128), modes.astype(np.complex128)
    origin = np.zeros(2, dtype=np.int64)
    intensities = beam_intensities(config, len(positions_px))[:, np.newaxis, np.newaxis]
    wobble = wobble_amounts(config, len(positions_px))
    for start in range(0, len(positions_px), _BATCH):
        batch = slice(start, start + _BATCH)
        if config.probe_wobble > 0:
            probes = wobbling_probe(exact_modes, config.probe_wobble, wobble[batch])
        else:
            probes = exact_modes
        expected = predict_patterns(exact, origin, positions_px[batch], probes, transfer)
        expected = expected * intensities[batch]
        patterns[batch] = stream.poisson(expected) if config.poisson_noise else expected
        brightest = max(brightest, float(patterns[batch].max()))
        usage.add(patterns[batch].nbytes)
    if config.poisson_noise and brightest <= np.iinfo(np.uint16).max:
        return converted(patterns, lambda counts: counts.astype(np.uint16))
    return patterns
