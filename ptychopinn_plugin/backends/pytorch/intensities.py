"""How many photons patterns expect and have; see `backends.common.intensities`."""

import torch
from torch import Tensor

from ptychopinn_plugin.array_types import FloatArray
from ptychopinn_plugin.backends.pytorch.forward import ForwardModel


@torch.no_grad()
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
    sums = [object_.real.new_empty((2, 0))]
    for part in forward.slices(128):
        expected = forward.predict_intensity(forward.extract_patches(object_, part), part)
        images = torch.stack([expected, forward.measured(part).square()])
        if forward.valid_mask is not None:
            images = images * forward.valid_mask
        sums.append(images.sum(dim=(-2, -1)))
    expected, counted = torch.cat(sums, dim=1).double().cpu().numpy()
    return forward.ranks.gather(expected), forward.ranks.gather(counted)
