"""A model in the formats of other programs: the network alone, from images to its outputs."""

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ptychopinn_plugin.errors import BackendUnavailableError, ConfigError, OutputError
from ptychopinn_plugin.model import Model


@dataclass(frozen=True)
class Exporter:
    """What writes one format, and what it needs.

    Attributes
    ----------
    suffix : str
        How the name of the file ends.
    writer : str
        ``module:function`` that takes a model and a path; imported when it is used.
    needs : str
        The module that must be installed.
    install : str
        How to install it.
    purpose : str
        What the file is for.
    from_template : bool
        Whether the function takes a file to fill as well.
    """

    suffix: str
    writer: str
    needs: str
    install: str
    purpose: str
    from_template: bool = False


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
    'keras': Exporter(
        '.keras',
        'ptychopinn_plugin.backends.tensorflow.export:write_keras',
        'tensorflow',
        "pip install 'ptychopinn-plugin[tensorflow]'",
        'keras.models.load_model, on any of its backends; channels last',
    ),
    'legacy-tf': Exporter(
        '-legacy.h5.zip',
        'ptychopinn_plugin.legacy.writing:write_legacy_tensorflow',
        'h5py',
        'pip install h5py',
        "PtychoPINN's TensorFlow side",
        from_template=True,
    ),
}


def export_model(
    model: Model, path: Path | str, format_: str, *, template: Path | str | None = None
) -> None:
    """Write a model's network in the format of another program.

    The network takes images in float32, shape (batch, channels, window, window), any number in a
    batch; Keras has the channels last. For 'cnn' the images are amplitudes times
    ``(window / 2) / sqrt(mean counts of a pattern)``, and the outputs are amplitude (without unit)
    and phase (in radians) of the patches. For 'sweepnet' the images are those of
    `physics.features`, and the output is the correction of one pass.

    Parameters
    ----------
    model : Model
    path : Path
    format_ : str
        A key of `EXPORTERS`.
    template : Path, optional
        For 'legacy-tf': a `wts.h5.zip` that PtychoPINN wrote with the same settings, whose weights
        are replaced in a copy.

    Raises
    ------
    ConfigError
        If there is no such format, or a template is missing or of no use.
    BackendUnavailableError
        If the package that writes it is not installed; the message holds the command.
    OutputError
        If the path has another suffix than the format, or the file cannot be written.
    """
    if format_ not in EXPORTERS:
        raise ConfigError(
            f'The format must be one of {", ".join(EXPORTERS)}; got {format_!r}. Choose one.'
        )
    exporter, path = EXPORTERS[format_], Path(path)
    # '-legacy.h5.zip' is put behind a model's name; of a path that is given, '.zip' is required.
    suffix = Path(f'name{exporter.suffix}').suffix
    if path.suffix != suffix:
        raise OutputError(
            f'{format_} is written as {suffix}; got {path}. Try {path.with_suffix(suffix)}.'
        )
    if importlib.util.find_spec(exporter.needs) is None:
        raise BackendUnavailableError(
            f'Format {format_!r} needs {exporter.needs}, which is not installed. '
            f'Run: {exporter.install}.'
        )
    if exporter.from_template != (template is not None):
        raise ConfigError(
            f'Format {format_!r} needs a template (--template FILE): a wts.h5.zip that PtychoPINN '
            'wrote with the same settings. Give one.'
            if exporter.from_template
            else f'Format {format_!r} takes no template. Leave it out.'
        )
    module, name = exporter.writer.split(':')
    write = getattr(importlib.import_module(module), name)
    if template is None:
        write(model, path)
    else:
        write(model, path, Path(template))
