"""`ptychopinn demo`: simulate, train, reconstruct and compare, with a report to look at."""

import time
from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptychopinn_plugin._version import __version__
from ptychopinn_plugin.cli.common import duration_in_words, report
from ptychopinn_plugin.cli.options import AsJson, BackendName, Output
from ptychopinn_plugin.cli.outputs import (
    MODEL_FILE,
    staged_outputs,
    write_history,
    write_json,
    write_text,
)
from ptychopinn_plugin.cli.progress import ProgressDisplay
from ptychopinn_plugin.cli.settings import run_to_toml
from ptychopinn_plugin.cli.single_shots import (
    BUILT_IN_ROW,
    FLAT_ROW,
    PICTURE_FILE,
    SCAN_FILE,
    introduce,
    show_single_shots,
)
from ptychopinn_plugin.config import Config, RefinementConfig, TrainingConfig
from ptychopinn_plugin.errors import ConfigError
from ptychopinn_plugin.text import ENDS, count

if TYPE_CHECKING:
    from ptychopinn_plugin.api import BackendChoice
    from ptychopinn_plugin.backends.protocol import TrainingResult
    from ptychopinn_plugin.backends.selection import Choice
    from ptychopinn_plugin.data import Reconstruction, Scan
    from ptychopinn_plugin.evaluation import Evaluation

DEMO_FILES = (
    MODEL_FILE,
    'losses.csv',
    'training.png',
    'config.toml',
    'train-simulated.npz',
    'test-simulated.npz',
    SCAN_FILE,
    PICTURE_FILE,
    'reconstruction.npz',
    'product.h5',
    'reconstruction.png',
    'comparison.png',
    'frc.png',
    'metrics.json',
    'report.html',
)

DEMO_ITERATIONS = 30
"""The refinement has this number of iterations, and so has the flat start beside it."""

NETWORK, HYBRID = 'network', 'network_and_iterations'

_NO_PASS = (
    ', but these illuminations overlap so well, and are so bright, that the data decide '
    'everything: its plan is iterations alone'
)
"""The report goes on with this where the built-in model was not applied."""

LEVEL = 0.02
"""The report calls a smaller difference of SSIM level."""


def demo_command(
    output: Output,
    backend: BackendName = None,
    seed: Annotated[
        int, typer.Option(min=0, help='Seed of the objects, the noise and the training.')
    ] = 1,
    max_minutes: Annotated[
        float, typer.Option(help='Minutes of training (target included).')
    ] = 3.5,
    refine: Annotated[
        int, typer.Option(min=1, help='Iterations, from the network and from a flat object.')
    ] = DEMO_ITERATIONS,
    training_patterns: Annotated[
        int, typer.Option(min=16, help='Patterns of the training scan.')
    ] = 2025,
    test_patterns: Annotated[
        int, typer.Option(min=16, help='Patterns of the scan that the network has never seen.')
    ] = 1024,
    single_shots: Annotated[
        int, typer.Option(min=4, help='Patterns that share nothing; a square number.')
    ] = 36,
    as_json: AsJson = False,
) -> None:
    """Reconstruct patterns one by one; then simulate two scans, train on one, and compare.

    First the built-in model reconstructs patterns that share nothing, beside iterations alone. It
    ends within seven minutes on two cores and leaves report.html (one page with everything),
    wts.h5.zip, losses.csv, training.png, config.toml, reconstruction.npz, product.h5,
    reconstruction.png, comparison.png, single-shots.png, frc.png, metrics.json, and the scans
    single-shots.npz, train-simulated.npz and test-simulated.npz, to repeat each step by hand.
    Ctrl-C ends the training and goes on with the best model so far.

    \b
    Examples:
      ptychopinn demo -o demo
      ptychopinn demo -o quick --max-minutes 0.5
      ptychopinn demo -o other --seed 3 --max-minutes 9
    """
    started = time.perf_counter()
    config = Config(
        training=TrainingConfig(seed=seed, max_minutes=max_minutes),
        refinement=RefinementConfig(iterations=refine),
    )
    with staged_outputs(output, DEMO_FILES, rescue=MODEL_FILE) as stage:
        # A backend that is missing ends the demo at once, and not after its simulation.
        choice = _choose(backend)
        # The picture shows them in a square.
        if isqrt(single_shots) ** 2 != single_shots:
            raise ConfigError(f'--single-shots must be a square number; got {single_shots}.')
        # First, as it needs no training: there is a picture long before the network is ready.
        alone = show_single_shots(stage, choice, seed, single_shots)
        training, test = _simulate(seed, training_patterns, test_patterns)
        result = _train(training, config, choice)
        _write_training(stage, result)
        _write_scans(stage, training, test)
        values = show(stage, result, test, choice, alone, started=started)
    values = {'output': output, 'files': list(DEMO_FILES), **values}
    report(values, _summary(values, output), as_json=as_json)


