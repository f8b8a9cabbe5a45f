"""Decisions (docs/decisions) that both backends keep, each with the test that fails without it.

The number in the name of a test is that of the decision. `project/test_decision_list.py` lists the
tests of every decision, also those that have no test here.

Other things to break, and what notices:

- Sign or axes of the sub-pixel shift, axes of patches: `test_1_...` here.
- Bad pixels in the projection or a loss, a conjugate left out: `parity/test_physics.py`.
- Regularization of rPIE, momentum, energy of a refined probe, floor of the stitching, phases of
  patches and their weights: `parity/test_iterations.py`; strong and weak overlaps, faint patches:
  `unit/test_phase_synchronization.py`.
- Best or last weights, average, early stop, leftover batches:
  `unit/backends/test_training_loop.py`; resume points: `unit/backends/test_training_state.py`;
  schedules: `unit/backends/test_schedules.py`.
- Order of the patterns, steps, which iterations correct the slow phase:
  `unit/backends/test_iteration_order.py`; order in training: `unit/backends/test_augmentation.py`;
  seeds: `test_iterations_have_a_seed` in `test_reconstruction.py`,
  `test_the_seed_decides_what_the_epochs_of_a_fine_tuning_meet` in `test_backend.py`.
- Window of the Fourier ring correlation: `unit/test_metrics.py`.
"""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from parity.frameworks import Framework, load
from parity.helpers import noise

from ptychopinn_plugin import physics
from ptychopinn_plugin.backends.common.iteration_schedule import IterationSchedule
from ptychopinn_plugin.backends.common.prediction import choose_photons
from ptychopinn_plugin.backends.protocol import Backend
from ptychopinn_plugin.config import InferenceConfig, ModelConfig, RefinementConfig
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.network import describe_network

WINDOW = 16
CPU = InferenceConfig(device='cpu')
ALONE = RefinementConfig(iterations=0)


@pytest.fixture(scope='module')
def fw(backend_name: str) -> Framework:
    """Return a backend's functions."""
    return load(backend_name)


def truth_on(forward: Any, scan: Scan) -> np.ndarray:
    """Return the true object on a forward model's canvas."""
    assert scan.object_ is not None
    top, left = forward.origin_px.tolist()
    height, width = forward.canvas_shape
    assert min(top, left) >= 0
    return scan.object_[top : top + height, left : left + width]


def build(fw: Framework, **settings: Any) -> Any:
    return fw.build(describe_network(ModelConfig(filters_scale=0.25, **settings), WINDOW))


def test_1_the_object_is_cut_at_whole_pixels_and_the_probe_takes_the_rest(
    fw: Framework, tiny_scan: Scan
) -> None:
    forward = fw.build_forward(tiny_scan)
    everyone = fw.indices(np.arange(len(tiny_scan)))
    _, rest = physics.split_positions(tiny_scan.positions_px)
    assert np.abs(rest).max() > 0.3
    # The finest detail there is; between pixels nothing would be left of it.
    y, x = np.indices(forward.canvas_shape)
    finest = (1 + 0.5 * (-1.0) ** (y + x)).astype(complex)
    patches = fw.array(forward.extract_patches(fw.tensor(finest), everyone))
    assert set(np.unique(patches.real)) == {0.5, 1.5}
    probes = fw.array(forward.probes(everyone))[:, 0]
    # A shift changes no frequency's strength, and moves the middle of the light.
    strength = np.abs(np.fft.fft2(probes))
    np.testing.assert_allclose(
        strength, np.broadcast_to(strength[:1], strength.shape), atol=1e-4 * strength.max()
    )
    light = np.abs(probes) ** 2
    along = np.arange(light.shape[-1])
    middles = np.stack([(light.sum(axis=2) @ along), (light.sum(axis=1) @ along)], axis=1)
    middles /= light.sum(axis=(1, 2))[:, None]
    np.testing.assert_allclose(middles - middles.mean(axis=0), rest - rest.mean(axis=0), atol=0.05)


def test_2_the_network_corrects_back_projections_pass_by_pass(
    fw: Framework, tiny_scan: Scan
) -> None:
    forward = fw.build_forward(tiny_scan)
    # Without weights there is no correction: what is left is the physics alone.
    network = fw.network.Network(describe_network(ModelConfig(filters_scale=0.25), WINDOW))
    objects = fw.stitch(network, forward)
    misfits = [forward.evaluate_fit(object_)[1] for object_ in objects]
    assert len(misfits) == 4
    assert misfits[1] < 0.5 * misfits[0]
    assert misfits == sorted(misfits, reverse=True)


