"""What patterns tell of their beams' intensities; see `backends.common.intensities`."""

import torch
from torch import Tensor

from ptychopinn_plugin.array_types import FloatArray
from ptychopinn_plugin.backends.common.intensities import (
    BeamMoments,
    floor_photons,
    middle_ramps,
)
from ptychopinn_plugin.backends.pytorch.forward import ForwardModel
from ptychopinn_plugin.backends.pytorch.operators import intensity, sum_over_modes


@torch.no_grad()
def pattern_photons(forward: ForwardModel, object_: Tensor) -> tuple[FloatArray, FloatArray]:
    """Return the expected and the measured photons of each pattern, shape (n_positions,)."""
    sums = []
    for part in forward.slices(128):
        expected = forward.predict_intensity(forward.extract_patches(object_, part), part)
        images = torch.stack([expected, forward.measured(part).square()])
        if forward.valid_mask is not None:
            images = images * forward.valid_mask
        sums.append(images.sum(dim=(-2, -1)))
    expected, counted = torch.cat(sums, dim=1).double().cpu().numpy()
    return expected, counted


@torch.no_grad()
def beam_moments(forward: ForwardModel, object_: Tensor) -> BeamMoments:
    """Measure what each pattern tells of its beam and of the slow part of the object under it."""
    floor = floor_photons(forward)
    ramps = torch.from_numpy(middle_ramps(forward.shape)).to(forward.device)
    normals, sides = [], []
    for part in forward.slices(64):
        waves = forward.probes(part) * forward.extract_patches(object_, part)[:, None]
        spectra = torch.fft.fft2(waves, norm='ortho')
        expected = intensity(spectra)
        weights = 1 / torch.sqrt(expected + floor)
        if forward.valid_mask is not None:
            weights = weights * forward.valid_mask
        missing = (forward.measured(part).square() - expected) * weights / 2
        changes = [
            sum_over_modes(spectra.conj() * torch.fft.fft2(waves * ramp, norm='ortho'))
            for ramp in ramps
        ]
        columns = [expected / 2, *(c.real for c in changes), *(-c.imag for c in changes)]
        # (n, 5, pixels)
        jacobian = torch.stack([column * weights for column in columns], dim=1).flatten(2)
        normals.append(jacobian @ jacobian.transpose(1, 2))
        sides.append((jacobian * missing.flatten(1)[:, None]).sum(dim=2))
    return BeamMoments(
        torch.cat(normals).double().cpu().numpy(), torch.cat(sides).double().cpu().numpy()
    )
