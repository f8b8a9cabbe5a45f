"""What a reconstruction is planned to do, and how it is worded."""

import dataclasses
from typing import Any

import pytest

from ptychopinn_plugin.backends.common.iteration_plan import (
    MORE_ITERATIONS,
    USUAL_ITERATIONS,
    Course,
    IterationPlan,
    plan_passes,
    plan_reconstruction,
)
from ptychopinn_plugin.pretraining.architecture import describe_prior

PRIOR = dataclasses.replace(describe_prior(), iterations_before=10, iterations_between=10, passes=5)


def plan(overlap: float, **given: Any) -> IterationPlan:
    return plan_reconstruction(
        overlap, **{'requested': None, 'limit_s': None, 'dose': 300.0, **given}
    )


@pytest.mark.parametrize(
    ('requested', 'overlap', 'blocks'),
    [
        (None, 12.0, (10,)),
        (None, 2.0, (40, 40)),
        (None, 1.2, (10, 10, 10, 10, 10)),
        (2, 12.0, (10, 10)),
        (0, 1.2, ()),
    ],
)
def test_the_prior_works_more_where_data_decide_less(
    requested: int | None, overlap: float, blocks: tuple[int, ...]
) -> None:
    assert plan_passes(PRIOR, requested, overlap) == blocks


@pytest.mark.parametrize(
    ('overlap', 'dose', 'blocks', 'after', 'words'),
    [
        (12.0, 3300.0, (), USUAL_ITERATIONS, ', with 3,300 photons in a pixel'),
        (12.0, 330.0, (10,), 20, ''),
        (12.0, None, (10,), 20, ''),
        (2.0, 40.0, (40, 40), 40, ''),
        (2.0, 3.5, (), MORE_ITERATIONS, ', with 3.5 photons in a pixel'),
        (1.2, 190.0, (10,) * 5, 20, ''),
        (1.2, 19.0, (10,) * 3, 10, ', with 19 photons in a pixel'),
        (1.2, 1.9, (), MORE_ITERATIONS, ', with 1.9 photons in a pixel'),
    ],
)
def test_the_light_decides_whether_the_prior_has_a_say(
    overlap: float, dose: float | None, blocks: tuple[int, ...], after: int, words: str
) -> None:
    found = plan(overlap, network=PRIOR, dose=dose)
    assert (found.before_passes, found.iterations) == (blocks, after)
    assert found.reason.partition('other)')[2] == words
    requested = plan(overlap, network=PRIOR, dose=dose, requested_passes=5)
    assert requested.before_passes == (10,) * 5
    assert 'photons' not in requested.reason + plan(overlap, dose=dose).reason


def test_a_dense_bright_scan_has_the_plan_of_iterations_alone() -> None:
    bright, alone = plan(12.0, network=PRIOR, dose=3300.0), plan(12.0, dose=3300.0)
    assert dataclasses.replace(bright, reason=alone.reason) == alone
    assert bright.in_words() == (
        'plan: at most 30 iterations, as illuminations overlap well (12 lie over each other), with '
        '3,300 photons in a pixel'
    )


@pytest.mark.parametrize(
    ('overlap', 'iterations'),
    [(12.0, USUAL_ITERATIONS), (2.0, MORE_ITERATIONS), (1.1, MORE_ITERATIONS)],
)
def test_more_iterations_where_illuminations_overlap_little(
    overlap: float, iterations: int
) -> None:
    free, requested = plan(overlap), plan(overlap, requested=7)
    assert (free.iterations, free.stops_when_converged) == (iterations, True)
    assert (requested.iterations, requested.stops_when_converged) == (7, False)


def test_the_iterations_after_the_last_pass() -> None:
    assert plan(12.0, network=PRIOR).iterations == 20
    assert plan(2.0, network=PRIOR).iterations == 40
    assert plan(1.1, network=PRIOR).iterations == 20
    assert plan(2.0, network=PRIOR, requested=3).iterations == 3
    assert plan(2.0, network=PRIOR, requested_passes=0).iterations == MORE_ITERATIONS


def test_in_a_limited_time_the_prior_works_where_data_decide_less() -> None:
    assert plan(12.0, network=PRIOR, limit_s=5.0).before_passes == ()
    assert plan(12.0, network=PRIOR, limit_s=5.0, requested_passes=1).before_passes == (10,)
    assert plan(1.2, network=PRIOR, limit_s=5.0).before_passes == (10,) * 5
    assert not plan(2.0, limit_s=5.0).is_worth_a_pass(3)
    assert plan(2.0, limit_s=5.0).is_worth_a_pass(6)
    assert plan(1.2, limit_s=5.0).is_worth_a_pass(3)


