"""Which device runs, and how a probe is scaled."""

import torch

from ptychopinn_plugin.config import IntensityScale
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.errors import BackendUnavailableError

SAME_EXPOSURE = 2.0
"""Mean counts within this factor count as the same exposure."""


def choose_device(name: str) -> torch.device:
    """Return the device of this name; 'auto' takes CUDA, then MPS, then the CPU.

    Raises
    ------
    BackendUnavailableError
        If there is no such device.
    """
    if name == 'auto':
        if torch.cuda.is_available():
            return torch.device('cuda')
        return torch.device('mps' if torch.backends.mps.is_available() else 'cpu')
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise BackendUnavailableError(
            f'There is no device {name!r} here ({reason}). Use auto, cpu, cuda or mps.'
        ) from error
    return device


def choose_photons(scan: Scan, reference: float, rule: IntensityScale) -> float:
    """Return the energy of the probe: as in training, or by this scan's own mean counts."""
    own = scan.mean_counts()
    same = reference / SAME_EXPOSURE <= own <= reference * SAME_EXPOSURE
    return reference if rule == 'model' or (rule == 'auto' and same) else own
