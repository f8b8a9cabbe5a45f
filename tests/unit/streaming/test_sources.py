"""Each source with its real counterpart, a process that sends, on this machine."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from unit.streaming.conftest import check_same

from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.streaming.matching import PatternMatcher
from ptychopinn_plugin.streaming.messages import PatternBatch
from ptychopinn_plugin.streaming.reception import Patience, Reception
from ptychopinn_plugin.streaming.sources import open_stream, split_address
from ptychopinn_plugin.streaming.sources.folder import UNCHANGED_S, WatchedFolder
from ptychopinn_plugin.streaming.sources.hdf5 import GrowingFile
from ptychopinn_plugin.streaming.store import PatternStore

ZMQ, ZMQ_PUB = 'zmq:tcp://127.0.0.1:{port}', 'zmq+sub:tcp://127.0.0.1:{port}'


@pytest.fixture
def port() -> int:
    """Return a port that was free a moment ago."""
    import socket

    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        return int(found.getsockname()[1])


@pytest.mark.parametrize('options', [(), ('--separate', '--shuffle', '12', '--unit', 'm')])
@pytest.mark.parametrize('kind', ['hdf5:{folder}/growing.h5', 'folder:{folder}/in', ZMQ, ZMQ_PUB])
def test_every_pattern_comes_once_with_its_position(
    kind: str,
    options: tuple[str, ...],
    tmp_path: Path,
    port: int,
    scan: Scan,
    start_replay: Any,
    receive: Any,
) -> None:
    if 'zmq' in kind:
        pytest.importorskip('zmq')
    address = kind.format(folder=tmp_path, port=port)
    start_replay('--to', address, '--batch', '5', '--rate', '200', '--delay', '0.2', *options)
    reception, batch = receive(address)
    check_same(batch, scan, 'm' if options else 'px')
    assert reception.ended in ('complete', 'closed')
    assert reception.opening.name == 'small'
    assert reception.opening.geometry == scan.geometry
    np.testing.assert_array_equal(reception.opening.probe, scan.probe)
    counts = reception.counts()
    assert (counts['received'], counts['lost'], counts['unreadable']) == (36, 0, 0)


@pytest.mark.parametrize('options', [(), ('--separate',)])
def test_pv_access(options: tuple[str, ...], scan: Scan, start_replay: Any, receive: Any) -> None:
    """Images of an area detector, with positions as attributes or on a channel of their own."""
    pytest.importorskip('pvaccess')
    name = f'test:{time.time_ns()}'
    start_replay('--to', f'pva:{name}', '--rate', '60', '--delay', '9', '--unit', 'm', *options)
    reception, batch = receive(f'pva:{name}', f'pva:{name}:positions')
    check_same(batch, scan, 'm')
    assert reception.counts()['lost'] == 0
    assert reception.opening.geometry == scan.geometry


def test_the_simulated_area_detector_of_pvapy(receive: Any, tmp_path: Path) -> None:
    """Their own server: patterns from it, positions from a file."""
    pytest.importorskip('pvaccess')
    name = f'test:{time.time_ns()}'
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 60000, (12, 24, 32), dtype=np.uint16)
    np.save(tmp_path / 'frames.npy', frames)
    (tmp_path / 'in').mkdir()
    positions = rng.random((12, 2))
    np.savez(
        tmp_path / 'in' / 'positions.npz',
        indexes=np.arange(1, 13),
        positions_px=positions,
        n_patterns=12,
    )
    server = Path(sys.executable).with_name('pvapy-ad-sim-server')
    options = ['-cn', name, '-if', str(tmp_path / 'frames.npy'), '-fps', '20', '-nf', '12']
    command = [str(server), *options, '-rt', '20', '-std', '6', '-dc']
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _, batch = receive(f'pva:{name}', f'folder:{tmp_path / "in"}')
        finally:
            process.kill()
    order = np.argsort(batch.indexes)
    np.testing.assert_array_equal(batch.indexes[order], np.arange(1, 13))
    np.testing.assert_array_equal(batch.patterns[order], frames)
    np.testing.assert_array_equal(batch.positions[order], positions)


def part(folder: Path, name: str, index: int) -> bytes:
    """Return the bytes of a file with one pattern."""
    path = folder / f'{name}.bytes.npz'
    np.savez(
        path,
        indexes=[index],
        patterns=np.full((1, 8, 8), index + 1, np.uint16),
        positions_px=[[index, 2.0 * index]],
    )
    content = path.read_bytes()
    path.unlink()
    return content


class Clock:
    """Seconds that pass when a test sets them."""

    now_s = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


def test_half_written_files_wait_until_they_are_whole(tmp_path: Path) -> None:
    """One is completed later; one stays damaged, is left out and counted."""
    incoming, clock = tmp_path / 'in', Clock()
    incoming.mkdir()
    contents = [part(tmp_path, 'part', index) for index in range(4)]
    (incoming / '.part-9.npz').write_bytes(b'hidden')
    (incoming / 'part-9.npz.tmp').write_bytes(b'temporary')
    (incoming / 'part-0.npz').write_bytes(contents[0])
    (incoming / 'part-1.npz').write_bytes(contents[1][:300])
    (incoming / 'part-2.npz').write_bytes(contents[2][:-10])
    store = PatternStore(keeps=True, max_queued=9, drops=False)
    reception = Reception(PatternMatcher(3.0, 9), store, Patience())
    watched = WatchedFolder(incoming, reception.on_fault, clock)

    def check_new(index: int | None) -> None:
        found = list(watched.receive(0.0))
        assert len(found) == (0 if index is None else 2)
        for message in found:
            assert message.indexes.tolist() == [index]
            if isinstance(message, PatternBatch):
                assert (message.patterns == index + 1).all()
            else:
                assert message.positions.tolist() == [[index, 2 * index]]

    check_new(0)
    check_new(None)
    clock.now_s = UNCHANGED_S
    (incoming / 'part-1.npz').write_bytes(contents[1])
    check_new(1)
    check_new(None)
    assert reception.counts()['unreadable'] == 0
    clock.now_s = UNCHANGED_S + 1
    (incoming / 'part-3.npz').write_bytes(contents[3])
    check_new(3)
    check_new(None)
    assert reception.counts()['unreadable'] == 1
    assert 'part-2.npz was left out' in reception.first_fault


def test_frames_in_files_of_their_own_have_their_index_in_the_name(
    tmp_path: Path, receive: Any
) -> None:
    tifffile = pytest.importorskip('tifffile')
    frames = np.arange(3 * 64, dtype=np.uint16).reshape(3, 8, 8)
    np.save(tmp_path / 'frame_7.npy', frames[0])
    tifffile.imwrite(tmp_path / 'frame_0012.tif', frames[1:])
    np.savez(
        tmp_path / 'known.npz',
        position_indexes=[7, 12, 13],
        positions_m=np.zeros((3, 2)),
        n_patterns=3,
    )
    _, batch = receive(f'folder:{tmp_path}')
    order = np.argsort(batch.indexes)
    np.testing.assert_array_equal(batch.indexes[order], [7, 12, 13])
    np.testing.assert_array_equal(batch.patterns[order], frames)


WRITER = """
import sys, time, h5py, numpy as np
path, count, killed = sys.argv[1], int(sys.argv[2]), sys.argv[3] == 'killed'
file = h5py.File(path, 'w', libver='latest')
data = file.create_dataset('entry/data/data', (0, 8, 8), 'u2', maxshape=(None, 8, 8))
places = file.create_dataset('positions_px', data=np.arange(2.0 * count).reshape(count, 2))
file.swmr_mode = True
for number in range(count):
    # As detectors do: room first, and the pattern later.
    data.resize(number + 2, axis=0)
    data.flush()
    time.sleep(0.05)
    data[number] = number + 1
    data.flush()
