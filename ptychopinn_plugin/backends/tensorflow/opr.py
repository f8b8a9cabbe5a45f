"""What patterns show of a probe that varies; see `backends.common.opr`."""

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, IntArray
from ptychopinn_plugin.backends.common.iteration_steps import REGULARIZATION
from ptychopinn_plugin.backends.common.opr import VariationMoments
from ptychopinn_plugin.backends.tensorflow.forward import ForwardModel
from ptychopinn_plugin.backends.tensorflow.framework import Tensor, compiled, tf
from ptychopinn_plugin.backends.tensorflow.operators import (
    intensity,
    project_amplitudes,
    scaled,
    shift_probe,
    shift_probe_back,
    squared,
    to_detector,
)


def probe_residuals(forward: ForwardModel, object_: Tensor, indices: IntArray) -> ComplexArray:
    r"""Return what each of some patterns would change of the probe's first mode.

    :math:`O_j^* (\psi'_j - \psi_j) / ((1 - \alpha) |O_j|^2 + \alpha \max |O_j|^2)`, shifted back.

    Parameters
    ----------
    forward : ForwardModel
    object_ : Tensor of complex64, shape `forward.canvas_shape`
    indices : ndarray of int64

    Returns
    -------
    ndarray of complex64, shape (n_indices, height, width)
    """
    found = [
        _residuals(
            forward.probes(some),
            forward.extract_patches(object_, some),
            forward.measured(some),
            forward.valid_mask,
            forward.transfer_at(some),
            tf.gather(forward.subpixel_shifts, some),
        ).numpy()
        for some in (indices[start : start + 128] for start in range(0, len(indices), 128))
    ]
    return np.concatenate(found)


@compiled
def _residuals(
    probes: Tensor,
    patches: Tensor,
    measured: Tensor,
    valid_mask: Tensor | None,
    transfer: Tensor | None,
    subpixel_shifts_px: Tensor,
) -> Tensor:
    _, changes = project_amplitudes(probes, patches, measured, valid_mask, transfer)
    # As rPIE divides for the probe: what lies behind a dark part of the object shows little of the
    # probe there.
    brightness = squared(patches)
    brightest = tf.reduce_max(brightness, axis=(1, 2), keepdims=True)
    share = (1 - REGULARIZATION) * brightness + REGULARIZATION * brightest
    # The first mode alone varies; the others are the same at every position.
    wanted = changes[:, :1] * scaled(tf.math.conj(patches), 1 / share)[:, None]
    return shift_probe_back(wanted, subpixel_shifts_px)[:, 0]


def measure_variation(forward: ForwardModel, object_: Tensor, floor: float) -> VariationMoments:
    r"""Measure how the likelihood draws eigenmodes and their weights.

    Parameters
    ----------
    forward : ForwardModel
        With eigenmodes.
    object_ : Tensor of complex64, shape `forward.canvas_shape`
    floor : float
        :math:`\epsilon`, in photons.
    """
    eigenmodes = tf.constant(forward.eigenmodes)
    weights = forward.opr_weights[:, 1:].astype(np.float32)
    forces, stiffnesses = [], []
    updates = np.zeros(forward.eigenmodes.shape, np.complex64)
    light = np.zeros(forward.eigenmodes.shape, np.float32)
    for indices in forward.batches(64):
        subpixel_shifts = tf.gather(forward.subpixel_shifts, indices)
        roots = tf.constant(np.sqrt(forward.intensities[indices]), tf.float32)
        parts = _moments(
            forward.probes(indices),
            eigenmodes,
            forward.extract_patches(object_, indices),
            forward.measured(indices),
            forward.valid_mask,
            forward.transfer_at(indices),
            subpixel_shifts,
            roots[:, None, None, None],
            tf.constant(weights[indices]),
            # A tensor: each new number of Python would compile the graph again.
            tf.constant(floor, tf.float32),
        )
        force, stiffness, update, bright = (part.numpy() for part in parts)
        forces.append(force)
        stiffnesses.append(stiffness)
        updates += update
        light += bright
    return VariationMoments(
        np.concatenate(forces).astype(np.float64),
        np.concatenate(stiffnesses).astype(np.float64),
        updates,
        light,
    )


@compiled
def _moments(
    probes: Tensor,
    eigenmodes: Tensor,
    patches: Tensor,
    measured: Tensor,
    valid_mask: Tensor | None,
    transfer: Tensor | None,
    subpixel_shifts_px: Tensor,
    roots: Tensor,
    weights: Tensor,
    floor: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the four arrays of `VariationMoments` for a batch."""
    waves = to_detector(probes * patches[:, None], transfer)
    expected = intensity(waves)
    scale = tf.math.rsqrt(expected + floor)  # 1 / a
    if valid_mask is not None:
        scale = scale * valid_mask
    # An eigenmode is a change of the probe: it takes the probe's way, shift and beam included.
    shifted = scaled(shift_probe(eigenmodes, subpixel_shifts_px), roots)
    moved = to_detector(shifted * patches[:, None], transfer)
    # How the amplitude changes with a weight; weights are real, hence the real part.
    jacobian = tf.math.real(tf.math.conj(waves[:, :1]) * moved) * scale[:, None]
    # The amplitude that is missing to first order, (k - I) / 2a.
    missing = (tf.square(measured) - expected) * scale / 2
    force = tf.reduce_sum(jacobian * missing[:, None], axis=(2, 3))
    stiffness = tf.einsum('jkyx,jlyx->jkl', jacobian, jacobian)
    _, changes = project_amplitudes(probes, patches, measured, valid_mask, transfer)
    wanted = scaled(changes[:, :1] * tf.math.conj(patches)[:, None], roots)
    wanted = shift_probe_back(wanted, subpixel_shifts_px)[:, 0]
    # Sums over patterns by their weights: the numerator of Gamma, and Upsilon.
    updates = tf.tensordot(tf.cast(tf.transpose(weights), wanted.dtype), wanted, axes=1)
    bright = squared(patches) * tf.square(roots[:, 0])
    light = tf.tensordot(tf.transpose(tf.square(weights)), bright, axes=1)
    return force, stiffness, updates, light
