"""A model in the formats of other programs: the network alone, from images to its outputs."""

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ptychopinn_plugin.errors import BackendUnavailableError, ConfigError
from ptychopinn_plugin.model import Model

Format = Literal['onnx', 'torchscript', 'torch-export']


@dataclass(frozen=True)
class Exporter:
    """One format.

    Attributes
    ----------
    suffix : str
        Of the file.
    writer : str
        ``module:function`` that takes a model and a path; imported when it is used.
    needs : str
        The module that must be installed.
    install : str
        How to install it.
    purpose : str
        What the file is for.
    """

    suffix: str
    writer: str
    needs: str
    install: str
    purpose: str


_TORCH = "pip install 'ptychopinn-plugin[pytorch]'"

EXPORTERS: Mapping[str, Exporter] = {
    'onnx': Exporter(
        '.onnx',
        'ptychopinn_plugin.export.onnx_graph:write_onnx',
        'onnx',
        "pip install 'ptychopinn-plugin[export]'",
        'ONNX Runtime, TensorRT, OpenVINO',
    ),
    'torchscript': Exporter(
        '.pt',
        'ptychopinn_plugin.backends.pytorch.export:write_torchscript',
        'torch',
        _TORCH,
        'libtorch in C++, torch.jit.load',
    ),
    'torch-export': Exporter(
        '.pt2',
        'ptychopinn_plugin.backends.pytorch.export:write_torch_export',
        'torch',
        _TORCH,
        'torch.export.load, AOTInductor',
    ),
}


def export_model(model: Model, path: Path | str, format_: str) -> None:
    """Write a model's network in the format of another program.

    The network takes images (batch, channels, window, window) in float32, any number in a batch.
    For 'cnn' these are amplitudes times ``(window / 2) / sqrt(mean counts of a pattern)`` and the
    outputs are amplitude and phase; for 'sweepnet' see `physics.features`.

    Parameters
    ----------
    model : Model
    path : Path
    format_ : str
        A key of `EXPORTERS`.

    Raises
    ------
    ConfigError
        If there is no such format.
    BackendUnavailableError
        If what writes it is not installed; the message says how to install it.
    OutputError
        If the file cannot be written.
    """
    if format_ not in EXPORTERS:
        raise ConfigError(
            f'The format must be one of {", ".join(EXPORTERS)}; got {format_!r}. Choose one.'
        )
    exporter = EXPORTERS[format_]
    if importlib.util.find_spec(exporter.needs) is None:
        raise BackendUnavailableError(
            f'Format {format_!r} needs {exporter.needs}, which is not installed. '
            f'Run: {exporter.install}.'
        )
    module, name = exporter.writer.split(':')
    getattr(importlib.import_module(module), name)(model, Path(path))
