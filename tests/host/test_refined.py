"""What a worker refines besides the object: positions and the intensities of the beam."""

from dataclasses import replace

import numpy as np
import pytest

from ptychopinn_plugin.config import InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.host.worker.arrays import ResultArrays, ScanArrays
from ptychopinn_plugin.host.worker.client import Event, Worker
from ptychopinn_plugin.host.worker.messages import ReconstructionDone, ReconstructJob
from ptychopinn_plugin.model_archive import BUILT_IN_PATH

from .conftest import needs

BEAMS = np.exp(0.15 * np.random.default_rng(3).standard_normal(80))
DARK = 17


@pytest.fixture(scope='module')
def flickering(small_scan: Scan) -> Scan:
    """Return a scan under a beam that flickers, with a pattern that has no light."""
    patterns = np.round(small_scan.patterns * BEAMS[:, None, None]).astype(np.uint32)
    patterns[DARK] = 0
    return replace(small_scan, patterns=patterns)


@pytest.fixture(scope='module')
def refined(flickering: Scan) -> Event:
    """Return the end of a run in a process of its own."""
    settings = RefinementConfig(iterations=25, positions=True, intensities=True)
    job = ReconstructJob('pytorch', BUILT_IN_PATH, InferenceConfig(device='cpu'), settings)
    worker, last = Worker(), None
    with worker.run(job, ScanArrays.of(flickering)) as run:
        for event in run.events():
            last = event or last
    worker.close()
    assert last is not None
    return last


@needs('torch')
def test_every_position_has_a_beam_and_a_move(refined: Event) -> None:
    assert isinstance(refined.report, ReconstructionDone)
    assert refined.report.left_out == 1
    assert isinstance(refined.arrays, ResultArrays)
    found, moves = refined.arrays.intensities, refined.arrays.moves_px
    assert found is not None
    assert moves is not None
    assert (found.shape, moves.shape) == ((80,), (80, 2))
    # The pattern that was left out has the values of nothing known.
    assert found[DARK] == 1
    assert (moves[DARK] == 0).all()
    lit = np.arange(80) != DARK
    assert np.corrcoef(np.log(found[lit]), np.log(BEAMS[lit]))[0, 1] > 0.95