@pytest.mark.parametrize(
    ('overlap', 'settings'),
    [(12.0, {'dose': 3300.0}), (12.0, {'limit_s': 5.0}), (2.0, {'dose': 3.5}), (12.0, {})],
)
def test_without_iterations_a_pass_is_all_there_is(
    overlap: float, settings: dict[str, Any]
) -> None:
    alone = plan(overlap, network=PRIOR, requested=0, **settings)
    assert alone.before_passes
    assert not alone.iterations
    assert not alone.is_empty
    assert 'photons' not in alone.reason


def test_a_plan_of_nothing_is_known_as_such() -> None:
    nothing = plan(12.0, network=PRIOR, requested=0, requested_passes=0)
    assert nothing.is_empty
    assert plan(12.0, requested=0).is_empty
    assert not dataclasses.replace(nothing, network_passes=1).is_empty
    assert not plan(12.0, requested=1).is_empty


def test_a_plan_says_what_and_why() -> None:
    assert plan(16.2).in_words() == (
        'plan: at most 30 iterations, as illuminations overlap well (16 lie over each other)'
    )
    assert plan(1.22, network=PRIOR, limit_s=20.0).in_words() == (
        'plan: 5 passes of the learned prior with 10 iterations before each and 20 iterations '
        'after them, with a total variation of weight 0.25, within 20 s, as illuminations hardly '
        'touch (1.2 lie over each other)'
    )
    assert plan(12.0, network=PRIOR, requested=1).in_words() == (
        'plan: 1 pass of the learned prior with 10 iterations before it and 1 iteration after it, '
        'as illuminations overlap well (12 lie over each other)'
    )
    trained = dataclasses.replace(plan(2.0), network_passes=3, rotations=4)
    assert trained.in_words() == (
        'plan: 3 passes of the network in 4 rotations and at most 100 iterations, with a total '
        'variation of weight 0.25, as illuminations overlap little (2 lie over each other)'
    )
    once = dataclasses.replace(plan(16.2, requested=0), network_passes=1)
    assert once.in_words().startswith('plan: 1 pass of the network and no iterations, as ')
    assert plan(1.0, requested=0, is_single_shot=True).in_words() == (
        'plan: no iterations, as each pattern stands alone'
    )
    assert plan(1.0, is_single_shot=True, probe_twin_similarity=1.0).in_words() == (
        'plan: at most 100 iterations, with a total variation of weight 0.25, as each pattern '
        'stands alone, under a beam that is its own twin'
    )


def test_a_prior_is_not_asked_to_choose_between_twins() -> None:
    def passes(**settings: Any) -> int:
        given = {'network': PRIOR, 'is_single_shot': True, **settings}
        return len(plan(1.0, **given).before_passes)

    assert passes(probe_twin_similarity=0.99) == passes() == PRIOR.passes
    assert passes(probe_twin_similarity=1.0) == 0
    assert passes(probe_twin_similarity=1.0, requested_passes=3) == 3
    assert passes(probe_twin_similarity=1.0, is_single_shot=False) == PRIOR.passes


@pytest.mark.parametrize(
    ('ended', 'done', 'words'),
    [
        ('planned', [10, 20], ''),
        ('converged', [10, 12], '; ended after 22 of 30, as they gained no more'),
        ('time', [8, 5], '; the limit of 9 s ended them after 13 of 30'),
        ('stopped', [4], '; stopped after 4 of 30'),
    ],
)
def test_a_course_says_how_it_ended(ended: Any, done: list[int], words: str) -> None:
    planned = plan(12.0, network=PRIOR, requested_passes=1, limit_s=9.0)
    course = Course.of_plan(planned, done, ended)
    assert Course.of_result({'course': course.to_dict()}) == course
    rotated = dataclasses.replace(course, planned=(30,), network_passes=3, rotations=4)
    assert Course.of_result({'course': rotated.to_dict()}) == rotated
    assert rotated.in_words().startswith('plan: 3 passes of the network in 4 rotations and 30 ')
    assert course.in_words() == (
        'plan: 1 pass of the learned prior with 10 iterations before it and 20 iterations after '
        'it, as illuminations overlap well (12 lie over each other)' + words
    )


@pytest.mark.parametrize(
    ('overlap', 'blocks', 'iterations', 'words'),
    [
        (4.0, (10,), USUAL_ITERATIONS, 'overlap well (4 lie'),
        (3.99, (40, 40), MORE_ITERATIONS, 'overlap little (4 lie'),
        (1.5, (40, 40), MORE_ITERATIONS, 'overlap little (1.5 lie'),
        (1.49, (10,) * 5, MORE_ITERATIONS, 'hardly touch (1.5 lie'),
    ],
)
def test_where_one_plan_ends_and_the_next_begins(
    overlap: float, blocks: tuple[int, ...], iterations: int, words: str
) -> None:
    assert plan_passes(PRIOR, None, overlap) == blocks
    assert plan(overlap).iterations == iterations
    assert words in plan(overlap).in_words()
    # In a limited time, what overlaps well goes without passes.
    limited = plan(overlap, network=PRIOR, limit_s=5.0).before_passes
    assert limited == (() if overlap >= 4 else blocks)
    assert plan(overlap).is_worth_a_pass(5)
    assert plan(overlap).is_worth_a_pass(4.9) == (overlap < 1.5)