def test_2_the_network_sees_what_the_patterns_ask_for(fw: Framework, tiny_scan: Scan) -> None:
    flat = fw.array(fw.build_forward(tiny_scan).flat_object())
    seen = []
    for counts in (tiny_scan.patterns, tiny_scan.patterns[::-1]):
        forward = fw.build_forward(dataclasses.replace(tiny_scan, patterns=counts))
        groups = np.arange(len(tiny_scan))[:, None]
        seen.append(fw.features(build(fw), forward, groups, flat, True))
    # Real and imaginary part of the back-projection are the third and fourth of its six images.
    change = np.abs(seen[1] - seen[0]).max(axis=(0, 2, 3))
    assert change[2:4].min() > 0.05
    assert change[[0, 1, 4, 5]].max() == 0


def test_3_the_best_iteration_is_returned(fw: Framework, tiny: Callable[..., Scan]) -> None:
    """From the truth of a faint scan, whose first iterations only take up noise."""
    scan = tiny(photons=3000.0)
    forward = fw.build_forward(scan)
    start = fw.tensor(truth_on(forward, scan) * np.exp(0.02 * noise(forward.canvas_shape)))
    shown: list[tuple[float, float]] = []

    def watch(_: int, loss: float, object_: Any) -> None:
        shown.append((loss, forward.evaluate_fit(object_)[0]))

    object_, losses = fw.iterate(forward, start, IterationSchedule(4), observer=watch)
    assert losses == sorted(losses, reverse=True)
    assert forward.evaluate_fit(object_)[0] == pytest.approx(losses[-1], rel=1e-6)
    for reported, found in shown:
        assert found == pytest.approx(reported, rel=1e-6)


@pytest.mark.parametrize(
    ('rule', 'counts', 'expected'),
    [
        ('auto', 1.8, 1.0),
        ('auto', 0.6, 1.0),
        ('auto', 2.2, 2.2),
        ('auto', 0.4, 0.4),
        ('model', 2.2, 1.0),
        ('scan', 1.8, 1.8),
    ],
)
def test_4_one_choice_of_photons(
    tiny_scan: Scan, rule: Any, counts: float, expected: float
) -> None:
    """The exposure of the model counts where the scan's own is within a factor of two."""
    own = tiny_scan.mean_photons()
    assert choose_photons(tiny_scan, own / counts, rule) == pytest.approx(own / counts * expected)


