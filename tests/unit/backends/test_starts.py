"""Where iterations start: the rules, without a framework."""

from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin.backends.common.starts import (
    FREE_ITERATIONS,
    KEPT_ITERATIONS,
    START_KINDS,
    TriedStart,
    choose_start,
    number_of_iterations,
    trial_patterns,
)


class Flat:
    """A forward model whose object is the list of what was done to it."""

    def flat_object(self) -> list[Any]:
        return []


def chosen(losses: dict[str, float]) -> tuple[TriedStart, int]:
    """Return the start that is chosen where a kind ends at a loss, and all iterations."""
    done = [0]

    def iterate(on: Flat, object_: Any, kind: Any, iterations: int) -> tuple[Any, float]:
        done[0] += iterations
        path = [*object_, (kind, iterations)]
        # While a kind is kept to, the loss means nothing.
        return path, losses[path[0][0]] if len(path) == 2 else 0.0

    return choose_start(Flat(), START_KINDS, iterate), done[0]


@pytest.mark.parametrize(
    ('losses', 'kind'),
    [
        ({'complex': 1.0, 'amplitude': 0.3, 'phase': 2.0}, 'amplitude'),
        ({'complex': 1.0, 'amplitude': 0.5, 'phase': 0.2}, 'phase'),
        ({'complex': 1.0, 'amplitude': 1.2, 'phase': 2.0}, 'complex'),
    ],
)
def test_a_kind_is_the_start_where_it_ends_clearly_lower(
    losses: dict[str, float], kind: str
) -> None:
    start, iterations = chosen(losses)
    assert (start.kind, start.loss) == (kind, losses[kind])
    # It is free at its end, whatever it kept to.
    assert start.object_ == [(kind, KEPT_ITERATIONS), ('complex', FREE_ITERATIONS)]
    assert iterations == number_of_iterations(START_KINDS, repeats=False)


def test_trials_take_some_patterns_from_everywhere() -> None:
    np.testing.assert_array_equal(trial_patterns(9, (64, 64)), np.arange(9))
    some = trial_patterns(10_000, (64, 64))
    assert (len(some), some[0], some[-1]) == (16, 0, 9999)
    assert np.diff(some).max() < 700
    # Large patterns take longer, and fewer will do.
    assert len(trial_patterns(10_000, (256, 256))) == 8
    assert len(trial_patterns(3, (256, 256))) == 3
