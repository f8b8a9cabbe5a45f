"""Which device runs."""

import re

from ptychopinn_plugin.backends.tensorflow.framework import tf
from ptychopinn_plugin.errors import BackendUnavailableError


def choose_device(name: str) -> str:
    """Return TensorFlow's name of a device; 'auto' takes a GPU, then the CPU.

    Parameters
    ----------
    name : str
        As in every backend: 'auto', 'cpu', 'cuda', 'cuda:1', or 'mps' for Apple's GPU.

    Raises
    ------
    BackendUnavailableError
        If there is no such device.
    """
    gpus = tf.config.list_logical_devices('GPU')
    if name == 'auto':
        return '/GPU:0' if gpus else '/CPU:0'
    wanted = re.fullmatch(r'(?:(cpu)|cuda|gpu|mps)(?::(\d+))?', name)
    if wanted is not None:
        number = int(wanted[2] or 0)
        if wanted[1]:
            return '/CPU:0'
        if number < len(gpus):
            return f'/GPU:{number}'
    raise BackendUnavailableError(
        f'There is no device {name!r} here (TensorFlow sees {len(gpus)} GPUs). '
        'Use auto, cpu, cuda or mps.'
    )
