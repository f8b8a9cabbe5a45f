"""When constraints take hold of an object, and with which weight."""

from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin.backends.common.constraints import (
    NOTHING_KNOWN,
    ConstraintKeeper,
    ObjectConstraints,
    probe_support,
)
from ptychopinn_plugin.backends.common.iteration_steps import FIRST_STEP, LAST_STEP
from ptychopinn_plugin.config import RefinementConfig
from ptychopinn_plugin.errors import ConfigError

DOSE = 100.0
"""Photons in a pixel."""


class Forward:
    """Illuminations of one pixel's width, each of which lies over `overlap` others."""

    shape = (4, 4)
    patch_origins_px = np.array([[0, 0], [4, 4]])

    def __init__(self, overlap: float) -> None:
        self.coverage = np.full((8, 8), DOSE)
        self.probe = np.full((1, 4, 4), np.sqrt(DOSE / overlap), complex)

    def n_valid_pixels(self) -> int:
        """Return the number of good pixels of all patterns."""
        return 32


class Kernels:
    """Writes the weights down."""

    def __init__(self) -> None:
        self.weights: list[float] = []
        self.growths: list[float] = []

    @staticmethod
    def to_numpy(tensor: Any) -> Any:
        """Return an array as it is."""
        return tensor

    @staticmethod
    def norm(tensor: Any) -> float:
        """Return the root of the energy."""
        return float(np.linalg.norm(tensor))

    @staticmethod
    def object_variation(tensor: Any) -> float:
        """Return a variation."""
        return 10.0

    def constrain(self, object_: Any, coverage: Any, known: Any, weight: float, growth: Any) -> Any:
        """Note what came."""
        self.weights.append(weight)
        self.growths.append(growth)
        return object_


class Request:
    """What the keeper reads of a request."""

    def __init__(self, constraints: ObjectConstraints, *, refine_probe: bool = False) -> None:
        self.constraints, self.refine_probe = constraints, refine_probe
        self.probe_radius_px = None


def weights(overlap: float, *steps: float) -> list[float]:
    kernels, forward = Kernels(), Forward(overlap)
    keeper: Any = ConstraintKeeper(
        kernels, forward, Request(ObjectConstraints(total_variation=2.0))
    )
    for step in steps:
        keeper.allowed('object', forward.probe, step)
    return kernels.weights


def test_the_weight_is_in_units_of_shot_noise() -> None:
    noise = 1 / (2 * np.sqrt(DOSE))
    assert weights(1.0, 1.0) == [pytest.approx(2 * noise)]


def test_the_weight_falls_with_what_the_patterns_still_move() -> None:
    first, last = weights(1.0, FIRST_STEP, LAST_STEP)
    # With the momentum, a step of 0.01 goes a tenth of the way.
    assert last == pytest.approx(0.1 * first)
    # Where more illuminations lie over each other, an iteration goes that way several times.
    assert weights(5.0, LAST_STEP) == [pytest.approx((1 - 0.9**5) * first)]


def test_objects_are_left_alone_where_nothing_is_known() -> None:
    kernels, forward = Kernels(), Forward(1.0)
    keeper: Any = ConstraintKeeper(kernels, forward, Request(NOTHING_KNOWN))
    assert keeper.allowed('object', forward.probe, 0.3) == 'object'
    assert keeper.in_bounds('object', forward.probe) == 'object'
    assert kernels.weights == []


def test_an_object_between_others_is_not_smoothed_again_and_follows_the_probe() -> None:
    kernels, forward = Kernels(), Forward(1.0)
    constraints = ObjectConstraints(max_amplitude=1.0, total_variation=1.0)
    keeper: Any = ConstraintKeeper(kernels, forward, Request(constraints, refine_probe=True))
    keeper.in_bounds('object', 3 * forward.probe)
    assert kernels.weights == [0.0]
    assert kernels.growths == [pytest.approx(3.0)]


def test_the_best_is_judged_with_what_its_variation_costs() -> None:
    r"""In the units of the loss the weight is 2 Theta sqrt(W), for each pixel of the patterns."""
    forward = Forward(1.0)
    costs = []
    for constraints in (ObjectConstraints(total_variation=0.5), NOTHING_KNOWN):
        keeper: Any = ConstraintKeeper(Kernels(), forward, Request(constraints, refine_probe=True))
        costs.append(keeper.penalty('object', 3 * forward.probe))
    # The object gets back at the end what the probe has taken: three times as much.
    assert costs == [pytest.approx(2 * 0.5 * np.sqrt(DOSE) * 3 * 10 / 32), 0.0]


@pytest.mark.parametrize(('weight', 'steps'), [(0.1, 4), (0.25, 4), (0.5, 8), (3.0, 12)])
def test_more_smoothing_takes_more_steps(weight: float, steps: int) -> None:
    assert ObjectConstraints(total_variation=weight).dual_steps == steps


def test_a_support_is_round_and_around_the_middle() -> None:
    support = probe_support((9, 8), 2.0).real
    assert support.sum() == 13
    assert support[4, 4] == support[2, 4] == support[4, 6] == 1
    assert support[2, 2] == 0


def test_the_least_amplitude_is_not_above_the_largest() -> None:
    with pytest.raises(ConfigError, match='min_amplitude must not be above max_amplitude'):
        RefinementConfig(min_amplitude=1.1, max_amplitude=0.9)
    assert ObjectConstraints.of(RefinementConfig(max_amplitude=0.9)).bounds == (0.0, 0.9)


def test_constraints_are_named_as_users_write_them() -> None:
    constraints = ObjectConstraints('phase', None, 1.2, 20.0)
    words = '--object-type phase, --max-amplitude 1.2, --total-variation 20'
    assert constraints.in_words() == words
    assert NOTHING_KNOWN.in_words() == ''
