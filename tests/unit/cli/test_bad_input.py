"""What a user can get wrong: one line that says what to do, exit code 2, nothing half-written."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Fails = Callable[..., str]
Run = Callable[..., Any]


def change(source: Path, target: Path, **changes: Any) -> Path:
    """Copy a scan with some arrays replaced, or left out where the value is None."""
    with np.load(source) as arrays:
        values = {name: arrays[name] for name in arrays.files}
    values.update(changes)
    np.savez(target, **{name: value for name, value in values.items() if value is not None})
    return target


def with_value(array: Any, value: float) -> Any:
    changed = np.array(array, dtype=np.float32)
    changed[3, 5, 7] = value
    return changed


@pytest.fixture
def arrays(scan_file: Path) -> dict[str, Any]:
    with np.load(scan_file) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (lambda a: {'diff3d': None}, 'diff3d'),
        (lambda a: {'probeGuess': None}, 'probe'),
        (lambda a: {'xcoords': a['xcoords'][:-1]}, 'xcoords'),
        (lambda a: {'diff3d': with_value(a['diff3d'], np.nan)}, 'NaN'),
        (lambda a: {'diff3d': with_value(a['diff3d'], -1)}, 'negative'),
        (lambda a: {'diff3d': np.zeros_like(a['diff3d'])}, 'empty'),
        (lambda a: {'diff3d': a['diff3d'][:0]}, ''),
        (lambda a: {'ycoords': np.where(np.arange(42) == 4, np.inf, a['ycoords'])}, 'finite'),
        (lambda a: {'probeGuess': a['probeGuess'][:, 1:]}, 'probe'),
        (lambda a: {'probeGuess': 0 * a['probeGuess']}, 'probe'),
    ],
)
@pytest.mark.parametrize('command', ['train', 'refine'])
def test_scan_that_is_none(
    fails: Fails,
    scan_file: Path,
    arrays: dict[str, Any],
    tmp_path: Path,
    command: str,
    changes: Callable[[dict[str, Any]], dict[str, Any]],
    words: str,
) -> None:
    bad = change(scan_file, tmp_path / 'bad.npz', **changes(arrays))
    assert words in fails(command, bad, '-o', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('content', [b'', b'not a scan', 'truncated'])
def test_file_that_is_no_scan(
    fails: Fails, scan_file: Path, tmp_path: Path, content: bytes | str
) -> None:
    bad = tmp_path / 'bad.npz'
    whole = scan_file.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2] if isinstance(content, str) else content)
    for command in (('train', bad, '-o', tmp_path / 'out'), ('inspect', bad)):
        assert 'bad.npz' in fails(*command)
    assert not (tmp_path / 'out').exists()


def test_file_that_is_not_there(fails: Fails, scan_file: Path, tmp_path: Path) -> None:
    none = tmp_path / 'none.npz'
    assert 'none.npz' in fails('train', none, '-o', tmp_path / 'out')
    assert 'none.npz' in fails('inspect', none)
    assert 'none.npz' in fails('reconstruct', none, scan_file, '-o', tmp_path / 'out')
    assert 'none.npz' in fails('evaluate', none, scan_file)
    assert 'none.npz' in fails('train', scan_file, '--config', none, '-o', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_an_object_that_does_not_hold_the_scan_is_no_truth(
    fails: Fails, run: Run, scan_file: Path, arrays: dict[str, Any], tmp_path: Path
) -> None:
    run('refine', scan_file, '--sweeps', 1, '-o', tmp_path / 'a')
    far = change(
        *(scan_file, tmp_path / 'far.npz'),
        objectGuess=np.ones((8, 8), np.complex64),
    )
    error = fails('evaluate', tmp_path / 'a' / 'reconstruction.npz', far)
    assert 'holds no object' in error


def test_model_that_is_none(
    fails: Fails, model_file: Path, scan_file: Path, tmp_path: Path
) -> None:
    bad = tmp_path / 'bad.zip'
    damaged = bytearray(model_file.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    for content in (b'', b'no model', bytes(damaged), scan_file.read_bytes()):
        bad.write_bytes(content)
        assert 'bad.zip' in fails('reconstruct', bad, scan_file, '-o', tmp_path / 'out')
        assert not (tmp_path / 'out').exists()


def test_output_that_is_a_file(fails: Fails, scan_file: Path, tmp_path: Path) -> None:
    (tmp_path / 'out').write_text('mine')
    for name in ('train', 'refine'):
        assert 'folder' in fails(name, scan_file, '-o', tmp_path / 'out')
    assert 'folder' in fails('demo', '-o', tmp_path / 'out')
    assert (tmp_path / 'out').read_text() == 'mine'


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_output_without_permission(fails: Fails, scan_file: Path, tmp_path: Path) -> None:
    locked = tmp_path / 'locked'
    locked.mkdir(mode=0o500)
    assert 'permission' in fails('refine', scan_file, '-o', locked / 'out')


def test_full_disk_keeps_the_former_results(
    fails: Fails, run: Run, scan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / 'out'
    run('refine', scan_file, '--sweeps', 1, '-o', output)
    before = {path.name: path.read_bytes() for path in output.iterdir()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Path, 'write_text', full)
    assert 'disk is full' in fails('refine', scan_file, '--sweeps', 2, '-o', output)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


def test_model_survives_a_disk_that_fills_after_it(
    fails: Fails, scan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('matplotlib.figure.Figure.savefig', full)
    fails('train', scan_file, '--epochs', 1, '-o', tmp_path / 'out')
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['rescued-wts.h5.zip']


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (('--epochs', 0), 'at least 1'),
        (('--epochs', 'many'), 'epochs'),
        (('--learning-rate', 'nan'), 'at least 0'),
        (('--architecture', 'transformer'), 'one of sweepnet, cnn'),
        (('--set', 'training.epoch=3'), "no field 'epoch'"),
        (('--set', 'epochs=3'), 'section.name=value'),
        (('--set', 'training.probe_trainable=maybe'), 'true or false'),
        (('--domain', 'photons'), 'counts, amplitudes'),
        (('--reader', 'NONE'), 'NONE'),
        (('--backend', 'jax'), 'valid: fake, absent, auto; installed: fake'),
        (('--backend', 'absent'), "pip install 'ptychopinn-plugin[absent]'"),
        (('--no-such-option',), 'ptychopinn train --help'),
        (('--resume', 'a.zip', '--base-model', 'b.zip'), 'got both'),
    ],
)
def test_options_that_cannot_be(
    fails: Fails, scan_file: Path, tmp_path: Path, options: tuple[object, ...], words: str
) -> None:
    assert words in fails('train', scan_file, '-o', tmp_path / 'out', *options)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('command', 'words'),
    [
        (('train',), 'SCAN'),
        (('train', 'scan.npz'), '--output'),
        (('fly',), 'fly'),
        (('demo', '-o', 'x', '--max-minutes', '0'), 'at least 0.01'),
        (('demo', '-o', 'x', '--refine', '0'), 'refine'),
        (('simulate', 'scan.h5'), '.npz'),
        (('simulate', 'scan.npz', '--object', 'image'), 'object_file'),
        (('simulate', 'scan.npz', '--rows', '4'), 'columns'),
    ],
)
def test_command_line_that_cannot_be(
    fails: Fails,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in fails(*command)
    assert not list(tmp_path.iterdir())


def test_resume_refuses_another_setting(
    fails: Fails, model_file: Path, scan_file: Path, tmp_path: Path
) -> None:
    command = ('train', scan_file, '-o', tmp_path / 'out')
    error = fails(*command, '--resume', model_file, '--batch-size', 3)
    assert 'training.batch_size was' in error
    error = fails(*command, '--base-model', model_file, '--gridsize', 2)
    assert 'model.gridsize was' in error


def test_backend_from_the_environment(
    fails: Fails, scan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('PTYCHOPINN_BACKEND', 'absent')
    error = fails('refine', scan_file, '-o', tmp_path / 'out')
    assert 'asked for by PTYCHOPINN_BACKEND' in error


def test_two_scans_cannot_share_a_product(fails: Fails, scan_file: Path, tmp_path: Path) -> None:
    command = ('train', scan_file, scan_file, '-o', tmp_path / 'out')
    assert '--product belongs to one scan' in fails(*command, '--product', scan_file)


def test_pickles_are_refused(fails: Fails, scan_file: Path, tmp_path: Path) -> None:
    bad = tmp_path / 'bad.npz'
    content = io.BytesIO()
    np.savez(content, diff3d=np.array([{'a': 1}], dtype=object))
    bad.write_bytes(content.getvalue())
    assert 'bad.npz' in fails('inspect', bad)
