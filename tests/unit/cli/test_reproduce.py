"""A result states where it comes from, and can be made again."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptychopinn_plugin.data import read_reconstruction


@pytest.fixture
def result(run: Any, backend: Any, model_file: Path, scan_file: Path, tmp_path: Path) -> Path:
    folder = tmp_path / 'result'
    done = run('reconstruct', model_file, scan_file, '-o', folder, '--refine', 3, '--mask-hot')
    assert done.code == 0, done.err
    return folder


def test_every_file_tells_its_model_inputs_and_settings(
    result: Path, model_file: Path, scan_file: Path, tmp_path: Path
) -> None:
    reported = json.loads((result / 'metrics.json').read_text())['provenance']
    with h5py.File(result / 'product.h5') as file:
        product = json.loads(file.attrs['provenance'])
    archive = read_reconstruction(result / 'reconstruction.npz').provenance
    for values in (reported, product, archive):
        assert values['command'] == 'reconstruct'
        assert values['settings']['refinement']['iterations'] == 3
        assert values['reading'] == {'mask_hot': True}
        for item, path in ((values['model'], model_file), (values['inputs']['scan'], scan_file)):
            assert item['name'] == path.name
            assert item['sha256'] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert reported['inputs']['scan']['path'] == '../scan.npz'
    # A result that is passed on names nobody's folders.
    for name in ('reconstruction.npz', 'product.h5', 'metrics.json'):
        assert str(tmp_path).encode() not in (result / name).read_bytes()


def test_the_same_bits(run: Any, result: Path, backend: Any) -> None:
    done = run('reproduce', result, '--json')
    assert done.code == 0, done.err
    values = json.loads(done.out)
    assert values['same']
    assert set(values['differences'].values()) == {0.0}
    assert backend.requested['refinement'].iterations == 3


def test_another_result_is_told(run: Any, result: Path, backend: Any, tmp_path: Path) -> None:
    real = backend.reconstruct

    def other(*arguments: Any, **options: Any) -> Any:
        found = real(*arguments, **options)
        return dataclasses.replace(found, object_=found.object_ * np.complex64(1.0001))

    backend.reconstruct = other
    differs = run('reproduce', result, '--tolerance', 1e-6, '-o', tmp_path / 'again')
    assert differs.code == 1
    assert 'another result' in differs.out
    assert 'object 0.0001' in differs.out
    assert (tmp_path / 'again' / 'reconstruction.npz').exists()
    assert run('reproduce', result, '--tolerance', 0.01).code == 0


def test_files_that_were_moved_or_changed(
    run: Any, result: Path, scan_file: Path, tmp_path: Path
) -> None:
    moved = tmp_path / 'moved.npz'
    shutil.move(scan_file, moved)
    assert 'If it was moved, use --scan FILE' in run('reproduce', result).error()
    assert run('reproduce', result, '--scan', moved).code == 0
    moved.write_bytes(moved.read_bytes() + b'0')
    assert 'must be the file that was used' in run('reproduce', result, '--scan', moved).error()


def test_refine_is_run_again_too(run: Any, backend: Any, scan_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'flat'
    run('refine', scan_file, '-o', folder, '--iterations', 5, '--device', 'cpu')
    assert run('reproduce', folder).code == 0
    assert backend.requested['refinement'].iterations == 5


def test_a_run_with_a_time_limit_is_not_run_again(
    run: Any, backend: Any, scan_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / 'flat'
    assert run('refine', scan_file, '-o', folder, '--max-seconds', 5).code == 0
    assert backend.requested['refinement'].max_seconds == 5
    error = run('reproduce', folder).error()
    assert 'had a limit of 5 s' in error
    assert 'in place of --max-seconds' in error


def test_what_cannot_be_run_again(run: Any, backend: Any, scan_file: Path, tmp_path: Path) -> None:
    assert 'missing or no JSON' in run('reproduce', tmp_path / 'no').error()
    (tmp_path / 'metrics.json').write_text('{"provenance": {"command": "refine"}}')
    assert "must hold 'backend'" in run('reproduce', tmp_path).error()
    (tmp_path / 'metrics.json').write_text('{}')
    assert 'ptychopinn train --config' in run('reproduce', tmp_path).error()
