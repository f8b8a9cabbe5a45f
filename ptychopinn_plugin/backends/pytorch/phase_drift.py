"""Measure the slow amplitude and phase that an object misses, and correct the phase.

See `backends.common.phase_drift`.
"""

import torch
from torch import Tensor

from ptychopinn_plugin.backends.common.phase_drift import (
    PatternMoments,
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
    moments, loss = measure_moments(forward, object_, batch_size)
    errors = fit_slow_errors(forward, moments, forward.probe.cpu().numpy())
    factor = torch.from_numpy(errors.phase_factor(forward.canvas_shape))
    corrected = object_ * factor.to(object_.device)
    return corrected if forward.evaluate_loss(corrected) < loss else object_


@torch.no_grad()
def measure_moments(
    forward: ForwardModel, object_: Tensor, batch_size: int = 64
) -> tuple[PatternMoments, float]:
    """Measure what each pattern tells of its beam and of the slow errors of the object under it.

    Returns
    -------
    moments : PatternMoments
    loss : float
        Poisson loss per pixel of the object, as `ForwardModel.evaluate_loss`.
    """
    floor = floor_photons(forward)
    ramps = torch.from_numpy(middle_ramps(forward.shape)).to(forward.device)
    loss = torch.zeros((), dtype=torch.float64, device=forward.device)
    found = []
    for part in forward.slices(batch_size):
        waves = forward.probes(part) * forward.extract_patches(object_, part)[:, None]
        spectra = torch.fft.fft2(waves, norm='ortho')
        expected = intensity(spectra)
        loss += forward.sum_of_losses(expected, part)
        weights = torch.rsqrt(expected + floor)
        if forward.valid_mask is not None:
            weights = weights * forward.valid_mask
        changes = [
            sum_over_modes(spectra.conj() * torch.fft.fft2(waves * ramp, norm='ortho'))
            for ramp in ramps
        ]
        columns = [expected / 2, *(c.real for c in changes), *(-c.imag for c in changes)]
        missing = (forward.measured(part).square() - expected) / 2
        # (n, 6, pixels)
        stacked = torch.stack([*columns, missing], dim=1).mul_(weights[:, None]).flatten(2)
        found.append(stacked[:, :5] @ stacked.transpose(1, 2))
    # One look at the device's results, after the last batch.
    products = torch.cat(found).double().cpu().numpy()
    moments = PatternMoments(products[:, :, :5], products[:, :, 5])
    return moments, float(loss) / forward.n_valid_pixels()
