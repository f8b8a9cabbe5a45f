"""Bring an object to the nearest one that its constraints allow.

See `backends.common.constraints`.
"""

import torch
from torch import Tensor

from ptychopinn_plugin.backends.common.constraints import (
    DUAL_STEP,
    DUAL_STEPS,
    ObjectConstraints,
    dual_momenta,
)


@torch.no_grad()
def constrain(
    object_: Tensor,
    coverage: Tensor,
    constraints: ObjectConstraints,
    variation_weight: float,
    growth: Tensor | float,
) -> Tensor:
    """Return an object that its constraints allow.

    Parameters
    ----------
    object_ : Tensor of complex64, shape (height, width)
    coverage : Tensor of float32, shape (height, width)
        Photons in each pixel.
    constraints : ObjectConstraints
    variation_weight : float
        Of the total variation, in units of the amplitude; 0 leaves it.
    growth : Tensor or float
        The object times this is what the bounds are for, as a probe that is refined has taken it.

    Returns
    -------
    Tensor of complex64, shape (height, width)
    """
    if variation_weight > 0:
        object_ = smooth_variation(object_, variation_weight)
    if constraints.object_type == 'amplitude':
        mean = (object_ * coverage).sum()
        # Only the phase of the whole is free, and no pixel may have the opposite one.
        real = (object_ * mean.conj()).real / mean.abs().clamp(min=1e-30)
        object_ = torch.complex(real.clamp(min=0), torch.zeros_like(real))
    elif constraints.object_type == 'phase':
        level = ((object_.abs().square() * coverage).sum() / coverage.sum()).sqrt()
        object_ = torch.polar(level.expand(object_.shape).contiguous(), object_.angle())
    if constraints.bounds is not None:
        amplitude = (object_.abs() * growth).clamp(*constraints.bounds) / growth
        object_ = torch.polar(amplitude, object_.angle())
    return object_


def smooth_variation(object_: Tensor, weight: float, steps: int = DUAL_STEPS) -> Tensor:
    """Return the proximal step of the total variation, shape (height, width) of complex64."""
    y, x = newest = (torch.zeros_like(object_), torch.zeros_like(object_))
    for momentum in dual_momenta(steps):
        slopes = _slopes(object_ - weight * _spread(y, x))
        before = newest
        newest = _shortened(
            *(dual + DUAL_STEP / weight * slope for dual, slope in zip((y, x), slopes, strict=True))
        )
        y, x = (new + momentum * (new - old) for new, old in zip(newest, before, strict=True))
    return object_ - weight * _spread(*newest)


@torch.no_grad()
def object_variation(object_: Tensor) -> Tensor:
    """Return the sum of the lengths of the gradients of an object, float32."""
    y, x = _slopes(object_)
    return (y.abs().square() + x.abs().square()).sqrt().sum()


def _slopes(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the differences to the next pixel in y and x; 0 at the ends."""
    return (
        torch.diff(image, dim=0, append=image[-1:]),
        torch.diff(image, dim=1, append=image[:, -1:]),
    )


def _spread(y: Tensor, x: Tensor) -> Tensor:
    """Return the adjoint of `_slopes`; the last row of `y` and column of `x` are 0."""
    return -(
        torch.diff(y, dim=0, prepend=torch.zeros_like(y[:1]))
        + torch.diff(x, dim=1, prepend=torch.zeros_like(x[:, :1]))
    )


def _shortened(y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return vectors (y, x) of each pixel with a length of at most 1."""
    length = (y.abs().square() + x.abs().square()).sqrt().clamp(min=1)
    return y / length, x / length
