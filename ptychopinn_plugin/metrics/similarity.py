"""Real images, amplitudes or phases, against the truth: SSIM, PSNR, MAE."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.ndimage import uniform_filter

from ptychopinn_plugin.array_types import ComplexArray, FloatArray
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.metrics.checks import check_pair

_SSIM_SIDE_PX = 7
"""The window is a square, scikit-image's default, not the paper's Gaussian of 11 pixels."""


def wrapped_phase(image: ComplexArray, truth: ComplexArray) -> tuple[FloatArray, FloatArray]:
    r"""Return the phases of an aligned image and of the truth, comparable without unwrapping.

    Both are measured from the truth's mean direction, so that its own global phase does not
    matter, and the image's is put within half a cycle of the truth's: an error is never
    more than :math:`\pi`, and a wrap causes no error.

    Parameters
    ----------
    image, truth : ndarray of complex, shape (height, width)

    Returns
    -------
    image_phase, truth_phase : ndarray of float64, shape (height, width)
        In radians.
    """
    truth_phase = np.angle(truth * np.exp(-1j * np.angle(truth.sum())))
    image_phase = truth_phase + np.angle(image * np.conj(truth))
    return image_phase, truth_phase


def ssim(image: FloatArray, truth: FloatArray) -> float:
    r"""Compute the mean structural similarity [1]_ of two real images.

    .. math:: \mathrm{SSIM} = \left\langle
        \frac{(2 \mu_x \mu_y + c_1)(2 \sigma_{xy} + c_2)}
        {(\mu_x^2 + \mu_y^2 + c_1)(\sigma_x^2 + \sigma_y^2 + c_2)} \right\rangle

    with means, variances and covariance over a window, :math:`c_1 = (0.01 L)^2`,
    :math:`c_2 = (0.03 L)^2` and the data range :math:`L`.

    Parameters
    ----------
    image, truth : ndarray of float, shape (height, width)

    Returns
    -------
    float
        At most 1. The data range is the truth's, largest less smallest value; the window is a
        square of 7 pixels. Where the means of a window differ in sign, it does not count as
        similar: in the plain formula two wrong signs, of mean and of covariance, multiply to a
        right one, and the negative of a phase would score well.

    Raises
    ------
    DataError
        If the images have different shapes, values that are not finite, or less than 7 pixels
        a side.

    References
    ----------
    .. [1] Z. Wang et al., IEEE Trans. Image Process. 13 (2004) 600, doi:10.1109/TIP.2003.819861.
    """
    from skimage.metrics import structural_similarity

    check_pair(image, truth)
    if min(truth.shape) < _SSIM_SIDE_PX:
        raise DataError(
            f'Images to compare must have at least {_SSIM_SIDE_PX} pixels a side; '
            f'got {truth.shape}. Choose a larger region.'
        )
    compare: Callable[..., Any] = structural_similarity
    options = {'win_size': _SSIM_SIDE_PX, 'data_range': _range(truth), 'full': True}
    _, similarity = compare(truth, image, **options)
    means = [uniform_filter(array, _SSIM_SIDE_PX) for array in (image, truth)]
    opposite = means[0] * means[1] < 0
    similarity = np.where(opposite, -np.abs(similarity), similarity)
    # Only windows that lie inside, as scikit-image takes the mean.
    border = _SSIM_SIDE_PX // 2
    return float(similarity[border:-border, border:-border].mean(dtype=np.float64))


def psnr(image: FloatArray, truth: FloatArray) -> float:
    r"""Compute the peak signal-to-noise ratio of two real images.

    .. math:: \mathrm{PSNR} = 20 \log_{10} L - 10 \log_{10} \langle (x - y)^2 \rangle

    with the truth's range :math:`L`, largest less smallest value.

    Parameters
    ----------
    image, truth : ndarray of float, shape (height, width)

    Returns
    -------
    float
        In dB; infinite for equal images.

    Raises
    ------
    DataError
        If the images have different shapes or values that are not finite.
    """
    check_pair(image, truth)
    mean_square = float(np.mean((image - truth) ** 2))
    if mean_square == 0:
        return float('inf')
    return float(20 * np.log10(_range(truth)) - 10 * np.log10(mean_square))


def mae(image: FloatArray, truth: FloatArray) -> float:
    r"""Compute the mean absolute error :math:`\langle |x - y| \rangle` of two real images.

    Parameters
    ----------
    image, truth : ndarray of float, shape (height, width)

    Returns
    -------
    float
        In the unit of the images.

    Raises
    ------
    DataError
        If the images have different shapes or values that are not finite.
    """
    check_pair(image, truth)
    return float(np.mean(np.abs(image - truth)))


def _range(truth: FloatArray) -> float:
    # A constant truth has no range; then errors are measured against 1.
    return float(truth.max() - truth.min()) or 1.0