def test_a_plan_for_what_was_given() -> None:
    made = plan(12.0, requested=0)
    assert (made.iterations, made.total, made.limit_s) == (0, 0, None)
    assert made.in_words().startswith('plan: no iterations, as')
    assert not made.stops_when_converged
    both = plan(12.0, network=PRIOR, limit_s=7.5, requested_passes=2)
    assert (both.before_passes, both.iterations, both.total) == ((10, 10), 20, 40)
    assert both.limit_s == 7.5
    assert not both.stops_when_converged
    assert plan(1.0, is_single_shot=True, probe_twin_similarity=0.995).reason.endswith('own twin')
    assert plan(1.0, is_single_shot=True, probe_twin_similarity=0.994).reason.endswith('alone')
    # Other numbers before the first pass and between two.
    uneven = dataclasses.replace(PRIOR, iterations_before=7, iterations_between=3)
    assert plan_passes(uneven, 3, 12.0) == (7, 3, 3)
    assert plan_passes(uneven, None, 12.0) == (7,)
    long = dataclasses.replace(PRIOR, iterations_before=40)
    assert plan(12.0, network=long, requested_passes=1).iterations == 40
    assert '(123 lie over each other)' in plan(123.4).in_words()


def test_a_course_is_kept_as_plain_values() -> None:
    made = plan(1.23456, network=PRIOR, requested_passes=1, limit_s=9.0)
    course = Course.of_plan(made, [10, 4], 'time')
    assert course.to_dict() == {
        'overlap': 1.23,
        'planned': [10, 20],
        'done': [10, 4],
        'ended': 'time',
        'reason': made.reason,
        'max_seconds': 9.0,
        'network_passes': 0,
        'rotations': 1,
        'total_variation': 0.25,
        'start': None,
    }
    assert Course.of_result({}) is None


@pytest.mark.parametrize(
    ('overlap', 'settings', 'weight'),
    [
        (12.0, {}, 0.0),
        (4.0, {}, 0.0),
        (3.2, {}, 0.1),
        (2.0, {}, 0.25),
        (1.2, {'is_single_shot': True}, 0.25),
        (1.2, {'requested_variation': 0.0}, 0.0),
        (12.0, {'requested_variation': 2.0}, 2.0),
        (1.2, {'dose': None}, 0.0),
        (1.2, {'dose': None, 'requested_variation': 0.5}, 0.5),
        (1.2, {'requested': 0}, 0.0),
        (1.2, {'requested': 0, 'network': PRIOR}, 0.25),
    ],
)
def test_little_overlap_has_a_total_variation(
    overlap: float, settings: dict[str, Any], weight: float
) -> None:
    assert plan(overlap, **settings).total_variation == weight


def test_starts_are_tried_where_patterns_share_little_and_nothing_is_known() -> None:
    tried = ('amplitude', 'phase')
    assert plan(1.2, may_try_starts=True).starts == tried
    assert plan(1.0, may_try_starts=True, is_single_shot=True, network=PRIOR).starts == tried
    assert plan(1.2).starts == ()
    assert plan(2.0, may_try_starts=True).starts == ()
    for given in (
        {'requested': 30},
        {'dose': 19.0},
        {'limit_s': 5.0},
        {'is_near_field': True},
        {'is_single_shot': True, 'probe_twin_similarity': 1.0},
    ):
        assert plan(1.2, may_try_starts=True, **given).starts == ()
    words = plan(1.2, may_try_starts=True).in_words()
    assert words.startswith('plan: the best of 3 starts, at most 100 iterations')
    with_prior = plan(1.2, may_try_starts=True, network=PRIOR)
    clause = '(at most 100 iterations alone if an object of one kind is best)'
    assert clause in with_prior.in_words()
    alone = with_prior.without_passes()
    assert (alone.before_passes, alone.iterations, clause in alone.in_words()) == ((), 100, False)
    # Passes that somebody has given a number of are kept.
    assert (
        clause not in plan(1.2, may_try_starts=True, network=PRIOR, requested_passes=2).in_words()
    )


def test_a_course_states_the_best_start() -> None:
    tried = plan(1.2, may_try_starts=True)
    course = Course.of_plan(tried, [tried.iterations], 'planned', 'phase')
    assert course.in_words().endswith('; an object that absorbs nothing is the best start')
    assert Course.of_result({'course': course.to_dict()}) == course
