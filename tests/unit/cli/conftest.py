"""A backend without a framework, and commands run in this process."""

import dataclasses
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from ptychopinn_plugin.archive import Model, TrainingState
from ptychopinn_plugin.backends import selection
from ptychopinn_plugin.backends.protocol import Observer, Progress, TrainingResult, ignore_progress
from ptychopinn_plugin.backends.spec import BackendSpec
from ptychopinn_plugin.cli import main
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Reconstruction, Scan, write_scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.network import describe_network

PRESENT = BackendSpec('fake', 'wave', 'no-such-distribution', '1', 'fake_backend:FakeBackend')
ABSENT = BackendSpec('absent', 'no_such_framework', 'no', '2', 'none:none', 'absent')


class FakeBackend:
    """Knows the answer: its reconstruction is the object in the scan."""

    name = 'fake'

    def __init__(self) -> None:
        self.model: Model | None = None

    def train(
        self,
        scans: Sequence[Scan],
        config: Config,
        *,
        validation: Sequence[Scan] = (),
        base_model: Model | None = None,
        resume: bool = False,
        observer: Observer = ignore_progress,
    ) -> TrainingResult:
        """Train for as many epochs as asked, or until the observer says stop."""
        history: list[dict[str, float]] = []
        if resume and base_model is not None and base_model.training_state is not None:
            history = [dict(row) for row in base_model.training_state.values['history']]
        stopped = 'epochs'
        while len(history) < config.training.epochs:
            epoch = len(history) + 1
            losses = {'loss': 1 / epoch, 'validation_loss': 2 / epoch}
            history.append({'epoch': float(epoch), 'seconds': 0.1, 'learning_rate': 1e-3, **losses})
            if observer(Progress('train', epoch, config.training.epochs, losses, 10.0)):
                stopped = 'request'
                break
        size = config.model.pattern_size or scans[0].pattern_shape[0]
        config = config.replace(model=config.model.replace(pattern_size=size))
        network = describe_network(config.model, 16)
        weights = {n: np.zeros(shape, np.float32) for n, shape in network.weight_shapes().items()}
        self.model = Model(
            backend='fake',
            network=network,
            config=config,
            photons=scans[0].mean_counts(),
            weights=weights,
            probe=scans[0].probe,
            data_summary={'scans': [scan.name for scan in scans], 'patterns': len(scans[0])},
            provenance={'device': 'cpu', 'seconds': 0.2, 'best_loss': 2 / len(history)},
            training_state=TrainingState({'last/a': np.zeros(2)}, {'history': history}),
        )
        return TrainingResult(self.model, history, stopped)

    def reconstruct(
        self,
        scan: Scan,
        inference: InferenceConfig,
        refinement: RefinementConfig,
        *,
        observer: Observer = ignore_progress,
    ) -> Reconstruction:
        """Return the truth."""
        observer(Progress('predict', 1, 1))
        return self.refine(scan, refinement, observer=observer)

    def refine(
        self, scan: Scan, refinement: RefinementConfig, *, observer: Observer = ignore_progress
    ) -> Reconstruction:
        """Return the truth, or ones where there is none."""
        reach = np.ceil(scan.positions_px.max(axis=0)).astype(int) + scan.pattern_shape[0]
        object_ = np.ones(tuple(reach), np.complex64) if scan.object_ is None else scan.object_
        coverage = np.zeros(object_.shape, np.float32)
        first, last = scan.positions_px.min(axis=0) - 8, scan.positions_px.max(axis=0) + 8
        coverage[int(first[0]) : int(last[0]), int(first[1]) : int(last[1])] = 1
        for sweep in range(refinement.sweeps):
            observer(Progress('refine', sweep + 1, refinement.sweeps, {'poisson': 1.0}))
        return Reconstruction(
            object_=object_,
            origin_px=np.zeros(2),
            coverage=coverage,
            probe=scan.probe,
            positions_px=scan.positions_px,
            backend='fake',
            likelihoods=[1.0] * (refinement.sweeps + 1 if refinement.sweeps else 0),
            timing={'predict': 0.5, 'stitch': 0.5, 'refine': 1.0},
            amplitude_residual=0.01,
            geometry=scan.geometry,
            name=scan.name,
        )


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> list[BackendSpec]:
    """Make `fake` the only backend that can run, beside one that is not installed."""
    module = types.ModuleType('fake_backend')
    module.FakeBackend = FakeBackend  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, 'fake_backend', module)
    specs = [PRESENT, ABSENT]
    monkeypatch.setattr(selection, 'find_backends', lambda: {spec.name: spec for spec in specs})
    monkeypatch.delenv('PTYCHOPINN_BACKEND', raising=False)
    return specs


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(backends: list[BackendSpec], capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs `ptychopinn` with arguments."""

    def apply(*arguments: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return Outcome(end.value.code, out, err)

    return apply


@pytest.fixture
def fails(run: Run) -> Callable[..., str]:
    """Return a function that runs what must fail, and returns the one line it leaves."""

    def apply(*arguments: object) -> str:
        outcome = run(*arguments)
        assert outcome.code == 2
        assert outcome.out == ''
        lines = [line for line in outcome.err.splitlines() if not line.startswith('note: ')]
        assert len(lines) == 1, outcome.err
        assert lines[0].startswith('error: ')
        return lines[0]

    return apply


@pytest.fixture(scope='session')
def scan() -> Scan:
    """Return a small scan with its object."""
    return simulate(SimulationConfig(size=32, rows=7, columns=6))


@pytest.fixture
def scan_file(scan: Scan, tmp_path: Path) -> Path:
    """Return a file of a scan with its object."""
    path = tmp_path / 'scan.npz'
    write_scan(path, scan)
    return path


@pytest.fixture
def blind_file(scan: Scan, tmp_path: Path) -> Path:
    """Return a file of a scan without its object."""
    path = tmp_path / 'blind.npz'
    write_scan(path, dataclasses.replace(scan, object_=None, name='blind'))
    return path


@pytest.fixture
def model_file(run: Run, scan_file: Path, tmp_path: Path) -> Path:
    """Return a model file, as `train` left it."""
    outcome = run('train', scan_file, '--epochs', 2, '-o', tmp_path / 'model')
    assert outcome.code == 0, outcome.err
    return tmp_path / 'model' / 'wts.h5.zip'
