"""Projection onto the measured amplitudes, in NumPy: the oracle of the backends."""

import numpy as np

from ptychopinn_plugin.array_types import BoolArray, ComplexArray, FloatArray
from ptychopinn_plugin.physics.propagation import from_detector, in_transform_order, to_detector

RATIO_EPSILON = 2e-4
"""It is in photons. Where an estimate expects nothing, a float32 transform leaves up to 1e-8 photon
with the phases of rounding errors; counts there must not be given those phases."""


def project_amplitudes(
    patches: ComplexArray,
    probes: ComplexArray,
    counts: FloatArray,
    valid_mask: BoolArray,
    transfer: ComplexArray | None = None,
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
    transfer : ndarray of complex, shape (height, width) or (n, 1, height, width), optional
        Of the near field (`propagation.at_subpixel_shifts`), in which free space takes the place of
        the Fourier transform.

    Returns
    -------
    ndarray of complex, shape (n_positions, height, width)
        In photons per pixel.

    References
    ----------
    .. [1] A. Maiden, D. Johnson, P. Li, Optica 4 (2017) 736, doi:10.1364/OPTICA.4.000736.
    """
    waves = to_detector(probes * patches[:, np.newaxis], transfer)  # (n, modes, h, w)
    expected = (np.abs(waves) ** 2).sum(axis=1)
    # The transform has zero frequency in the corner, so the counts go there, not the spectra.
    counts = in_transform_order(counts, transfer)
    ratio = np.sqrt((counts + RATIO_EPSILON) / (expected + RATIO_EPSILON))
    # This is the difference of both waves, so that a factor of zero leaves a bad pixel as it is.
    factor = (ratio - 1) * in_transform_order(valid_mask, transfer)
    changes = from_detector(waves * factor[:, np.newaxis], transfer)
    return np.asarray((probes.conj() * changes).sum(axis=1))
