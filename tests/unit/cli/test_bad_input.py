"""Whatever is wrong: exit code 2, one line, and nothing left behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin.backends import selection
from ptychopinn_plugin.errors import BackendUnavailableError, OutputError
from ptychopinn_plugin.storage import atomic

Spoil = Callable[[Path], None]


def _change(**changes: Any) -> Spoil:
    def spoil(path: Path) -> None:
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in archive.files}
        for name, change in changes.items():
            if change is None:
                del arrays[name]
            else:
                arrays[name] = change(arrays[name])
        np.savez(path, **arrays)

    return spoil


def _put(index: Any, value: float) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array = array.astype(np.float32)
        array[index] = value
        return array

    return change


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])


BAD_SCANS: dict[str, tuple[Spoil, str]] = {
    'missing': (Path.unlink, 'There is no file'),
    'empty': (lambda path: path.write_bytes(b'') and None, 'is empty'),
    'truncated': (_truncate, 'truncated or damaged'),
    'text': (lambda path: path.write_text('hello') and None, 'a scan is an NPZ, a MATLAB'),
    'no patterns': (_change(diff3d=None), 'diff3d'),
    'no positions': (_change(xcoords=None, xcoords_start=None), 'xcoords'),
    'wrong lengths': (_change(xcoords=lambda a: a[:-1]), 'xcoords'),
    'NaN': (_change(diff3d=_put(np.s_[:], np.nan)), 'marks every pixel'),
    'negative': (_change(diff3d=_put(np.s_[::2], -50)), 'negative'),
    'zero patterns': (_change(diff3d=lambda a: a[:0]), ''),
    'other probe': (_change(probeGuess=lambda a: a[..., :-2]), 'probe'),
}


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b''
        for path in folder.rglob('*')
    }


@pytest.mark.parametrize('name', BAD_SCANS)
@pytest.mark.parametrize('command', ['train', 'reconstruct', 'refine', 'inspect'])
def test_bad_scan(
    run: Any,
    backend: Any,
    scan_file: Path,
    model_file: Path,
    tmp_path: Path,
    name: str,
    command: str,
) -> None:
    spoil, expected = BAD_SCANS[name]
    spoil(scan_file)
    before = _contents(tmp_path)
    arguments: list[object] = [command, scan_file]
    if command == 'reconstruct':
        arguments.insert(1, model_file)
    if command != 'inspect':
        arguments += ['-o', tmp_path / 'out' / 'deep']
    assert expected in run(*arguments).error()
    assert _contents(tmp_path) == before
    assert backend.requested == {}


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        (('--epochs', '0'), 'at least 1'),
        (('--optimizer', 'sgd'), 'one of adam, adamw'),
        (('--set', 'training.epoch=3'), "no field 'epoch'"),
        (('--set', 'epochs'), 'section.name=value'),
        (('--config', 'none.toml'), 'none.toml'),
        (('--config', 'broken.toml'), 'broken.toml'),
        (('--config', 'unknown.toml'), 'There is no section'),
        (('--config', 'reading.toml'), "no field 'rotation'"),
        (('--config', 'no-section.toml'), '[reading] must be a section'),
        (('--config', 'no-name.toml'), 'backend must be the name of one'),
        (('--domain', 'colours'), 'one of counts, amplitudes'),
        (('--probe-from', 'none.npz'), 'none.npz'),
        (('--positions', 'p.csv'), '--reader'),
        (('--resume', 'scan.npz'), 'not a model'),
        (('--base-model', 'none.zip'), 'There is no model file'),
        (('--validation', 'none.npz'), 'none.npz'),
        (('--pattern-size', '8'), 'at least 16'),
        (
            ('--gridsize', '2', '--n-subsample', '3'),
            'A group holds 4 patterns, but there are only 3',
        ),
    ],
)
def test_bad_option_of_train(
    run: Any,
    backend: Any,
    scan_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'broken.toml').write_text('[training\n')
    (tmp_path / 'unknown.toml').write_text('[weather]\nrain = 1\n')
    (tmp_path / 'reading.toml').write_text('[reading]\nrotation = 90\n')
    (tmp_path / 'no-section.toml').write_text('reading = 1\n')
    (tmp_path / 'no-name.toml').write_text('backend = 1\n')
    before = _contents(tmp_path)
    assert expected in run('train', scan_file, '-o', 'out', *options).error()
    assert _contents(tmp_path) == before
    assert backend.requested == {}


@pytest.mark.parametrize('kind', ['scan', 'missing', 'text', 'truncated'])
def test_bad_model(
    run: Any, backend: Any, scan_file: Path, model_file: Path, tmp_path: Path, kind: str
) -> None:
    model = {'scan': scan_file, 'missing': tmp_path / 'none.zip'}.get(kind, model_file)
    if kind == 'text':
        model.write_text('hello')
    if kind == 'truncated':
        model.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    assert 'model' in run('reconstruct', model, scan_file, '-o', tmp_path / 'out').error()
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('command', ['train', 'refine', 'simulate'])
def test_unwritable_folder(
    run: Any,
    backend: Any,
    scan_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    def refuse(path: Path) -> Path:
        raise OutputError(f'Cannot write to the folder {path}: no permission to write there.')

    monkeypatch.setattr(atomic, 'check_output_folder', refuse)
    target = ('out/new.npz',) if command == 'simulate' else (scan_file, '-o', tmp_path / 'out')
    assert 'no permission' in run(command, *target).error()
    assert not (tmp_path / 'out').exists()
    assert backend.requested == {}


def test_output_that_is_a_file(run: Any, backend: Any, scan_file: Path) -> None:
    assert 'must be a folder' in run('train', scan_file, '-o', scan_file).error()


@pytest.mark.parametrize(
    ('arguments', 'name'),
    [
        (('train', 'scan.npz', '-o', ''), '-o'),
        (('reconstruct', 'model.zip', 'scan.npz', '--output', ''), '--output'),
        (('refine', 'scan.npz', '--output='), '--output'),
        (('demo', '-o', ''), '-o'),
        (('evaluate', 'a.npz', 'b.npz', '-o', ''), '-o'),
        (('export', 'model.zip', '-o', ''), '-o'),
        (('ptycho-train', '--train_data_file', 'scan.npz', '--output_dir', ''), '--output_dir'),
        (('simulate', ''), 'an argument'),
        (('group', 'scan.npz', ''), 'an argument'),
        (('convert', 'old.zip', ''), 'an argument'),
    ],
)
def test_an_empty_value_is_not_the_current_folder(
    run: Any,
    backend: Any,
    scan_file: Path,
    model_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = _contents(tmp_path)
    assert f'expected for {name}; got an empty one' in run(*arguments).error()
    assert _contents(tmp_path) == before
    assert backend.requested == {}


def test_convert_writes_zips(run: Any, model_file: Path, tmp_path: Path) -> None:
    assert 'written as .zip' in run('convert', model_file, tmp_path / 'c.txt').error()


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (('group', 'scan.npz', 'scan.npz'), 'is the file that is read'),
        (('export', 'model.zip', '--format', 'onnx', '-o', 'm.zip'), 'written as .onnx'),
        (('export', 'model.zip', '--format', 'keras', '-o', 'm.h5'), 'Try m.keras'),
        (('export', 'model.zip', '--format', 'legacy-tf', '-o', 'm.txt'), 'Try m.zip'),
        (('export', 'model.zip', '--format', 'legacy-tf', '-o', 'model.zip'), 'that is read'),
        (('simulate', 'scan.npz', '--probe-file', 'scan.npz'), 'is the file that is read'),
        (
            ('simulate', 'scan.npz', '--object', 'image', '--object-file', 'scan.npz'),
            'is the file that is read',
        ),
        (
            ('simulate', 'new/deep/x.npz', '--object', 'image', '--object-file', 'notes.txt'),
            'cannot be read as a picture',
        ),
        (
            ('export', 'model.zip', '--format', 'legacy-tf', '--template', 't.zip', '-o', 't.zip'),
            'is the file that is read',
        ),
        (('group', 'scan.npz', 'other.npz', '--probe-from', 'other.npz'), 'that is read'),
        (('group', 'scan.npz', 'none/groups.npz'), 'there is no folder none'),
        (('refine', 'scan.npz', '-o', '.'), 'holds a scan of Ptychodus'),
        (('evaluate', 'scan.npz', 'scan.npz'), 'is no reconstruction'),
        (('evaluate', '.', 'scan.npz'), 'is a folder'),
        (('inspect', 'notes.txt'), 'is neither NPZ nor HDF5'),
        (('inspect', 'scan.npz', '--scan-shape', '6'), 'two whole numbers, as 64,128'),
        (('inspect', 'scan.npz', '--scan-shape', '6,6'), 'in a file of an electron camera'),
        (('inspect', 'scan.npz', '--beam-center', '6;6'), 'two whole numbers, as 512,498'),
    ],
)
def test_what_is_there_stays(
    run: Any,
    backend: Any,
    scan_file: Path,
    model_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ('diffraction.h5', 'product.h5', 'notes.txt', 't.zip', 'other.npz'):
        (tmp_path / name).write_text(name)
    before = _contents(tmp_path)
    assert expected in run(*arguments).error()
    assert _contents(tmp_path) == before


def test_no_backend(
    run: Any, scan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BackendUnavailableError('No backend can run here.\nRun: pip install it.')

    monkeypatch.setattr(selection, 'choose', refuse)
    message = run('train', scan_file, '-o', tmp_path / 'out').error()
    assert message == 'error: No backend can run here. Run: pip install it.'


def test_unknown_backend(run: Any, scan_file: Path, tmp_path: Path) -> None:
    message = run('train', scan_file, '-o', tmp_path / 'out', '--backend', 'abacus').error()
    assert "'abacus'" in message


def test_interrupt_while_reading_ends_with_130(
    run: Any, backend: Any, scan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr('ptychopinn_plugin.data.load_scan', interrupt)
    assert run('train', scan_file, '-o', tmp_path / 'out').code == 130
    assert not (tmp_path / 'out').exists()
