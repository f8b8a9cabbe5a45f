"""Probes: what a round lens makes out of its focus, coherent or in several modes."""

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.special import erfc

from ptychopinn_plugin.array_types import ComplexArray, FloatArray, RealArray
from ptychopinn_plugin.data.simulation.configuration import SimulationConfig
from ptychopinn_plugin.physics import make_modes

PUPIL_EDGE = 0.025
"""A Gaussian with this standard deviation, in cycles/px, blurs the pupil's edge.

With a radius of 0.10 and a defocus of 400 the probe is 16.5 px wide (full width at half
maximum) and holds 95 % of its energy within 16 px of its middle.
"""

DIFFUSER_PHASE = 1.5
"""The phase behind a diffuser has this standard deviation, in radians."""

CENTRAL_STOP = 0.4
"""The zone plate's central stop has this share of the pupil's radius."""

WOBBLE_PATTERNS = 3.0
"""The wobble of a probe is noise, smoothed over the patterns by a Gaussian with this standard
deviation."""


def make_probe(config: SimulationConfig) -> ComplexArray:
    r"""Make the probe as the transform of a pupil, :math:`P = \mathcal{F}^{-1}[A(q) e^{i c q^2}]`.

    The pupil :math:`A` is a disc with a soft edge, for a zone plate with a central stop [1]_;
    :math:`q` is the spatial frequency in cycles per pixel and :math:`c` the defocus in rad px².
    A diffuser has an amplitude of 1 and a phase of noise, up to frequencies of the pupil's radius.
    Further modes are the first one times Hermite-like polynomials, orthogonalized, with decreasing
    power.

    Parameters
    ----------
    config : SimulationConfig

    Returns
    -------
    ndarray of complex128, shape (n_modes, size, size)
        With an energy of 1 over all modes; its middle at ``[size // 2, size // 2]``.

    References
    ----------
    .. [1] D. Attwood, Soft X-Rays and Extreme Ultraviolet Radiation, chapter 9 (1999).
    """
    frequency = np.fft.fftfreq(config.size)
    k = np.hypot(frequency[:, None], frequency[None, :])
    if config.probe_kind == 'diffuser':
        noise = config.random_streams()['probe'].standard_normal(k.shape)
        smooth = np.fft.ifft2(np.fft.fft2(noise) * (k < config.pupil_radius) * (k > 0)).real
        wave = np.exp(1j * DIFFUSER_PHASE * smooth / max(float(smooth.std()), 1e-30))
        return make_modes(wave, config.n_modes, config.mode_decay)
    pupil = _soft_disc(k, config.pupil_radius)
    if config.probe_kind == 'zone-plate':
        pupil = pupil - _soft_disc(k, CENTRAL_STOP * config.pupil_radius)
    probe = np.fft.fftshift(np.fft.ifft2(pupil * np.exp(1j * config.defocus * k**2)))
    return make_modes(probe, config.n_modes, config.mode_decay)


def wobble_amounts(config: SimulationConfig, n_patterns: int) -> FloatArray:
    """Return how far tilt and defocus of the probe are from their mean at each pattern.

    Returns
    -------
    ndarray of float64, shape (n_patterns, 2)
        Each in times of its standard deviation; it varies over some `WOBBLE_PATTERNS` patterns.
    """
    noise = config.random_streams()['wobble'].standard_normal((n_patterns, 2))
    smooth = gaussian_filter1d(noise, WOBBLE_PATTERNS, axis=0, mode='wrap')
    around = smooth - smooth.mean(axis=0)
    return np.asarray(around / np.maximum(around.std(axis=0), 1e-30))


def wobbling_probe(probe: ComplexArray, wobble: float, amounts: FloatArray) -> ComplexArray:
    r"""Return a probe as it is with some amounts of tilt and of defocus.

    :math:`\mathcal{F}^{-1}[e^{i b q^2} \mathcal{F}[e^{i a x} P]]`, where :math:`a` and :math:`b`
    of one standard deviation move the probe by equal shares of its amplitude, together `wobble`.

    Parameters
    ----------
    probe : ndarray of complex, shape (n_modes, size, size)
    wobble : float
    amounts : ndarray of float64, shape (n_patterns, 2)
        Of tilt in x and defocus, as `wobble_amounts` returns them.

    Returns
    -------
    ndarray of complex128, shape (n_patterns, n_modes, size, size)
    """
    size = probe.shape[-1]
    x = np.broadcast_to(np.arange(size) - size // 2, (size, size))
    frequency = np.fft.fftfreq(size)
    square = frequency[:, None] ** 2 + frequency[None, :] ** 2
    spectrum = np.fft.fft2(probe.astype(np.complex128))
    # A mean phase of the whole probe would be no change of it.
    tilt = _unit_phase(x, (np.abs(probe) ** 2).sum(axis=0))
    defocus = _unit_phase(square, (np.abs(spectrum) ** 2).sum(axis=0))
    each = wobble / np.sqrt(2)
    angles = each * amounts[:, :, np.newaxis, np.newaxis, np.newaxis]
    tilted = probe * np.exp(1j * angles[:, 0] * tilt)
    return np.asarray(np.fft.ifft2(np.fft.fft2(tilted) * np.exp(1j * angles[:, 1] * defocus)))


def _unit_phase(phase: RealArray, light: FloatArray) -> FloatArray:
    """Return a phase whose mean over the light is 0, and whose standard deviation 1."""
    around = phase - np.average(phase, weights=light)
    return np.asarray(around / np.sqrt(np.average(around**2, weights=light)))


def _soft_disc(k: FloatArray, radius: float) -> FloatArray:
    """Return a disc in Fourier space, blurred at its edge, for frequencies of modulus `k`."""
    edge = PUPIL_EDGE * radius / 0.10
    disc: FloatArray = 0.5 * erfc((k - radius) / (np.sqrt(2) * edge))
    return disc
