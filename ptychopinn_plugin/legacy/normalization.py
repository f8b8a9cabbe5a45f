"""How PtychoPINN scales a probe, and what that makes of our normalization."""

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray
from ptychopinn_plugin.errors import ConfigError


def normalize_as_legacy(probe: ComplexArray, probe_scale: float) -> ComplexArray:
    r"""Scale a probe as PtychoPINN does.

    .. math:: P \to \frac{P}{s \, \langle D |P| \rangle}

    with :math:`s` = `probe_scale`, :math:`|P|` the root of the sum over modes of the squared
    moduli, :math:`D` a disc whose radius is a quarter of the width, and the mean over all pixels.

    Parameters
    ----------
    probe : ndarray of complex, shape (n_modes, height, width)
    probe_scale : float

    Returns
    -------
    ndarray of complex64, shape (n_modes, height, width)
        In PtychoPINN's arbitrary unit.

    Raises
    ------
    ConfigError
        If the probe is dark inside the disc.
    """
    height, width = probe.shape[-2:]
    # PtychoPINN's disc lies around the point between the middle pixels.
    y = np.arange(height)[:, np.newaxis] - (height - 1) / 2
    x = np.arange(width)[np.newaxis, :] - (width - 1) / 2
    disc = np.hypot(y, x) < width / 4
    modulus = np.sqrt((np.abs(probe.astype(np.complex128)) ** 2).sum(axis=0))
    mean = float((modulus * disc).mean())
    if not mean > 0:
        raise ConfigError('The probe is dark in its middle, so it cannot be scaled.')
    return (probe / (probe_scale * mean)).astype(np.complex64)


def intensity_scale_of(probe: ComplexArray) -> float:
    r"""Return our intensity scale of a probe that PtychoPINN normalized.

    Its network sees amplitudes :math:`X` of mean energy :math:`(N/2)^2` and is trained so that
    :math:`X = |F(P O)|`; here :math:`\sqrt{k} = |F(s \hat P O)|` with a probe :math:`\hat P` whose
    energy is the mean of the counts :math:`k`. So :math:`s^2 = \sum |P|^2 / (N/2)^2`.

    Parameters
    ----------
    probe : ndarray of complex, shape (n_modes, height, width)
        As `normalize_as_legacy` returns it.
    """
    energy = float((np.abs(probe.astype(np.complex128)) ** 2).sum())
    return float(np.sqrt(energy) / (probe.shape[-1] / 2))
