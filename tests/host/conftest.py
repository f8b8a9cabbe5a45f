"""A small scan in Ptychodus' own files, and Ptychodus itself."""

import importlib.util
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptychopinn_plugin.data import Geometry, Reconstruction, Scan, write_product, write_scan
from ptychopinn_plugin.data.geometry import wavelength_m
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.host.worker.client import Worker
from ptychopinn_plugin.host.worker.messages import TrainJob

from .workers import training_job

if importlib.util.find_spec('ptychodus.api') is None:
    pytest.skip('Ptychodus is not installed.', allow_module_level=True)

SIZE = 32
ENERGY_EV, DISTANCE_M, DETECTOR_PIXEL_M = 8000.0, 1.0, 75e-6
PIXEL_M = wavelength_m(ENERGY_EV) * DISTANCE_M / (SIZE * DETECTOR_PIXEL_M)

SETTINGS = """\
[Processing]
Algorithm = {algorithm}

[PtychoPINNPlugin]
TrainingEpochs = {epochs}
TrainingTargetIterations = 10
TrainingMaxMinutes = 0
ModelFiltersScale = 0.25
ModelPasses = 2
RefinementIterations = {iterations}
TrainingDevice = cpu
{more}
"""


def needs(*modules: str) -> pytest.MarkDecorator:
    """Skip a test where a module is missing, and name it."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f'{", ".join(missing)} is not installed')


@pytest.fixture(autouse=True)
def ended_observers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """End what watches folders: Ptychodus forgets one unused observer of each application.

    From watchdog 7 on each of them holds a handle from its making, of which a user has 128.
    """
    observers = pytest.importorskip('watchdog.observers')
    made: list[Any] = []
    make = observers.Observer

    def make_and_note(*arguments: Any, **options: Any) -> Any:
        made.append(make(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(observers, 'Observer', make_and_note)
    yield
    for observer in made:
        observer.stop()


@pytest.fixture(scope='module', autouse=True)
def no_handlers_stay() -> Iterator[None]:
    """Take the handlers of libraries that nobody closed from the package's logger.

    They put its lines into the words of the panel, which other tests do not expect.
    """
    logger = logging.getLogger('ptychopinn_plugin')
    before = list(logger.handlers)
    yield
    for handler in list(logger.handlers):
        if handler not in before:
            logger.removeHandler(handler)


@pytest.fixture(scope='session')
def small_scan() -> Scan:
    """Return 80 patterns of a field that is not square, with what is needed for metres."""
    scan = simulate(
        SimulationConfig.from_dict(
            {
                'size': SIZE,
                'rows': 8,
                'columns': 10,
                'step_px': 4.0,
                'jitter_px': 1.0,
                'pupil_radius': 0.12,
                'defocus': 100.0,
            }
        )
    )
    geometry = Geometry(PIXEL_M, PIXEL_M, ENERGY_EV, DISTANCE_M, DETECTOR_PIXEL_M, DETECTOR_PIXEL_M)
    return Scan(
        scan.patterns, scan.positions_px, scan.probe, scan.object_, geometry=geometry, name='small'
    )


def write_batch_folder(
    folder: Path,
    scan: Scan,
    *,
    algorithm: str = 'ptychopinn-plugin_PINN',
    epochs: int = 2,
    iterations: int = 3,
    more: str = '',
    shift_px: tuple[float, float] = (0.0, 0.0),
) -> Path:
    """Write a folder as batch mode wants it; `more` are further lines of the settings file."""
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / 'diffraction.h5', 'w') as file:
        file['indexes'] = np.arange(len(scan))
        file['patterns'] = scan.patterns
        file['patterns'].attrs['detector_pixel_width_m'] = DETECTOR_PIXEL_M
        file['patterns'].attrs['detector_pixel_height_m'] = DETECTOR_PIXEL_M
        file['bad_pixels'] = scan.bad_pixels
    assert scan.object_ is not None
    # A user begins with a flat object, which shows where the scan lies and no more.
    start = Reconstruction(
        object_=np.ones_like(scan.object_),
        origin_px=np.array(shift_px),
        coverage=np.ones(scan.object_.shape, np.float32),
        probe=scan.probe,
        positions_px=scan.positions_px + shift_px,
        backend='none',
        geometry=scan.geometry,
        name=scan.name,
    )
    write_product(folder / 'product.h5', start)
    text = SETTINGS.format(algorithm=algorithm, epochs=epochs, iterations=iterations, more=more)
    (folder / 'settings.ini').write_text(text)
    return folder


@pytest.fixture
def write_folder(small_scan: Scan) -> Callable[..., Path]:
    """Return `write_batch_folder` with the small scan as its default."""

    def write(folder: Path, *, scan: Scan = small_scan, **settings: Any) -> Path:
        return write_batch_folder(folder, scan, **settings)

    return write


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Let nothing of the user's decide: neither a backend nor Ptychodus' own folder."""
    monkeypatch.delenv('PTYCHOPINN_BACKEND', raising=False)
    monkeypatch.setenv('HOME', str(tmp_path))
    return monkeypatch


@pytest.fixture
def worker() -> Iterator[Worker]:
    """Return a worker, which starts its process with its first run."""
    worker = Worker()
    yield worker
    worker.close()


@pytest.fixture(scope='session')
def scan_file(small_scan: Scan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of the small scan."""
    path = tmp_path_factory.mktemp('scan') / 'train_data.npz'
    write_scan(path, small_scan)
    return path


@pytest.fixture
def training(scan_file: Path, tmp_path: Path) -> Callable[..., TrainJob]:
    """Return a function that describes a training of some seconds or, by default, of hours."""

    def describe(epochs: int = 100_000) -> TrainJob:
        return training_job(scan_file, tmp_path / 'model.zip', epochs)

    return describe
