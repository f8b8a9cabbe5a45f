"""Which device runs."""

import sys
import warnings

import torch

from ptychopinn_plugin.backends.common.ranks import current_ranks
from ptychopinn_plugin.errors import BackendUnavailableError, ConfigError


def choose_device(name: str) -> torch.device:
    """Return the device of this name; 'auto' takes CUDA, then MPS, then the CPU.

    Raises
    ------
    BackendUnavailableError
        If there is no such device.
    ConfigError
        If each of several ranks is to take the same one.
    """
    if current_ranks().size > 1 and (':' in name or name == 'mps'):
        raise ConfigError(
            'Each of several processes takes a device of its own: auto, cpu or cuda was expected; '
            f'got {name}. Use --device cuda, or one process.'
        )
    with warnings.catch_warnings():
        # Where TensorFlow has looked for a GPU in vain, CUDA warns that it has no device, which the
        # answer holds anyway.
        warnings.filterwarnings('ignore', message='CUDA initialization')
        has_cuda = torch.cuda.is_available()
    if name == 'auto':
        if has_cuda:
            return torch.device('cuda')
        has_mps = torch.backends.mps.is_available() and current_ranks().size == 1
        return torch.device('mps' if has_mps else 'cpu')
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise BackendUnavailableError(
            f'There is no device {name!r} here ({reason}). Use auto, cpu, cuda or mps.'
        ) from error
    return device


def release_cache() -> None:
    """Give memory that PyTorch keeps for later back to the GPU, where one was used."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def keep_triton_out() -> None:
    """Let PyTorch do without Triton where TensorFlow was loaded before it.

    Optimizers and `torch.export` load Triton, which compiles nothing here. After TensorFlow that
    would end the process; so it is hidden from PyTorch.
    """
    if 'tensorflow' in sys.modules and 'triton' not in sys.modules:
        sys.modules['triton'] = None  # type: ignore[assignment]
