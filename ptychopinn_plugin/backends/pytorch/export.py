"""A model's network as a program of torch: TorchScript, and what `torch.export` saves."""

import io
import warnings
from pathlib import Path

import torch
from torch import Tensor

from ptychopinn_plugin.backends.pytorch.device import keep_triton_out
from ptychopinn_plugin.backends.pytorch.network import Network
from ptychopinn_plugin.model import Model
from ptychopinn_plugin.storage.atomic import atomic_path

_BATCH = 2
"""The example has two images: with one, the batch would be taken for a fixed size."""


def write_torchscript(model: Model, path: Path) -> None:
    """Write a model's network for `torch.jit.load` and libtorch."""
    network, images = _prepared(model)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # It is deprecated in favour of torch.export, which programs in C++ cannot all read yet.
        warnings.filterwarnings('ignore', message='`torch.jit', category=FutureWarning)
        warnings.filterwarnings('ignore', message='`torch.jit', category=DeprecationWarning)
        torch.jit.save(torch.jit.trace(network, images), buffer)
    _write(path, buffer)


def write_torch_export(model: Model, path: Path) -> None:
    """Write a model's network for `torch.export.load`."""
    keep_triton_out()
    network, images = _prepared(model)
    batch = torch.export.Dim('batch')
    program = torch.export.export(network, (images,), dynamic_shapes=({0: batch},))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    _write(path, buffer)


def _prepared(model: Model) -> tuple[Network, Tensor]:
    network = Network(model.network).eval()
    network.load_weights(model.weights)
    network.requires_grad_(False)
    size, channels = model.network.window_px, model.network.layers[0].out_channels
    return network, torch.zeros(_BATCH, channels, size, size)


def _write(path: Path, buffer: io.BytesIO) -> None:
    with atomic_path(path) as partial:
        partial.write_bytes(buffer.getvalue())
