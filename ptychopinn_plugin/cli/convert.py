"""`ptychopinn convert`: a model of PtychoPINN as a model of this package."""

from pathlib import Path
from typing import Annotated

import typer

from ptychopinn_plugin.cli.common import report
from ptychopinn_plugin.cli.options import AsJson
from ptychopinn_plugin.errors import ArchiveError, OutputError


def convert_command(
    old: Annotated[
        Path,
        typer.Argument(
            metavar='OLD', help="PtychoPINN's wts.h5.zip (TensorFlow or torch) or Lightning .ckpt."
        ),
    ],
    new: Annotated[Path, typer.Argument(metavar='NEW.zip', help='The model file to write.')],
    probe_from: Annotated[
        Path | None,
        typer.Option(
            '--probe-from',
            metavar='FILE',
            help='A scan or product with the probe of the training, from which the intensity scale '
            'follows: torch files hold no probe.',
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Turn a model of PtychoPINN into one of this package, without executing what is in it.

    The new model predicts what the old one predicts. Other commands read the old file directly as
    well.

    \b
    Examples:
      ptychopinn convert old/wts.h5.zip model/wts.h5.zip
      ptychopinn convert last.ckpt model.zip --probe-from train_data.npz
    """
    from ptychopinn_plugin.data import read_probe
    from ptychopinn_plugin.legacy.models import read_legacy_model
    from ptychopinn_plugin.model_file import describe_model, write_model
    from ptychopinn_plugin.storage.atomic import check_output_file

    if new.suffix != '.zip':
        better = new.with_suffix('.zip') if new.name else new / 'wts.h5.zip'
        raise OutputError(f'A model is written as .zip; got {new}. Try {better}.')
    if not old.is_file():
        raise ArchiveError(f'There is no model file {old}. Check the path.')
    check_output_file(new, old, probe_from)
    model = read_legacy_model(old, probe=None if probe_from is None else read_probe(probe_from))
    write_model(new, model)
    values = {'old': old, 'new': new, **describe_model(model)}
    lines = [
        f'{old} was {model.provenance["imported_from"]}',
        f'{values["architecture"]}, {values["weights"]:,} weights, patterns of '
        f'{values["pattern_size_px"]} px, gridsize {values["gridsize"]}',
        f'intensity scale {model.intensity_scale:.4g}, from '
        f'{model.provenance["intensity_scale_from"]}',
        f'model: {new}',
        f'next: ptychopinn reconstruct {new} SCAN --output DIR',
    ]
    report(values, lines, as_json=as_json)
