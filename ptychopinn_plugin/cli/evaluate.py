"""`ptychopinn evaluate`: how near a reconstruction is to the truth."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptychopinn_plugin.cli.common import (
    fit_scans,
    is_reconstruction_file,
    read_scans,
    report,
    show_notes,
    summarise_evaluation,
)
from ptychopinn_plugin.cli.options import READING, AsJson, Given, takes_settings
from ptychopinn_plugin.cli.outputs import staged_outputs, write_json

if TYPE_CHECKING:
    from ptychopinn_plugin.data import Reconstruction, Scan

FILES = ('evaluation.json', 'evaluation.png')

_Reconstruction = Annotated[
    Path, typer.Argument(metavar='RECONSTRUCTION', help='A reconstruction.npz or a product.h5.')
]
_Truth = Annotated[
    Path,
    typer.Argument(
        metavar='TRUTH', help='A scan that holds its object, or another reconstruction or product.'
    ),
]
_Output = Annotated[
    Path | None,
    typer.Option(
        '--output', '-o', metavar='DIR', help='Folder for evaluation.json and evaluation.png.'
    ),
]


@takes_settings(READING)
def evaluate_command(
    reconstruction: _Reconstruction,
    truth: _Truth,
    output: _Output = None,
    remove_ramp: Annotated[
        bool, typer.Option('--remove-ramp', help='Remove a linear phase as well.')
    ] = False,
    as_json: AsJson = False,
    *,
    given: Given,
) -> None:
    """Compare a reconstruction with the truth: SSIM, PSNR, MAE and the Fourier ring correlation.

    Both are registered to a fraction of a pixel; the global phase and scale are removed.

    \b
    Examples:
      ptychopinn evaluate result/reconstruction.npz scan.npz
      ptychopinn evaluate result/reconstruction.npz other/reconstruction.npz -o compared
      ptychopinn evaluate product.h5 scan.npz --json
    """
    from ptychopinn_plugin.data import is_product_file, read_reconstruction
    from ptychopinn_plugin.evaluation import evaluate, in_coordinates_of, plot_evaluation

    with ExitStack() as stack:
        stage = None
        if output is not None:
            stage = stack.enter_context(staged_outputs(output, FILES))
        found = read_reconstruction(reconstruction)
        true = _read_truth(truth, found, given)
        if is_product_file(reconstruction) or is_product_file(truth):
            found = in_coordinates_of(found, true)
        evaluation = evaluate(found, true, remove_ramp=remove_ramp)
        values: dict[str, Any] = {
            'reconstruction': reconstruction,
            'truth': truth,
            **evaluation.to_dict(),
        }
        if stage is not None:
            write_json(stage / 'evaluation.json', values)
            plot_evaluation(evaluation, stage / 'evaluation.png')
    lines = summarise_evaluation(evaluation)
    if output is not None:
        lines.append(f'written to {output}: {", ".join(FILES)}')
    report(values, lines, as_json=as_json)


def _read_truth(path: Path, found: 'Reconstruction', given: Given) -> 'Scan | Reconstruction':
    from ptychopinn_plugin.data import is_product_file, read_reconstruction

    if is_reconstruction_file(path) or is_product_file(path):
        return read_reconstruction(path)
    scans = read_scans([path], given)
    height, width = found.probe.shape[-2:]
    if height == width:
        # It is brought to the coordinates of the reconstruction, of which a model of another size
        # makes squares; iterations and the built-in model leave patterns as they are.
        scans = fit_scans(scans, width)
    show_notes(scans)
    return scans[0]