data.resize(count, axis=0)
if killed:
    import os
    os._exit(9)
file.close()
"""


@pytest.mark.parametrize('end', ['closed', 'killed'])
def test_a_file_without_indexes_is_counted_from_0(tmp_path: Path, receive: Any, end: str) -> None:
    """A pattern of zeros at its end is not written yet; a writer that was killed is idle."""
    path = tmp_path / 'detector.h5'
    with subprocess.Popen([sys.executable, '-c', WRITER, str(path), '8', end]) as writer:
        reception, batch = receive(f'hdf5:{path}', idle_s=3.0)
        writer.wait()
    order = np.argsort(batch.indexes)
    np.testing.assert_array_equal(batch.indexes[order], np.arange(8))
    np.testing.assert_array_equal(batch.patterns[order, 3, 3], np.arange(1, 9))
    assert reception.ended == {'closed': 'closed', 'killed': 'idle'}[end]


def test_a_file_without_patterns_is_named(tmp_path: Path) -> None:
    path = tmp_path / 'other.h5'
    with h5py.File(path, 'w', libver='latest') as file:
        file['numbers'] = [1, 2]
    with pytest.raises(DataError, match='must hold patterns'), GrowingFile(path, print) as source:
        source.receive(1.0)


def test_messages_that_are_not_what_they_must_be_are_counted(port: int, receive: Any) -> None:
    """The scan goes on without them."""
    zmq = pytest.importorskip('zmq')
    from ptychopinn_plugin.streaming.sources.zeromq import encode_parts

    one = {'indexes': np.array([0]), 'patterns': np.ones((1, 4, 4), np.uint16)}
    bad = [
        [b'no JSON'],
        encode_parts(one)[:-1],
        [encode_parts(one)[0], b'short', b'short'],
        encode_parts({'patterns': np.ones((1, 4, 4), np.uint16)}),
        encode_parts({'indexes': np.array([-3]), 'patterns': np.ones((1, 4, 4), np.uint16)}),
        encode_parts({'indexes': np.array([1]), 'positions_px': np.array([[1.0, 2.0, 3.0]])}),
    ]
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.bind(f'tcp://127.0.0.1:{port}')

        def send(reception: Any) -> None:
            for parts in bad:
                socket.send_multipart(parts)
            socket.send_multipart(encode_parts(one))
            # Of another shape than the first.
            socket.send_multipart(
                encode_parts({'indexes': np.array([1]), 'patterns': np.ones((1, 4, 5), np.uint16)})
            )
            socket.send_multipart(
                encode_parts({'indexes': np.array([0]), 'positions_px': np.array([[1.0, 2.0]])})
            )
            socket.send_multipart(encode_parts({'end': True}))

        import threading

        reception, batch = receive(
            f'tcp://127.0.0.1:{port}',
            at_start=lambda r: threading.Thread(target=send, args=(r,)).start(),
        )
    assert batch.indexes.tolist() == [0]
    assert reception.counts()['unreadable'] == len(bad) + 1


def test_addresses(tmp_path: Path) -> None:
    assert split_address(str(tmp_path)) == ('folder', str(tmp_path))
    assert split_address('scan.h5') == ('hdf5', 'scan.h5')
    assert split_address('tcp://host:1') == ('zmq', 'tcp://host:1')
    assert split_address('pva:a:b') == ('pva', 'a:b')
    for wrong in ('', 'ftp:x', 'zmq:', 'nothing'):
        with pytest.raises(DataError, match='A source is one of'):
            open_stream(wrong, print)


def test_a_growing_file_leads_to_no_raw_file(tmp_path: Path) -> None:
    """As with every scan file: HDF5 would take any file of the machine for numbers."""
    (tmp_path / 'secret').write_bytes(bytes(256))
    with h5py.File(tmp_path / 'growing.h5', 'w', libver='latest') as file:
        raw = [(str(tmp_path / 'secret'), 0, 256)]
        file.create_dataset('patterns', (1, 16, 16), 'u1', external=raw)
    with (
        pytest.raises(DataError, match='raw file'),
        GrowingFile(tmp_path / 'growing.h5', print) as source,
    ):
        source.receive(1.0)
