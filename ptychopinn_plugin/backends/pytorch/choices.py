"""Which device runs."""

import torch

from ptychopinn_plugin.errors import BackendUnavailableError


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
