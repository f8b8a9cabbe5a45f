"""Measure the slow amplitude and phase that an object misses, and correct the phase.

See `backends.common.phase_drift`.
"""

from functools import partial

import torch
from torch import Tensor

from ptychopinn_plugin.backends.common import phase_drift
from ptychopinn_plugin.backends.common.phase_drift import (
    PatternMoments,
    floor_photons,
    middle_ramps,
)
from ptychopinn_plugin.backends.pytorch.forward import ForwardModel
from ptychopinn_plugin.backends.pytorch.operators import (
    intensity,
    sum_over_modes,
    times,
    to_detector,
    to_numpy,
)


@torch.no_grad()
def measure_moments(forward: ForwardModel, object_: Tensor, batch_size: int = 64) -> PatternMoments:
    """Measure the moments that a pattern's beam and the object's slow errors follow from."""
    floor = floor_photons(forward)
    ramps = torch.from_numpy(middle_ramps(forward.shape)).to(forward.device)
    found = [ramps.new_empty((0, 5, 6))]
    for part in forward.slices(batch_size):
        transfer = forward.transfer_at(part)
        waves = forward.probes(part) * forward.extract_patches(object_, part)[:, None]
        detected = to_detector(waves, transfer)
        expected = intensity(detected)
        weights = (expected + floor).rsqrt_()
        if forward.valid_mask is not None:
            weights.mul_(forward.valid_mask)
        # Written where they stay: to stack them afterwards would take as long as the transforms.
        columns = weights.new_empty((len(weights), 6, *forward.shape))
        conjugate = detected.conj_physical_()
        for axis, ramp in enumerate(ramps, start=1):
            moved = to_detector(waves * ramp, transfer)
            change = torch.view_as_real(sum_over_modes(moved.mul_(conjugate)))
            torch.mul(change[..., 0], weights, out=columns[:, axis])
            torch.mul(change[..., 1], weights, out=columns[:, axis + 2]).neg_()
        halved = weights.div_(2)
        torch.mul(expected, halved, out=columns[:, 0])
        missing = forward.measured(part).square().sub_(expected)
        torch.mul(missing, halved, out=columns[:, 5])
        columns = columns.flatten(2)  # (n, 6, pixels)
        found.append(columns[:, :5] @ columns.transpose(1, 2))
    # One look at the device's results, after the last batch.
    products = forward.ranks.gather(torch.cat(found).double().cpu().numpy())
    return PatternMoments(products[:, :, :5], products[:, :, 5])


correct_phase_drift = partial(
    phase_drift.correct_drift_with,
    measure_moments=measure_moments,
    to_numpy=to_numpy,
    times=times,
)
"""It returns an object, given the forward model too, without the slow drift of its phase."""
