"""A learned prior between iterations: `backends.common.prior` with PyTorch."""

import numpy as np
import torch
from torch import Tensor

from ptychopinn_plugin.array_types import FloatArray
from ptychopinn_plugin.backends.common.prior import correct_by_tiles
from ptychopinn_plugin.backends.pytorch.forward import ForwardModel
from ptychopinn_plugin.backends.pytorch.network import Network
from ptychopinn_plugin.backends.pytorch.refinement import mean_update
from ptychopinn_plugin.physics.prior_features import PriorFeatures, prior_features


@torch.no_grad()
def correct_object(
    network: Network, forward: ForwardModel, object_: Tensor, exposures: FloatArray
) -> Tensor:
    """Return an object of shape `forward.canvas_shape` after the network's correction."""
    features = look_at(forward, object_, exposures)

    def compute(images: FloatArray) -> FloatArray:
        (found,) = network(torch.from_numpy(images)[None].to(forward.device))
        return np.asarray(found[0].float().cpu().numpy())

    correction = correct_by_tiles(features.images, compute)
    return torch.from_numpy(features.apply(object_.cpu().numpy(), correction)).to(forward.device)


def look_at(forward: ForwardModel, object_: Tensor, exposures: FloatArray) -> PriorFeatures:
    """Compute what the network gets for an object of shape `forward.canvas_shape`."""
    return prior_features(
        object_.cpu().numpy(),
        mean_update(forward, object_).cpu().numpy(),
        forward.coverage.cpu().numpy(),
        exposures,
    )
