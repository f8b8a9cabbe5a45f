"""The iterations over one forward model, with a framework of a few numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin.array_types import ComplexArray
from ptychopinn_plugin.backends.common import refinement
from ptychopinn_plugin.backends.common.iteration_schedule import IterationSchedule
from ptychopinn_plugin.backends.common.iteration_steps import MOMENTUM, step_size
from ptychopinn_plugin.backends.common.opr import VariationRefiner, level_tilt
from ptychopinn_plugin.backends.common.refinement import (
    ALONE_BATCHES,
    IterationKernels,
    IterationState,
    _Iterations,
    iterate_object,
)
from ptychopinn_plugin.backends.common.requests import IterationRequest
from ptychopinn_plugin.data.probe_variation import ProbeVariation

N_PATTERNS = 40
SHAPE = (12, 12)
GOAL = np.full(SHAPE, 2 + 1j)
ENERGY = 4.0


def square() -> ComplexArray:
    """Return a probe of 16 bright pixels in the dark, so that a ramp has no jump at its rim."""
    probe = np.zeros((1, 8, 8), complex)
    probe[:, 2:6, 2:6] = 1
    return probe


@dataclass
class Forward:
    """A forward model under which only probe times object counts, and is to be `GOAL`."""

    probe: ComplexArray = field(default_factory=square)
    is_single_shot: bool = False
    shape: tuple[int, int] = (8, 8)
    canvas_shape: tuple[int, int] = SHAPE
    reach_px: float = 5.0
    valid_mask: None = None
    photons: float = 16.0
    strides: list[int] = field(default_factory=list)
    probes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.given_origins_px = np.stack(
            [np.arange(N_PATTERNS) % 7, np.arange(N_PATTERNS) / 5.0], 1
        )
        self.patch_origins_px = self.given_origins_px
        self.moves_px = np.zeros((N_PATTERNS, 2))
        self.intensities = np.ones(N_PATTERNS)
        self.eigenmodes = np.zeros((0, 8, 8), np.complex64)
        self.opr_weights = np.ones((N_PATTERNS, 1))
        self.coverage = np.ones(SHAPE)

    def __len__(self) -> int:
        return N_PATTERNS

    def expected_and_counted(self, object_: Any, indices: Any) -> tuple[Any, Any]:
        """Return patterns which all fit alike, so that no position is lost."""
        counts = np.ones((len(indices), *self.shape))
        return 1.1 * counts, counts

    def to_tensor(self, array: ComplexArray) -> ComplexArray:
        """Return an array as it is."""
        return array

    def set_probe(self, probe: ComplexArray, *, cache: bool = True) -> None:
        """Take a probe, with its coverage."""
        self.probe = probe
        self.probes.append('cached' if cache else 'not cached')

    def set_probe_only(self, probe: ComplexArray) -> None:
        """Take a probe without its coverage."""
        self.probe = probe
        self.probes.append('alone')

    def set_moves(self, moves_px: Any) -> None:
        """Take moves."""
        self.moves_px = moves_px

    def set_intensities(self, intensities: Any) -> None:
        """Take intensities."""
        self.intensities = intensities

    def set_variation(self, eigenmodes: Any, weights: Any) -> None:
        """Take how the probe varies."""
        self.eigenmodes, self.opr_weights = eigenmodes, weights

    def evaluate_loss(self, object_: ComplexArray, *, stride: int) -> float:
        """Return how far the product is from its goal, and beams and positions from theirs."""
        self.strides.append(stride)
        product = object_ * np.linalg.norm(self.probe) / ENERGY
        rest = np.abs(self.intensities - 1).sum() + np.abs(self.moves_px).sum()
        return float((np.abs(product - GOAL) ** 2).sum() + rest)


Move = Callable[[IterationState[ComplexArray], int], None]


@dataclass
class Framework:
    """Moves states as a test says, and writes down what it was asked for."""

    move: Move
    max_batch: int = 1000
    correction: Callable[[ComplexArray], ComplexArray] = lambda object_: object_
    update: complex = 0.0
    calls: list[tuple[list[int], float, bool]] = field(default_factory=list)
    drawn: list[list[int]] = field(default_factory=list)
    corrected: list[int] = field(default_factory=list)
    released: int = 0
    weights: list[float] = field(default_factory=list)

    def kernels(self) -> IterationKernels[ComplexArray]:
        """Return them; what no test needs is missing."""
        nothing: Any = None
        return IterationKernels(
            zeros_like=np.zeros_like,
            iterate_once=self._iterate_once,
            mean_update=lambda forward, object_: np.full(SHAPE, self.update),
            position_forces=self._forces,
            measure_variation=nothing,
            probe_residuals=nothing,
            pattern_photons=nothing,
            correct_phase_drift=self._correct_drift,
            measure_moments=nothing,
            to_numpy=np.asarray,
            times=lambda tensor, array: tensor * array,
            between=lambda first, second, share: first + share * (second - first),
            norm=lambda tensor: np.linalg.norm(tensor),
            constrain=self._constrain,
            object_variation=nothing,
            divide_energy=lambda object_, probe, norm: (
                object_ * (np.linalg.norm(probe) / norm),
                probe * (norm / np.linalg.norm(probe)),
            ),
            release=self._release,
        )

    def _iterate_once(
        self, forward: Any, state: Any, batches: Sequence[Any], step: float, refines: bool
    ) -> None:
        sizes = [len(batch) for batch in batches]
        self.calls.append((sizes, step, refines))
        self.move(state, len(self.calls))
        if max(sizes) > self.max_batch:
            raise MemoryError
        self.drawn.append(np.concatenate(batches).tolist())
        if refines:
            forward.set_probe_only(state.probe)

    def _forces(self, forward: Any, object_: Any, floor: float) -> tuple[Any, Any]:
        forces = 0.3 * np.random.default_rng(0).normal(size=(N_PATTERNS, 2))
        return forces, np.tile(np.eye(2), (N_PATTERNS, 1, 1))

    def _correct_drift(self, forward: Any, object_: ComplexArray) -> ComplexArray:
        self.corrected.append(len(self.calls))
        return self.correction(object_)

    def _constrain(
        self, object_: ComplexArray, coverage: Any, constraints: Any, weight: float, growth: float
    ) -> ComplexArray:
        self.weights.append(weight)
        return np.minimum(object_.real, constraints.max_amplitude / growth) + 0j

    def _release(self) -> None:
        self.released += 1


def towards(share: float) -> Move:
    """Return what moves an object by a share of its way to the goal."""

    def move(state: IterationState[ComplexArray], number: int) -> None:
        state.object_ = state.object_ + share * (GOAL - state.object_)

    return move


def request(iterations: int, **given: Any) -> IterationRequest:
    return IterationRequest(IterationSchedule(iterations), **given)


START = np.ones(SHAPE, complex)
LOSS = float((np.abs(START - GOAL) ** 2).sum())


def test_an_iteration_has_all_patterns_once_and_its_own_step() -> None:
    forward, framework, seen = Forward(), Framework(towards(0.5)), []

    def observe(done: int, loss: float, object_: ComplexArray) -> None:
        seen.append((done, loss, complex(object_[0, 0])))

    object_, losses = iterate_object(framework.kernels(), forward, START, request(3), observe)
    assert losses == pytest.approx([LOSS, LOSS / 4, LOSS / 16, LOSS / 64])
    np.testing.assert_allclose(object_, GOAL + (START - GOAL) / 8)
    np.testing.assert_array_equal(START, 1)
    assert [done for done, _, _ in seen] == [1, 2, 3]
    assert [loss for _, loss, _ in seen] == losses[1:]
    assert seen[-1][2] == object_[0, 0]
    assert [step for _, step, _ in framework.calls] == [step_size(k / 3) for k in range(3)]
    # At least 16 batches of 40 patterns.
    assert framework.calls[0][0] == [2] * 20
    assert not any(refines for _, _, refines in framework.calls)
    assert all(sorted(drawn) == list(range(N_PATTERNS)) for drawn in framework.drawn)
    assert framework.drawn[0] != framework.drawn[1]
    # The forward model has what it had: its coverage is not computed again.
    assert forward.probes == []
    assert set(forward.strides) == {1}


def test_an_observer_stops_the_iterations() -> None:
    framework = Framework(towards(0.5))
    _, losses = iterate_object(
        framework.kernels(), Forward(), START, request(9), lambda done, loss, object_: done == 2
    )
    assert len(losses) == 3
    assert len(framework.calls) == 2


def test_the_slow_phase_goes_after_every_fifth_iteration_and_at_the_end() -> None:
    """What is corrected is what the next iteration begins with."""
    framework = Framework(towards(0.0), correction=lambda object_: object_ + 0.1 * (GOAL - object_))
    object_, losses = iterate_object(framework.kernels(), Forward(), START, request(11))
    assert framework.corrected == [5, 10, 11]
    np.testing.assert_allclose(object_, GOAL + 0.9**3 * (START - GOAL))
    assert losses[4:7] == pytest.approx([LOSS, 0.81 * LOSS, 0.81 * LOSS])
    assert losses[-1] == pytest.approx(0.9**6 * LOSS)


@pytest.mark.parametrize('factor', [1.0, 0.5])
def test_at_the_end_a_correction_that_is_no_better_is_left_out(factor: float) -> None:
    framework = Framework(towards(0.5), correction=lambda object_: object_ * factor)
    object_, losses = iterate_object(framework.kernels(), Forward(), START, request(1))
    np.testing.assert_allclose(object_, GOAL + 0.5 * (START - GOAL))
    assert losses[-1] == pytest.approx(LOSS / 4)


def test_the_best_goes_a_part_of_the_way_with_all_that_belongs_to_it() -> None:
    forward = Forward()
    run = _Iterations(
        Framework(towards(1.0)).kernels(),
        forward,
        START,
        request(9, refine_probe=True, refine_positions=True),
    )
    probe, size = forward.probe, (N_PATTERNS, 2)
    variation = ProbeVariation(np.zeros((0, 8, 8)), np.ones((N_PATTERNS, 1)))
    later = ProbeVariation(np.zeros((0, 8, 8)), np.full((N_PATTERNS, 1), 1.4))
    first = IterationState(START, 0 * START, probe, np.ones(size), np.ones(N_PATTERNS), variation)
    second = IterationState(
        3 * START, 7 * START, 5 * probe, 5 * np.ones(size), 9 * np.ones(N_PATTERNS), later
    )
    moves, intensities = forward.moves_px, forward.intensities
    found, loss = run.part_way(first, second, 0.25)
    np.testing.assert_allclose(found.object_, 1.5)
    np.testing.assert_allclose(found.velocity, 7)
    np.testing.assert_allclose(found.probe, 2 * probe)
    np.testing.assert_allclose(found.moves_px, 2)
    np.testing.assert_allclose(found.intensities, 3)
    np.testing.assert_allclose(found.variation.weights, 1.1)
    # It was judged with all of this, and then the forward model has the newest state again.
    expected = START.size * abs(1.5 * 2 - (2 + 1j)) ** 2 + N_PATTERNS * 2 + 2 * N_PATTERNS * 2
    assert loss == pytest.approx(expected)
    assert forward.moves_px is moves
    assert forward.intensities is intensities
    assert forward.probe is run.state.probe
    assert forward.probes == ['not cached', 'alone', 'alone']


def test_what_all_patterns_agree_on_is_a_step_from_the_best() -> None:
    run = _Iterations(Framework(towards(1.0), update=0.5j).kernels(), Forward(), START, request(9))
    found = run.step_of_all(run.state)
    np.testing.assert_allclose(found.object_, 1 + 0.5j)
    assert found.probe is run.state.probe
    np.testing.assert_array_equal(run.state.object_, START)


def test_an_iteration_begins_again_with_smaller_batches_where_memory_is_short(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What it did before memory ran out counts for nothing."""

    def move(state: IterationState[ComplexArray], number: int) -> None:
        state.object_ = state.object_ + 0.25 * (GOAL - START)
        state.velocity += 1

    framework = Framework(move, max_batch=3)
    # 16 batches of 160 patterns would have 10 each.
    run = _Iterations(framework.kernels(), Forward(), START, request(9))
    run._batches = iter([[np.arange(10), np.arange(10, 16)], [np.arange(16)]])
    state, _ = run.iterate_once()
    # The number of patterns is no batch: the largest of them is.
    assert [max(sizes) for sizes, _, _ in framework.calls] == [10, 5, 2]
    assert framework.calls[-1][0] == [2, 2, 2, 2, 2, 2, 2, 2]
    np.testing.assert_allclose(state.object_, START + 0.25 * (GOAL - START))
    np.testing.assert_allclose(state.velocity, 1)
    assert framework.released == 2
    assert 'the iteration goes on with batches of 2 patterns' in caplog.text
    run.iterate_once()
    # The next one knows.
    assert framework.calls[-1][0] == [2] * 8
    assert len(framework.calls) == 4


