"""What crosses between the window and its worker: these classes, and nothing else."""

import io
import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig, TrainingConfig
from ptychopinn_plugin.data import Geometry, Scan
from ptychopinn_plugin.data.probe_variation import ProbeVariation
from ptychopinn_plugin.errors import WorkerError
from ptychopinn_plugin.host.worker.arrays import ResultArrays, ScanArrays
from ptychopinn_plugin.host.worker.client import Run
from ptychopinn_plugin.host.worker.codec import from_plain, to_plain
from ptychopinn_plugin.host.worker.ipc import (
    Sender,
    SharedArrays,
    copy_fields,
    copy_shared,
    read_message,
)
from ptychopinn_plugin.host.worker.messages import (
    BlockRead,
    CheckDone,
    CheckJob,
    Heartbeat,
    Idle,
    LogLine,
    PrepareBackend,
    ReconstructionDone,
    ReconstructJob,
    ReleaseBlock,
    RunFailed,
    RunProgress,
    RunReport,
    SharedArray,
    StartRun,
    StopRun,
    ToHost,
    ToWorker,
    TrainingDone,
    TrainJob,
)
from ptychopinn_plugin.host.worker.process import WorkerProcess
from ptychopinn_plugin.orientation import Orientation

ARRAY = SharedArray('block', (3, 4), '<f4')
TRAIN = TrainJob(
    'pytorch',
    (Path('a.npz'), Path('b.npz')),
    Config(training=TrainingConfig(epochs=3, max_minutes=None)),
    Path('model.zip'),
    validation=(Path('c.npz'),),
    photons=1e5,
)
RECONSTRUCT = ReconstructJob(
    'tensorflow',
    Path('model.zip'),
    InferenceConfig(batch_size=7),
    RefinementConfig(iterations=2),
    Geometry(pixel_height_m=1e-8, pixel_width_m=2e-8),
    'gold',
    probe_origin='patterns',
)
FOR_THE_WORKER = (
    StartRun(1, TRAIN, 600.0),
    StartRun(2, RECONSTRUCT, 0.5, {'patterns': ARRAY}),
    StartRun(3, CheckJob('pytorch', 'cpu', 'gold', 2), 0.5, {'patterns': ARRAY}),
    PrepareBackend('pytorch', Path('model.zip'), 600.0),
    PrepareBackend('tensorflow', None, 600.0),
    StopRun(2),
    ReleaseBlock('block'),
)
FOR_THE_HOST = (
    RunReport(1, RunProgress('train', 2, 3, {'loss': 0.5}, 120.0, True, True)),
    RunReport(2, RunProgress('predict', 1, 9), {'object': ARRAY}),
    RunReport(1, TrainingDone(3, 'epochs')),
    RunReport(2, ReconstructionDone((1.5, 0.25), {'predict': 0.5}, 0.01), {'object': ARRAY}),
    RunReport(
        3,
        CheckDone(
            'wrong',
            18,
            Orientation(flip='both', scale_positions=0.8),
            (Orientation(transpose=True),),
            (31, 30),
        ),
        {'best': ARRAY},
    ),
    RunFailed(1, 'DataError', 'no light', 'Traceback ...'),
    BlockRead(2, 'block'),
    LogLine(20, 'Grüße'),
    Heartbeat(),
    Idle(),
)


@pytest.mark.parametrize(
    ('message', 'expected'),
    [(m, ToWorker) for m in FOR_THE_WORKER] + [(m, ToHost) for m in FOR_THE_HOST],
    ids=lambda part: type(part).__name__,
)
def test_a_message_arrives_as_it_was_sent(message: Any, expected: Any) -> None:
    stream = io.BytesIO()
    Sender(stream).send(message)
    stream.seek(0)
    assert read_message(stream, expected) == message
    assert read_message(stream, expected) is None


def _changed(**changes: Any) -> dict[str, Any]:
    return {**to_plain(FOR_THE_WORKER[0]), **changes}


def _with_job(**changes: Any) -> dict[str, Any]:
    plain = to_plain(FOR_THE_WORKER[0])
    return {**plain, 'job': {**plain['job'], **changes}}


def _with_array(**changes: Any) -> dict[str, Any]:
    array = {'kind': 'SharedArray', 'block': 'b', 'shape': [3], 'dtype': '<f4', **changes}
    return _changed(arrays={'patterns': array})


