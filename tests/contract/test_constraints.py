"""What is known of an object, and kept by the iterations of each backend."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin import api
from ptychopinn_plugin.backends.common import reconstruction_run
from ptychopinn_plugin.backends.common.constraints import ObjectConstraints
from ptychopinn_plugin.backends.protocol import Backend
from ptychopinn_plugin.config import RefinementConfig
from ptychopinn_plugin.data import Reconstruction, Scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.evaluation import evaluate

SPARSE = SimulationConfig(
    size=32, rows=6, columns=6, step_px=10.0, pupil_radius=0.12, defocus=100.0, photons=1e4, seed=3
)
SETTINGS = RefinementConfig(iterations=40)


@pytest.fixture(scope='module')
def scan() -> Scan:
    """Return letters under illuminations that overlap little."""
    return simulate(SPARSE.replace(object_kind='letters'))


def refine(make_backend: Callable[[], Backend], scan: Scan, **settings: Any) -> Reconstruction:
    return make_backend().refine(scan, SETTINGS.replace(**settings), device='cpu')


def test_total_variation_decides_what_patterns_leave_open(
    make_backend: Callable[[], Backend], scan: Scan
) -> None:
    free = refine(make_backend, scan, total_variation=0.0)
    usual = refine(make_backend, scan)
    assert usual.provenance['course']['total_variation'] == 0.25
    before, after = evaluate(free, scan), evaluate(usual, scan)
    assert after.amplitude.ssim > before.amplitude.ssim + 0.03
    assert after.phase.ssim > before.phase.ssim
    # Free iterations fit the noise as well: they end below what counting explains.
    assert free.misfit is not None
    assert usual.misfit is not None
    assert free.misfit.over_noise < usual.misfit.over_noise < 1.1


def test_bounds_and_kinds_hold_in_the_result(
    make_backend: Callable[[], Backend], scan: Scan
) -> None:
    bounded = refine(make_backend, scan, min_amplitude=0.7, max_amplitude=1.05)
    amplitude = np.abs(bounded.object_[bounded.coverage > 0.05])
    assert 0.7 - 1e-4 <= amplitude.min() < 0.71
    assert 1.04 < amplitude.max() <= 1.05 + 1e-4
    phase = refine(make_backend, scan, object_type='phase')
    assert np.ptp(np.abs(phase.object_[phase.coverage > 0.05])) < 1e-4
    assert np.ptp(np.angle(phase.object_)) > 0.3


def test_an_amplitude_object_is_real_also_with_a_refined_probe(
    make_backend: Callable[[], Backend], caplog: pytest.LogCaptureFixture
) -> None:
    config = SPARSE.replace(step_px=5.0)
    lines = np.abs(simulate(config).object_).astype(np.complex64)
    scan = simulate(config, object_=lines)
    found = refine(make_backend, scan, object_type='amplitude', probe=True, probe_radius=9.0)
    assert (found.object_.imag == 0).all()
    assert evaluate(found, scan).amplitude.ssim > 0.75
    y, x = np.indices((32, 32)) - 16
    assert (found.probe[:, np.hypot(y, x) > 9.0] == 0).all()
    assert np.linalg.norm(found.probe) == pytest.approx(np.sqrt(scan.mean_photons()), rel=1e-3)
    assert 'kept to' not in caplog.text


def test_an_object_that_is_not_as_it_should_be_is_noted(
    make_backend: Callable[[], Backend], scan: Scan, caplog: pytest.LogCaptureFixture
) -> None:
    refine(make_backend, scan, object_type='amplitude')
    assert 'the iterations kept to --object-type amplitude, and the object misses' in caplog.text


def test_an_object_that_may_not_absorb_is_no_beam_that_varies(
    make_backend: Callable[[], Backend], caplog: pytest.LogCaptureFixture
) -> None:
    scan = simulate(SPARSE.replace(object_kind='letters', rows=9, columns=9))
    found = refine(make_backend, scan, iterations=20, max_amplitude=0.9)
    assert 'no object explains that keeps to --max-amplitude 0.9' in caplog.text
    assert 'Either the object is of another kind' in caplog.text
    assert "beam's intensity seems to vary" not in caplog.text
    assert found.beam_variation is None


def test_patterns_that_stand_out_are_judged_by_an_object_that_keeps_to_the_same(
    make_backend: Callable[[], Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = simulate(SPARSE.replace(rows=8, columns=8, step_px=4.0))
    patterns = scan.patterns.copy()
    patterns[[9, 60]] = patterns[[60, 9]]
    looks: list[tuple[ObjectConstraints, np.ndarray]] = []
    original = reconstruction_run.iterate_without

    def iterate_without(*given: Any) -> Any:
        again = original(*given)
        looks.append((given[3], np.asarray(again)))
        return again

    monkeypatch.setattr(reconstruction_run, 'iterate_without', iterate_without)
    known = {'max_amplitude': 1.1, 'total_variation': 0.1, 'iterations': 15}
    refine(make_backend, dataclasses.replace(scan, patterns=patterns), **known)
    ((kept, again),) = looks
    assert kept == ObjectConstraints(max_amplitude=1.1, total_variation=0.1)
    assert np.abs(again).max() <= 1.1 + 1e-4


def test_a_radius_without_effect_or_with_too_much_is_noted(
    make_backend: Callable[[], Backend], scan: Scan, caplog: pytest.LogCaptureFixture
) -> None:
    refine(make_backend, scan, iterations=1, probe=True, probe_radius=14.0)
    assert '--probe-radius' not in caplog.text
    refine(make_backend, scan, iterations=1, probe_radius=14.0)
    assert '--probe-radius has no effect' in caplog.text
    refine(make_backend, scan, iterations=1, probe=True, probe_radius=2.0)
    assert 'lies beyond --probe-radius 2 px' in caplog.text


def test_bounds_hold_with_all_that_is_refined(make_backend: Callable[[], Backend]) -> None:
    scan = simulate(SPARSE.replace(rows=8, columns=7, step_px=8.0, beam_drift=0.1))
    errors = np.random.default_rng(0).uniform(-1, 1, scan.positions_px.shape)
    moved = dataclasses.replace(scan, positions_px=scan.positions_px + errors)
    found = refine(
        make_backend,
        moved,
        **{'iterations': 12, 'total_variation': 0.5, 'min_amplitude': 0.9, 'max_amplitude': 1.02},
        **{'probe': True, 'probe_radius': 11.0, 'positions': True},
        **{'intensities': True, 'opr_modes': 1, 'drop_outliers': True},
    )
    amplitude = np.abs(found.object_[found.coverage > 0.05])
    assert amplitude.min() == pytest.approx(0.9, abs=1e-4)
    assert amplitude.max() == pytest.approx(1.02, abs=1e-4)
    y, x = np.indices((32, 32)) - 16
    outside = np.hypot(y, x) > 11.0
    assert (found.probe[:, outside] == 0).all()
    assert found.intensities is not None
    # Nor do eigenmodes bring light back beyond the radius.
    assert found.probe_variation is not None
    eigenmodes = np.abs(found.probe_variation.eigenmodes)
    assert eigenmodes[:, outside].max() < 1e-6 * eigenmodes.max()
    assert found.likelihoods[-1] < found.likelihoods[0]


def test_counts_of_an_unknown_unit_are_not_smoothed_by_a_noise_that_nobody_knows(
    make_backend: Callable[[], Backend], scan: Scan, caplog: pytest.LogCaptureFixture
) -> None:
    scaled = dataclasses.replace(scan, patterns=scan.patterns * np.float32(0.3))
    found = refine(make_backend, scaled)
    assert found.provenance['course']['total_variation'] == 0
    free = refine(make_backend, scan, total_variation=0.0)
    difference = np.abs(found.object_ - free.object_)[free.coverage > 0.1]
    assert difference.mean() < 0.02
    assert 'noise of counting' not in caplog.text
    refine(make_backend, scaled, iterations=1, total_variation=0.1)
    assert 'They are taken for photons' in caplog.text


def test_halves_of_a_scan_agree_by_their_patterns_alone(backend_name: str, scan: Scan) -> None:
    compared = api.compare_half_scans(scan, iterations=3, backend=backend_name, device='cpu')
    assert [half.provenance['course']['total_variation'] for half in compared.halves] == [0, 0]
