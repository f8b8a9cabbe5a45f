"""Projection onto the measured amplitudes, in NumPy: the oracle of the backends."""

import numpy as np

from ptychopinn_plugin.array_types import BoolArray, ComplexArray, FloatArray

RATIO_EPSILON = 2e-4
"""It is in photons. Where an estimate expects nothing, a float32 transform leaves up to 1e-8 photon
with the phases of rounding errors; counts there must not be given those phases."""


def project_amplitudes(
    patches: ComplexArray, probes: ComplexArray, counts: FloatArray, valid_mask: BoolArray
) -> ComplexArray:
    r"""Project exit waves onto the measured amplitudes; return the change that patches take.

    .. math:: \sum_m P_m^* (\psi'_m - \psi_m), \qquad
        \psi'_m = \mathcal{F}^{-1}\left[\sqrt{\frac{k + \eta}{I + \eta}}\, \Psi_m\right],
        \qquad I = \sum_m |\Psi_m|^2, \quad \Psi_m = \mathcal{F}[P_m Q].

    Parameters
    ----------
    patches : ndarray of complex, shape (n_positions, height, width)
        :math:`Q`.
    probes : ndarray of complex, shape (n_positions, n_modes, height, width)
        :math:`P`, in square root of photons per pixel.
    counts : ndarray, shape (n_positions, height, width)
        :math:`k`, with zero frequency at ``[height // 2, width // 2]``.
    valid_mask : ndarray of bool, shape (height, width)
        Where it is False, a pixel of the detector keeps its wave.

    Returns
    -------
    ndarray of complex, shape (n_positions, height, width)
        In photons per pixel.

    References
    ----------
    .. [1] A. Maiden, D. Johnson, P. Li, Optica 4 (2017) 736, doi:10.1364/OPTICA.4.000736.
    """
    spectra = np.fft.fft2(probes * patches[:, np.newaxis], norm='ortho')  # (n, modes, h, w)
    expected = (np.abs(spectra) ** 2).sum(axis=1)
    # The transform has zero frequency in the corner, so the counts go there, not the spectra.
    counts = np.fft.ifftshift(counts, axes=(-2, -1))
    ratio = np.sqrt((counts + RATIO_EPSILON) / (expected + RATIO_EPSILON))
    # This is the difference of both waves, so that a factor of zero leaves a bad pixel as it is.
    factor = (ratio - 1) * np.fft.ifftshift(valid_mask)
    changes = np.fft.ifft2(spectra * factor[:, np.newaxis], norm='ortho')
    return np.asarray((probes.conj() * changes).sum(axis=1))
