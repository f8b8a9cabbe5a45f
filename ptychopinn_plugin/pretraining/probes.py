"""Probes of all kinds: lenses out of focus, with aberrations, diffusers, curved and flat beams."""

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.special import erfc

from ptychopinn_plugin.array_types import ComplexArray, FloatArray
from ptychopinn_plugin.backends.common.prediction import WINDOW_ENERGY
from ptychopinn_plugin.data.simulation import SimulationConfig, make_probe
from ptychopinn_plugin.physics import illuminated_size, make_modes

MIN_WINDOW_PX = 16
MAX_WINDOW_PX = 96
MAX_WINDOW_FRACTION = 0.8
"""A probe fills at most this share of the pattern: with a larger probe the pattern is sampled too
coarsely to be inverted."""

BENCHMARK_RADIUS, BENCHMARK_DEFOCUS = 0.10, 400.0
"""The benchmarks test on this probe: no probe of the corpus is both within 15 % of its radius and
within 30 % of its defocus."""

_TRIALS = 200


def draw_probe(rng: np.random.Generator, size: int, window_px: int) -> ComplexArray:
    """Draw a probe that fills about a given window.

    Parameters
    ----------
    rng : numpy.random.Generator
    size : int
        Side of the pattern.
    window_px : int
        Wanted side of the illuminated square, a multiple of 8.

    Returns
    -------
    ndarray of complex128, shape (n_modes, size, size)
        With an energy of 1 over all modes. Its window is the wanted one or 8 px off.
    """
    for _ in range(_TRIALS):
        draw = (_lens, _real_space)[int(rng.random() < 0.3)]
        probe = draw(rng, size, window_px * rng.uniform(0.6, 1.2))
        n_modes = int(rng.choice([1, 1, 1, 1, 2, 3]))
        modes = make_modes(probe, n_modes, float(rng.uniform(0.05, 0.5)))
        if abs(window_px_of(modes) - window_px) <= 8:
            return modes
    # No draw has come near the wanted window, which a plain focus fills.
    config = SimulationConfig(size=size, pupil_radius=4.0 / window_px, defocus=0.0)
    return make_probe(config)


def window_px_of(probe: ComplexArray) -> int:
    """Return the side of the window in which a network looks at patches of a probe.

    Parameters
    ----------
    probe : ndarray of complex, shape (n_modes, height, width)
    """
    return max(MIN_WINDOW_PX, min(MAX_WINDOW_PX, illuminated_size(probe, share=WINDOW_ENERGY)))


def draw_curved_probe(rng: np.random.Generator, size: int) -> ComplexArray:
    """Draw a round beam with a curved wave front, or with a flat one, for patterns alone.

    Parameters
    ----------
    rng : numpy.random.Generator
    size : int
        Side of the pattern.

    Returns
    -------
    ndarray of complex128, shape (1, size, size)
        With an energy of 1.
    """
    while True:
        flat = rng.random() < 0.3
        probe = curved_probe(
            size,
            width_px=float(rng.uniform(0.2, 0.45)) * size,
            edge=float(rng.uniform(0.1, 0.5)),
            curvature=0.0 if flat else float(rng.uniform(0.2, 1.0)) * rng.choice([-1, 1]),
        )
        roughness = rng.choice([0.0, rng.uniform(0, 0.4)])
        probe = probe * np.exp(1j * roughness * _smooth(rng, size, size / 12))
        probe = probe * (1 + 0.5 * roughness * np.clip(_smooth(rng, size, size / 12), -2, 2))
        modes = make_modes(probe, 1, 1.0)
        if window_px_of(modes) <= MAX_WINDOW_FRACTION * size:
            return modes


def curved_probe(size: int, width_px: float, edge: float, curvature: float) -> ComplexArray:
    """Make a round beam of a given width whose phase rises with the square of the radius.

    Parameters
    ----------
    size : int
        Side of the pattern.
    width_px : float
        Diameter at half of the amplitude.
    edge : float
        Softness of the edge, as a share of the radius.
    curvature : float
        Slope of the phase at the edge, as a share of Nyquist's (pi radians a pixel) divided by 2.

    Returns
    -------
    ndarray of complex128, shape (size, size)
    """
    y, x = np.indices((size, size)) - size // 2
    radius = np.hypot(y, x)
    half = width_px / 2
    amplitude = 0.5 * erfc((radius - half) / (np.sqrt(2) * edge * half))
    slope = curvature * np.pi / 2
    probe: ComplexArray = amplitude * np.exp(1j * slope * radius**2 / (2 * half))
    return probe


