"""`reconstruct` and `refine`: what they request, and what they leave. The backend is a blank."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptychopinn_plugin import api
from ptychopinn_plugin.cli.log import notes_by_scan
from ptychopinn_plugin.data import Reconstruction, Scan, read_reconstruction, write_scan
from ptychopinn_plugin.data.pattern_fit import Outlier, PatternFit
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.model_file import Model, read_model

FILES = ['metrics.json', 'product.h5', 'reconstruction.npz', 'reconstruction.png', 'timing.json']


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / 'result'


def test_leaves_every_file(
    run: Any, backend: Any, model_file: Path, scan_file: Path, folder: Path
) -> None:
    done = run('reconstruct', model_file, scan_file, '-o', folder, '--refine', 3)
    assert done.code == 0, done.err
    assert sorted(path.name for path in folder.iterdir()) == FILES
    with np.load(folder / 'reconstruction.npz') as archive:
        assert archive['object'].dtype == np.complex64
        assert archive['origin_px'].shape == (2,)
        assert archive['coverage'].shape == archive['object'].shape
    with h5py.File(folder / 'product.h5') as file:
        assert 'object' in file
    timing = json.loads((folder / 'timing.json').read_text())
    assert set(timing) == {
        *('load', 'predict', 'stitch', 'refine', 'total', 'patterns_per_second', 'threads'),
        'judge',
    }
    assert timing['patterns_per_second'] == pytest.approx(36 / 0.25)
    metrics = json.loads((folder / 'metrics.json').read_text())
    assert metrics['amplitude_residual'] == 0.125
    assert len(metrics['likelihoods']) == 4
    assert metrics['backend'] == 'blank'
    assert metrics['evaluation']['phase']['ssim'] == pytest.approx(1)
    assert '144 patterns/s' in done.out
    assert 'phase: SSIM 1.000' in done.out


def test_the_script_of_ptychopinn_opens_the_model_once(
    run: Any,
    backend: Any,
    model_file: Path,
    scan_file: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[Path] = []

    def open_model(path: Path, **options: bool) -> Model:
        opened.append(path)
        return read_model(path, **options)

    monkeypatch.setattr(api, 'open_model', open_model)
    files = ('--model_path', model_file, '--test_data_file', scan_file, '--output_dir', folder)
    done = run('ptycho-inference', *files, '--gridsize', 3)
    assert 'gridsize = 3 has no effect' in done.err
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert opened == [model_file]


def test_settings_are_those_of_the_model_unless_given(
    run: Any, backend: Any, model_file: Path, scan_file: Path, folder: Path
) -> None:
    run(
        *('reconstruct', model_file, scan_file, '-o', folder, '--refine', 0, '--refine-probe'),
        *('--batch-size', 5, '--refine-batch-size', 6, '--no-phase-synchronization'),
        *('--intensity-scale', 'scan', '--device', 'cpu'),
    )
    inference, refinement = backend.requested['inference'], backend.requested['refinement']
    assert (inference.batch_size, inference.phase_synchronization) == (5, False)
    assert (inference.intensity_scale, inference.device) == ('scan', 'cpu')
    assert (refinement.iterations, refinement.probe, refinement.batch_size) == (0, True, 6)
    assert refinement.seed == 0


def test_scan_of_another_size_is_fitted_and_said_so(
    run: Any, backend: Any, model_file: Path, tmp_path: Path, folder: Path
) -> None:
    large = simulate(SimulationConfig(size=48, rows=8, columns=8, step_px=5.0))
    write_scan(tmp_path / 'large.npz', large)
    done = run('reconstruct', model_file, tmp_path / 'large.npz', '-o', folder)
    assert backend.requested['scan'].pattern_shape == (32, 32)
    assert '32 x 32' in done.err
    # The truth is brought into the coordinates of the reconstruction.
    compared = run('evaluate', folder / 'reconstruction.npz', tmp_path / 'large.npz', '--json')
    assert compared.code == 0, compared.err
    assert json.loads(compared.out)['phase']['ssim'] > 0.99


def test_refine_needs_no_model(run: Any, backend: Any, scan_file: Path, folder: Path) -> None:
    done = run('refine', scan_file, '-o', folder, '--iterations', 4, '--batch-size', 7)
    assert done.code == 0, done.err
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert (
        backend.requested['refinement'].iterations,
        backend.requested['refinement'].batch_size,
    ) == (
        4,
        7,
    )
    assert len(read_reconstruction(folder / 'reconstruction.npz').likelihoods) == 5


def test_json_is_all_of_stdout(
    run: Any, backend: Any, model_file: Path, scan_file: Path, folder: Path
) -> None:
    values = json.loads(run('reconstruct', model_file, scan_file, '-o', folder, '--json').out)
    assert sorted(values['files']) == FILES
    assert values['output'] == str(folder)
    assert values['metrics']['patterns'] == 36


def test_a_scan_too_small_to_compare_is_reconstructed(
    run: Any, backend: Any, model_file: Path, tmp_path: Path, folder: Path
) -> None:
    small: Scan = simulate(SimulationConfig(size=32, rows=2, columns=2, step_px=3.0))
    write_scan(tmp_path / 'small.npz', small)
    done = run('reconstruct', model_file, tmp_path / 'small.npz', '-o', folder)
    assert done.code == 0
    assert 'not compared' in done.err
    assert json.loads((folder / 'metrics.json').read_text())['evaluation'] is None


def test_patterns_that_do_not_fit_are_told(
    run: Any,
    backend: Any,
    scan_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = Outlier(7, y_px=9.0, x_px=24.0, deviance=9.0, dose=1.0, reason='shape')
    plain = backend.refine

    def refine(*given: Any, **options: Any) -> Reconstruction:
        fit = PatternFit(np.ones(36), np.ones(36), (wrong,))
        return dataclasses.replace(plain(*given, **options), pattern_fit=fit)

    monkeypatch.setattr(backend, 'refine', refine)
    done = run('refine', scan_file, '--drop-outliers', '-o', tmp_path / 'result')
    assert done.code == 0, done.err
    assert backend.requested['refinement'].drop_outliers
    assert 'These do not fit the others: pattern 7 at (9, 24); --drop-outliers' in done.out
    metrics = json.loads((tmp_path / 'result' / 'metrics.json').read_text())
    assert metrics['pattern_fit']['outliers'] == [wrong.to_dict()]
    assert metrics['pattern_fit']['typical_deviance'] == 1
    assert metrics['dropped'] == []


def test_every_note_that_is_shown_is_kept(
    run: Any, backend: Any, scan_file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = backend.refine

    def refine(*given: Any, **options: Any) -> Reconstruction:
        logger = logging.getLogger('ptychopinn_plugin.backends')
        logger.warning('%s: positions stay', given[0].name)
        return plain(*given, **options)

    monkeypatch.setattr(backend, 'refine', refine)
    done = run('refine', scan_file, '-o', folder, '--json')
    assert done.code == 0, done.err
    notes = json.loads((folder / 'metrics.json').read_text())['notes']
    ((name, of_scan),) = notes.items()
    shown = [line for line in done.err.splitlines() if line.startswith('note: ')]
    assert 'positions stay' in of_scan
    assert shown == [f'note: {name}: {note}' for note in of_scan]
    assert json.loads(done.out)['notes'] == notes


def test_notes_are_sorted_by_the_scan_that_they_begin_with() -> None:
    shown = ['b: far', 'a: near', 'slow', 'b: far']
    assert notes_by_scan(shown, ['a', 'b']) == {'a': ['near'], 'b': ['far'], '': ['slow']}
    assert notes_by_scan(['slow'], ['a']) == {'a': ['slow']}
