"""`ptychopinn reconstruct` and `ptychopinn refine`: from a scan to a picture of the object."""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptychopinn_plugin.cli.common import (
    duration_in_words,
    read_scans,
    report,
    show_notes,
    summarize_evaluation,
)
from ptychopinn_plugin.cli.log import collecting_notes, notes_by_scan, show_note
from ptychopinn_plugin.cli.options import (
    READING,
    AsJson,
    BackendName,
    Given,
    Output,
    Section,
    takes_settings,
)
from ptychopinn_plugin.cli.outputs import staged_outputs, write_json
from ptychopinn_plugin.cli.progress import ProgressDisplay
from ptychopinn_plugin.cli.provenance import describe_run, with_relative_paths, without_paths
from ptychopinn_plugin.cli.ranks import Devices, computing_together, leave, several_processes
from ptychopinn_plugin.cli.settings import assemble_config
from ptychopinn_plugin.cli.signals import finishing
from ptychopinn_plugin.config import InferenceConfig, RefinementConfig
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.text import count

if TYPE_CHECKING:
    from collections.abc import Callable

    from ptychopinn_plugin.data import Reconstruction, Scan
    from ptychopinn_plugin.evaluation import Evaluation
    from ptychopinn_plugin.model_file import Model

RECONSTRUCTION_FILES = (
    'reconstruction.npz',
    'product.h5',
    'reconstruction.png',
    'timing.json',
    'metrics.json',
)

ScanArgument = Annotated[Path, typer.Argument(metavar='SCAN', help='The scan to reconstruct.')]


REFINEMENT = Section(
    'refinement',
    RefinementConfig,
    'Refinement',
    options={
        'iterations': 'refine',
        'probe': 'refine-probe',
        'positions': 'refine-positions',
        'position_scale': 'refine-position-scale',
        'intensities': 'refine-intensities',
        'opr_modes': 'opr-modes',
        'batch_size': 'refine-batch-size',
        'seed': 'refine-seed',
    },
)


@takes_settings(
    REFINEMENT,
    Section('inference', InferenceConfig, 'Inference'),
    READING,
)
def reconstruct_command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar='[MODEL] SCAN',
            help='A model file, wts.h5.zip, and the scan. Without a model, the one that comes '
            'with the package is used.',
        ),
    ],
    output: Output,
    backend: BackendName = None,
    devices: Devices = None,
    as_json: AsJson = False,
    *,
    given: Given,
) -> None:
    """Reconstruct a scan with a network, and refine the object by iterations.

    Without a MODEL the built-in one is used, which needs no training: a learned prior that corrects
    the object between iterations. Settings that are not given are those of the model. The results
    are reconstruction.npz (object, origin_px, coverage), product.h5 (for Ptychodus),
    reconstruction.png, timing.json (seconds) and metrics.json.

    \b
    Examples:
      ptychopinn reconstruct scan.npz -o result
      ptychopinn reconstruct run/wts.h5.zip scan.npz -o result
      ptychopinn reconstruct run/wts.h5.zip scan.npz --refine 0 -o network-alone
      ptychopinn reconstruct run/wts.h5.zip scan.npz --refine 100 -o result
    """
    model, scan = _split(paths)
    with several_processes(devices):
        values, lines = reconstruct_into(output, model, scan, backend, given)
        report(values, lines, as_json=as_json)


@takes_settings(
    Section(
        'refinement',
        RefinementConfig,
        'Refinement',
        options={
            'probe': 'refine-probe',
            'positions': 'refine-positions',
            'position_scale': 'refine-position-scale',
            'intensities': 'refine-intensities',
            'opr_modes': 'opr-modes',
        },
    ),
    READING,
)
def refine_command(
    scan: ScanArgument,
    output: Output,
    backend: BackendName = None,
    device: Annotated[
        str, typer.Option(metavar='NAME', help='auto, cpu, cuda, cuda:1, mps.')
    ] = 'auto',
    devices: Devices = None,
    as_json: AsJson = False,
    *,
    given: Given,
) -> None:
    """Reconstruct a scan without a model, by iterations from a flat object: the honest baseline.

    The results are the same files as those of `reconstruct`.

    \b
    Examples:
      ptychopinn refine scan.npz --iterations 100 -o flat-start
      ptychopinn refine scan.npz --iterations 200 --refine-probe -o flat-start
      ptychopinn refine scan.npz --iterations 100 --refine-positions -o flat-start
    """
    with several_processes(devices):
        values, lines = refine_into(output, scan, backend, device, given)
        report(values, lines, as_json=as_json)