def test_a_refined_probe_gives_its_energy_to_the_object() -> None:
    """Only their product is measured; what is returned has the energy that the probe came with."""

    def move(state: IterationState[ComplexArray], number: int) -> None:
        state.probe = 2 * state.probe
        state.object_ = 0.5 * (state.object_ + 0.5 * (GOAL - state.object_))

    forward, framework = Forward(), Framework(move)
    object_, losses = iterate_object(
        framework.kernels(), forward, START, request(1, refine_probe=True)
    )
    assert framework.calls[0][2] is True
    assert np.linalg.norm(forward.probe) == pytest.approx(ENERGY)
    np.testing.assert_allclose(object_, GOAL + 0.5 * (START - GOAL), rtol=1e-6)
    assert losses[-1] == pytest.approx(LOSS / 4)
    assert forward.evaluate_loss(object_, stride=1) == pytest.approx(LOSS / 4)
    # Its coverage is computed at the end alone.
    assert forward.probes[0] == 'not cached'
    assert forward.probes[-1] == 'cached'
    assert 'cached' not in forward.probes[:-1]


def test_a_probe_that_has_wandered_goes_back_with_all_that_belongs_to_it() -> None:
    """A ramp on the probe and the opposite one on the object leave no trace in the patterns."""
    y, x = np.indices((8, 8)) - 4
    rows, columns = np.indices(SHAPE) - 6

    def move(state: IterationState[ComplexArray], number: int) -> None:
        state.probe = 2 * state.probe * np.exp(0.1j * y - 0.2j * x)
        state.object_ = 0.5 * GOAL * np.exp(-0.1j * rows + 0.2j * columns)

    forward = Forward()
    forward.eigenmodes = np.full((1, 8, 8), 3 - 1j, np.complex64)
    forward.opr_weights = np.ones((N_PATTERNS, 2))
    # The loss of this forward model knows nothing of ramps, which is why the start is far off.
    start = np.full(SHAPE, 90 + 0j)
    object_, _ = iterate_object(
        Framework(move).kernels(), forward, start, request(1, refine_probe=True)
    )
    np.testing.assert_allclose(forward.probe, square(), atol=1e-6)
    np.testing.assert_allclose(object_, GOAL, rtol=1e-5)
    back = 0.5 * np.exp(-0.1j * y + 0.2j * x)
    np.testing.assert_allclose(forward.eigenmodes[0], (3 - 1j) * back, rtol=1e-5)


