"""What is refused before a scan begins, and what replay sends."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin.backends import selection
from ptychopinn_plugin.streaming import sources

Run = Any


@pytest.fixture(autouse=True)
def backend(backend: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Create the backend that computes nothing here too."""
    monkeypatch.setattr(selection, 'create_backend', lambda name: backend)
    return backend


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (('--source', 'nowhere'), 'A source is one of hdf5:FILE'),
        (
            ('--source', 'folder:in', '--queue', 10),
            'must be at least --update-patterns, 64',
        ),
        (('--source', 'folder:in', '--reader', 'HDF5'), '--reader is for scan files'),
        (('--source', 'folder:in', '--domain', 'amplitudes'), '--domain is for scan files'),
        (
            ('--source', 'folder:in', '--probe-from', 'a.npz', '--probe-from-patterns'),
            'got both. Leave one of them out',
        ),
        (('--source', 'folder:in', '--when-full', 'panic'), 'wait'),
        (('--source', 'folder:in', '--start-timeout', 0.2), 'none came (no-start)'),
        ((), "Missing option '--source'"),
    ],
)
def test_what_is_refused(run: Run, tmp_path: Path, options: tuple[object, ...], words: str) -> None:
    output = tmp_path / 'live'
    assert words in run('stream', *options, '-o', output).error()
    assert not output.exists()


def test_a_scan_in_the_folder_is_not_replaced(run: Run, scan_file: Path) -> None:
    assert scan_file.name == 'scan.npz'
    before = scan_file.read_bytes()
    message = run('stream', '--source', 'folder:in', '-o', scan_file.parent).error()
    assert 'scan.npz is a scan, which a stream would replace' in message
    assert scan_file.read_bytes() == before


def test_what_makes_no_scan_is_kept(run: Run, tmp_path: Path, scan_file: Path) -> None:
    """What was measured comes only once; here the size of a pixel is missing."""
    incoming, output = tmp_path / 'in', tmp_path / 'live'
    run('replay', scan_file, '--to', f'folder:{incoming}', '--delay', 0)
    for path in incoming.iterdir():
        with np.load(path) as file:
            values = {name: file[name] for name in file}
        if 'positions_px' in values:
            values['positions_m'] = values.pop('positions_px') * 1e-8
            np.savez(path, **values)
    message = run('stream', '--source', f'folder:{incoming}', '-o', output).error()
    assert '--detector-distance' in message
    assert f'--source folder:{output / "received"}' in message
    with np.load(output / 'received' / 'received.npz') as file:
        assert len(file['patterns']) == 36
    # A second attempt replaces nothing.
    message = run('stream', '--source', f'folder:{incoming}', '-o', output).error()
    assert 'received.npz is a scan, which a stream would replace' in message


@pytest.mark.parametrize(
    ('address', 'package', 'extra'),
    [('zmq:tcp://127.0.0.1:5555', 'pyzmq', 'zmq'), ('pva:channel', 'pvapy', 'pva')],
)
@pytest.mark.parametrize('command', ['stream', 'replay'])
def test_a_missing_library_is_named(
    run: Run,
    tmp_path: Path,
    scan_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    address: str,
    package: str,
    extra: str,
) -> None:
    monkeypatch.setattr(sources, 'is_importable', lambda name: False)
    arguments = {
        'stream': ('--source', address, '-o', tmp_path / 'live'),
        'replay': (scan_file, '--to', address),
    }
    message = run(command, *arguments[command]).error()
    assert f'needs the package {package}' in message
    assert f"pip install 'ptychopinn-plugin[{extra}]'" in message


def test_replay_loses_what_it_is_told_to(run: Run, tmp_path: Path, scan_file: Path) -> None:
    options = ('--delay', 0, '--batch', 4, '--lose', 0.3, '--seed', 3, '--json')
    shown = run('replay', scan_file, '--to', f'folder:{tmp_path / "in"}', *options)
    sent = json.loads(shown.out)['sent']
    files = sorted((tmp_path / 'in').iterdir())
    numbers = []
    for path in files:
        with np.load(path) as file:
            numbers += file['indexes'].tolist() if 'patterns' in file else []
            announced = int(file['n_patterns']) if 'n_patterns' in file else None
    assert announced == 36
    assert len(numbers) == len(set(numbers)) == sent
    assert 18 <= sent < 34


@pytest.mark.parametrize('kind', ['hdf5', 'folder'])
def test_replay_replaces_nothing(run: Run, tmp_path: Path, scan_file: Path, kind: str) -> None:
    before = scan_file.read_bytes()
    target = scan_file if kind == 'hdf5' else tmp_path
    message = run('replay', scan_file, '--to', f'{kind}:{target}', '--delay', 0).error()
    assert 'is there already' in message
    assert scan_file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [scan_file]


def test_metres_need_the_size_of_a_pixel(run: Run, tmp_path: Path, scan_file: Path) -> None:
    message = run('replay', scan_file, '--to', f'folder:{tmp_path / "in"}', '--unit', 'm').error()
    assert '--unit px' in message
