"""How the likelihood draws each scan position; see `backends.common.positions`."""

import numpy as np

from ptychopinn_plugin.array_types import FloatArray
from ptychopinn_plugin.backends.tensorflow.forward import ForwardModel
from ptychopinn_plugin.backends.tensorflow.framework import Tensor, compiled, tf
from ptychopinn_plugin.backends.tensorflow.operators import intensity, to_detector


def position_forces(
    forward: ForwardModel, object_: Tensor, floor: float
) -> tuple[FloatArray, FloatArray]:
    r"""Compute how the likelihood draws each position, and how stiffly.

    Parameters
    ----------
    forward : ForwardModel
    object_ : Tensor of complex64, shape `forward.canvas_shape`
    floor : float
        :math:`\epsilon`, in photons.

    Returns
    -------
    forces : ndarray of float64, shape (n_positions, 2)
        :math:`\sum_q J (k - I) / 2a`, (y, x), in photons per pixel of the object.
    stiffnesses : ndarray of float64, shape (n_positions, 2, 2)
        :math:`\sum_q J J^T`.
    """
    # The roll wraps around in the margin of the canvas, where no patch lies.
    slopes = [(tf.roll(object_, -1, axis) - tf.roll(object_, 1, axis)) / 2 for axis in (0, 1)]
    forces, stiffnesses = [], []
    for indices in forward.batches(128):
        measured = forward.measured(indices)
        force, stiffness = _forces(
            forward.probes(indices),
            forward.extract_patches(object_, indices),
            tf.stack([forward.extract_patches(slope, indices) for slope in slopes]),
            measured,
            forward.valid_mask,
            forward.transfer_at(indices),
            tf.constant(floor, measured.dtype),
        )
        forces.append(force.numpy())
        stiffnesses.append(stiffness.numpy())
    return (
        np.concatenate(forces).astype(np.float64),
        np.concatenate(stiffnesses).astype(np.float64),
    )


@compiled
def _forces(
    probes: Tensor,
    patches: Tensor,
    slopes: Tensor,
    measured: Tensor,
    valid_mask: Tensor | None,
    transfer: Tensor | None,
    floor: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return forces and stiffnesses; `slopes` are those of the patches, (2, n, h, w)."""
    waves = to_detector(probes * patches[:, None], transfer)  # (n, n_modes, h, w)
    expected = intensity(waves)
    weights = 1 / tf.sqrt(expected + floor)
    if valid_mask is not None:
        weights = weights * valid_mask
    missing = (tf.square(measured) - expected) * weights / 2
    changes = [
        tf.reduce_sum(tf.math.real(tf.math.conj(waves) * moved), axis=1) * weights
        for moved in (to_detector(probes * slopes[axis][:, None], transfer) for axis in (0, 1))
    ]
    jacobian = tf.stack(changes, axis=1)  # (n, 2, h, w)
    forces = tf.reduce_sum(jacobian * missing[:, None], axis=(2, 3))
    return forces, tf.reduce_sum(jacobian[:, :, None] * jacobian[:, None], axis=(3, 4))