def test_batches_are_drawn_for_what_a_pattern_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of a batch is that of complex numbers, one for each pixel and mode."""
    drawn: list[Any] = []

    def record(*arguments: Any) -> Any:
        drawn.append(arguments)
        return iter(())

    monkeypatch.setattr(refinement, 'iteration_batches', record)
    forward = Forward(np.concatenate([square(), square()]))
    _Iterations(Framework(towards(0.5)).kernels(), forward, START, request(3, batch_size=7, seed=5))
    assert drawn == [(N_PATTERNS, 7, 8 * 2 * 64, 5)]


class MeanVariation(VariationRefiner):
    """Gives what a test says as the next variation; its mean is taken out as always."""

    def __init__(self, variation: ProbeVariation) -> None:
        self.next, self.seen = variation, []

    def step(self, forward: Any, object_: Any, probe: ComplexArray, *kernels: Any) -> Any:
        """Return it."""
        self.seen.append(probe)
        return self.next

    def orthogonal(self, variation: ProbeVariation, probe: ComplexArray) -> ProbeVariation:
        """Return it as it is."""
        self.seen.append(probe)
        return variation

    def normalized(self, variation: ProbeVariation, probe: ComplexArray) -> ProbeVariation:
        """Return it as it is."""
        self.seen.append(probe)
        return variation


@pytest.mark.parametrize('refine_probe', [True, False])
def test_what_all_patterns_have_of_an_eigenmode_goes_to_the_probe(
    refine_probe: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probe of each pattern stays what it is: its first mode, which alone varies, gets it."""
    forward = Forward(np.concatenate([3 * square(), square()]))
    run = _Iterations(
        Framework(towards(0.5)).kernels(), forward, START, request(9, refine_probe=refine_probe)
    )
    y, _ = np.indices((8, 8)) - 4.0
    eigenmode = (square()[0] * y**2).astype(np.complex64)
    weights = np.stack([np.ones(N_PATTERNS), np.linspace(0.2, 0.4, N_PATTERNS)], axis=1)
    refiner = MeanVariation(ProbeVariation(eigenmode[np.newaxis], weights))
    before, levelled = forward.probe, []

    def record(variation: ProbeVariation, probe: ComplexArray, *rest: Any) -> Any:
        levelled.append(probe)
        return level_tilt(variation, probe, *rest)

    monkeypatch.setattr(refinement, 'level_tilt', record)
    run._refine_variation(refiner)
    np.testing.assert_array_equal(levelled, before[:1])
    probe, variation = run.state.probe, run.state.variation
    np.testing.assert_array_equal(refiner.seen[0], before[0])
    assert np.allclose(probe, before) != refine_probe
    if refine_probe:
        np.testing.assert_allclose(refiner.seen[1], probe[0], atol=1e-5)
    np.testing.assert_array_equal(probe[1], before[1])
    for number in (0, N_PATTERNS - 1):
        kept = before[0] + weights[number, 1] * eigenmode
        found = probe[0] + variation.weights[number, 1] * variation.eigenmodes[0]
        np.testing.assert_allclose(found, kept, atol=1e-5)
    assert forward.probe is run.state.probe
    assert forward.opr_weights is variation.weights
    assert forward.probes[-1] == ('not cached' if refine_probe else 'cached')
    np.testing.assert_allclose(run.state.object_, START)
    run._variation = refiner
    run.leave(run.state)
    np.testing.assert_array_equal(refiner.seen[-1], run.state.probe[0])


