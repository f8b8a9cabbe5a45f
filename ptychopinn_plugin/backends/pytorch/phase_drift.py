"""Measure the slow amplitude and phase that an object misses, and correct the phase.

See `backends.common.phase_drift`.
"""

import torch
from torch import Tensor

from ptychopinn_plugin.backends.common.phase_drift import (
    PatternMoments,
    better_of,
    fit_slow_errors,
    floor_photons,
    has_slow_errors,
    middle_ramps,
)
from ptychopinn_plugin.backends.pytorch.forward import ForwardModel
from ptychopinn_plugin.backends.pytorch.operators import intensity, sum_over_modes


@torch.no_grad()
def correct_phase_drift(forward: ForwardModel, object_: Tensor, batch_size: int = 64) -> Tensor:
    """Return the object times the smooth phase that its patterns miss.

    Where that would not raise the likelihood (the positions or the probe may be wrong), the object
    is returned as it is, and so it is with fewer than four patterns, and with patterns that share
    nothing, as no slow phase goes from one to the next.

    Parameters
    ----------
    forward : ForwardModel
    object_ : Tensor of complex64, shape `forward.canvas_shape`
    batch_size : int
        Patterns that are measured together.

    Returns
    -------
    Tensor of complex64, shape `forward.canvas_shape`
    """
    if not has_slow_errors(forward):
        return object_
    moments = measure_moments(forward, object_, batch_size)
    errors = fit_slow_errors(forward, moments, forward.probe.cpu().numpy())
    factor = torch.from_numpy(errors.phase_factor(forward.canvas_shape))
    return better_of(forward, object_, object_ * factor.to(object_.device))


@torch.no_grad()
def measure_moments(forward: ForwardModel, object_: Tensor, batch_size: int = 64) -> PatternMoments:
    """Measure what each pattern tells of its beam and of the slow errors of the object under it."""
    floor = floor_photons(forward)
    ramps = torch.from_numpy(middle_ramps(forward.shape)).to(forward.device)
    found = []
    for part in forward.slices(batch_size):
        waves = forward.probes(part) * forward.extract_patches(object_, part)[:, None]
        spectra = torch.fft.fft2(waves, norm='ortho')
        expected = intensity(spectra)
        weights = (expected + floor).rsqrt_()
        if forward.valid_mask is not None:
            weights.mul_(forward.valid_mask)
        # Written where they stay: to stack them afterwards would take as long as the transforms.
        columns = weights.new_empty((len(weights), 6, *forward.shape))
        conjugate = spectra.conj_physical_()
        for axis, ramp in enumerate(ramps, start=1):
            moved = torch.fft.fft2(waves * ramp, norm='ortho')
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
    products = torch.cat(found).double().cpu().numpy()
    return PatternMoments(products[:, :, :5], products[:, :, 5])
