"""A command line in this process, a small scan, and a backend that computes nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin import api
from ptychopinn_plugin.backends import selection
from ptychopinn_plugin.backends.protocol import Observer, Progress, TrainingResult, ignore_progress
from ptychopinn_plugin.backends.selection import Choice
from ptychopinn_plugin.cli import main
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Reconstruction, Scan, write_reconstruction, write_scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.model_file import Model, TrainingState, write_model
from ptychopinn_plugin.network import describe_network


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    def error(self) -> str:
        """Return the message of a command that had to fail, in the way that all must."""
        lines = [line for line in self.err.splitlines() if line.startswith('error: ')]
        assert self.code == 2, self.err
        assert self.out == ''
        assert len(lines) == 1, self.err
        assert 'Traceback' not in self.err
        return lines[0]


Run = Callable[..., Outcome]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command and returns how it ended."""

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return Outcome(ended.value.code, captured.out, captured.err)

    return call


@pytest.fixture(scope='session')
def scan() -> Scan:
    """Return a small scan with its object."""
    return simulate(SimulationConfig(size=32, rows=6, columns=6, step_px=4.0, photons=1e4))


@pytest.fixture
def scan_file(tmp_path: Path, scan: Scan) -> Path:
    """Return a small scan in a file."""
    write_scan(tmp_path / 'scan.npz', scan)
    return tmp_path / 'scan.npz'


@pytest.fixture(scope='session')
def perfect(scan: Scan) -> Reconstruction:
    """Return the truth as if a backend had found it."""
    return true_reconstruction(scan, 0)


@pytest.fixture
def reconstruction_file(tmp_path: Path, perfect: Reconstruction) -> Path:
    """Return the truth in the file of a reconstruction."""
    write_reconstruction(tmp_path / 'reconstruction.npz', perfect)
    return tmp_path / 'reconstruction.npz'


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    """Return a model that can be resumed."""
    write_model(tmp_path / 'model.zip', blank_model(Config()))
    return tmp_path / 'model.zip'


def true_reconstruction(scan: Scan, iterations: int) -> Reconstruction:
    """Return a scan's own object as a reconstruction."""
    assert scan.object_ is not None
    return Reconstruction(
        object_=scan.object_,
        origin_px=np.zeros(2),
        coverage=np.ones(scan.object_.shape, dtype=np.float32),
        probe=scan.probe,
        positions_px=scan.positions_px,
        backend='blank',
        likelihoods=[1.0 / (1 + number) for number in range(iterations + 1)] if iterations else [],
        timing={'predict': 0.2, 'stitch': 0.05, 'refine': 0.1},
        amplitude_residual=0.125,
        name=scan.name,
    )


def blank_model(config: Config, size: int = 32) -> Model:
    """Return a model whose weights are zero."""
    config = config.replace(model=config.model.replace(pattern_size=size))
    network = describe_network(config.model, size)
    shapes = network.weight_shapes()
    history = [{'epoch': 1.0, 'loss': 2.0}]
    return Model(
        backend='blank',
        network=network,
        config=config,
        photons=1e4,
        weights={name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()},
        probe=np.ones((1, size, size), dtype=np.complex64),
        data_summary={'patterns': 36, 'scans': ['a scan']},
        provenance={'device': 'cpu', 'best_loss': 0.5, 'seconds': 1.5},
        training_state=TrainingState({'last/w': np.zeros(3)}, {'epoch': 1, 'history': history}),
    )


class BlankBackend:
    """Keeps what was requested."""

    name = 'blank'

    def __init__(self) -> None:
        self.model: Model | None = None
        self.requested: dict[str, Any] = {}
        self.holds_out = True

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
        """Report two epochs."""
        self.requested = {
            'scans': scans,
            'config': config,
            'validation': validation,
            'base_model': base_model,
            'resume': resume,
        }
        history = []
        for epoch in (1, 2):
            losses = {'loss': 1 / epoch, 'validation_loss': (1 + self.holds_out) / epoch}
            row = {'epoch': float(epoch), 'seconds': 0.1 * epoch, 'learning_rate': 1e-3, **losses}
            history.append(row)
            size = config.model.pattern_size or scans[0].pattern_shape[0]
            self.model = blank_model(config, size)
            observer(Progress('train', epoch, 2, losses, 1000.0, make_model=lambda: self.model))
        return TrainingResult(self.model, history, 'epochs')

    def reconstruct(
        self,
        scan: Scan,
        inference: InferenceConfig,
        refinement: RefinementConfig,
        *,
        observer: Observer = ignore_progress,
    ) -> Reconstruction:
        """Return the truth."""
        self.requested = {'scan': scan, 'inference': inference, 'refinement': refinement}
        observer(Progress('predict', 1, 1))
        return true_reconstruction(scan, refinement.iterations or 0)

    def refine(
        self,
        scan: Scan,
        refinement: RefinementConfig,
        *,
        device: str = 'auto',
        observer: Observer = ignore_progress,
    ) -> Reconstruction:
        """Return the truth."""
        self.requested = {'scan': scan, 'refinement': refinement}
        return true_reconstruction(scan, refinement.iterations or 0)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> BlankBackend:
    """Put a backend that needs no framework in the place of all others."""
    blank = BlankBackend()

    def choose(*_: object, **__: object) -> Choice:
        return Choice('blank', 'auto')

    monkeypatch.setattr(selection, 'choose', choose)
    monkeypatch.setattr(api, 'choose', choose)
    monkeypatch.setattr(api, 'create_backend', lambda name: blank)
    return blank
