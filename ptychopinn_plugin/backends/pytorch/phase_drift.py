r"""Correct the slow part of an object's phase from the shifts of its patterns.

A phase that rises by :math:`g` radians a pixel under the probe shifts the pattern by
:math:`d = g N / 2 \pi` detector pixels, so each pattern measures the local slope like a
lenslet of a Shack-Hartmann sensor [1]_. Patches and iterations know their neighbours only, and
small errors of slope add up to a drift across the field; here all slopes are fitted at once by a
smooth surface.

With the expected counts :math:`I` and the measured ones :math:`k`, the shift minimises

.. math:: \sum_q \left(\sqrt{k} - \sqrt{I} + d \cdot \nabla \sqrt{I}\right)^2,

which is a system of two equations for each pattern.

References
----------
.. [1] R. Shack, B. Platt, J. Opt. Soc. Am. 61 (1971) 656.
"""

import torch
from torch import Tensor

from ptychopinn_plugin.array_types import FloatArray, RealArray
from ptychopinn_plugin.backends.common.phase_drift import (
    MIN_PATTERNS,
    Moments,
    slow_phase,
    solve_slopes,
)
from ptychopinn_plugin.backends.pytorch.forward import ForwardModel


@torch.no_grad()
def correct_phase_drift(forward: ForwardModel, object_: Tensor, batch_size: int = 64) -> Tensor:
    """Return the object times the smooth phase that its patterns miss.

    Where that would not raise the likelihood (the positions or the probe may be wrong), the object
    is returned as it is, and so it is with fewer than four patterns.

    Parameters
    ----------
    forward : ForwardModel
    object_ : Tensor of complex64, shape `forward.canvas_shape`
    batch_size : int
        Patterns that are measured together.

    Returns
    -------
    Tensor of complex64, shape `forward.canvas_shape`
    """
    if len(forward) < MIN_PATTERNS:
        return object_
    slopes, weights, loss = measure_slopes(forward, object_, batch_size)
    positions = forward.patch_origins_px
    surface = slow_phase(
        positions, slopes, weights, forward.probe.cpu().numpy(), forward.canvas_shape
    )
    phase = torch.from_numpy(surface).to(object_.device)
    corrected = object_ * torch.polar(torch.ones_like(phase), phase)
    return corrected if forward.evaluate_loss(corrected) < loss else object_


def measure_slopes(
    forward: ForwardModel, object_: Tensor, batch_size: int = 64
) -> tuple[FloatArray, FloatArray, float]:
    """Measure the slope that each pattern misses.

    Returns
    -------
    slopes : ndarray, shape (n_positions, 2)
        Radians a pixel, (y, x).
    weights : ndarray, shape (n_positions, 2)
        The inverse variance of each, up to a common factor.
    loss : float
        Poisson loss per pixel of the object, as `ForwardModel.evaluate_loss`.
    """
    moments: list[Moments] = []
    loss = 0.0
    for indices in torch.arange(len(forward), device=forward.device).split(batch_size):
        counts = forward.predict_intensity(forward.extract_patches(object_, indices), indices)
        loss += float(forward.poisson_loss(counts, indices)) * len(indices)
        moments.append(_moments(forward, torch.sqrt(counts), forward.measured(indices)))
    return *solve_slopes(moments, forward.shape), loss / len(forward)


def _moments(forward: ForwardModel, expected: Tensor, measured: Tensor) -> Moments:
    missing = measured - expected  # (n, height, width)
    if forward.valid_mask is not None:
        missing = missing * forward.valid_mask
    # With zero frequency in the corner, a pixel at one edge has its neighbour at the other.
    along_y = (expected.roll(-1, dims=1) - expected.roll(1, dims=1)) / 2
    along_x = (expected.roll(-1, dims=2) - expected.roll(1, dims=2)) / 2
    if forward.valid_mask is not None:
        along_y, along_x = along_y * forward.valid_mask, along_x * forward.valid_mask

    def dot(first: Tensor, second: Tensor) -> RealArray:
        return (first * second).sum(dim=(1, 2)).cpu().numpy()

    return (
        dot(along_y, along_y),
        dot(along_x, along_x),
        dot(along_y, along_x),
        dot(missing, along_y),
        dot(missing, along_x),
    )