def show(
    stage: Path,
    result: 'TrainingResult',
    test: 'Scan',
    backend: 'BackendChoice',
    alone: Mapping[str, Any],
    *,
    started: float,
) -> dict[str, Any]:
    """Reconstruct a scan with and without a trained model, and write all about it to a folder.

    Parameters
    ----------
    stage : Path
        Holds `training.png` already.
    result : TrainingResult
    test : Scan
        With its object.
    backend : str or Choice
    alone : mapping
        What `show_single_shots` returned.
    started : float
        When the run began, by `time.perf_counter`.

    Returns
    -------
    dict
        What `metrics.json` holds.
    """
    found = _reconstruct(result, test, backend)
    evaluations = _evaluate(found, test)
    _write_results(stage, found, evaluations, test)
    values = {**_metrics(found, evaluations, result, test), 'single_shots': alone}
    values['total_seconds'] = time.perf_counter() - started
    write_json(stage / 'metrics.json', values)
    _write_report(stage, values, result.model.config)
    return values


def _choose(name: str | None) -> 'Choice':
    from ptychopinn_plugin.backends.selection import choose

    return choose(name)


def _announce(text: str) -> None:
    typer.echo(text, err=True)


def _simulate(seed: int, training_patterns: int, test_patterns: int) -> tuple['Scan', 'Scan']:
    from ptychopinn_plugin.data.simulation import SimulationConfig, simulate

    _announce(
        f'Simulating a scan of {count(training_patterns, "pattern")} to train on, and one of '
        f'{test_patterns:,} of another object'
    )
    training = simulate(SimulationConfig(seed=seed, n_positions=training_patterns))
    # Another seed makes another object: on its own one, a network that has learned it by heart
    # would look as good as one that has learned to infer.
    return training, simulate(SimulationConfig(seed=seed + 1, n_positions=test_patterns))


def _train(scan: 'Scan', config: Config, backend: 'Choice') -> 'TrainingResult':
    from ptychopinn_plugin import api

    _announce(f'Training with {backend.name} for {config.training.max_minutes:g} min')
    with ProgressDisplay() as observer:
        return api.train(scan, config, backend=backend, observer=observer)


def _write_training(stage: Path, result: 'TrainingResult') -> None:
    """Write the model first: it is what took long."""
    from ptychopinn_plugin.model_file import write_model
    from ptychopinn_plugin.plots import plot_training

    write_model(stage / MODEL_FILE, result.model)
    write_history(stage / 'losses.csv', result.history)
    write_text(stage / 'config.toml', run_to_toml(result.model, {}))
    plot_training(result.history, stage / 'training.png')


def _write_scans(stage: Path, training: 'Scan', test: 'Scan') -> None:
    from ptychopinn_plugin.data import write_scan

    write_scan(stage / 'train-simulated.npz', training)
    write_scan(stage / 'test-simulated.npz', test)


def _reconstruct(
    result: 'TrainingResult', scan: 'Scan', backend: 'BackendChoice'
) -> dict[str, 'Reconstruction']:
    from ptychopinn_plugin import api

    model, iterations = result.model, result.model.config.refinement
    _announce(f'Reconstructing {count(len(scan), "pattern")} that the network has never seen')
    with ProgressDisplay() as observer:
        built_in = api.reconstruct(None, scan, backend=backend, observer=observer)
        # The same iterations follow from the network and from a flat object, so that what differs
        # at the end is what the network gives.
        unrefined = iterations.replace(iterations=0)
        alone = api.reconstruct(
            model, scan, refinement=unrefined, backend=backend, observer=observer
        )
        hybrid = api.reconstruct(model, scan, backend=backend, observer=observer)
        flat = api.refine(scan, iterations, backend=backend, observer=observer)
    return {BUILT_IN_ROW: built_in, NETWORK: alone, HYBRID: hybrid, FLAT_ROW: flat}


def _evaluate(found: Mapping[str, 'Reconstruction'], scan: 'Scan') -> dict[str, 'Evaluation']:
    from ptychopinn_plugin.evaluation import evaluate

    return {name: evaluate(reconstruction, scan) for name, reconstruction in found.items()}


