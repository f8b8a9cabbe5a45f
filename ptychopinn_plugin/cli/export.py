"""`ptychopinn export`: a model's network in the format of another program."""

from pathlib import Path
from typing import Annotated

import typer

from ptychopinn_plugin.cli.common import report
from ptychopinn_plugin.cli.options import AsJson


def export_command(
    model: Annotated[
        Path, typer.Argument(metavar='MODEL', help='A model file, also one of PtychoPINN.')
    ],
    format_: Annotated[
        str,
        typer.Option(
            '--format', metavar='CHOICE', help='onnx, torchscript, torch-export, keras, legacy-tf.'
        ),
    ] = 'onnx',
    output: Annotated[
        Path | None,
        typer.Option('--output', '-o', metavar='FILE', help='Where not given, beside the model.'),
    ] = None,
    template: Annotated[
        Path | None,
        typer.Option(
            metavar='FILE',
            help='For legacy-tf: a wts.h5.zip that PtychoPINN wrote with the same settings; its '
            'weights are replaced in a copy.',
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a model's network for ONNX, TorchScript, torch.export, Keras or PtychoPINN.

    It takes images (batch, channels, size, size), in Keras (batch, size, size, channels). For cnn
    these are amplitudes times (size / 2) / sqrt(mean counts of a pattern), and
    amplitude and phase come out; stitching and refinement stay here.

    \b
    Examples:
      ptychopinn export run/wts.h5.zip --format onnx
      ptychopinn export run/wts.h5.zip --format torchscript -o network.pt
    """
    from ptychopinn_plugin.export import EXPORTERS, export_model
    from ptychopinn_plugin.model_file import read_model
    from ptychopinn_plugin.storage.atomic import check_output_file

    opened = read_model(model, with_training_state=False)
    name = model.name.removesuffix('.zip').removesuffix('.h5').removesuffix('.ckpt')
    # An unknown format is refused by `export_model`, whose message lists the known ones.
    exporter = EXPORTERS.get(format_)
    suffix = '' if exporter is None else exporter.suffix
    path = output or model.with_name(f'{name}{suffix}')
    check_output_file(path, model, template)
    export_model(opened, path, format_, template=template)
    network = opened.network
    channels, size = network.layers[0].out_channels, network.window_px
    values = {
        'file': path,
        'format': format_,
        'input': ['batch', channels, size, size],
        'outputs': len(network.outputs),
        'architecture': network.architecture,
        'photons': opened.photons,
        'intensity_scale': opened.intensity_scale,
    }
    lines = [
        f'Wrote {network.architecture} as {format_} to {path}',
        f'input: images (batch, {channels}, {size}, {size}), float32',
        f'for: {exporter.purpose if exporter else format_}',
    ]
    report(values, lines, as_json=as_json)
