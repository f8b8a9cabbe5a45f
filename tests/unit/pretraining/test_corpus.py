"""The corpus: seeded, physical, and without the benchmark's probe."""

import numpy as np
import pytest

from ptychopinn_plugin.physics import predict_patterns
from ptychopinn_plugin.pretraining.corpus import Task, draw_task
from ptychopinn_plugin.pretraining.objects import draw_lines, draw_object
from ptychopinn_plugin.pretraining.probes import (
    MAX_WINDOW_PX,
    draw_curved_probe,
    draw_probe,
    is_the_benchmarks,
    window_px_of,
)

SEED = 3


@pytest.fixture(scope='module')
def tasks() -> list[Task]:
    return [draw_task(SEED, number) for number in range(12)]


def test_the_same_number_is_the_same_scan(tasks: list[Task]) -> None:
    again = draw_task(SEED, 5)
    np.testing.assert_array_equal(again.scan.patterns, tasks[5].scan.patterns)
    np.testing.assert_array_equal(again.scan.probe, tasks[5].scan.probe)
    np.testing.assert_array_equal(again.truth, tasks[5].truth)
    other = draw_task(SEED + 1, 5).scan.patterns
    assert other.shape != again.scan.patterns.shape or np.any(other != again.scan.patterns)


def test_the_probes_energy_is_the_mean_count(tasks: list[Task]) -> None:
    for task in tasks:
        energy = (np.abs(task.scan.probe.astype(np.complex128)) ** 2).sum()
        assert energy == pytest.approx(task.scan.mean_photons(), rel=1e-4)


def test_the_truth_explains_the_counts(tasks: list[Task]) -> None:
    """With the probe that a user knows, up to its small errors and those of positions."""
    for task in tasks:
        scan = task.scan
        assert scan.bad_pixels is not None
        origin = np.zeros(2, dtype=np.int64)
        modes = scan.probe.astype(np.complex128)
        expected = predict_patterns(
            task.truth.astype(np.complex128), origin, scan.positions_px, modes
        )
        valid = ~scan.bad_pixels
        counts = scan.patterns[:, valid].astype(np.float64)
        misfit = ((np.sqrt(counts) - np.sqrt(expected[:, valid])) ** 2).sum()
        # A quarter of a photon for each lit pixel is shot noise.
        noise = 0.3 * (expected[:, valid] > 0.1).sum() + 0.5 * expected[expected <= 0.1].sum()
        assert misfit < 1.5 * noise + 0.15 * counts.sum()
        assert expected[:, valid].sum() == pytest.approx(counts.sum(), rel=0.05)


def test_scans_differ_in_what_matters(tasks: list[Task]) -> None:
    assert len({window_px_of(task.scan.probe) for task in tasks}) >= 4
    assert {task.scan.is_single_shot for task in tasks} == {True, False}
    counts = [task.scan.mean_photons() for task in tasks]
    assert max(counts) > 30 * min(counts)
    assert all(16 <= window_px_of(task.scan.probe) <= MAX_WINDOW_PX for task in tasks)
    assert all(window_px_of(task.scan.probe) % 8 == 0 for task in tasks)


def test_objects_do_not_amplify() -> None:
    rng = np.random.default_rng(0)
    objects = [draw_object(rng, (70, 90)) for _ in range(40)]
    assert all(object_.shape == (70, 90) for object_ in objects)
    assert all(np.isfinite(object_).all() for object_ in objects)
    assert max(np.abs(object_).max() for object_ in objects) <= 1 + 1e-9
    assert min(np.abs(object_).min() for object_ in objects) < 0.05
    assert any(np.ptp(np.abs(object_)) < 1e-9 for object_ in objects), 'none is pure phase'
    assert any(np.ptp(np.angle(object_)) > 3 for object_ in objects), 'none has a strong phase'


def test_lines_have_no_phase() -> None:
    lines = draw_lines(np.random.default_rng(1), (60, 60))
    assert np.all(lines.imag == 0)
    assert lines.real.min() >= 0
    assert lines.real.max() == pytest.approx(1)


def test_probes_have_the_window_that_was_asked_for() -> None:
    rng = np.random.default_rng(2)
    for window in (16, 40, 64):
        probe = draw_probe(rng, 96, window)
        assert probe.shape[1:] == (96, 96)
        assert (np.abs(probe) ** 2).sum() == pytest.approx(1)
    assert draw_curved_probe(rng, 64).shape == (1, 64, 64)


def test_the_benchmarks_lens_is_left_out() -> None:
    assert is_the_benchmarks(0.10, 400.0)
    assert is_the_benchmarks(0.11, -450.0)
    assert not is_the_benchmarks(0.13, 400.0)
    assert not is_the_benchmarks(0.10, 700.0)
