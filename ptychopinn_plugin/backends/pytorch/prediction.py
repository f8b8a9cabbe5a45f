"""Apply a network to patterns: from its input to the patches that it returns."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ptychopinn_plugin.array_types import IntArray
from ptychopinn_plugin.backends.pytorch.forward import ForwardModel
from ptychopinn_plugin.backends.pytorch.network import Network
from ptychopinn_plugin.backends.pytorch.operators import intensity
from ptychopinn_plugin.physics.features import BACK_PROJECTION_EPSILON, COVERAGE_SCALE


@dataclass(frozen=True)
class Patches:
    """Predicted patches on the object's pixel grid.

    Attributes
    ----------
    indices : Tensor of int64, shape (n_patches,)
        Which position each belongs to.
    values : Tensor of complex64, shape (n_patches, window, window)
    weights : Tensor of float32, shape (n_patches, window, window)
        The probe's intensity, in photons per pixel.
    reference : Tensor of complex64, shape (n_patches, window, window)
        The estimate that the network was given, to which the phases of `values` refer; None for
        'cnn', which gets no estimate.
    host_indices : ndarray of int64, shape (n_patches,), optional
        `indices` in the computer's memory: to read them back from a GPU waits for its work.
    """

    indices: Tensor
    values: Tensor
    weights: Tensor
    reference: Tensor | None = None
    host_indices: IntArray | None = None

    def on_host(self) -> IntArray:
        """Return `indices` in the computer's memory."""
        return self.indices.cpu().numpy() if self.host_indices is None else self.host_indices


def predict_patches(
    network: Network,
    forward: ForwardModel,
    groups: Tensor,
    object_: Tensor,
    *,
    is_flat: bool,
    rotations: Sequence[int] = (0,),
    host_groups: IntArray | None = None,
) -> Patches:
    """Predict the patches of groups of positions.

    Parameters
    ----------
    network : Network
    forward : ForwardModel
    groups : Tensor of int64, shape (n_groups, group_size)
    object_ : Tensor of complex64, shape `forward.canvas_shape`
        The estimate so far; 'cnn' does not use it.
    is_flat : bool
        Whether `object_` is the flat start, which rests on no data.
    rotations : sequence of int
        Rotations by 90 degrees in which 'sweepnet' gets each pattern; the mean of its corrections
        counts.
    host_groups : ndarray of int64, shape (n_groups, group_size), optional
        `groups` in the computer's memory, so that nobody has to read them back from a GPU.

    Returns
    -------
    Patches
        Groups one after the other.
    """
    if network.description.architecture == 'cnn':
        found = _predict_cnn(network, forward, groups)
    else:
        found = _predict_sweepnet(network, forward, groups.reshape(-1), object_, is_flat, rotations)
    return found if host_groups is None else replace(found, host_indices=host_groups.reshape(-1))


def _predict_sweepnet(
    network: Network,
    forward: ForwardModel,
    indices: Tensor,
    object_: Tensor,
    is_flat: bool,
    rotations: Sequence[int],
) -> Patches:
    r"""Correct the back-projected patch of each position: :math:`\hat O = O + B + c(x)`.

    :math:`O` is the patch of the estimate, :math:`B` the step of its back-projection, :math:`x` the
    six images of `physics.features.sweepnet_features`, and :math:`c` the network. Only the network
    is differentiated: the gradient stops at its input, so that each pass is learned on its own.

    Parameters
    ----------
    network : Network
    forward : ForwardModel
    indices : Tensor of int64, shape (n,)
        The positions.
    object_ : Tensor of complex64, shape `forward.canvas_shape`
        The estimate.
    is_flat : bool
        The estimate rests on no data, so that no pixel counts as covered.
    rotations : sequence of int
        Rotations of the input by 90 degrees, whose corrections are averaged.

    Returns
    -------
    Patches
        Of shape (n, window, window), with the phase of the estimate.

    References
    ----------
    .. [1] A. Maiden, D. Johnson, P. Li, Optica 4 (2017) 736, doi:10.1364/OPTICA.4.000736.
    """
    window = network.description.window_px
    with torch.no_grad():
        patches = forward.extract_patches(object_, indices)  # (n, height, width)
        update = forward.project_amplitudes(patches, indices)  # (n, height, width)
        weights = intensity(cut_middle(forward.probes(indices), window))  # (n, window, window)
        brightest = weights.amax(dim=(-2, -1), keepdim=True)
        steps = cut_middle(update, window) / (weights + BACK_PROJECTION_EPSILON * brightest)
        estimate = cut_middle(patches, window)
        relative = weights / brightest
        # A global phase means nothing: with the estimate's taken out, it need not be learned.
        phases = (estimate * relative).sum(dim=(-2, -1), keepdim=True).conj()
        phases = phases / (phases.abs() + 1e-9)
        estimate, steps = estimate * phases, steps * phases
        # The flat start rests on no photons, however many fall there.
        coverage = torch.zeros_like(weights)
        if not is_flat:
            coverage = forward.extract_patches(forward.coverage, indices, window)
        # An empty object becomes zero, and intensities and counts numbers near 1; see
        # `physics.sweepnet_features`.
        features = torch.stack(
            [
                estimate.real - 1,
                estimate.imag,
                steps.real,
                steps.imag,
                torch.sqrt(relative),
                torch.log1p(coverage) / COVERAGE_SCALE,
            ],
            # The channels lie last in memory, as `Network.forward` needs them.
            dim=-1,
        ).permute(0, 3, 1, 2)
    correction = _mean_correction(network, features, rotations)
    values = estimate + steps + torch.complex(correction[:, 0], correction[:, 1])  # (n, w, w)
    back = phases.conj()
    return Patches(indices, values * back, weights, estimate * back)


