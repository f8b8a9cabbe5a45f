"""Bring an object to the nearest one that its constraints allow.

See `backends.common.constraints`.
"""

import torch
from torch import Tensor

from ptychopinn_plugin.backends.common.constraints import (
    DUAL_STEP,
    ObjectConstraints,
    cut_bands,
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
        object_ = smooth_variation(object_, variation_weight, constraints.dual_steps)
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


def smooth_variation(object_: Tensor, weight: float, steps: int) -> Tensor:
    """Return the proximal step of the total variation, shape (height, width) of complex64."""
    # Each step looks at the next pixel and the one before, and so does what is made of the last.
    bands = cut_bands((object_.shape[0], object_.shape[1]), steps + 1)
    smooth = torch.empty_like(object_)
    for band in bands:
        smooth[band.rows] = _smooth_band(object_[band.around], weight, steps)[band.inside]
    return smooth


def _smooth_band(object_: Tensor, weight: float, steps: int) -> Tensor:
    # Real and imaginary part lie apart: the modulus of a complex number would take longer than all
    # of the rest.
    image = torch.view_as_real(object_).permute(2, 0, 1).contiguous()  # (2, height, width)
    # The first momentum is 0, so that it does no harm that the first of `before` change in place.
    y, x = newest = torch.zeros_like(image), torch.zeros_like(image)
    for momentum in dual_momenta(steps):
        smooth, before = torch.sub(image, _spread(y, x), alpha=weight), newest
        y[:, :-1].add_(smooth[:, 1:] - smooth[:, :-1], alpha=DUAL_STEP / weight)
        x[:, :, :-1].add_(smooth[:, :, 1:] - smooth[:, :, :-1], alpha=DUAL_STEP / weight)
        # Vectors of (y, x) are shortened where they are longer than 1.
        shortening = (y.square() + x.square()).sum(dim=0).clamp_(min=1).rsqrt_()
        newest = y.mul_(shortening), x.mul_(shortening)
        y, x = (torch.lerp(old, new, 1 + momentum) for old, new in zip(before, newest, strict=True))
    smooth = torch.sub(image, _spread(*newest), alpha=weight)
    return torch.view_as_complex(smooth.permute(1, 2, 0).contiguous())


def _spread(y: Tensor, x: Tensor) -> Tensor:
    """Return the adjoint of the gradient of images (2, height, width).

    The last row of `y` and the last column of `x` are 0.
    """
    spread = -(y + x)
    spread[:, 1:] += y[:, :-1]
    spread[:, :, 1:] += x[:, :, :-1]
    return spread


@torch.no_grad()
def object_variation(object_: Tensor) -> Tensor:
    """Return the sum of the lengths of the gradients of an object, float32."""
    total = torch.zeros((), device=object_.device)
    for band in cut_bands((object_.shape[0], object_.shape[1]), 1):
        image = torch.view_as_real(object_[band.around])
        y = torch.diff(image, dim=0, append=image[-1:])[band.inside]
        x = torch.diff(image[band.inside], dim=1, append=image[band.inside, -1:])
        total += (y.square() + x.square()).sum(dim=2).sqrt().sum()
    return total