@pytest.mark.parametrize(('intensity', 'probes'), [(1.0, []), (1.1, ['cached'])])
def test_the_coverage_follows_beams_of_their_own(intensity: float, probes: list[str]) -> None:
    forward = Forward()
    run = _Iterations(Framework(towards(0.5)).kernels(), forward, START, request(1))
    run.state.intensities = np.full(N_PATTERNS, intensity)
    run.leave(run.state)
    assert forward.probes == probes
    assert forward.intensities[0] == intensity


def test_positions_move_once_the_object_is_there_and_come_with_the_best() -> None:
    """Here each move is a fault: the best keeps the given positions."""
    forward, framework = Forward(), Framework(towards(0.01))
    iterate_object(framework.kernels(), forward, START, request(30, refine_positions=True))
    assert np.abs(forward.moves_px).max() < 1
    assert forward.probes.count('cached') == 30 - 2 + 1
    given = Forward()
    iterate_object(Framework(towards(0.01)).kernels(), given, START, request(30))
    np.testing.assert_array_equal(given.moves_px, 0)
    assert given.probes == []


class OneLost(Forward):
    """A forward model whose seventh pattern fits with one move alone."""

    PLACE_PX = (4.0, -2.0)

    def expected_and_counted(self, object_: Any, indices: Any) -> tuple[Any, Any]:
        expected, counts = super().expected_and_counted(object_, indices)
        off = np.abs(self.moves_px[7] - self.PLACE_PX).sum()
        expected[np.asarray(indices) == 7] += off
        return expected, counts