def refine_into(
    output: Path, scan: Path, backend: str | None, device: str, given: Given
) -> tuple[dict[str, Any], list[str]]:
    """Iterate from a flat object; return what to report. See `refine_command`."""
    from ptychopinn_plugin import api
    from ptychopinn_plugin.backends.selection import choose

    watch = RunTimer()
    with staged_outputs(output, RECONSTRUCTION_FILES) as stage, collecting_notes() as shown:
        config = assemble_config(given)
        choice = choose(backend)
        with computing_together(choice) as ranks:
            read = _read(scan, given)
            run = describe_run('refine', scan, None, choice.name, config, given)
            # `reproduce` needs the device as it was requested; the result names the one used.
            run['asked_device'] = device
            watch.loaded()
            with ProgressDisplay() as observer:
                result = api.refine(
                    read, config.refinement, backend=choice, device=device, observer=observer
                )
            leave(ranks)
            return _finish(stage, output, result, read, watch, run, shown)


def _split(paths: list[Path]) -> tuple[Path, Path]:
    """Return the model and the scan; without a model, the built-in one."""
    from ptychopinn_plugin.model_file import is_model_file
    from ptychopinn_plugin.opening import BUILT_IN_KEYWORD

    if len(paths) > 2:
        raise DataError(
            f'Give a model and one scan, or a scan alone; got {count(len(paths), "file")}: '
            f'{", ".join(map(str, paths))}.'
        )
    model, scan = paths if len(paths) == 2 else (Path(BUILT_IN_KEYWORD), paths[0])
    if is_model_file(scan) or (str(scan) == BUILT_IN_KEYWORD and not scan.exists()):
        raise DataError(
            f'{scan} is a model; the scan to reconstruct is missing. Write: ptychopinn reconstruct '
            f'{scan} SCAN.'
            if len(paths) == 1
            else f'{scan} is a model; the scan comes last: ptychopinn reconstruct MODEL SCAN.'
        )
    return model, scan


def _everything(scan: 'Scan') -> 'Scan':
    return scan


def reconstruct_into(
    output: Path,
    model: 'Path | Model',
    scan: Path,
    backend: str | None,
    given: Given,
    select: 'Callable[[Scan], Scan]' = _everything,
) -> tuple[dict[str, Any], list[str]]:
    """Reconstruct a scan, or what `select` leaves of it; return what to report.

    Parameters
    ----------
    output : Path
    model : Path or Model
    scan : Path
    backend : str, optional
    given : dict of dict
        The sections 'reading', 'inference' and 'refinement'.
    select : callable
    """
    with staged_outputs(output, RECONSTRUCTION_FILES) as stage:
        return reconstruct_staged(stage, output, model, scan, backend, given, select)


def reconstruct_staged(
    stage: Path,
    output: Path,
    model: 'Path | Model',
    scan: Path,
    backend: str | None,
    given: Given,
    select: 'Callable[[Scan], Scan]' = _everything,
) -> tuple[dict[str, Any], list[str]]:
    """Reconstruct a scan as `reconstruct_into` does, into files of `stage` that move to `output`.

    Parameters
    ----------
    stage, output : Path
    model, scan, backend, given, select
        As in `reconstruct_into`.
    """
    from ptychopinn_plugin import api
    from ptychopinn_plugin.backends.selection import choose

    watch = RunTimer()
    with collecting_notes() as shown:
        opened = (
            api.open_model(model, with_training_state=False) if isinstance(model, Path) else model
        )
        config = assemble_config(given, base=opened.config.to_dict())
        # A backend that is missing ends the command here, and not after minutes of reading.
        choice = choose(backend, model_backend=opened.backend)
        with computing_together(choice) as ranks:
            # An object in the file is shown beside the one found, and must lie where that does.
            fitted = select(_read(scan, given, opened))
            command = 'reconstruct' if select is _everything else 'ptycho-inference'
            run = describe_run(command, scan, model, choice.name, config, given)
            watch.loaded()
            with ProgressDisplay() as observer:
                result = api.reconstruct_fitted(
                    choice, opened, fitted, config.inference, config.refinement, observer
                )
            leave(ranks)
            return _finish(stage, output, result, fitted, watch, run, shown)