@pytest.mark.parametrize(
    ('plain', 'words'),
    [
        ('dance', "must be of type dict; got 'dance'"),
        (
            {'kind': 'Dance'},
            "must be one of StartRun, PrepareBackend, StopRun, ReleaseBlock; got 'Dance'",
        ),
        # What a worker sends is nothing that a worker takes.
        (to_plain(FOR_THE_HOST[0]), "got 'RunReport'"),
        (_changed(run='1'), "run must be of type int; got '1'"),
        (_changed(run=True), "run must be of type int; got 'True'"),
        (_changed(more=1), 'StartRun has the fields kind, run, job, idle_s, arrays; got .*more'),
        ({'kind': 'StopRun'}, 'StopRun has the fields kind, run; got kind'),
        (
            _with_job(kind='OpenJob'),
            "job must be one of TrainJob, ReconstructJob, CheckJob; got 'OpenJob'",
        ),
        (_with_job(scans='a.npz'), 'job.scans must be of type list'),
        (
            _changed(job={**to_plain(FOR_THE_WORKER[1])['job'], 'probe_origin': 'dreams'}),
            "job.probe_origin must be one of given, extended, patterns, found; got 'dreams'",
        ),
        (_with_job(scans=[3]), "job.scans must be of type str; got '3'"),
        (_with_job(config={'training': {'epochs': 0}}), 'epochs must be at least 1'),
        (_with_job(config={'teaching': {}}), r'no section \[teaching\]'),
        (_with_array(dtype='|O'), "must hold numbers.*got the type '|O'"),
        (_with_array(dtype='f4,O'), 'must hold numbers'),
        (_with_array(dtype='no such'), "got the type 'no such'"),
        (_with_array(shape=[-1]), r'the shape \(-1,\)'),
    ],
)
def test_what_is_no_message_is_refused(plain: Any, words: str) -> None:
    with pytest.raises(WorkerError, match=words):
        from_plain(plain, ToWorker)


@pytest.mark.parametrize('line', [b'\x80\x04N.\n', b'{"kind": \n', b'[' * 100_000 + b'\n', b'7\n'])
def test_a_line_that_is_no_json_of_a_message_is_refused(line: bytes) -> None:
    with pytest.raises(WorkerError, match='not understood'):
        read_message(io.BytesIO(line), ToHost)


def test_an_array_that_its_block_cannot_hold_is_refused() -> None:
    shared = SharedArrays()
    try:
        described = shared.share(np.zeros(1000))
        too_long = SharedArray(described.block, (10**6,), described.dtype)
        with pytest.raises(WorkerError, match='needs 8000000 bytes'):
            copy_shared(too_long)
        np.testing.assert_array_equal(copy_shared(described), np.zeros(1000))
    finally:
        shared.release_all()


def test_an_array_of_objects_is_not_shared() -> None:
    with pytest.raises(WorkerError, match='must hold numbers'):
        SharedArrays().share(np.array([object()]))


@pytest.mark.parametrize('n_eigenmodes', [0, 1])
def test_a_scan_arrives_as_it_was_sent(small_scan: Scan, n_eigenmodes: int) -> None:
    eigenmodes = np.repeat(small_scan.probe[:1], n_eigenmodes, axis=0)
    weights = np.ones((len(small_scan), 1 + n_eigenmodes))
    sent = replace(small_scan, probe_variation=ProbeVariation(eigenmodes, weights))
    shared, copied = SharedArrays(), list[str]()
    try:
        described = shared.share_fields(ScanArrays.of(sent))
        came = copy_fields(ScanArrays, described, copied.append).to_scan(name=sent.name)
    finally:
        shared.release_all()
    assert copied == [array.block for array in described.values()]
    for name in ('patterns', 'positions_px', 'probe', 'bad_pixels', 'pattern_indexes'):
        np.testing.assert_array_equal(getattr(came, name), getattr(sent, name))
    assert came.probe_variation is not None
    np.testing.assert_array_equal(came.probe_variation.eigenmodes, eigenmodes)
    np.testing.assert_array_equal(came.probe_variation.weights, weights)


@pytest.mark.parametrize(
    ('names', 'words'),
    [
        (['object_', 'probe'], 'need the arrays probe, object_, origin_px; origin_px did not come'),
        (['object_', 'origin_px', 'probe', 'halo'], 'halo came, which is unknown'),
    ],
)
def test_arrays_that_do_not_belong_to_a_result_are_refused(names: list[str], words: str) -> None:
    with pytest.raises(WorkerError, match=words):
        copy_fields(ResultArrays, dict.fromkeys(names, ARRAY), lambda block: None)


def test_a_worker_that_gets_nonsense_ends_and_explains_why() -> None:
    done = subprocess.run(
        [sys.executable, '-m', 'ptychopinn_plugin.host.worker.server'],
        input=json.dumps({'kind': 'Dance'}).encode() + b'\n',
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert b"got 'Dance'" in done.stderr.splitlines()[-1]


def test_a_worker_that_sends_nonsense_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a library would that writes to the stream of messages."""
    package = tmp_path / 'numpy'
    package.mkdir()
    # Found before the real one, and imported before the worker has moved its output away.
    (package / '__init__.py').write_text(
        "import sys, time\nprint('hello from a library', flush=True)\ntime.sleep(600)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    process = WorkerProcess('pytorch', lambda _: None)
    shared, busy = SharedArrays(), threading.Lock()
    busy.acquire()
    with (
        Run(process, 1, shared, busy, 120.0) as run,
        pytest.raises(WorkerError, match='hello from a library'),
    ):
        list(run.events())
    assert not process.is_alive()
    assert not busy.locked()
