"""Lessons on PyTorch's device."""

import numpy as np
import torch

from ptychopinn_plugin.arrays import IntArray
from ptychopinn_plugin.backends.lessons import Lesson, TrainingScan, thinned_amplitudes
from ptychopinn_plugin.backends.pytorch.inference import predict_object
from ptychopinn_plugin.backends.pytorch.network import Network


def make_lesson(
    network: Network,
    scan: TrainingScan,
    members: IntArray,
    groups: IntArray,
    exposure: float,
    rng: np.random.Generator,
) -> Lesson:
    """Cut positions out of a scan and let the network predict their object pass by pass."""
    where = torch.from_numpy(members).to(scan.model.device)
    amplitudes = None
    if exposure < 1 and scan.countable:
        measured = scan.model.measured(where).cpu().numpy()
        thinned = thinned_amplitudes(measured, exposure, rng)
        amplitudes = torch.from_numpy(thinned).to(scan.model.device)
    else:
        exposure = 1.0
    model = scan.model.subset(where, amplitudes, exposure)
    top, left = (model.origin_px - scan.model.origin_px).tolist()
    height, width = model.canvas_shape
    box = (slice(top, top + height), slice(left, left + width))
    lit = (scan.model.coverage > 0.05 * scan.model.coverage.max()).float()
    with torch.no_grad():
        objects = predict_object(network, model, passes=network.description.passes - 1)
    return Lesson(
        scan_index=scan.index,
        exposure=exposure,
        model=model,
        groups=groups,
        objects=objects,
        labels=None if scan.labels is None else scan.labels[box].contiguous(),
        label_coverage=lit[box].contiguous(),
    )
