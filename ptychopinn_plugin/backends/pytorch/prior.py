"""A learned prior between iterations: `backends.common.prior` with PyTorch."""

import numpy as np
import torch

from ptychopinn_plugin.array_types import FloatArray
from ptychopinn_plugin.backends.pytorch.forward import ForwardModel
from ptychopinn_plugin.backends.pytorch.network import Network


@torch.no_grad()
def apply_network(network: Network, forward: ForwardModel, images: FloatArray) -> FloatArray:
    """Return what a network makes of images; see `common.prior.ApplyNetwork`."""
    (found,) = network(torch.from_numpy(images)[None].to(forward.device))
    return np.asarray(found[0].float().cpu().numpy())
