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


Losses = dict[str, tuple[float, float]]


def chosen(losses: Losses) -> tuple[TriedStart, int]:
    """Return the start that is chosen where each kind has a loss while kept to, and at its end."""
    done = [0]

    def iterate(on: Flat, object_: Any, kind: Any, iterations: int) -> tuple[Any, float]:
        done[0] += iterations
        path = [*object_, (kind, iterations)]
        return path, losses[path[0][0]][len(path) - 1]

    return choose_start(Flat(), START_KINDS, iterate), done[0]


@pytest.mark.parametrize(
    ('losses', 'kind'),
    [
        # Counts are many, and the flat start ends far from them.
        ({'complex': (900, 80), 'amplitude': (160, 20), 'phase': (4e4, 130)}, 'amplitude'),
        # The kind is nearly right: its own loss is large, and falls once it is free.
        ({'complex': (12, 9.4), 'amplitude': (2100, 36), 'phase': (460, 3.9)}, 'phase'),
        # Noise hides the difference: a kind that does as well is right more likely than not.
        ({'complex': (0.3, 0.3), 'amplitude': (2.6, 0.35), 'phase': (0.37, 0.3)}, 'phase'),
        # So it does here at the end, by chance, for a kind that is far from right.
        ({'complex': (0.15, 0.15), 'amplitude': (0.3, 0.147), 'phase': (3.2, 0.141)}, 'complex'),
        ({'complex': (1.0, 1.0), 'amplitude': (15, 1.2), 'phase': (21, 1.4)}, 'complex'),
    ],
)
def test_a_kind_is_the_start_where_it_does_as_well_as_a_flat_object(
    losses: Losses, kind: str
) -> None:
    start, iterations = chosen(losses)
    assert (start.kind, start.kept_loss, start.loss) == (kind, *losses[kind])
    # It is free at its end, whatever it kept to.
    assert start.object_ == [(kind, KEPT_ITERATIONS), ('complex', FREE_ITERATIONS)]
    assert iterations == number_of_iterations(START_KINDS, repeats=False)


def test_trials_take_patterns_around_the_middle() -> None:
    raster = np.stack(np.indices((20, 20)), axis=-1).reshape(-1, 2) * 26.0
    some = trial_patterns(raster, (64, 64))
    assert len(some) == 16
    assert (np.diff(some) > 0).all()
    assert np.ptp(raster[some], axis=0).max() <= 4 * 26.0
    np.testing.assert_array_equal(trial_patterns(raster[:9], (64, 64)), np.arange(9))
    # Large patterns take longer, and fewer will do.
    assert len(trial_patterns(raster, (256, 256))) == 8
    assert len(trial_patterns(raster[:3], (256, 256))) == 3