@dataclass
class RunTimer:
    """Measures what happens outside the backend."""

    started: float = 0.0
    load: float = 0.0

    def __post_init__(self) -> None:
        self.started = time.perf_counter()

    def loaded(self) -> None:
        """Note that everything is read."""
        self.load = time.perf_counter() - self.started

    def timing(self, result: 'Reconstruction', patterns: int) -> dict[str, float | None]:
        """Return the seconds of each part, and the threads of the processor at the end.

        `total` holds the start of the framework as well.
        """
        parts = {name: result.timing.get(name, 0.0) for name in ('predict', 'stitch', 'refine')}
        parts['judge'] = result.timing.get('judge', 0.0)
        # A learned prior sees the object, and no patterns.
        network = parts['predict'] + parts['stitch'] if 'stitch' in result.timing else 0.0
        return {
            'load': self.load,
            **parts,
            'total': time.perf_counter() - self.started,
            'patterns_per_second': patterns / network if network > 0 else None,
            'threads': result.threads,
        }


def _read(path: Path, given: Given, model: 'Model | None' = None) -> 'Scan':
    """Return a scan, as the model takes it where there is one, and show its notes."""
    from ptychopinn_plugin.data.single_shots import alone_where_apart

    scan = alone_where_apart(*read_scans([path], given))
    fitted = scan if model is None else model.fitted(scan)
    show_notes([fitted])
    return fitted


def _finish(
    stage: Path,
    folder: Path,
    result: 'Reconstruction',
    scan: 'Scan',
    watch: RunTimer,
    run: dict[str, Any],
    shown: list[str],
) -> tuple[dict[str, Any], list[str]]:
    """Write every file of a reconstruction to `stage`; return what to report of `folder`."""
    from ptychopinn_plugin.backends.common.diagnostics import (
        fit_in_words,
        points_to_a_fault,
        unknown_probe_in_words,
    )
    from ptychopinn_plugin.backends.common.iteration_plan import Course
    from ptychopinn_plugin.data import write_product, write_reconstruction
    from ptychopinn_plugin.data.pattern_fit import outliers_in_words
    from ptychopinn_plugin.physics import uncertainty_in_words
    from ptychopinn_plugin.plots import plot_reconstruction

    timing = watch.timing(result, len(result.positions_px))
    evaluation = _compare(result, scan)
    made = result.provenance
    metrics = _measure(result, scan, evaluation)
    metrics['notes'] = notes_by_scan(shown, [scan.name])
    metrics['provenance'] = {**made, **with_relative_paths(run, folder)}
    # These are passed on: whose folders the files lay in is nobody's business.
    result = dataclasses.replace(result, provenance={**made, **without_paths(run)})
    with finishing():
        write_reconstruction(stage / 'reconstruction.npz', result)
        write_product(stage / 'product.h5', result)
        plot_reconstruction(result, stage / 'reconstruction.png', truth=scan.object_)
        write_json(stage / 'timing.json', timing)
        write_json(stage / 'metrics.json', metrics)
    values = {
        'output': folder,
        'files': list(RECONSTRUCTION_FILES),
        'timing': timing,
        'metrics': metrics,
        'notes': metrics['notes'],
    }
    # The first likelihood is that of the start.
    iterations = len(result.likelihoods) - 1
    fit = fit_in_words(
        result.misfit,
        iterations,
        is_single_shot=result.is_single_shot,
        is_near_field=scan.geometry.is_near_field,
        beam_variation=result.beam_variation,
    )
    course = Course.of_result(made)
    outliers = () if result.pattern_fit is None else result.pattern_fit.outliers
    unfit = outliers_in_words(outliers, result.dropped)
    is_faulty = points_to_a_fault(result.misfit, iterations)
    sure = uncertainty_in_words(result.typical_std(), points_to_a_fault=is_faulty)
    ended = '' if course is None else course.in_words()
    unknown = unknown_probe_in_words(
        is_known=result.is_probe_known, is_single_shot=result.is_single_shot
    )
    return values, _summary(values, evaluation, [ended, sure, unfit, fit, unknown])