def _has_passes(built_in: 'Reconstruction') -> bool:
    """Return whether the built-in model was applied, which it is not where the data decide."""
    from ptychopinn_plugin.backends.common.iteration_plan import Course

    course = Course.of_result(built_in.provenance)
    # A pass lies between two blocks of iterations.
    return course is None or len(course.planned) > 1


def _titles(found: Mapping[str, 'Reconstruction'], iterations: int) -> dict[str, str]:
    # Without a pass, what the picture shows is no merit of the model.
    built_in = 'no training' if _has_passes(found[BUILT_IN_ROW]) else 'iterations alone'
    return {
        BUILT_IN_ROW: f'built-in model, {built_in}',
        NETWORK: 'network alone',
        HYBRID: f'network + {count(iterations, "iteration")}',
        FLAT_ROW: f'flat start + {count(iterations, "iteration")}',
    }


def _metrics(
    found: Mapping[str, 'Reconstruction'],
    evaluations: Mapping[str, 'Evaluation'],
    result: 'TrainingResult',
    scan: 'Scan',
) -> dict[str, Any]:
    """Return what `metrics.json` holds."""
    from ptychopinn_plugin.cli.doctor import describe_machine

    iterations = result.model.config.refinement.iterations
    assert iterations is not None, 'the command sets it'
    titles = _titles(found, iterations)
    provenance = dict(result.model.provenance)
    return {
        'version': __version__,
        'seed': result.model.config.training.seed,
        'machine': describe_machine(),
        'training': {
            'backend': result.model.backend,
            'patterns': result.model.data_summary.get('patterns'),
            'epochs': len(result.history),
            'stopped': result.stopped,
            **provenance,
        },
        'test_patterns': len(scan),
        'built_in_has_passes': _has_passes(found[BUILT_IN_ROW]),
        'iterations': iterations,
        'results': {
            name: {
                'title': titles[name],
                **_measure(reconstruction, evaluations[name], len(scan)),
            }
            for name, reconstruction in found.items()
        },
    }


def _measure(found: 'Reconstruction', evaluation: 'Evaluation', n_patterns: int) -> dict[str, Any]:
    timing = dict(found.timing)
    # The laps of the result leave out how long the framework takes to start, which the first
    # reconstruction alone would bear.
    seconds = sum(timing.values())
    return {
        'amplitude_ssim': evaluation.amplitude.ssim,
        'phase_ssim': evaluation.phase.ssim,
        'frc_0.5': evaluation.ring_correlation.crossing(0.5),
        'amplitude_residual': found.amplitude_residual,
        'seconds': seconds,
        'patterns_per_second': n_patterns / seconds if seconds > 0 else None,
        'timing': timing,
        'likelihoods': list(found.likelihoods),
        'evaluation': evaluation.to_dict(),
    }


def _write_results(
    stage: Path,
    found: Mapping[str, 'Reconstruction'],
    evaluations: Mapping[str, 'Evaluation'],
    scan: 'Scan',
) -> None:
    from ptychopinn_plugin.data import write_product, write_reconstruction
    from ptychopinn_plugin.plots import (
        plot_comparison,
        plot_reconstruction,
        plot_ring_correlations,
    )

    # The files hold what a user is to repeat: `reconstruct` with the network that was trained.
    best = found[HYBRID]
    write_reconstruction(stage / 'reconstruction.npz', best)
    write_product(stage / 'product.h5', best)
    plot_reconstruction(best, stage / 'reconstruction.png', truth=scan.object_)
    titles = _titles(found, max(0, len(best.likelihoods) - 1))
    images = {}
    for name, evaluation in evaluations.items():
        figures = _measure(found[name], evaluation, len(scan))
        title = (
            f'{titles[name]}, {figures["seconds"]:.1f} s\n'
            f'SSIM {figures["amplitude_ssim"]:.2f} (amplitude), {figures["phase_ssim"]:.2f} (phase)'
            f'\nFRC-0.5 at {figures["frc_0.5"]:.2f} of Nyquist'
        )
        images[title] = evaluation.image
    plot_comparison(evaluations[HYBRID].truth, images, stage / 'comparison.png')
    curves = {titles[name]: evaluation.ring_correlation for name, evaluation in evaluations.items()}
    plot_ring_correlations(curves, stage / 'frc.png')


