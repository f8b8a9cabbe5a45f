"""Which of the probes that are tried is taken, with trials whose likelihoods are given."""

import dataclasses
import logging
from collections.abc import Callable

import numpy as np
import pytest

from ptychopinn_plugin.backends.common.probe_search import PATTERNS, find_probe
from ptychopinn_plugin.backends.protocol import Observer, ignore_progress
from ptychopinn_plugin.config import RefinementConfig
from ptychopinn_plugin.data import Reconstruction, Scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.data.starting_probe import Pupil, far_amplitude, root_mean_square_radius

Loss = Callable[[float, bool], float]
"""It returns the loss of a trial with a probe of this radius, beyond its focus or not."""


@pytest.fixture(scope='module')
def scan() -> Scan:
    values = {'size': 32, 'rows': 6, 'columns': 6, 'step_px': 7.0, 'pupil_radius': 0.15}
    scan = simulate(SimulationConfig.from_dict({**values, 'defocus': 150.0}))
    return dataclasses.replace(scan, probe_origin='patterns', object_=None)


class Trials:
    """Reconstructs nothing, and returns the loss that is given for a probe."""

    def __init__(self, scan: Scan, loss: Loss) -> None:
        self._pupil, self._loss = Pupil(far_amplitude(scan.probe)), loss
        self.scans: list[Scan] = []
        self.variations: list[float | None] = []

    def __call__(
        self, scan: Scan, refinement: RefinementConfig, *, observer: Observer
    ) -> Reconstruction:
        self.scans.append(scan)
        self.variations.append(refinement.total_variation)
        radius = root_mean_square_radius(scan.probe)
        defocus = self._pupil.defocus_of(radius)
        before, beyond = (
            float(np.abs(np.vdot(self._pupil.probe(sign * defocus), scan.probe)))
            for sign in (1, -1)
        )
        blank = np.ones((4, 4))
        return Reconstruction(
            object_=blank.astype(np.complex64),
            origin_px=np.zeros(2),
            coverage=blank,
            probe=scan.probe,
            positions_px=scan.positions_px,
            backend='none',
            likelihoods=[1.0, self._loss(radius, beyond > before * (1 + 1e-6))],
        )


def found_radius(scan: Scan, loss: Loss) -> tuple[float, Trials]:
    trials = Trials(scan, loss)
    found, stopped = find_probe(scan, trials, observer=ignore_progress)
    assert (found.probe_origin, stopped) == ('found', False)
    return root_mean_square_radius(found.probe), trials


def test_the_likelihood_decides(scan: Scan) -> None:
    radius, trials = found_radius(scan, lambda radius, beyond: abs(radius - 6) + 3 * beyond + 0.1)
    assert radius == pytest.approx(6, abs=1)
    assert all(len(each) <= PATTERNS for each in trials.scans)
    # Smoothed objects of probes that overlap little would not be alike those of others.
    assert set(trials.variations) == {0.0}


def test_a_probe_that_hardly_overlaps_is_not_taken(scan: Scan) -> None:
    """It can be given an object that fits any pattern, so that its likelihood decides nothing."""
    radius, _ = found_radius(scan, lambda radius, beyond: 0.01 if radius < 3.5 else radius)
    assert radius > 3.5
    # Repeated exposures are no overlap.
    often = scan.subset(np.repeat(np.arange(len(scan)), 5))
    again, trials = found_radius(often, lambda radius, beyond: 0.01 if radius < 3.5 else radius)
    assert again == pytest.approx(radius)
    assert all(len(each) == len(scan) for each in trials.scans)


@pytest.mark.parametrize(
    ('loss', 'unsure'),
    [
        (lambda radius, beyond: abs(radius - 6) + 0.1 + 0.001 * beyond, True),
        (lambda radius, beyond: abs(radius - 6) + 0.1 + 0.02 * beyond, False),
        # In focus there are no sides.
        (lambda radius, beyond: radius, False),
    ],
)
def test_a_warning_where_both_sides_of_the_focus_fit(
    scan: Scan, caplog: pytest.LogCaptureFixture, loss: Loss, unsure: bool
) -> None:
    dense = dataclasses.replace(scan, positions_px=scan.positions_px / 7)
    with caplog.at_level(logging.WARNING):
        found_radius(dense, loss)
    assert ('hardly show on which side' in caplog.text) == unsure


def test_patterns_one_by_one_are_not_searched(scan: Scan, caplog: pytest.LogCaptureFixture) -> None:
    alone = dataclasses.replace(scan, is_single_shot=True)
    trials = Trials(alone, lambda radius, beyond: 1.0)
    found, _ = find_probe(alone, trials, observer=ignore_progress)
    assert (found, trials.scans) == (alone, [])
    assert 'do not determine the probe' in caplog.text
