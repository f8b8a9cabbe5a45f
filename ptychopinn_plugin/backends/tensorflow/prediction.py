"""Apply a network to patterns: from its input to the patches that it returns."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ptychopinn_plugin.array_types import IntArray
from ptychopinn_plugin.backends.tensorflow.forward import ForwardModel
from ptychopinn_plugin.backends.tensorflow.framework import Tensor, compiled, tf
from ptychopinn_plugin.backends.tensorflow.network import Network, Weights, compute
from ptychopinn_plugin.backends.tensorflow.operators import intensity, project_amplitudes, scaled
from ptychopinn_plugin.network import NetworkDescription
from ptychopinn_plugin.physics.features import (
    BACK_PROJECTION_EPSILON,
    COVERAGE_SCALE,
    rotated_pixels,
)

Inputs = dict[str, Tensor]
"""A graph takes the tensors of a batch in this form; their names are those of `collect_inputs`."""


@dataclass(frozen=True)
class Patches:
    """Predicted patches on the object's pixel grid.

    Attributes
    ----------
    indices : ndarray of int64, shape (n_patches,)
        Which position each belongs to.
    values : Tensor of complex64, shape (n_patches, window, window)
    weights : Tensor of float32, shape (n_patches, window, window)
        The probe's intensity, in photons per pixel.
    reference : Tensor of complex64, shape (n_patches, window, window)
        The estimate that the network was given, to which the phases of `values` refer; None for
        'cnn', which gets no estimate.
    """

    indices: IntArray
    values: Tensor
    weights: Tensor
    reference: Tensor | None = None


def predict_patches(
    network: Network,
    forward: ForwardModel,
    groups: IntArray,
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
    groups : ndarray of int64, shape (n_groups, group_size)
    object_ : Tensor of complex64, shape `forward.canvas_shape`
        The estimate so far; 'cnn' does not use it.
    is_flat : bool
        Whether `object_` is the flat start, which rests on no data.
    rotations : sequence of int
        Rotations by 90 degrees in which 'sweepnet' gets each pattern; the mean of its corrections
        counts.

    Returns
    -------
    Patches
        Groups one after the other.
    """
    inputs = collect_inputs(
        network.description, forward, groups, object_, is_flat=is_flat, rotations=rotations
    )
    # A graph is of one pass; how many follow makes no other.
    description = dataclasses.replace(network.description, passes=1)
    predict = _compiled_prediction(description, network.precision)
    values, weights, reference = predict(network.weights, inputs)
    return Patches(groups.reshape(-1), values, weights, reference)


def collect_inputs(
    description: NetworkDescription,
    forward: ForwardModel,
    groups: IntArray,
    object_: Tensor,
    *,
    is_flat: bool,
    rotations: Sequence[int] = (0,),
) -> Inputs:
    """Gather what the network's prediction needs of a batch.

    The canvas itself stays outside: its size differs from scan to scan, and each size would make
    another graph.
    """
    indices = groups.reshape(-1)
    inputs = {
        'probes': forward.probes(indices),
        'measured': forward.measured(indices),
        'patches': forward.extract_patches(object_, indices),
    }
    if forward.valid_mask is not None:
        inputs['valid_mask'] = forward.valid_mask
    if forward.transfer is not None:
        inputs['transfer'] = forward.transfer_at(indices)
    if description.architecture == 'cnn':
        inputs['subpixel_shifts'] = tf.gather(forward.subpixel_shifts, indices)
        inputs['photons'] = tf.constant(forward.photons, tf.float32)
    else:
        window = description.window_px
        # The flat start rests on no data.
        coverage = tf.zeros_like(forward.coverage) if is_flat else forward.coverage
        inputs['coverage'] = forward.extract_patches(coverage, indices, window)
        inputs['rotated'], inputs['rotated back'] = rotated_pixels(window, rotations)
    return inputs


@lru_cache(maxsize=16)
def _compiled_prediction(
    description: NetworkDescription, precision: str
) -> Callable[[Weights, Inputs], tuple[Tensor, Tensor, Tensor | None]]:
    def predict_from(weights: Weights, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor | None]:
        return predict(description, precision, weights, inputs)

    return compiled(predict_from, fixed=(0,))


