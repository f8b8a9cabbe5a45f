"""Probes: what a round lens makes out of its focus, coherent or in several modes."""

import numpy as np
from scipy.special import erfc

from ptychopinn_plugin.array_types import ComplexArray, FloatArray
from ptychopinn_plugin.data.simulation.configuration import SimulationConfig
from ptychopinn_plugin.errors import DataError

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


def make_modes(probe: ComplexArray, n_modes: int, decay: float) -> ComplexArray:
    """Make orthogonal modes out of one probe.

    Parameters
    ----------
    probe : ndarray of complex, shape (height, width)
    n_modes : int
    decay : float
        Power of a mode as a share of the one before it.

    Returns
    -------
    ndarray of complex128, shape (n_modes, height, width)
        The first is `probe`, scaled; together they have an energy of 1.

    Raises
    ------
    DataError
        If `probe` is not one image with finite values and some energy.
    """
    if probe.ndim != 2 or not np.isfinite(probe).all() or not np.any(probe):
        raise DataError(
            'probe must be one image, finite and not zero everywhere; got an array of shape '
            f'{probe.shape}. Choose one mode of it.'
        )
    y, x = _scaled_coordinates(probe)
    # They are sorted by total degree, with which the energies of Hermite-Gauss modes rise.
    degrees = sorted(((i, j) for i in range(n_modes) for j in range(n_modes)), key=sum)[:n_modes]
    columns = np.stack([(probe * x**i * y**j).ravel() for i, j in degrees], axis=1)
    orthonormal, triangle = np.linalg.qr(columns)
    diagonal = np.diagonal(triangle)
    # The decomposition leaves the phase of each column free; so the first mode is the probe.
    orthonormal = orthonormal * (diagonal / np.abs(diagonal))
    power = decay ** np.arange(n_modes)
    modes: ComplexArray = (orthonormal * np.sqrt(power / power.sum())).T
    return modes.reshape(n_modes, *probe.shape)


def _scaled_coordinates(probe: ComplexArray) -> tuple[FloatArray, FloatArray]:
    """Return y and x from the probe's centre of intensity, in units of its r.m.s. width."""
    intensity = np.abs(probe) ** 2 / (np.abs(probe) ** 2).sum()
    y, x = np.indices(probe.shape).astype(np.float64)
    y, x = y - (intensity * y).sum(), x - (intensity * x).sum()
    width = np.sqrt((intensity * (y**2 + x**2)).sum() / 2)
    # A probe of one pixel has no width to divide by.
    width = max(float(width), 0.5)
    return y / width, x / width
