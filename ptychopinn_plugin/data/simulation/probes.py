"""Probes: what a round lens makes out of its focus, coherent or in several modes."""

import numpy as np
from scipy.special import erfc

from ptychopinn_plugin.array_types import ComplexArray, FloatArray
from ptychopinn_plugin.data.simulation.configuration import SimulationConfig
from ptychopinn_plugin.physics import make_modes

PUPIL_EDGE = 0.025
"""A Gaussian with this standard deviation, in cycles/px, blurs the pupil's edge.

With a radius of 0.10 and a defocus of 400 the probe is 16.5 px wide (full width at half
maximum) and holds 95 % of its energy within 16 px of its middle.
"""

CENTRAL_STOP = 0.4
"""The zone plate's central stop has this share of the pupil's radius."""


def make_probe(config: SimulationConfig) -> ComplexArray:
    r"""Make the probe as the transform of a pupil, :math:`P = \mathcal{F}^{-1}[A(q) e^{i c q^2}]`.

    The pupil :math:`A` is a disc with a soft edge, for a zone plate with a central stop [1]_;
    :math:`q` is the spatial frequency in cycles per pixel and :math:`c` the defocus in rad px².
    Further modes are the first one times Hermite-like polynomials, orthogonalised, with decreasing
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
    pupil = _soft_disc(k, config.pupil_radius)
    if config.probe_kind == 'zone-plate':
        pupil = pupil - _soft_disc(k, CENTRAL_STOP * config.pupil_radius)
    probe = np.fft.fftshift(np.fft.ifft2(pupil * np.exp(1j * config.defocus * k**2)))
    return make_modes(probe, config.n_modes, config.mode_decay)


def _soft_disc(k: FloatArray, radius: float) -> FloatArray:
    """Return a disc in Fourier space, blurred at its edge, for frequencies of modulus `k`."""
    edge = PUPIL_EDGE * radius / 0.10
    disc: FloatArray = 0.5 * erfc((k - radius) / (np.sqrt(2) * edge))
    return disc
