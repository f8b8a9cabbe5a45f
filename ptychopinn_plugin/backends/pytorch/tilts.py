r"""Correct the slow part of an object's phase from the shifts of its patterns.

A phase that rises by :math:`s` radians a pixel under the probe shifts the pattern by
:math:`\delta = s N / 2 \pi` detector pixels, so each pattern measures the local slope like a
lenslet of a Shack-Hartmann sensor [1]_. Patches and sweeps know their neighbours only, and small
errors of slope add up to a drift across the field; here all slopes are fitted at once by a smooth
surface.

With the expected amplitude :math:`a` and the measured one :math:`A`, the shift minimises
:math:`\sum (A - a + \delta \cdot \nabla a)^2`.

References
----------
.. [1] R. Shack, B. Platt, J. Opt. Soc. Am. 61 (1971) 656.
"""

import numpy as np
import torch
from torch import Tensor

from ptychopinn_plugin.arrays import FloatArray
from ptychopinn_plugin.backends.pytorch.forward import ForwardModel
from ptychopinn_plugin.physics import illuminated_size

RIDGE = 2.0
"""As if so many patterns asked for no change; finer waves meet more resistance."""

LARGEST_ORDER = 8


@torch.no_grad()
def correct_slow_phase(model: ForwardModel, object_: Tensor, batch_size: int = 64) -> Tensor:
    """Return the object times the smooth phase that its patterns ask for.

    Where that would not raise the likelihood (the positions or the probe may be wrong), the object
    is returned as it is.

    Parameters
    ----------
    model : ForwardModel
    object_ : Tensor of complex64, shape `model.canvas_shape`
    batch_size : int
    """
    if len(model) < 4:
        return object_
    slopes, weights = measure_slopes(model, object_, batch_size)
    centre = np.array([side // 2 for side in model.shape])
    positions = (model.corners + model.rests).cpu().numpy() + centre
    width = illuminated_size(model.probe.cpu().numpy(), share=0.98, multiple=2)
    surface = fit_surface(positions, slopes, weights, float(width), model.canvas_shape)
    phase = torch.from_numpy(surface.astype(np.float32)).to(object_.device)
    corrected = object_ * torch.polar(torch.ones_like(phase), phase)
    if model.assess(corrected)[0] < model.assess(object_)[0]:
        return corrected
    return object_


def measure_slopes(
    model: ForwardModel, object_: Tensor, batch_size: int = 64
) -> tuple[FloatArray, FloatArray]:
    """Measure the slope that each pattern misses.

    Returns
    -------
    slopes : ndarray, shape (n_positions, 2)
        Radians a pixel, (y, x).
    weights : ndarray, shape (n_positions, 2)
        Inverse variance of each, up to a common factor.
    """
    slopes, weights = [], []
    scale = 2 * np.pi / np.array(model.shape)
    for indices in torch.arange(len(model), device=model.device).split(batch_size):
        expected = torch.sqrt(model.expect(model.extract(object_, indices), indices))
        missing = model.measured(indices) - expected
        if model.good is not None:
            missing = missing * model.good
        along_y = (expected.roll(-1, dims=1) - expected.roll(1, dims=1)) / 2
        along_x = (expected.roll(-1, dims=2) - expected.roll(1, dims=2)) / 2
        if model.good is not None:
            along_y, along_x = along_y * model.good, along_x * model.good
        yy = (along_y * along_y).sum(dim=(1, 2)) + 1e-12
        xx = (along_x * along_x).sum(dim=(1, 2)) + 1e-12
        yx = (along_y * along_x).sum(dim=(1, 2))
        y, x = (missing * along_y).sum(dim=(1, 2)), (missing * along_x).sum(dim=(1, 2))
        determinant = (yy * xx - yx * yx).clamp(min=1e-12)
        shift_y = -(xx * y - yx * x) / determinant
        shift_x = -(yy * x - yx * y) / determinant
        slopes.append(torch.stack([shift_y, shift_x], dim=1).cpu().numpy() * scale)
        weights.append(torch.stack([yy, xx], dim=1).cpu().numpy())
    return np.concatenate(slopes).astype(np.float64), np.concatenate(weights).astype(np.float64)


def fit_surface(
    positions_px: FloatArray,
    slopes: FloatArray,
    weights: FloatArray,
    width_px: float,
    shape: tuple[int, int],
) -> FloatArray:
    """Fit a smooth surface to slopes: a plane and cosines no finer than the probe.

    Parameters
    ----------
    positions_px : ndarray, shape (n_positions, 2)
        (y, x) on the canvas.
    slopes, weights : ndarray, shape (n_positions, 2)
    width_px : float
        Of the illumination.
    shape : (height, width)
        Of the canvas.

    Returns
    -------
    ndarray of float64, shape `shape`
        Constant outside the box of the positions.
    """
    first = positions_px.min(axis=0)
    extent = np.maximum(np.ptp(positions_px, axis=0), 1.0)
    orders = np.minimum(extent // width_px, LARGEST_ORDER).astype(int)
    waves = [(a, b) for a in range(orders[0] + 1) for b in range(orders[1] + 1) if (a, b) != (0, 0)]
    places = (positions_px - first) / extent
    columns = [_slopes_of(wave, places, extent) for wave in waves]
    columns += [np.tile(axis / extent, (len(places), 1)) for axis in np.eye(2)]
    root = np.sqrt(weights / weights.mean())
    matrix = np.stack([(column * root).ravel() for column in columns], axis=1)
    # Finer waves must be asked for by more patterns.
    penalty = np.array([a * a + b * b for a, b in waves] + [0.0, 0.0])
    normal = matrix.T @ matrix
    one_pattern = np.trace(normal) / len(normal) / len(places)
    normal += np.diag(RIDGE * one_pattern * (1 + penalty))
    amounts = np.linalg.solve(normal, matrix.T @ (slopes * root).ravel())
    y, x = (
        np.clip((np.arange(side) - start) / length, 0, 1)
        for side, start, length in zip(shape, first, extent, strict=True)
    )
    surface = amounts[-2] * y[:, np.newaxis] + amounts[-1] * x[np.newaxis, :]
    for (a, b), amount in zip(waves, amounts, strict=False):
        surface = surface + amount * np.outer(np.cos(np.pi * a * y), np.cos(np.pi * b * x))
    return np.asarray(surface - surface.mean())


def _slopes_of(wave: tuple[int, int], places: FloatArray, extent: FloatArray) -> FloatArray:
    """Return the gradient of cos(pi a u) cos(pi b v) in (y, x), radians a pixel."""
    a, b = np.pi * wave[0], np.pi * wave[1]
    u, v = places[:, 0], places[:, 1]
    along_y = -a * np.sin(a * u) * np.cos(b * v) / extent[0]
    along_x = -b * np.cos(a * u) * np.sin(b * v) / extent[1]
    return np.stack([along_y, along_x], axis=1)