def _write_report(stage: Path, values: Mapping[str, Any], config: Config) -> None:
    from ptychopinn_plugin.cli.report import Picture, ReportPage, write_report

    report_ = ReportPage(
        title='A network that has never seen this object',
        opening=(
            introduce(values['single_shots']),
            Picture(stage / PICTURE_FILE, 'Amplitudes of patches from single patterns.'),
        ),
        introduction=_introduction(values),
        rows=list(values['results'].values()),
        comparison=Picture(
            stage / 'comparison.png', 'The truth and four reconstructions, with the same limits.'
        ),
        pictures={
            'Network and iterations': Picture(
                stage / 'reconstruction.png',
                'Amplitude, phase and coverage of reconstruction.npz, with truth and error below.',
            ),
            'Fineness': Picture(
                stage / 'frc.png', 'Agreement with the truth by spatial frequency.', narrow=True
            ),
            'Training': Picture(
                stage / 'training.png',
                'Losses of each epoch; the best by validation loss is kept.',
                narrow=True,
            ),
        },
        facts=_facts(values),
        settings=config.to_dict(),
    )
    write_report(stage / 'report.html', report_)


def _introduction(values: Mapping[str, Any]) -> str:
    training, iterations = values['training'], count(values['iterations'], 'iteration')
    return (
        f'Then a network was trained on {count(training["patterns"], "simulated pattern")} of one '
        f'object, without labels, in {duration_in_words(training["seconds"])}. Here it sees '
        f'{count(values["test_patterns"], "pattern")} of another object: alone, followed by '
        f'{iterations} over the stitched object, and, for comparison, the same {iterations} from a '
        f'flat start, which need no network. The built-in model needs no training either'
        f'{"" if values["built_in_has_passes"] else _NO_PASS}. '
        f'{_verdict(values["results"])}'
    )


def _verdict(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return in words which start ended ahead, as measured and whichever it is."""
    hybrid, flat = results[HYBRID], results[FLAT_ROW]
    gain = hybrid['phase_ssim'] - flat['phase_ssim']
    ahead = 'the start from the network' if gain > 0 else 'the flat start'
    found = 'both starts end level' if abs(gain) < LEVEL else f'{ahead} ends ahead'
    return (
        f'In this run {found}: phase SSIM {hybrid["phase_ssim"]:.2f} with the network and '
        f'{flat["phase_ssim"]:.2f} without, amplitude SSIM {hybrid["amplitude_ssim"]:.2f} and '
        f'{flat["amplitude_ssim"]:.2f}.'
    )


def _facts(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    machine, training = values['machine'], values['training']
    return {
        'Run': {
            'backend': training['backend'],
            'device': training.get('device', 'unknown'),
            'seed': values['seed'],
            'training patterns': training['patterns'],
            'epochs': training['epochs'],
            'training ended, as': ENDS[training['stopped']],
            'best validation loss': training.get('best_loss', 'unknown'),
            'training, target included': duration_in_words(training['seconds']),
            'whole demo': duration_in_words(values['total_seconds']),
            'trained at': training.get('created', 'unknown'),
        },
        'Versions and machine': {
            'ptychopinn-plugin': values['version'],
            'framework': training.get('framework', 'unknown'),
            'Python': machine['python']['version'],
            'platform': machine['platform'],
            'CPU': f'{machine["cpu"]["name"]}, {count(machine["cpu"]["cores"], "core")}',
            'memory': 'unknown' if machine['memory_gb'] is None else f'{machine["memory_gb"]} GB',
        },
    }


def _summary(values: Mapping[str, Any], output: Path) -> list[str]:
    alone, rows = values['single_shots'].values(), values['results'].values()
    width = max(len(row['title']) for row in rows)
    heads = ('amplitude SSIM', 'phase SSIM', 'FRC-0.5', 'seconds', 'patterns/s')
    lines = [' ' * width + ''.join(f'  {head}' for head in heads)]
    for row in rows:
        rate = row['patterns_per_second']
        cells = (
            f'{row["amplitude_ssim"]:.3f}',
            f'{row["phase_ssim"]:.3f}',
            f'{row["frc_0.5"]:.3f}',
            f'{row["seconds"]:.2f}',
            '-' if rate is None else f'{rate:,.0f}',
        )
        aligned = (f'  {cell:>{len(head)}}' for cell, head in zip(cells, heads, strict=True))
        lines.append(f'{row["title"]:{width}}{"".join(aligned)}')
    single = ', '.join(f'{row["title"]} {row["amplitude_ssim"]:.3f}' for row in alone)
    return [
        f'patterns one by one, amplitude SSIM: {single}',
        *lines,
        f'ended after {duration_in_words(values["total_seconds"])}; look at '
        f'{output / "report.html"}',
        f'next: ptychopinn train SCAN --output DIR, or reconstruct {output / MODEL_FILE} SCAN',
    ]
