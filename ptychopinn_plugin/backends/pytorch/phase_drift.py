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

from ptychopinn_plugin.array_types import FloatArray
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
    is returned as it is, and so it is with fewer than four patterns, and with patterns that share
    nothing, as no slow phase goes from one to the next.

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
    if len(forward) < MIN_PATTERNS or forward.is_single_shot:
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
    moments: list[Tensor] = []
    loss = torch.zeros((), dtype=torch.float64, device=forward.device)
    for part in forward.slices(batch_size):
        expected = forward.predict_intensity(forward.extract_patches(object_, part), part)
        loss += forward.sum_of_losses(expected, part)
        moments.append(_moments(forward, torch.sqrt(expected), forward.measured(part)))
    # One look at the device's results, after the last batch.
    found: Moments = tuple(torch.cat(moments, dim=1).cpu().numpy())
    return *solve_slopes([found], forward.shape), float(loss) / forward.n_valid_pixels()


def _moments(forward: ForwardModel, expected: Tensor, measured: Tensor) -> Tensor:
    """Return the five moments of each pattern, shape (5, n)."""
    missing = measured - expected  # (n, height, width)
    if forward.valid_mask is not None:
        missing = missing * forward.valid_mask
    # With zero frequency in the corner, a pixel at one edge has its neighbour at the other.
    along_y = (expected.roll(-1, dims=1) - expected.roll(1, dims=1)) / 2
    along_x = (expected.roll(-1, dims=2) - expected.roll(1, dims=2)) / 2
    if forward.valid_mask is not None:
        along_y, along_x = along_y * forward.valid_mask, along_x * forward.valid_mask

    products = (
        (along_y, along_y),
        (along_x, along_x),
        (along_y, along_x),
        (missing, along_y),
        (missing, along_x),
    )
    return torch.stack([(first * second).sum(dim=(1, 2)) for first, second in products])
