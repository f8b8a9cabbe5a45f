"""Apply a network to patterns: what it sees, and the patches that it returns."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ptychopinn_plugin.backends.pytorch.forward import ForwardModel, intensity
from ptychopinn_plugin.backends.pytorch.network import Network
from ptychopinn_plugin.network import SWEEPNET_FEATURES
from ptychopinn_plugin.physics.features import (
    BACK_PROJECTION_EPSILON,
    COVERAGE_SCALE,
    PHASE_EPSILON,
)


@dataclass(frozen=True)
class Patches:
    """Predicted patches on the object's pixel grid.

    Attributes
    ----------
    indices : Tensor of int64, shape (n_patches,)
        Which position each belongs to.
    values : Tensor of complex64, shape (n_patches, window, window)
    weights : Tensor of float32, shape (n_patches, window, window)
        The probe's intensity.
    reference : Tensor of complex64, shape (n_patches, window, window)
        What the phases of `values` refer to; the estimate that the network was given.
    """

    indices: Tensor
    values: Tensor
    weights: Tensor
    reference: Tensor | None = None


def predict_patches(
    network: Network,
    forward: ForwardModel,
    groups: Tensor,
    object_: Tensor,
    *,
    is_flat: bool,
    rotations: Sequence[int] = (0,),
) -> Patches:
    """Predict the patches of groups of positions.

    Parameters
    ----------
    network : Network
    forward : ForwardModel
    groups : Tensor of int64, shape (n_groups, group_size)
    object_ : Tensor of complex64, shape `forward.canvas_shape`
        The estimate so far; 'cnn' does not look at it.
    is_flat : bool
        Whether `object_` is the flat start, which rests on no data.
    rotations : sequence of int
        Quarter turns in which 'sweepnet' looks at each pattern; the mean of its corrections counts.
    """
    if network.description.architecture == 'cnn':
        return _predict_cnn(network, forward, groups)
    return _predict_sweepnet(network, forward, groups.reshape(-1), object_, is_flat, rotations)


def _predict_sweepnet(
    network: Network,
    forward: ForwardModel,
    indices: Tensor,
    object_: Tensor,
    is_flat: bool,
    rotations: Sequence[int],
) -> Patches:
    window = network.description.window_px
    with torch.no_grad():
        patches = forward.extract_patches(object_, indices)
        update = forward.project_amplitudes(patches, indices)
        weights = intensity(cut_middle(forward.probes(indices), window))
        brightest = weights.amax(dim=(-2, -1), keepdim=True)
        steps = cut_middle(update, window) / (weights + BACK_PROJECTION_EPSILON * brightest)
        estimate = cut_middle(patches, window)
        relative = weights / brightest
        phases = (estimate * relative).sum(dim=(-2, -1), keepdim=True).conj()
        phases = phases / (phases.abs() + 1e-9)
        estimate, steps = estimate * phases, steps * phases
        coverage = torch.zeros_like(weights)
        if not is_flat:
            coverage = forward.extract_patches(forward.coverage, indices, window)
        images = [
            estimate.real - 1,
            estimate.imag,
            steps.real,
            steps.imag,
            torch.sqrt(relative),
            torch.log1p(coverage) / COVERAGE_SCALE,
        ]
        if network.description.in_channels > SWEEPNET_FEATURES:
            images += _probe_images(cut_middle(forward.probes(indices), window), weights)
        # Last in memory, as `Network.forward` wants them.
        features = torch.stack(images, dim=-1).permute(0, 3, 1, 2)
    correction = _mean_correction(network, features, rotations)
    values = estimate + steps + torch.complex(correction[:, 0], correction[:, 1])
    back = phases.conj()
    return Patches(indices, values * back, weights, estimate * back)


def _probe_images(probes: Tensor, weights: Tensor) -> list[Tensor]:
    """Return the first mode, turned so that its mean is real, and the dose, as features."""
    first = probes[:, 0]
    mean = (first * first.abs()).sum(dim=(-2, -1), keepdim=True)
    brightest = weights.amax(dim=(-2, -1), keepdim=True)
    first = first * (mean.conj() / ((mean.abs() + PHASE_EPSILON) * brightest.sqrt()))
    return [first.real, first.imag, torch.log1p(weights) / COVERAGE_SCALE]


def _mean_correction(network: Network, features: Tensor, rotations: Sequence[int]) -> Tensor:
    """Return the mean of what the network says of features in several orientations."""
    corrections = []
    for number in rotations:
        # Even a turn by nothing is a copy, in an order that convolutions do not like.
        (correction,) = network(torch.rot90(features, number, (2, 3)) if number else features)
        correction = correction.float()
        corrections.append(torch.rot90(correction, -number, (2, 3)) if number else correction)
    return corrections[0] if len(corrections) == 1 else torch.stack(corrections).mean(dim=0)


def _predict_cnn(network: Network, forward: ForwardModel, groups: Tensor) -> Patches:
    n_groups, group_size = groups.shape
    indices = groups.reshape(-1)
    size = network.description.window_px
    with torch.no_grad():
        photons = forward.photons
        amplitudes = torch.fft.fftshift(forward.measured(indices), dim=(-2, -1))
        images = amplitudes * (size / 2) / photons**0.5
    amplitude, phase = network(images.view(n_groups, group_size, size, size))
    # Not torch.polar: a border may be negative, where its gradient has the wrong sign.
    amplitude, phase = amplitude.float(), phase.float()
    values = torch.complex(amplitude * torch.cos(phase), amplitude * torch.sin(phase))
    # Without the overlap constraint one patch stands for the whole group.
    values = values.expand(n_groups, group_size, size, size).reshape(-1, size, size)
    values = shift_bilinear(values, forward.subpixel_shifts[indices])
    return Patches(indices, values, intensity(forward.probes(indices)))


def cut_middle(images: Tensor, size: int) -> Tensor:
    """Return the middle `size` x `size` pixels of images; pixel [h // 2, w // 2] stays central."""
    height, width = images.shape[-2:]
    top, left = height // 2 - size // 2, width // 2 - size // 2
    return images[..., top : top + size, left : left + size]


def shift_bilinear(images: Tensor, subpixel_shifts_px: Tensor) -> Tensor:
    """Move images (n, h, w) down and right by rests (n, 2) between -1 and 1; edges repeat."""
    height, width = images.shape[-2:]
    whole = torch.floor(-subpixel_shifts_px)
    fraction = (-subpixel_shifts_px - whole)[:, :, None, None]
    y, x = fraction[:, 0], fraction[:, 1]
    whole = whole.long()
    rows = torch.arange(height, device=images.device)[None, :] + whole[:, 0:1]
    columns = torch.arange(width, device=images.device)[None, :] + whole[:, 1:2]
    which = torch.arange(len(images), device=images.device)[:, None, None]

    def at(down: int, right: int) -> Tensor:
        row = (rows + down).clamp(0, height - 1)[:, :, None]
        column = (columns + right).clamp(0, width - 1)[:, None, :]
        return images[which, row, column]

    top = (1 - x) * at(0, 0) + x * at(0, 1)
    bottom = (1 - x) * at(1, 0) + x * at(1, 1)
    return (1 - y) * top + y * bottom


def average_overlap(patches: Patches, forward: ForwardModel, group_size: int) -> Tensor:
    """Average the patches of each group where they overlap, and cut them out again.

    Parameters
    ----------
    patches : Patches
        Groups one after the other.
    forward : ForwardModel
    group_size : int

    Returns
    -------
    Tensor of complex64, shape (n_patches, window, window)
    """
    if group_size == 1:
        return patches.values
    window = patches.values.shape[-1]
    patch_origins = forward.patch_origins[patches.indices].view(-1, group_size, 2)
    patch_origins = patch_origins - patch_origins.min(dim=1, keepdim=True).values
    height, width = (int(side) + window for side in patch_origins.amax(dim=(0, 1)).tolist())
    n_groups = len(patch_origins)
    inside = torch.arange(window, device=patch_origins.device)
    rows = patch_origins[..., 0, None] + inside
    columns = patch_origins[..., 1, None] + inside
    group = torch.arange(n_groups, device=patch_origins.device)[:, None, None, None]
    pixels = (group * height + rows[..., :, None]) * width + columns[..., None, :]
    pixels = pixels.reshape(-1)
    floor = 1e-3 * patches.weights.amax(dim=(-2, -1), keepdim=True)
    weights = patches.weights + floor

    def average(values: Tensor) -> Tensor:
        canvas = values.new_zeros(n_groups * height * width)
        return canvas.index_add(0, pixels, values.reshape(-1))

    total = average(weights)
    real = average(weights * patches.values.real) / total.clamp(min=1e-12)
    imaginary = average(weights * patches.values.imag) / total.clamp(min=1e-12)
    return torch.complex(real[pixels], imaginary[pixels]).view(patches.values.shape)
