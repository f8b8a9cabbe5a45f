"""The corpus: simulated scans with known objects, each drawn from a seed and a number."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.simulation import SimulationConfig, make_path, simulate
from ptychopinn_plugin.physics import normalize_probe
from ptychopinn_plugin.pretraining.objects import N_SEEDS, draw_lines, draw_object
from ptychopinn_plugin.pretraining.probes import draw_curved_probe, draw_probe, window_px_of

WINDOWS_PX = (16, 24, 32, 40, 48, 56, 64, 80, 96)
WINDOW_PROBABILITIES = (0.05, 0.13, 0.22, 0.26, 0.16, 0.08, 0.05, 0.03, 0.02)
"""Most windows are small, as the cost of a step grows with the square of the side."""

PATTERN_SIZES_PX = (64, 96, 128, 192, 256)

PIXEL_BUDGET = 64 * 40 * 40
"""The windows of a scan have about this number of pixels together, as 64 of 40 px have; the
number of patterns follows from it."""

MIN_TASK_PATTERNS, MAX_TASK_PATTERNS = 9, 64
MAX_SINGLE_SHOTS = 36

SINGLE_SHOT_FRACTION = 0.25
"""This share of the scans has patterns that share nothing, half of them lines without phase."""


@dataclass(frozen=True)
class Task:
    """A simulated scan, and what a network should make of it.

    Attributes
    ----------
    scan : Scan
        With the probe as a user would have it, whose energy is the mean number of counts.
    truth : ndarray of complex64, shape of ``scan.object_``
        The object that, with a probe of that energy, explains the counts.
    """

    scan: Scan
    truth: ComplexArray


def draw_task(seed: int, number: int) -> Task:
    """Draw one scan of the corpus.

    Parameters
    ----------
    seed : int
        Of the corpus.
    number : int
        Which scan; the same pair gives the same scan on every machine.

    Returns
    -------
    Task
    """
    rng = np.random.default_rng([seed, number])
    if rng.random() < SINGLE_SHOT_FRACTION:
        return _draw_single_shots(rng)
    window = int(rng.choice(WINDOWS_PX, p=WINDOW_PROBABILITIES))
    size = _draw_pattern_size(rng, window)
    probe = draw_probe(rng, size, window)
    diameter = effective_diameter(probe)
    # Beyond 1 the illuminations barely touch. Where data do not decide, there is more to learn.
    step = diameter * (rng.uniform(0.05, 0.5) if rng.random() < 0.25 else rng.uniform(0.3, 1.15))
    shape = _raster(rng, window)
    path = str(rng.choice(['jittered', 'jittered', 'raster', 'fermat']))
    config = SimulationConfig(
        size=size,
        path_kind=path,  # type: ignore[arg-type]
        rows=shape[0],
        columns=shape[1],
        step_px=max(1.0, float(step)),
        jitter_px=float(min(60.0, step * rng.uniform(0.05, 0.4))),
        photons=_draw_counts(rng),
        seed=int(rng.integers(N_SEEDS)),
        **_draw_faults(rng, size),
    )
    object_ = draw_object(rng, object_shape(config))
    return _simulate(rng, config, object_, probe, is_single_shot=False)


def object_shape(config: SimulationConfig) -> tuple[int, int]:
    """Return the shape of an object that a scan fits on."""
    height, width = (
        int(np.ceil(extent)) + config.size + 2 for extent in make_path(config).extent_px
    )
    return height, width


def effective_diameter(probe: ComplexArray) -> float:
    """Return the diameter of an even disc that spreads its light as the probe does, in pixels.

    Parameters
    ----------
    probe : ndarray of complex, shape (n_modes, height, width)
    """
    intensity = (np.abs(probe) ** 2).sum(axis=0)
    area = intensity.sum() ** 2 / (intensity**2).sum()
    return float(2 * np.sqrt(area / np.pi))


def _draw_single_shots(rng: np.random.Generator) -> Task:
    """Draw patterns that share nothing: a half of them lines without phase in curved beams."""
    lines = rng.random() < 0.5
    if lines or rng.random() < 0.3:
        size = int(rng.choice([64, 64, 64, 96]))
        probe = draw_curved_probe(rng, size)
    else:
        window = int(rng.choice(WINDOWS_PX, p=WINDOW_PROBABILITIES))
        size = _draw_pattern_size(rng, window)
        probe = draw_probe(rng, size, window)
    window = window_px_of(probe)
    rows, columns = _raster(rng, window, MAX_SINGLE_SHOTS)
    step = float(window + rng.integers(2, 10))
    config = SimulationConfig(
        size=size,
        path_kind='raster',
        rows=rows,
        columns=columns,
        step_px=step,
        photons=1e9 if lines and rng.random() < 0.5 else _draw_counts(rng),
        seed=int(rng.integers(N_SEEDS)),
        **_draw_faults(rng, size),
    )
    shape = object_shape(config)
    object_ = draw_lines(rng, shape) if lines else draw_object(rng, shape)
    return _simulate(rng, config, object_, probe, is_single_shot=True)


def _draw_pattern_size(rng: np.random.Generator, window: int) -> int:
    fitting = [size for size in PATTERN_SIZES_PX if size * 0.8 >= window]
    # Mostly the smallest that the probe fits in; larger ones cost transforms and show the same.
    return fitting[min(int(rng.geometric(0.85)) - 1, len(fitting) - 1)]


def _raster(
    rng: np.random.Generator, window: int, most: int = MAX_TASK_PATTERNS
) -> tuple[int, int]:
    count = int(np.clip(PIXEL_BUDGET / window**2, MIN_TASK_PATTERNS, most))
    rows = max(2, round(np.sqrt(count) * rng.uniform(0.7, 1.0)))
    return rows, max(2, count // rows)


def _draw_counts(rng: np.random.Generator) -> float:
    low, high = (4.0, 6.0) if rng.random() < 0.6 else (2.5, 8.0)
    return float(10 ** rng.uniform(low, high))


def _draw_faults(rng: np.random.Generator, size: int) -> dict[str, Any]:
    """Draw dead pixels and errors of positions, which most scans do not have."""
    return {
        'dead_pixels': int(rng.integers(1, size**2 // 100)) if rng.random() < 0.2 else 0,
        'position_noise_px': float(rng.uniform(0.05, 0.5)) if rng.random() < 0.15 else 0.0,
    }


def _simulate(
    rng: np.random.Generator,
    config: SimulationConfig,
    object_: ComplexArray,
    probe: ComplexArray,
    *,
    is_single_shot: bool,
) -> Task:
    scan = simulate(config, object_=object_, probe=probe)
    assert scan.object_ is not None
    energy = float((np.abs(scan.probe.astype(np.complex128)) ** 2).sum())
    known = _with_errors(rng, scan.probe) if rng.random() < 0.25 else scan.probe
    photons = scan.mean_photons()
    scan = dataclasses.replace(scan, probe=normalize_probe(known, photons))
    truth = (scan.object_ * np.sqrt(energy / photons)).astype(np.complex64)
    return Task(dataclasses.replace(scan, is_single_shot=is_single_shot), truth)


def _with_errors(rng: np.random.Generator, probe: ComplexArray) -> ComplexArray:
    """Return what a user may take for the probe: a little out of focus, a little shifted."""
    size = probe.shape[-1]
    frequency = np.fft.fftfreq(size)
    ky, kx = np.meshgrid(frequency, frequency, indexing='ij')
    reach = np.sqrt(_mean_square_frequency(probe))
    phase = rng.normal(0, 0.2) * (ky**2 + kx**2) / reach**2
    phase = phase + 2 * np.pi * (rng.normal(0, 0.2) * ky + rng.normal(0, 0.2) * kx)
    changed = np.fft.ifft2(np.fft.fft2(probe) * np.exp(1j * phase))
    return np.asarray(changed, dtype=np.complex64)


def _mean_square_frequency(probe: ComplexArray) -> float:
    power = (np.abs(np.fft.fft2(probe)) ** 2).sum(axis=0)
    frequency = np.fft.fftfreq(probe.shape[-1])
    square = frequency[:, None] ** 2 + frequency[None, :] ** 2
    return float((power * square).sum() / power.sum())
