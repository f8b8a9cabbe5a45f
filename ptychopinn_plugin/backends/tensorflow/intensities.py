"""How many photons patterns expect and have; see `backends.common.intensities`."""

import numpy as np

from ptychopinn_plugin.array_types import FloatArray
from ptychopinn_plugin.backends.tensorflow.forward import ForwardModel
from ptychopinn_plugin.backends.tensorflow.framework import Tensor, compiled, tf
from ptychopinn_plugin.backends.tensorflow.operators import predict_intensity, sum_each


def pattern_photons(forward: ForwardModel, object_: Tensor) -> tuple[FloatArray, FloatArray]:
    r"""Return the expected and the measured photons of each pattern.

    They are :math:`\sum_q M_q I_{jq}` and :math:`\sum_q M_q a_{jq}^2` with the mask :math:`M` of
    good pixels, the expected counts :math:`I` and the measured amplitudes :math:`a`.

    Parameters
    ----------
    forward : ForwardModel
    object_ : Tensor of complex64, shape (height, width)

    Returns
    -------
    expected, counted : ndarray of float64, shape (n_positions,)
    """
    sums = [
        _photons(
            forward.probes(indices),
            forward.extract_patches(object_, indices),
            forward.measured(indices),
            forward.valid_mask,
            forward.transfer_at(indices),
        ).numpy()
        for indices in forward.batches(128)
    ]
    expected, counted = np.concatenate(sums, axis=1)
    return expected, counted


@compiled
def _photons(
    probes: Tensor,
    patches: Tensor,
    measured: Tensor,
    valid_mask: Tensor | None,
    transfer: Tensor | None,
) -> Tensor:
    """Return both sums, shape (2, n), float64."""
    images = tf.stack([predict_intensity(probes, patches, transfer), tf.square(measured)])
    return sum_each(images, valid_mask)