def test_lost_positions_are_looked_for_twice_and_put_where_they_fit() -> None:
    given = request(30, refine_positions=True)
    run = _Iterations(Framework(towards(0.01)).kernels(), OneLost(reach_px=5.0), START, given)
    found = []
    for _ in range(30):
        state, loss = run.iterate_once()
        given.schedule.advance(loss)
        found.append(tuple(state.moves_px[7]) == OneLost.PLACE_PX)
    # At 45 and at 65 % of the iterations; in between the forces of this test draw it away again.
    assert [number for number, is_there in enumerate(found) if is_there] == [14, 20]


def test_patterns_that_share_nothing_move_at_once() -> None:
    framework = Framework(towards(0.5), update=0.2)
    run = _Iterations(framework.kernels(), Forward(is_single_shot=True), START, request(4))
    run.state.velocity = np.full(SHAPE, 0.1 + 0j)
    state, _ = run.iterate_once()
    assert framework.calls == []
    velocity = MOMENTUM * 0.1 + step_size(0.0) * 0.2
    way = sum(MOMENTUM**number for number in range(ALONE_BATCHES))
    np.testing.assert_allclose(state.object_, 1 + way * velocity)
    np.testing.assert_allclose(state.velocity, MOMENTUM ** (ALONE_BATCHES - 1) * velocity)
    # A probe that is refined is shared by all of them.
    shared = Framework(towards(0.5))
    run = _Iterations(
        shared.kernels(), Forward(is_single_shot=True), START, request(4, refine_probe=True)
    )
    run.iterate_once()
    assert len(shared.calls) == 1