def _measure(
    result: 'Reconstruction', scan: 'Scan', evaluation: 'Evaluation | None'
) -> dict[str, Any]:
    moves, typical = result.position_moves(), result.typical_std()
    return {
        'scan': scan.name,
        'backend': result.backend,
        'patterns': len(result.positions_px),
        'patterns_left_out': len(scan) - len(result.positions_px),
        'object_shape_px': list(result.object_.shape),
        'probe_known': result.is_probe_known,
        'amplitude_residual': result.amplitude_residual,
        'misfit': None if result.misfit is None else result.misfit.to_dict(),
        'pattern_fit': None if result.pattern_fit is None else result.pattern_fit.to_dict(),
        'dropped': [outlier.to_dict() for outlier in result.dropped],
        'uncertainty': None
        if typical is None
        else {'median_amplitude_std': typical[0], 'median_phase_std_rad': typical[1]},
        'beam': _describe_beam(result),
        'probe_variation': _describe_variation(result),
        'position_moves': None if moves is None else moves.to_dict(),
        'likelihoods': list(result.likelihoods),
        'evaluation': None if evaluation is None else evaluation.to_dict(),
    }


def _describe_beam(result: 'Reconstruction') -> dict[str, float] | None:
    """Return how the beam's intensity varies, where it was refined or was found steady."""
    import numpy as np

    if result.intensities is None:
        varies = result.beam_variation
        return None if varies is None else {'log_intensity_std': varies}
    logs, among = np.log(result.intensities), result.intensities
    return {
        'log_intensity_std': float(logs.std()),
        'least': float(among.min()),
        'most': float(among.max()),
    }


def _describe_variation(result: 'Reconstruction') -> dict[str, float] | None:
    """Return by how much of its amplitude the probe varies from pattern to pattern."""
    variation = result.probe_variation
    if variation is None:
        return None
    return {'eigenmodes': variation.n_eigenmodes, 'rms': variation.rms(result.probe)}


def _compare(result: 'Reconstruction', scan: 'Scan') -> 'Evaluation | None':
    """Compare with the object in the scan file, where there is one to compare with."""
    from ptychopinn_plugin.evaluation import evaluate

    if scan.object_ is None:
        return None
    try:
        return evaluate(result, scan)
    except DataError as error:
        # A scan of a few positions can be reconstructed all the same.
        show_note(f'{scan.name}: not compared with its own object: {error}')
        return None


def _moves_words(moves: dict[str, float]) -> str:
    return (
        f'positions moved by {moves["rms_px"]:.2f} px RMS, {moves["largest_px"]:.2f} px at most; '
        f'in common: scale {moves["scale_y"]:.4f} in y and {moves["scale_x"]:.4f} in x, rotation '
        f'{moves["rotation_deg"]:.2f} degrees, shear {moves["shear_deg"]:.2f} degrees'
    )


def _summary(
    values: dict[str, Any], evaluation: 'Evaluation | None', notes_of_run: list[str]
) -> list[str]:
    timing, metrics = values['timing'], values['metrics']
    height, width = metrics['object_shape_px']
    rate = timing['patterns_per_second']
    patterns = count(metrics['patterns'], 'pattern')
    if metrics['patterns_left_out']:
        patterns += f' ({metrics["patterns_left_out"]} left out)'
    parts = [f'reading {duration_in_words(timing["load"])}']
    if timing['predict']:
        parts.append(f'network {duration_in_words(timing["predict"])}')
    if rate is not None:
        parts.append(f'stitching {duration_in_words(timing["stitch"])} ({rate:,.0f} patterns/s)')
    parts.append(f'refinement {duration_in_words(timing["refine"])}')
    parts.append(f'in all {duration_in_words(timing["total"])}')
    if timing['threads'] is not None:
        parts.append(count(timing['threads'], 'thread'))
    lines = [
        f'Reconstructed {patterns} of {metrics["scan"]} with '
        f'{metrics["backend"]}: {height} x {width} px, '
        f'amplitude residual {metrics["amplitude_residual"]:.4g}',
        f'time: {", ".join(parts)}',
    ]
    lines[1:1] = filter(None, notes_of_run)
    beam = metrics['beam']
    if beam is not None and 'least' in beam:
        lines.append(
            f"the beam's intensity varies by {beam['log_intensity_std']:.2%} (standard deviation), "
            f'from {beam["least"]:.3f} to {beam["most"]:.3f} of its mean'
        )
    variation = metrics['probe_variation']
    if variation is not None:
        lines.append(
            f'the probe varies by {variation["rms"]:.2%} of its amplitude from pattern to pattern, '
            f'in {count(int(variation["eigenmodes"]), "eigenmode")}'
        )
    if metrics['position_moves'] is not None:
        lines.append(_moves_words(metrics['position_moves']))
    if evaluation is not None:
        lines.append('against the object in the scan file:')
        lines += [f'  {line}' for line in summarize_evaluation(evaluation)]
    return [*lines, f'written to {values["output"]}: {", ".join(RECONSTRUCTION_FILES)}']
