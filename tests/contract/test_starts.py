"""Starts that are tried where patterns share nothing, on each backend."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest

from ptychopinn_plugin.backends.common import starts
from ptychopinn_plugin.backends.protocol import Backend, Progress
from ptychopinn_plugin.config import InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Scan, one_by_one
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.model import Model
from ptychopinn_plugin.pretraining.objects import draw_lines
from ptychopinn_plugin.pretraining.probes import curved_probe

SIZE = 32


@lru_cache
def lone(kind: str) -> Scan:
    """Return four patterns of lines that share nothing, under a curved beam."""
    config = SimulationConfig(
        size=SIZE, path_kind='raster', rows=2, columns=2, step_px=SIZE, photons=1e8
    )
    lines = draw_lines(np.random.default_rng(3), (112, 112)).real
    amplitude = np.ones_like(lines) if kind == 'phase' else lines
    object_ = amplitude * np.exp(0j if kind == 'amplitude' else 2j * lines)
    probe = curved_probe(SIZE, width_px=13.0, edge=0.15, curvature=0.6)
    return one_by_one(simulate(config, object_=object_, probe=probe))


@pytest.mark.parametrize('kind', ['amplitude', 'phase'])
def test_the_kind_of_the_object_is_the_better_start(
    make_backend: Callable[[], Backend], kind: str
) -> None:
    """Nobody has stated the kind, and iterations from a flat object end far from the counts."""
    backend, scan = make_backend(), lone(kind)
    found = backend.refine(scan, RefinementConfig(), device='cpu')
    course = found.provenance['course']
    assert course['start'] == kind
    assert len(found.likelihoods) == sum(course['done']) + 1
    flat = backend.refine(scan, RefinementConfig(iterations=sum(course['done'])), device='cpu')
    assert flat.provenance['course']['start'] is None
    assert found.likelihoods[-1] < 0.5 * flat.likelihoods[-1]
    # In the end it keeps to nothing.
    values = np.angle(found.object_) if kind == 'amplitude' else np.abs(found.object_)
    assert np.ptp(values[found.coverage > 0.1]) > 1e-3


def test_the_built_in_model_leaves_its_passes_out_where_a_kind_is_the_start(
    make_backend: Callable[[], Backend],
) -> None:
    backend = make_backend()
    backend.model = Model.built_in()
    cpu = InferenceConfig(device='cpu')
    found = backend.reconstruct(lone('phase'), cpu, RefinementConfig())
    alone = backend.refine(lone('phase'), RefinementConfig(), device='cpu')
    np.testing.assert_allclose(found.object_, alone.object_, atol=1e-6)
    assert found.provenance['course'] == alone.provenance['course']
    with_pass = backend.reconstruct(lone('phase'), cpu.replace(prior_passes=1), RefinementConfig())
    assert len(with_pass.provenance['course']['done']) == 2
    flat = backend.reconstruct(lone('both'), cpu, RefinementConfig())
    assert len(flat.provenance['course']['done']) == 11


def test_an_object_of_both_kinds_starts_flat(make_backend: Callable[[], Backend]) -> None:
    backend, scan = make_backend(), lone('both')
    found = backend.refine(scan, RefinementConfig(), device='cpu')
    assert found.provenance['course']['start'] == 'complex'
    done = sum(found.provenance['course']['done'])
    usual = backend.refine(scan, RefinementConfig(iterations=done), device='cpu')
    assert found.likelihoods[0] == pytest.approx(usual.likelihoods[0], rel=1e-5)


def test_trials_of_starts_can_be_stopped(make_backend: Callable[[], Backend]) -> None:
    seen: list[Progress] = []

    def stop(progress: Progress) -> bool:
        seen.append(progress)
        return progress.step == 100

    found = make_backend().refine(lone('phase'), RefinementConfig(), observer=stop, device='cpu')
    assert [progress.stage for progress in seen] == ['start'] * 100
    assert {progress.total for progress in seen} == {300}
    assert found.provenance['course']['ended'] == 'stopped'
    # What the first of them had come to is kept.
    assert np.ptp(np.abs(found.object_)) > 0.1


def test_many_patterns_are_tried_in_part(
    make_backend: Callable[[], Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best start is then repeated with all of them."""
    whole = make_backend().refine(lone('amplitude'), RefinementConfig(), device='cpu')
    monkeypatch.setattr(starts, 'TRIAL_PIXELS', 0)
    monkeypatch.setattr(starts, 'MIN_TRIAL_PATTERNS', 3)
    seen: list[tuple[int, int]] = []
    found = make_backend().refine(
        lone('amplitude'),
        RefinementConfig(),
        observer=lambda p: seen.append((p.step, p.total)) if p.stage == 'start' else None,
        device='cpu',
    )
    assert seen[-1] == (360, 360)
    assert found.provenance['course']['start'] == 'amplitude'
    np.testing.assert_allclose(found.likelihoods[-1], whole.likelihoods[-1], rtol=0.5)