def _mean_correction(network: Network, features: Tensor, rotations: Sequence[int]) -> Tensor:
    r"""Return :math:`\frac{1}{n} \sum_a T^{-a} c(T^a x)` for rotations :math:`T` by 90 degrees."""
    corrections = []
    for number in rotations:
        # Even a rotation by nothing is a copy, in an order that convolutions do not like.
        (correction,) = network(torch.rot90(features, number, (2, 3)) if number else features)
        correction = correction.float()
        corrections.append(torch.rot90(correction, -number, (2, 3)) if number else correction)
    return corrections[0] if len(corrections) == 1 else torch.stack(corrections).mean(dim=0)


def _predict_cnn(network: Network, forward: ForwardModel, groups: Tensor) -> Patches:
    r"""Predict patches from amplitudes alone: :math:`\hat O = a\, e^{i \varphi}`.

    The network's two decoders return :math:`a` and :math:`\varphi` [1]_. Its input is scaled as in
    PtychoPINN: the energy of a mean pattern becomes :math:`(N / 2)^2`.

    Parameters
    ----------
    network : Network
    forward : ForwardModel
        Its amplitudes are in square root of photons, in the order of the transform.
    groups : Tensor of int64, shape (n_groups, group_size)

    Returns
    -------
    Patches
        Of shape (n_groups group_size, N, N), group by group, moved onto the object's pixels.

    References
    ----------
    .. [1] O. Hoidn et al., Sci. Rep. 13, 22789 (2023), doi:10.1038/s41598-023-48351-7.
    """
    n_groups, group_size = groups.shape
    indices = groups.reshape(-1)
    size = network.description.window_px
    with torch.no_grad():
        photons = forward.photons
        # The network was published with zero frequency in the middle.
        amplitudes = torch.fft.fftshift(forward.measured(indices), dim=(-2, -1))  # (n, N, N)
        images = amplitudes * (size / 2) / photons**0.5
    amplitude, phase = network(images.view(n_groups, group_size, size, size))
    # torch.polar would have a gradient of the wrong sign where a border is negative.
    amplitude, phase = amplitude.float(), phase.float()
    values = torch.complex(amplitude * torch.cos(phase), amplitude * torch.sin(phase))
    # Without the overlap constraint one patch stands for the whole group.
    values = values.expand(n_groups, group_size, size, size).reshape(-1, size, size)
    # Bare patterns belong to the probe, which lies between the object's pixels.
    values = shift_bilinear(values, forward.subpixel_shifts[indices])
    return Patches(indices, values, intensity(forward.probes(indices)))


def cut_middle(images: Tensor, size: int) -> Tensor:
    """Return the middle `size` x `size` pixels of images; pixel [h // 2, w // 2] stays central."""
    height, width = images.shape[-2:]
    top, left = height // 2 - size // 2, width // 2 - size // 2
    return images[..., top : top + size, left : left + size]


def shift_bilinear(images: Tensor, subpixel_shifts_px: Tensor) -> Tensor:
    """Move images (n, h, w) down and right by (n, 2) pixels between -1 and 1; edges repeat.

    Each pixel becomes the mean of four, weighted by their distance. This damps the highest
    frequencies, which is why 'sweepnet' predicts on the object's grid and does not need it.
    """
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
    r"""Average the patches of each group where they overlap, and cut them out again.

    :math:`\bar O = \sum_j w_j \hat O_j / \sum_j w_j` over the patches of a group, with the probe's
    intensity and a floor of a thousandth of its peak as weight :math:`w_j`. This is the overlap
    constraint of PtychoPINN [1]_.

    Parameters
    ----------
    patches : Patches
        Groups one after the other.
    forward : ForwardModel
    group_size : int

    Returns
    -------
    Tensor of complex64, shape (n_patches, window, window)

    References
    ----------
    .. [1] O. Hoidn et al., Sci. Rep. 13, 22789 (2023), doi:10.1038/s41598-023-48351-7.
    """
    if group_size == 1 or not len(patches.indices):
        return patches.values
    window = patches.values.shape[-1]
    # Each group has a small canvas of its own, all of the size that the widest needs, so that one
    # sum over indices serves the whole batch.
    patch_origins = forward.patch_origins[patches.indices].view(-1, group_size, 2)
    patch_origins = patch_origins - patch_origins.min(dim=1, keepdim=True).values
    # The size is found on the computer's side: a size read from the device would wait for it.
    each = forward.host_origins[patches.on_host()].reshape(-1, group_size, 2)
    height, width = (np.ptp(each, axis=1).max(axis=0) + window).tolist()
    n_groups = len(patch_origins)
    inside = torch.arange(window, device=patch_origins.device)
    rows = patch_origins[..., 0, None] + inside
    columns = patch_origins[..., 1, None] + inside
    group = torch.arange(n_groups, device=patch_origins.device)[:, None, None, None]
    pixels = (group * height + rows[..., :, None]) * width + columns[..., None, :]
    pixels = pixels.reshape(-1)
    # Where no probe shines, patches still need some mean.
    floor = 1e-3 * patches.weights.amax(dim=(-2, -1), keepdim=True)
    weights = patches.weights + floor

    def average(values: Tensor) -> Tensor:
        canvas = values.new_zeros(n_groups * height * width)
        return canvas.index_add(0, pixels, values.reshape(-1))

    total = average(weights)
    real = average(weights * patches.values.real) / total.clamp(min=1e-12)
    imaginary = average(weights * patches.values.imag) / total.clamp(min=1e-12)
    return torch.complex(real[pixels], imaginary[pixels]).view(patches.values.shape)