def predict(
    description: NetworkDescription, precision: str, weights: Weights, inputs: Inputs
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the values, weights and reference of `Patches`."""
    make = _predict_cnn if description.architecture == 'cnn' else _predict_sweepnet
    return make(description, precision, weights, inputs)


def _predict_sweepnet(
    description: NetworkDescription, precision: str, weights: Weights, inputs: Inputs
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Correct the back-projected patch of each position: :math:`\hat O = O + B + c(x)`.

    :math:`O` is the patch of the estimate, :math:`B` the step of its back-projection, :math:`x` the
    six images of `physics.features.sweepnet_features`, and :math:`c` the network. Only the network
    is differentiated: the gradient stops at its input, so that each pass is learned on its own.

    Parameters
    ----------
    description : NetworkDescription
    precision : str
    weights : mapping of str to Tensor
    inputs : mapping of str to Tensor
        What `collect_inputs` gives of the positions, the estimate and the rotations.

    Returns
    -------
    values : Tensor of complex64, shape (n, window, window)
        With the phase of the estimate.
    light : Tensor of float32, shape (n, window, window)
        The probe's intensity, in photons per pixel.
    estimate : Tensor of complex64, shape (n, window, window)

    References
    ----------
    .. [1] A. Maiden, D. Johnson, P. Li, Optica 4 (2017) 736, doi:10.1364/OPTICA.4.000736.
    """
    features, start, phases, light = sweepnet_features(description.window_px, inputs)
    correction = _mean_correction(description, precision, weights, features, inputs)
    values = start['sum'] + tf.complex(correction[..., 0], correction[..., 1])  # (n, w, w)
    back = tf.math.conj(phases)
    return values * back, light, start['estimate'] * back


def _mean_correction(
    description: NetworkDescription,
    precision: str,
    weights: Weights,
    features: Tensor,
    inputs: Inputs,
) -> Tensor:
    r"""Return :math:`\frac{1}{n} \sum_a T^{-a} c(T^a x)` for rotations :math:`T` by 90 degrees."""
    # Rotations come as tables of pixels, so that one graph serves any of them.
    there, back = inputs['rotated'], inputs['rotated back']
    window, channels = description.window_px, features.shape[-1]
    pixels = window**2
    count = tf.shape(there)[0]
    rotated = tf.gather(tf.reshape(features, [-1, pixels, channels]), there, axis=1)
    (correction,) = compute(
        description, precision, weights, tf.reshape(rotated, [-1, window, window, channels])
    )
    correction = tf.reshape(correction, [-1, count * pixels, 2])
    # Pixels of the second copy lie behind those of the first.
    back = back + tf.range(tf.cast(count, back.dtype))[:, None] * pixels
    mean = tf.reduce_mean(tf.gather(correction, back, axis=1), axis=1)
    return tf.reshape(mean, [-1, window, window, 2])


def sweepnet_features(
    window: int, inputs: Inputs
) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor]:
    """Compute the network's input as `physics.sweepnet_features`, channels last.

    Returns
    -------
    features : Tensor of float32, shape (n, window, window, 6)
    start : dict of Tensor of complex64, shape (n, window, window)
        The estimate, and its sum with the back-projection's step, both times `phases`.
    phases : Tensor of complex64, shape (n, 1, 1)
    light : Tensor of float32, shape (n, window, window)
        The probe's intensity.
    """
    probes, patches = inputs['probes'], inputs['patches']
    update, _ = project_amplitudes(
        *(probes, patches, inputs['measured']), inputs.get('valid_mask'), inputs.get('transfer')
    )
    light = cut_middle(intensity(probes), window)
    brightest = tf.reduce_max(light, axis=(-2, -1), keepdims=True)
    steps = scaled(cut_middle(update, window), 1 / (light + BACK_PROJECTION_EPSILON * brightest))
    estimate = cut_middle(patches, window)
    relative = light / brightest
    # A global phase means nothing: with the estimate's taken out, it need not be learned.
    phases = tf.math.conj(tf.reduce_sum(scaled(estimate, relative), axis=(-2, -1), keepdims=True))
    phases = scaled(phases, 1 / (tf.abs(phases) + 1e-9))
    estimate, steps = estimate * phases, steps * phases
    # An empty object becomes zero, and intensities and counts numbers near 1; see
    # `physics.sweepnet_features`.
    features = tf.stack(
        [
            tf.math.real(estimate) - 1,
            tf.math.imag(estimate),
            tf.math.real(steps),
            tf.math.imag(steps),
            tf.sqrt(relative),
            tf.math.log1p(inputs['coverage']) / COVERAGE_SCALE,
        ],
        axis=-1,
    )
    start = {'sum': estimate + steps, 'estimate': estimate}
    return tf.stop_gradient(features), start, phases, light


