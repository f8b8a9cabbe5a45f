"""`ptychopinn evaluate`: how near a reconstruction is to the truth, or two halves of a scan."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptychopinn_plugin.cli.common import (
    is_reconstruction_file,
    read_scans,
    report,
    show_notes,
    summarize_evaluation,
)
from ptychopinn_plugin.cli.log import collecting_notes, notes_by_scan
from ptychopinn_plugin.cli.options import READING, AsJson, BackendName, Given, takes_settings
from ptychopinn_plugin.cli.outputs import staged_outputs, write_json
from ptychopinn_plugin.cli.progress import ProgressDisplay
from ptychopinn_plugin.errors import ConfigError

if TYPE_CHECKING:
    from ptychopinn_plugin.data import Reconstruction, Scan

EVALUATION_FILES = ('evaluation.json', 'evaluation.png')

_Reconstruction = Annotated[
    Path,
    typer.Argument(
        metavar='RECONSTRUCTION',
        help='A reconstruction.npz or a product.h5; with --half-scans a scan.',
    ),
]
_Truth = Annotated[
    Path | None,
    typer.Argument(
        metavar='[TRUTH]',
        help='A scan that holds its object, or another reconstruction or product.',
    ),
]
_Output = Annotated[
    Path | None,
    typer.Option(
        '--output', '-o', metavar='DIR', help='Folder for evaluation.json and evaluation.png.'
    ),
]
_RemoveRamp = Annotated[bool, typer.Option('--remove-ramp', help='Remove a linear phase as well.')]
_HalfScans = Annotated[
    bool,
    typer.Option(
        '--half-scans',
        help='Cut a scan into two halves, reconstruct both, and compare them: no truth is needed.',
    ),
]
_Model = Annotated[
    Path | None,
    typer.Option(
        metavar='FILE',
        help='With --half-scans: reconstruct with this model (default: the built-in one).',
    ),
]
_Iterations = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar='INTEGER',
        help='With --half-scans: reconstruct by this number of iterations from a flat object, '
        'without a model.',
    ),
]
# None is another value than 'auto': without --half-scans no device may be given.
_Device = Annotated[str | None, typer.Option(metavar='NAME', help='auto, cpu, cuda, cuda:1, mps.')]


@takes_settings(READING)
def evaluate_command(
    reconstruction: _Reconstruction,
    truth: _Truth = None,
    output: _Output = None,
    remove_ramp: _RemoveRamp = False,
    half_scans: _HalfScans = False,
    model: _Model = None,
    iterations: _Iterations = None,
    backend: BackendName = None,
    device: _Device = None,
    as_json: AsJson = False,
    *,
    given: Given,
) -> None:
    """Compare a reconstruction with the truth: SSIM, PSNR, MAE and the Fourier ring correlation.

    Both are registered to a fraction of a pixel; the global phase and scale are removed. With
    --half-scans two halves of a scan are compared, neighbours in different halves; the resolution
    is where their ring correlation falls below a threshold.

    \b
    Examples:
      ptychopinn evaluate result/reconstruction.npz scan.npz
      ptychopinn evaluate result/reconstruction.npz other/reconstruction.npz -o compared
      ptychopinn evaluate product.h5 scan.npz --json
      ptychopinn evaluate --half-scans scan.npz -o halves
      ptychopinn evaluate --half-scans scan.npz --iterations 30
    """
    if half_scans:
        if truth is not None:
            raise ConfigError(
                f'--half-scans takes one scan, and no truth; got {reconstruction} and {truth}.'
            )
        if model is not None and iterations is not None:
            raise ConfigError('--iterations starts without a model; got --model too. Give one.')
        _evaluate_halves(
            reconstruction,
            output,
            Way(model, iterations, backend, device or 'auto', remove_ramp),
            given,
            as_json=as_json,
        )
        return
    _refuse_without_halves(
        {'model': model, 'iterations': iterations, 'backend': backend, 'device': device}
    )
    if truth is None:
        raise ConfigError(
            'TRUTH is missing: a scan with its object, or another reconstruction. To judge a scan '
            'without a truth, write: ptychopinn evaluate --half-scans SCAN.'
        )
    _evaluate_against(
        truth, reconstruction, output, given, remove_ramp=remove_ramp, as_json=as_json
    )


def _evaluate_against(
    truth: Path,
    reconstruction: Path,
    output: Path | None,
    given: Given,
    *,
    remove_ramp: bool,
    as_json: bool,
) -> None:
    from ptychopinn_plugin.data import is_product_file, read_reconstruction
    from ptychopinn_plugin.evaluation import evaluate, in_coordinates_of, plot_evaluation

    with ExitStack() as stack:
        shown = stack.enter_context(collecting_notes())
        stage = None
        if output is not None:
            stage = stack.enter_context(staged_outputs(output, EVALUATION_FILES))
        found = read_reconstruction(reconstruction)
        true = _read_truth(truth, found, given)
        if is_product_file(reconstruction) or is_product_file(truth):
            found = in_coordinates_of(found, true)
        evaluation = evaluate(found, true, remove_ramp=remove_ramp)
        values: dict[str, Any] = {
            'reconstruction': reconstruction,
            'truth': truth,
            **evaluation.to_dict(),
            'notes': notes_by_scan(shown, [true.name]),
        }
        if stage is not None:
            write_json(stage / 'evaluation.json', values)
            plot_evaluation(evaluation, stage / 'evaluation.png')
    lines = summarize_evaluation(evaluation)
    if output is not None:
        lines.append(f'written to {output}: {", ".join(EVALUATION_FILES)}')
    report(values, lines, as_json=as_json)


@dataclass(frozen=True)
class Way:
    """How halves of a scan are reconstructed.

    Attributes
    ----------
    model : Path, optional
    iterations : int, optional
        From a flat object, without a model, where the number is given.
    backend : str, optional
    device : str
    remove_ramp : bool
    """

    model: Path | None
    iterations: int | None
    backend: str | None
    device: str
    remove_ramp: bool


def _refuse_without_halves(given: dict[str, object]) -> None:
    for name, value in given.items():
        if value is not None:
            raise ConfigError(f'--{name} belongs to --half-scans, which is not given. Add it.')


def _evaluate_halves(
    path: Path, output: Path | None, way: Way, given: Given, *, as_json: bool
) -> None:
    from ptychopinn_plugin import api
    from ptychopinn_plugin.backends.selection import choose
    from ptychopinn_plugin.half_scans import plot_halves
    from ptychopinn_plugin.opening import BUILT_IN_KEYWORD

    with ExitStack() as stack:
        shown = stack.enter_context(collecting_notes())
        stage = None
        if output is not None:
            stage = stack.enter_context(staged_outputs(output, EVALUATION_FILES))
        (scan,) = read_scans([path], given)
        opened = None
        if way.iterations is None:
            path_of_model = way.model or Path(BUILT_IN_KEYWORD)
            opened = api.open_model(path_of_model, with_training_state=False)
            scan = opened.fitted(scan)
        show_notes([scan])
        choice = choose(way.backend, model_backend=None if opened is None else opened.backend)
        with ProgressDisplay() as observer:
            found = api.compare_fitted_halves(
                choice,
                opened,
                scan,
                iterations=way.iterations,
                device=way.device,
                remove_ramp=way.remove_ramp,
                observer=observer,
            )
        values: dict[str, Any] = {
            'half_scans': path,
            'model': None if opened is None else str(way.model or BUILT_IN_KEYWORD),
            'iterations': way.iterations,
            'backend': choice.name,
            **found.to_dict(),
            'notes': notes_by_scan(shown, [scan.name]),
        }
        if stage is not None:
            write_json(stage / 'evaluation.json', values)
            plot_halves(found, stage / 'evaluation.png')
    lines = found.in_words()
    if output is not None:
        lines.append(f'written to {output}: {", ".join(EVALUATION_FILES)}')
    report(values, lines, as_json=as_json)


def _read_truth(path: Path, found: 'Reconstruction', given: Given) -> 'Scan | Reconstruction':
    from ptychopinn_plugin.data import fit_to_size, is_product_file, read_reconstruction

    if is_reconstruction_file(path) or is_product_file(path):
        return read_reconstruction(path)
    scans = read_scans([path], given)
    height, width = found.probe.shape[-2:]
    if height == width:
        # It is brought to the coordinates of the reconstruction, of which a model of another size
        # makes squares; iterations and the built-in model leave patterns as they are.
        scans = [fit_to_size(scan, width) for scan in scans]
    show_notes(scans)
    return scans[0]
