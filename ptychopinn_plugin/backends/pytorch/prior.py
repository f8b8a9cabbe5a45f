"""A learned prior between iterations: `backends.common.prior` with PyTorch."""

import numpy as np
import torch

from ptychopinn_plugin.array_types import FloatArray
from ptychopinn_plugin.backends.common.prior import PriorKernels
from ptychopinn_plugin.backends.pytorch.forward import ForwardModel
from ptychopinn_plugin.backends.pytorch.network import Network
from ptychopinn_plugin.backends.pytorch.operators import to_numpy
from ptychopinn_plugin.backends.pytorch.refinement import mean_update


@torch.no_grad()
def _apply_network(network: Network, forward: ForwardModel, images: FloatArray) -> FloatArray:
    """Return what the network makes of images; see `PriorKernels`."""
    (found,) = network(torch.from_numpy(images)[None].to(forward.device))
    return np.asarray(found[0].float().cpu().numpy())


PRIOR_KERNELS = PriorKernels(
    apply_network=_apply_network,
    mean_update=mean_update,
    to_numpy=to_numpy,
)