def _predict_cnn(
    description: NetworkDescription, precision: str, weights: Weights, inputs: Inputs
) -> tuple[Tensor, Tensor, None]:
    r"""Predict patches from amplitudes alone: :math:`\hat O = a\, e^{i \varphi}`.

    The network's two decoders return :math:`a` and :math:`\varphi` [1]_. Its input is scaled as in
    PtychoPINN: the energy of a mean pattern becomes :math:`(N / 2)^2`.

    Parameters
    ----------
    description : NetworkDescription
    precision : str
    weights : mapping of str to Tensor
    inputs : mapping of str to Tensor
        `measured` amplitudes (n, N, N) in square root of photons, in the order of the transform.

    Returns
    -------
    values : Tensor of complex64, shape (n, N, N)
        Group by group, moved onto the object's pixels.
    light : Tensor of float32, shape (n, N, N)
        The probe's intensity, in photons per pixel.
    None
        There is no estimate.

    References
    ----------
    .. [1] O. Hoidn et al., Sci. Rep. 13, 22789 (2023), doi:10.1038/s41598-023-48351-7.
    """
    size, group_size = description.window_px, description.group_size
    # The network was published with zero frequency in the middle.
    amplitudes = tf.signal.fftshift(inputs['measured'], axes=(-2, -1))  # (n, N, N)
    images = amplitudes * (size / 2) / tf.sqrt(inputs['photons'])
    images = tf.transpose(tf.reshape(images, [-1, group_size, size, size]), [0, 2, 3, 1])
    amplitude, phase = compute(description, precision, weights, images)
    # Cosine and sine have a gradient everywhere, also where an amplitude is negative.
    values = tf.complex(amplitude * tf.cos(phase), amplitude * tf.sin(phase))
    if values.shape[-1] != group_size:
        # Without the overlap constraint one patch stands for the whole group.
        values = tf.repeat(values, group_size, axis=-1)
    values = tf.reshape(tf.transpose(values, [0, 3, 1, 2]), [-1, size, size])
    # Bare patterns belong to the probe, which lies between the object's pixels.
    return shift_bilinear(values, inputs['subpixel_shifts']), intensity(inputs['probes']), None


def cut_middle(images: Tensor, size: int) -> Tensor:
    """Return the middle `size` x `size` pixels of images; pixel [h // 2, w // 2] stays central."""
    sides = tf.shape(images)
    top, left = sides[-2] // 2 - size // 2, sides[-1] // 2 - size // 2
    cut = images[..., top : top + size, left : left + size]
    return tf.ensure_shape(cut, [*images.shape[:-2], size, size])


def shift_bilinear(images: Tensor, subpixel_shifts_px: Tensor) -> Tensor:
    """Move images (n, h, w) down and right by (n, 2) pixels between -1 and 1; edges repeat.

    Each pixel becomes the mean of four, weighted by their distance. This damps the highest
    frequencies, which is why 'sweepnet' predicts on the object's grid and does not need it.
    """
    sides = tf.shape(images, tf.int64)
    whole = tf.floor(-subpixel_shifts_px)
    fraction = (-subpixel_shifts_px - whole)[:, :, None, None]
    y, x = fraction[:, 0], fraction[:, 1]
    whole = tf.cast(whole, tf.int64)
    rows = tf.range(sides[1])[None, :] + whole[:, 0:1]
    columns = tf.range(sides[2])[None, :] + whole[:, 1:2]
    which = tf.range(sides[0])[:, None, None] * sides[1]
    flat = tf.reshape(images, [-1])

    def at(down: int, right: int) -> Tensor:
        row = tf.clip_by_value(rows + down, 0, sides[1] - 1)[:, :, None]
        column = tf.clip_by_value(columns + right, 0, sides[2] - 1)[:, None, :]
        return tf.gather(flat, (which + row) * sides[2] + column)

    top = scaled(at(0, 0), 1 - x) + scaled(at(0, 1), x)
    bottom = scaled(at(1, 0), 1 - x) + scaled(at(1, 1), x)
    return scaled(top, 1 - y) + scaled(bottom, y)


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
    if group_size == 1:
        return patches.values
    patch_origins = group_patch_origins(forward, patches.indices.reshape(-1, group_size))
    return average(patches.values, patches.weights, patch_origins)


def group_patch_origins(forward: ForwardModel, groups: IntArray) -> IntArray:
    """Return the patch origins of each group in its own box, (n_groups, group_size, 2)."""
    patch_origins = forward.patch_origins[groups]
    return np.asarray(patch_origins - patch_origins.min(axis=1, keepdims=True))


@compiled
def average(values: Tensor, weights: Tensor, patch_origins: Tensor) -> Tensor:
    """Do as `average_overlap`, with the `group_patch_origins` of the patches."""
    window = tf.shape(values, tf.int64)[-1]
    # Each group has a small canvas of its own, all of the size that the widest needs, so that one
    # sum over segments serves the whole batch.
    sides = tf.reduce_max(patch_origins, axis=(0, 1)) + window
    count = tf.shape(patch_origins, tf.int64)[0]
    inside = tf.range(window)
    rows = patch_origins[..., 0, None] + inside
    columns = patch_origins[..., 1, None] + inside
    group = tf.range(count)[:, None, None, None]
    pixels = (group * sides[0] + rows[..., :, None]) * sides[1] + columns[..., None, :]
    pixels = tf.reshape(pixels, tf.shape(values))
    size = count * sides[0] * sides[1]
    # Where no probe shines, patches still need some mean.
    weights = weights + 1e-3 * tf.reduce_max(weights, axis=(-2, -1), keepdims=True)
    total = tf.math.unsorted_segment_sum(weights, pixels, size)
    summed = tf.math.unsorted_segment_sum(scaled(values, weights), pixels, size)
    return tf.gather(scaled(summed, 1 / tf.maximum(total, 1e-12)), pixels)
