"""`inspect`, `evaluate` and `simulate`: commands that need no backend."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from ptychopinn_plugin.data import Geometry, load_scan, write_product
from ptychopinn_plugin.data.reconstruction import Reconstruction


def test_inspect_scan(run: Any, scan_file: Path) -> None:
    text = run('inspect', scan_file).out
    assert 'a scan of 36 patterns, 32 x 32 px' in text
    assert 'neighbours' in text
    assert 'lengths stay in pixels' in text
    values = json.loads(run('inspect', scan_file, '--json').out)
    assert (values['kind'], values['patterns'], values['shape_px']) == ('scan', 36, [32, 32])


def test_inspect_tells_where_patterns_lie_that_do_not_fit(run: Any, scan_file: Path) -> None:
    assert 'temporary file' not in run('inspect', scan_file).out
    assert 'they lie in a temporary file' in run('inspect', scan_file, '--max-memory', 0).out


def test_inspect_a_file_of_matlab(run: Any, scan_file: Path, tmp_path: Path) -> None:
    with np.load(scan_file) as archive:
        arrays = {key: archive[key] for key in ('diff3d', 'xcoords', 'ycoords')}
    savemat(tmp_path / 'scan.mat', arrays, do_compression=True)
    assert 'a scan of 36 patterns, 32 x 32 px' in run('inspect', tmp_path / 'scan.mat').out


def test_inspect_tells_normalized_patterns(run: Any, scan_file: Path, tmp_path: Path) -> None:
    with np.load(scan_file) as archive:
        counts = archive['diff3d'].astype(np.float32)
        path = tmp_path / 'normalized.npz'
        np.savez(path, **{**archive, 'diff3d': counts / counts.sum()})
    assert 'no whole numbers' in run('inspect', path).out
    assert '--photons N' not in run('inspect', path, '--photons', 1e4).out


def test_inspect_model(run: Any, model_file: Path) -> None:
    text = run('inspect', model_file).out
    assert 'a model for patterns of 32 x 32 px, trained with blank' in text
    assert 'continued with --resume' in text
    values = json.loads(run('inspect', model_file, '--json').out)
    assert (values['kind'], values['pattern_size_px']) == ('model', 32)


def test_inspect_reconstruction(run: Any, reconstruction_file: Path) -> None:
    text = run('inspect', reconstruction_file).out
    assert 'a reconstruction of simulated-dead-leaves-1 by blank' in text
    values = json.loads(run('inspect', reconstruction_file, '--json').out)
    assert (values['kind'], values['patterns']) == ('reconstruction', 36)


def test_evaluate_truth_is_perfect(
    run: Any, reconstruction_file: Path, scan_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / 'evaluation'
    done = run('evaluate', reconstruction_file, scan_file, '-o', folder)
    assert 'amplitude: SSIM 1.000' in done.out
    assert 'FRC' in done.out
    assert sorted(path.name for path in folder.iterdir()) == ['evaluation.json', 'evaluation.png']
    values = json.loads((folder / 'evaluation.json').read_text())
    assert values['phase']['ssim'] == pytest.approx(1)
    assert set(values['frc']['crossings']) == {'half-bit', '0.5', '1/7'}


def test_evaluate_against_another_reconstruction(run: Any, reconstruction_file: Path) -> None:
    done = run('evaluate', reconstruction_file, reconstruction_file, '--json')
    assert json.loads(done.out)['amplitude']['ssim'] == pytest.approx(1)


METRES = (3e-9, 2e-9)


@pytest.fixture
def product_file(tmp_path: Path, perfect: Reconstruction) -> Path:
    """Return the truth in a product of Ptychodus."""
    geometry = Geometry(pixel_height_m=METRES[0], pixel_width_m=METRES[1])
    path = tmp_path / 'product.h5'
    write_product(path, replace(perfect, geometry=geometry, likelihoods=(2.0, 0.5)))
    return path


def test_inspect_product(run: Any, product_file: Path, perfect: Reconstruction) -> None:
    text = run('inspect', product_file).out
    height, width = perfect.object_.shape
    for expected in (
        'a product of Ptychodus, simulated-dead-leaves-1',
        f'object: {height} x {width} px',
        'positions: 36, y ',
        'probe: 1 mode, 32 x 32 px',
        'losses: 2, 2 at first, 0.5 at last',
        'pixel height 3e-09 m, pixel width 2e-09 m',
        'comments: Reconstructed by',
    ):
        assert expected in text
    # Older files of Ptychodus call the losses otherwise; a new product may hold no positions.
    with h5py.File(product_file, 'a') as file:
        file.move('loss_values', 'costs')
        for name in ('probe_position_x_m', 'probe_position_y_m', 'probe_position_indexes'):
            del file[name]
            file[name] = np.zeros(0)
    values = json.loads(run('inspect', product_file, '--json').out)
    assert (values['kind'], values['losses']) == ('product', [2, 0.5])
    assert values['positions_m'] is None


def test_evaluate_products(
    run: Any, product_file: Path, scan_file: Path, reconstruction_file: Path, tmp_path: Path
) -> None:
    # Ptychodus counts metres from elsewhere.
    moved = tmp_path / 'moved.h5'
    moved.write_bytes(product_file.read_bytes())
    with h5py.File(moved, 'a') as file:
        for name, shift in (('y', 4e-6), ('x', -7e-6)):
            file[f'probe_position_{name}_m'][...] += shift
            file['object'].attrs[f'center_{name}_m'] += shift
    for found, truth in (
        (product_file, scan_file),
        (product_file, product_file),
        (reconstruction_file, product_file),
        (moved, scan_file),
        (moved, product_file),
        (reconstruction_file, moved),
    ):
        values = json.loads(run('evaluate', found, truth, '--json').out)
        assert values['phase']['ssim'] == pytest.approx(1)
        assert values['shift_px'] == pytest.approx([0, 0], abs=0.01)


def test_evaluate_refuses_products_that_hold_no_object(
    run: Any, product_file: Path, scan_file: Path
) -> None:
    with h5py.File(product_file, 'a') as file:
        del file['object'].attrs['pixel_width_m']
    assert 'size of an object pixel' in run('evaluate', product_file, scan_file).error()
    with h5py.File(product_file, 'a') as file:
        del file['object']
        file['object'] = np.zeros((0, 0, 0), np.complex64)
    assert 'holds no object' in run('evaluate', product_file, scan_file).error()


def test_evaluate_needs_a_truth(
    run: Any, reconstruction_file: Path, scan_file: Path, tmp_path: Path
) -> None:
    with np.load(scan_file) as archive:
        arrays = {name: archive[name] for name in archive.files if name != 'objectGuess'}
    np.savez(tmp_path / 'blind.npz', **arrays)
    folder = tmp_path / 'evaluation'
    message = run('evaluate', reconstruction_file, tmp_path / 'blind.npz', '-o', folder).error()
    assert 'holds no object to compare with' in message
    assert not folder.exists()


SMALL = ('--size', 32, '--rows', 3, '--columns', 4)


def test_simulate(run: Any, tmp_path: Path) -> None:
    out = tmp_path / 'new' / 'scan.npz'
    done = run('simulate', out, *SMALL, '--object', 'siemens', '--photons', 500, '--modes', 2)
    assert 'Simulated 12 patterns of 32 x 32 px with 500 counts' in done.out
    scan = load_scan(out)
    assert (len(scan), len(scan.probe)) == (12, 2)
    assert scan.object_ is not None
    assert scan.mean_counts() == pytest.approx(500, rel=0.3)


def test_simulate_json_holds_the_settings(run: Any, tmp_path: Path) -> None:
    done = run('simulate', tmp_path / 'scan.npz', *SMALL, '--seed', 9, '--json')
    values = json.loads(done.out)
    assert (values['patterns'], values['settings']['seed']) == (12, 9)


def test_simulate_with_a_given_probe(
    run: Any, tmp_path: Path, scan_file: Path, perfect: Reconstruction
) -> None:
    out = tmp_path / 'again.npz'
    assert run('simulate', out, '--rows', 3, '--columns', 3, '--probe-file', scan_file).code == 0
    probe, given = load_scan(out).probe[0], perfect.probe[0]
    cosine = abs(np.vdot(probe, given)) / (np.linalg.norm(probe) * np.linalg.norm(given))
    assert cosine == pytest.approx(1, abs=1e-5)
    write_product(tmp_path / 'product.h5', perfect)
    arguments = ('simulate', out, '--rows', 3, '--columns', 3)
    assert run(*arguments, '--probe-file', tmp_path / 'product.h5').code == 0
    message = run(*arguments, '--probe-file', scan_file, '--size', 64).error()
    assert '32 px; got 64' in message
    message = run(*arguments, '--probe-file', scan_file, '--defocus', 9).error()
    assert '(1 mode) is taken as it is; got --defocus' in message
    assert run(*arguments, '--probe-file', scan_file, '--modes', 2).code == 0
    assert len(load_scan(out).probe) == 2
    message = run(*arguments, '--probe-file', out, '--modes', 3).error()
    assert '(2 modes) is taken as it is; got --modes' in message


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (('scan.txt',), 'written as .npz'),
        (('scan',), 'written as .npz'),
        (('scan.npz', '--rows', 3), 'rows and columns together'),
        (('scan.npz', *SMALL, '--positions', 12), 'got both'),
        (('scan.npz', '--object', 'image'), 'needs object_file'),
        (('scan.npz', '--path', 'fermat', '--jitter', 2), 'got --path fermat'),
        (('scan.npz', '--object', 'cat'), 'one of dead-leaves'),
        (('scan.npz', '--object', 'image', '--object-file', 'none.png'), 'none.png'),
        (('scan.npz', '--photons', 0), 'at least'),
        (('scan.npz', '--probe-file', 'none.npz'), 'none.npz'),
    ],
)
def test_simulate_refuses(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Any, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in run('simulate', *arguments).error()
    assert list(tmp_path.iterdir()) == []