def is_the_benchmarks(radius: float, defocus: float) -> bool:
    """Return whether a lens is too much like that of the benchmarks."""
    near_radius = abs(radius / BENCHMARK_RADIUS - 1) < 0.15
    return near_radius and abs(abs(defocus) / BENCHMARK_DEFOCUS - 1) < 0.3


def _lens(rng: np.random.Generator, size: int, width_px: float) -> ComplexArray:
    """Make the focus, or what lies before or behind it, of a lens."""
    while True:
        radius = float(rng.uniform(1.0, 6.0) * 1.2 / width_px)
        # A ray at the pupil's edge meets the plane c k / pi from the axis.
        defocus = float(np.pi * rng.uniform(0, 0.5) * width_px / radius) * rng.choice([-1, 1])
        if radius < 0.35 and not is_the_benchmarks(radius, defocus):
            break
    frequency = np.fft.fftfreq(size)
    ky, kx = np.meshgrid(frequency, frequency, indexing='ij')
    stretch = rng.choice([1.0, 1.0, rng.uniform(0.7, 1.4)])
    u, v = ky / radius * stretch, kx / radius / stretch
    pupil = _aperture(rng, u, v)
    aberrations = _aberrations(rng, u, v) if rng.random() < 0.5 else 0.0
    wave = pupil * np.exp(1j * (defocus * (ky**2 + kx**2) + aberrations))
    if rng.random() < 0.2:
        wave = wave * np.exp(1j * rng.uniform(0.5, 2.0) * _screen(rng, size, radius))
    return np.asarray(np.fft.fftshift(np.fft.ifft2(wave)))


def _aperture(rng: np.random.Generator, u: FloatArray, v: FloatArray) -> FloatArray:
    softness = rng.uniform(0.05, 0.3)

    def inside(distance: FloatArray, edge: float) -> FloatArray:
        return np.asarray(0.5 * erfc((distance - edge) / (np.sqrt(2) * softness)))

    kind = rng.choice(['disc', 'stop', 'square'], p=[0.5, 0.25, 0.25])
    if kind == 'square':
        return inside(np.abs(u), 1.0) * inside(np.abs(v), 1.0)
    disc = inside(np.hypot(u, v), 1.0)
    return disc - inside(np.hypot(u, v), rng.uniform(0.2, 0.6)) if kind == 'stop' else disc


def _aberrations(rng: np.random.Generator, u: FloatArray, v: FloatArray) -> FloatArray:
    """Return astigmatism, coma, trefoil and spherical aberration, in radians."""
    square = np.minimum(u**2 + v**2, 4.0)
    terms = [
        u**2 - v**2,
        2 * u * v,
        u * square,
        v * square,
        u**3 - 3 * u * v**2,
        v**3 - 3 * v * u**2,
        square**2,
    ]
    strength = rng.uniform(0.3, 2.0)
    weights = strength * rng.standard_normal(len(terms))
    total = sum(weight * np.clip(term, -8, 8) for weight, term in zip(weights, terms, strict=True))
    return np.asarray(total)


def _screen(rng: np.random.Generator, size: int, radius: float) -> FloatArray:
    """Return the phase of a diffuser in the pupil, mean square 1."""
    return np.asarray(np.fft.ifftshift(_smooth(rng, size, radius * size / rng.uniform(2, 5))))


def _smooth(rng: np.random.Generator, size: int, length_px: float) -> FloatArray:
    image = gaussian_filter(rng.standard_normal((size, size)), max(0.5, length_px), mode='wrap')
    image = image - image.mean()
    return np.asarray(image / image.std())


def _real_space(rng: np.random.Generator, size: int, width_px: float) -> ComplexArray:
    """Make a beam by its shape where it meets the object: round, curved or flat, rough or not."""
    curvature = 0.0 if rng.random() < 0.25 else rng.uniform(0.1, 0.9) * rng.choice([-1, 1])
    probe = curved_probe(size, 0.75 * width_px, rng.uniform(0.15, 0.6), curvature)
    roughness = rng.choice([0.0, rng.uniform(0.1, 0.8)])
    phase = roughness * _smooth(rng, size, width_px / rng.uniform(3, 8))
    shade = 1 + 0.4 * roughness * np.clip(_smooth(rng, size, width_px / rng.uniform(3, 8)), -2, 2)
    return np.asarray(probe * shade * np.exp(1j * phase))
