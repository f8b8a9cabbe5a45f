"""What a worker can do: open a model, train, reconstruct. Runs in the worker's process."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.backends.checkpoints import Checkpoints
from ptychopinn_plugin.backends.protocol import Backend, Progress
from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Reconstruction, Scan, load_scan
from ptychopinn_plugin.data.scan import Geometry
from ptychopinn_plugin.errors import WorkerError
from ptychopinn_plugin.host.worker.ipc import Message, copy_shared
from ptychopinn_plugin.model_file import Model, read_model
from ptychopinn_plugin.storage.atomic import check_output_folder, keep_previous

PREVIEW_S = 2.0
"""The host redraws everything for each picture; faster than this, its window freezes."""

REPORT_S = 0.2
"""The host hears of progress so often."""


class HostConnection(Protocol):
    """What a job needs to talk to the host; see `worker_process.HostConnection`."""

    @property
    def is_stopping(self) -> bool:
        """Whether the host asked the job to stop."""
        ...

    def send(self, event: str, values: Message, arrays: dict[str, Any] | None = None) -> None:
        """Send a message, with arrays beside it."""
        ...


class _NothingToKeep(Exception):
    """Training was stopped before its first epoch ended.

    What a first epoch leaves behind is no better than the model that was there before, so it need
    not be finished.
    """


class Reporter:
    """Passes progress on to the host, no faster than the host can take it."""

    def __init__(self, voice: HostConnection) -> None:
        self._epochs = 0
        self._voice = voice
        self._last_report = self._last_picture = float('-inf')

    def __call__(self, progress: Progress) -> bool:
        """Report a step; True where the host asks the run to stop."""
        now = time.monotonic()
        is_epoch_end = 'validation_loss' in progress.losses
        is_picture = progress.object_ is not None and now - self._last_picture >= PREVIEW_S
        if is_epoch_end or is_picture or now - self._last_report >= REPORT_S:
            self._last_report = now
            values = {
                'stage': progress.stage,
                'step': progress.step,
                'total': progress.total,
                'losses': {name: float(value) for name, value in progress.losses.items()},
                'patterns_per_second': progress.patterns_per_second,
                'is_epoch_end': is_epoch_end,
            }
            arrays = {}
            if is_picture:
                self._last_picture = now
                arrays = {'object': progress.object_, 'origin_px': progress.origin_px}
            self._voice.send('progress', values, arrays)
        is_stopping = self._voice.is_stopping
        self._epochs += is_epoch_end and not is_stopping
        if is_stopping and progress.stage in ('target', 'train') and self._epochs == 0:
            raise _NothingToKeep
        return is_stopping


class Jobs:
    """Does the host's jobs and keeps the backend and its model between them."""

    def __init__(self, voice: HostConnection) -> None:
        self._voice = voice
        self._backend: Backend | None = None
        self._held: tuple[str, int, int] | None = None

    def do(self, message: Message) -> None:
        """Do one job and say what came of it."""
        jobs = {'open': self._open, 'train': self._train, 'reconstruct': self._reconstruct}
        jobs[message['do']](message)

    def _open(self, message: Message) -> None:
        self._hold(self._use(message['backend']), Path(message['model']))
        self._voice.send('done', {})

    def _train(self, message: Message) -> None:
        backend = self._use(message['backend'])
        output = Path(message['output'])
        check_output_folder(output.parent)
        base = message.get('base_model')
        checkpoints = Checkpoints(checkpoint_path(output))
        self._held = None
        try:
            result = backend.train(
                _load(message['scans'], message.get('photons')),
                Config.from_dict(message['config']),
                validation=_load(message['validation'], message.get('photons')),
                base_model=None if base is None else read_model(Path(base)),
                observer=checkpoints.beside(Reporter(self._voice)),
            )
        except _NothingToKeep:
            self._voice.send('done', {'epochs': 0, 'stopped': 'request'})
            return
        keep_previous(output)
        backend.save_model(output, inference_only=not message['keep_training_state'])
        checkpoints.remove()
        self._held = file_identity(output)
        values = {
            'epochs': len(result.history),
            'stopped': result.stopped,
            'best_loss': result.model.provenance.get('best_loss'),
            'seconds': result.model.provenance.get('seconds'),
        }
        self._voice.send('done', values)

    def _reconstruct(self, message: Message) -> None:
        backend = self._use(message['backend'])
        self._hold(backend, Path(message['model']))
        arrays = self._take(message['arrays'])
        scan = Scan(
            patterns=arrays['patterns'],
            positions_px=arrays['positions_px'],
            probe=arrays['probe'],
            bad_pixels=arrays['bad_pixels'],
            pattern_indexes=arrays['pattern_indexes'],
            geometry=Geometry(**message['geometry']),
            name=message['name'],
        )
        reconstruction = backend.reconstruct(
            scan,
            InferenceConfig.from_dict(message['inference']),
            RefinementConfig.from_dict(message['refinement']),
            observer=Reporter(self._voice),
        )
        self._voice.send('done', *_described(reconstruction))

    def _take(self, lent: Mapping[str, Message]) -> dict[str, RealArray]:
        """Copy a job's arrays; the host frees each at once, so that none is held for the run."""
        arrays = {}
        for name, described in lent.items():
            arrays[name] = copy_shared(described)
            self._voice.send('taken', {'block': described['block']})
        return arrays

    def _use(self, name: str) -> Backend:
        if self._backend is None:
            self._backend = create_backend(name)
        if self._backend.name != name:
            raise WorkerError(
                f'This worker runs {self._backend.name!r}; {name!r} needs one of its own.'
            )
        return self._backend

    def _hold(self, backend: Backend, path: Path) -> Model:
        """Open a model file, unless the backend holds just this one."""
        identity = file_identity(path)
        if backend.model is None or identity is None or identity != self._held:
            backend.open_model(path)
            self._held = identity
        assert backend.model is not None
        return backend.model


def checkpoint_path(output: Path) -> Path:
    """Return where the model so far lies while training goes on, beside the model to come."""
    return output.with_suffix(f'.checkpoint{output.suffix}')


def _load(paths: Sequence[str], photons: float | None) -> list[Scan]:
    return [load_scan(path, photons=photons) for path in paths]


def file_identity(path: Path) -> tuple[str, int, int] | None:
    """Return what tells whether a file is the one that was read before."""
    try:
        status = path.stat()
    except OSError:
        return None
    return str(path), status.st_mtime_ns, status.st_size


def _described(reconstruction: Reconstruction) -> tuple[Message, dict[str, RealArray]]:
    geometry = reconstruction.geometry
    values = {
        'likelihoods': [float(value) for value in reconstruction.likelihoods],
        'timing': dict(reconstruction.timing),
        'amplitude_residual': float(reconstruction.amplitude_residual),
        'pixel_m': [geometry.pixel_height_m, geometry.pixel_width_m],
        'backend': reconstruction.backend,
    }
    arrays = {
        'object': reconstruction.object_,
        'origin_px': reconstruction.origin_px,
        'probe': reconstruction.probe,
        'positions_px': reconstruction.positions_px,
    }
    return values, arrays
