"""What training minimizes: one function for each term."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ptychopinn_plugin.backends.common.losses import (
    DARK_COUNTS,
    DARK_FRACTION,
    TARGET_FLOOR,
    term_weights,
)
from ptychopinn_plugin.backends.common.ranks import Ranks
from ptychopinn_plugin.backends.pytorch.forward import ForwardModel
from ptychopinn_plugin.backends.pytorch.operators import poisson_terms
from ptychopinn_plugin.backends.pytorch.prediction import Patches
from ptychopinn_plugin.config import TrainingConfig
from ptychopinn_plugin.physics import POISSON_EPSILON


def poisson_deviance(
    expected: Tensor, forward: ForwardModel, indices: Tensor, n_patterns: int | None = None
) -> Tensor:
    r"""Compute twice the Poisson log-likelihood ratio per photon.

    :math:`\frac{2}{\sum k} \sum [I - k - k \log(I / k)]` over good pixels, with expected counts
    :math:`I` and measured counts :math:`k`: the negative log-likelihood up to a constant. It is 0
    for a perfect fit, and shot noise alone makes it the number of lit pixels over the number of
    photons.

    Parameters
    ----------
    expected : Tensor of float32, shape (n_patterns, height, width)
        In photons per pixel, in the order of the transform.
    forward : ForwardModel
    indices : Tensor of int64, shape (n_patterns,)
    n_patterns : int, optional
        Of the batch on all ranks together, where each has a part of it: the results of all
        ranks add up to that of the batch.
    """
    counts = forward.measured(indices) ** 2
    terms = poisson_terms(expected, counts, DARK_COUNTS)
    valid_mask = 1.0 if forward.valid_mask is None else forward.valid_mask
    # A batch without light would be divided by zero.
    least = DARK_FRACTION * forward.photons * (n_patterns or len(indices))
    light: Tensor = forward.ranks.sum((valid_mask * counts).sum()).clamp(min=least)
    return 2 * (valid_mask * terms).sum() / light


def amplitude_error(
    expected: Tensor, forward: ForwardModel, indices: Tensor, n_patterns: int | None = None
) -> Tensor:
    r"""Compute :math:`\sum |\sqrt I - \sqrt k| / \sum \sqrt k` over good pixels.

    Parameters as those of `poisson_deviance`.
    """
    measured = forward.measured(indices)
    valid_mask = 1.0 if forward.valid_mask is None else forward.valid_mask
    # The square root's slope at zero is infinite.
    error = (torch.sqrt(expected + POISSON_EPSILON) - measured).abs()
    least = DARK_FRACTION * forward.photons**0.5 * (n_patterns or len(indices))
    light: Tensor = forward.ranks.sum((valid_mask * measured).sum()).clamp(min=least)
    return (valid_mask * error).sum() / light


def target_distance(
    patches: Patches, labels: Tensor, coverage: Tensor, n_patterns: int | None = None
) -> Tensor:
    r"""Compute the weighted squared distance to the target's patches, up to a global phase.

    :math:`\sum w |\hat O - e^{i\phi} T|^2 / \sum w` for the target's patch :math:`T`. The phase
    :math:`\phi` fits the target to the estimate that the network was given, so that the network
    learns to stay in step with its neighbours; without an estimate it fits the prediction.

    Parameters
    ----------
    patches : Patches
    labels : Tensor of complex64, shape (n_patches, window, window)
    coverage : Tensor of float32, shape (n_patches, window, window)
        1 where the target is well lit, 0 where no light reached it.
    n_patterns : int, optional
        See `poisson_deviance`.
    """
    relative = patches.weights / patches.weights.amax(dim=(-2, -1), keepdim=True)
    # Beyond the probe's light patterns show nothing of the patch, and the target alone does.
    weights = relative + TARGET_FLOOR * coverage
    with torch.no_grad():
        reference = patches.values if patches.reference is None else patches.reference
        phase_factor = (reference * labels.conj() * weights).sum(dim=(-2, -1), keepdim=True)
        phase_factor = phase_factor / (phase_factor.abs() + 1e-9)
    difference = patches.values - labels * phase_factor
    squared = difference.real**2 + difference.imag**2
    each = (squared * weights).sum(dim=(-2, -1)) / weights.sum(dim=(-2, -1))
    return each.mean() if n_patterns is None else each.sum() / n_patterns


def total_variation(patches: Patches, ranks: Ranks | None = None) -> Tensor:
    """Compute the mean absolute difference of neighbouring pixels, weighted by the probe.

    Of the patches of all `ranks` together, where some are given: their results add up.
    """
    values = patches.values
    weights = patches.weights / patches.weights.amax(dim=(-2, -1), keepdim=True)
    down = (values[:, 1:] - values[:, :-1]).abs() * weights[:, 1:]
    right = (values[:, :, 1:] - values[:, :, :-1]).abs() * weights[:, :, 1:]
    whole = weights.sum() if ranks is None else ranks.sum(weights.sum())
    return (down.sum() + right.sum()) / whole


def weighted_sum(terms: Mapping[str, Tensor], settings: TrainingConfig) -> Tensor:
    """Return the loss that training minimizes."""
    weights = term_weights(settings)
    return torch.stack([weights[name] * value for name, value in terms.items()]).sum()
