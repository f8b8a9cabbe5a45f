"""Sub-scans on PyTorch's device."""

import numpy as np
import torch

from ptychopinn_plugin.array_types import IntArray
from ptychopinn_plugin.backends.common.sampling import SubScan, TrainingScan, thinned_amplitudes
from ptychopinn_plugin.backends.pytorch.network import Network
from ptychopinn_plugin.backends.pytorch.stitching import predict_object


def make_subscan(
    network: Network,
    scan: TrainingScan,
    members: IntArray,
    groups: IntArray,
    exposure: float,
    rng: np.random.Generator,
) -> SubScan:
    """Cut positions out of a scan and let the network predict their object pass by pass."""
    where = torch.from_numpy(members).to(scan.forward.device)
    amplitudes = None
    if exposure < 1 and scan.countable:
        measured = scan.forward.measured(where).cpu().numpy()
        thinned = thinned_amplitudes(measured, exposure, rng)
        amplitudes = torch.from_numpy(thinned).to(scan.forward.device)
    else:
        exposure = 1.0
    forward = scan.forward.subset(where, amplitudes, exposure)
    top, left = (forward.origin_px - scan.forward.origin_px).tolist()
    height, width = forward.canvas_shape
    box = (slice(top, top + height), slice(left, left + width))
    lit = (scan.forward.coverage > 0.05 * scan.forward.coverage.max()).float()
    with torch.no_grad():
        objects = predict_object(network, forward, passes=network.description.passes - 1)
    return SubScan(
        scan_index=scan.index,
        exposure=exposure,
        forward=forward,
        groups=groups,
        objects=objects,
        labels=None if scan.labels is None else scan.labels[box].contiguous(),
        label_coverage=lit[box].contiguous(),
    )