def test_4_the_scale_of_a_probe_means_nothing(
    make_backend: Callable[[], Backend], tiny_model: Backend, tiny_scan: Scan
) -> None:
    brighter = dataclasses.replace(tiny_scan, probe=37 * tiny_scan.probe)
    few = RefinementConfig(iterations=3)
    plain, scaled = (make_backend().refine(of, few, device='cpu') for of in (tiny_scan, brighter))
    energy = (np.abs(plain.probe) ** 2).sum()
    assert energy == pytest.approx(tiny_scan.mean_photons(), rel=1e-4)
    np.testing.assert_allclose(scaled.probe, plain.probe, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(scaled.object_, plain.object_, atol=2e-2)
    plain, scaled = (tiny_model.reconstruct(of, CPU, ALONE) for of in (tiny_scan, brighter))
    assert tiny_model.model is not None
    assert (np.abs(plain.probe) ** 2).sum() == pytest.approx(tiny_model.model.photons, rel=1e-4)
    np.testing.assert_allclose(scaled.object_, plain.object_, atol=2e-2)


def drifted(forward: Any, scan: Scan) -> np.ndarray:
    """Return the true object with a slow phase that is not its own."""
    height, width = forward.canvas_shape
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
    return truth_on(forward, scan) * np.exp(1j * (0.8 * np.cos(2 * y) * (1 + x) + 0.5 * x))


@pytest.mark.parametrize('iterations', [4, 6])
def test_5_iterations_correct_the_slow_phase(
    fw: Framework, tiny_scan: Scan, monkeypatch: pytest.MonkeyPatch, iterations: int
) -> None:
    """After the fifth iteration, and after the last."""
    forward = fw.build_forward(tiny_scan)
    kernels = fw.refinement.ITERATION_KERNELS
    without = dataclasses.replace(kernels, correct_phase_drift=lambda _, object_: object_)
    found = []
    for used in (kernels, without):
        monkeypatch.setattr(fw.refinement, 'ITERATION_KERNELS', used)
        object_, losses = fw.iterate(
            forward, fw.tensor(drifted(forward, tiny_scan)), IterationSchedule(iterations)
        )
        phase = np.angle((fw.array(object_) * truth_on(forward, tiny_scan).conj())[16:-16, 16:-16])
        found.append((phase.std(), losses[-1]))
        assert forward.evaluate_fit(object_)[0] == pytest.approx(losses[-1], rel=1e-6)
    assert found[0][0] < 0.6 * found[1][0]
    assert found[0][1] < found[1][1]


@pytest.mark.parametrize(('is_stopped', 'expected'), [(False, [5, 10, 12]), (True, [5, 10])])
def test_5_every_fifth_iteration_corrects_the_slow_phase(
    fw: Framework,
    tiny_scan: Scan,
    monkeypatch: pytest.MonkeyPatch,
    is_stopped: bool,
    expected: list[int],
) -> None:
    """And the last one, unless the run is stopped."""
    kernels = fw.refinement.ITERATION_KERNELS
    schedule, corrected = IterationSchedule(12), []

    def counted(forward: Any, object_: Any) -> Any:
        corrected.append(min(schedule.done + 1, 12))
        return kernels.correct_phase_drift(forward, object_)

    used = dataclasses.replace(kernels, correct_phase_drift=counted)
    monkeypatch.setattr(fw.refinement, 'ITERATION_KERNELS', used)
    forward = fw.build_forward(tiny_scan)

    def stop(done: int, *_: object) -> bool:
        return is_stopped and done == 11

    fw.iterate(forward, fw.tensor(drifted(forward, tiny_scan)), schedule, observer=stop)
    assert corrected == expected


def test_5_prediction_corrects_the_slow_phase_after_the_last_pass(
    fw: Framework, tiny_scan: Scan
) -> None:
    forward = fw.build_forward(tiny_scan)
    # The same weights, but the pass is the last of one network and not of the other.
    longer, network = build(fw, passes=3), build(fw, passes=2)
    before = fw.stitch(longer, forward, passes=2)[-1]
    found = fw.array(fw.stitch(network, forward)[-1])
    corrected = fw.array(fw.phase_drift.correct_phase_drift(forward, before))
    assert np.abs(corrected - fw.array(before)).max() > 0.02
    np.testing.assert_allclose(found, corrected, atol=1e-4)
    free = fw.stitch(network, forward, phase_synchronization=False)[-1]
    assert np.abs(fw.array(free) - found).max() > 0.02


def test_8_rounding_errors_have_no_phase_and_the_truth_asks_for_no_change(
    fw: Framework, tiny_scan: Scan
) -> None:
    forward = fw.build_forward(tiny_scan)
    everyone = fw.indices(np.arange(len(tiny_scan)))
    _, rest = physics.split_positions(tiny_scan.positions_px)
    probes = physics.shift_probe(tiny_scan.probe.astype(complex), rest)
    flat = np.ones((len(tiny_scan), *forward.shape), complex)
    expected = physics.project_amplitudes(
        flat, probes, tiny_scan.patterns.astype(float), np.ones(forward.shape, bool)
    )
    found = fw.array(forward.project_amplitudes(fw.tensor(flat), everyone))
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)
    # Patterns that a flat object makes: dark as they are in places, nothing is to be done.
    counts = np.fft.fftshift(fw.array(forward.predict_intensity(fw.tensor(flat), everyone)), (1, 2))
    assert counts.min() < 1e-5
    perfect = fw.build_forward(dataclasses.replace(tiny_scan, patterns=counts))
    requested = fw.array(perfect.project_amplitudes(fw.tensor(flat), everyone))
    assert np.linalg.norm(requested) < 1e-4 * np.linalg.norm(expected)


def test_9_a_graph_serves_for_any_number_of_patterns_and_weights_are_plain_tensors(
    backend_name: str, tiny_scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend_name != 'tensorflow':
        pytest.skip('A decision about TensorFlow.')
    fw = load(backend_name)
    framework = importlib.import_module('ptychopinn_plugin.backends.tensorflow.framework')
    made: list[Any] = []
    graph = framework._graph

    def count(*arguments: Any) -> Any:
        made.append(arguments)
        return graph(*arguments)

    monkeypatch.setattr(framework, '_graph', count)
    doubled = framework.compiled(lambda images: 2 * images)
    for number in (1, 3, 8):
        assert doubled(framework.tf.ones((number, 4, 4))).shape == (number, 4, 4)
    assert len(made) == 1
    network = build(fw, passes=1)
    for number in (31, 47):
        made.clear()
        forward = fw.build_forward(tiny_scan.subset(np.arange(number)))
        fw.stitch(network, forward, batch_size=16)
        fw.iterate(forward, forward.flat_object(), IterationSchedule(1))
    assert made == []
    parts = [value for value in vars(network).values() if isinstance(value, dict)]
    tensors = [value for part in parts for value in part.values()]
    assert any(isinstance(value, framework.tf.Tensor) for value in tensors)
    assert not any(isinstance(value, framework.tf.Variable) for value in tensors)
