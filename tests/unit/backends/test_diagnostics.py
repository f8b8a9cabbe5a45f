"""How well an object fits, in words: one judgement for the command line and the window."""

import dataclasses

import pytest

from ptychopinn_plugin.backends.common.diagnostics import (
    CHECK,
    MIN_ITERATIONS,
    fit_in_words,
    points_to_a_fault,
    unknown_probe_in_words,
    warn_of_constraints,
    warn_of_misfit,
    warn_of_twins,
    warn_of_unknown_probe,
)
from ptychopinn_plugin.data import one_by_one
from ptychopinn_plugin.data.scan import ProbeOrigin
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.physics import Misfit
from ptychopinn_plugin.pretraining.probes import curved_probe

WRONG = Misfit(over_noise=5.04, share=0.2, correlation=0.6)


@pytest.mark.parametrize(
    ('misfit', 'iterations', 'words'),
    [
        (Misfit(1.04, 0.01), 30, 'The object fits the counts within 1.2 times shot noise.'),
        (
            Misfit(1.4, 0.01, 0.3),
            30,
            'The object misses the counts by 1.4 times shot noise; more iterations may help.',
        ),
        (
            WRONG,
            30,
            'The object misses the counts by 5.0 times shot noise: positions, probe or '
            f'orientation may be wrong; {CHECK}.',
        ),
        (
            WRONG,
            MIN_ITERATIONS - 1,
            'The object misses the counts by 5.0 times shot noise; more iterations may help.',
        ),
        (
            Misfit(None, 0.0012, 0.0),
            30,
            'The object misses 0.0012 of the counts; shot noise is unknown, as the counts are in '
            'another unit than photons.',
        ),
        (
            Misfit(None, 0.2, 0.6),
            30,
            'The object misses 0.2 of the counts: positions, probe or orientation may be wrong; '
            f'{CHECK}.',
        ),
        (Misfit(float('nan'), float('nan')), 30, ''),
        (None, 30, ''),
    ],
)
def test_the_fit_in_words(misfit: Misfit | None, iterations: int, words: str) -> None:
    assert fit_in_words(misfit, iterations) == words
    assert points_to_a_fault(misfit, iterations) == (CHECK in words)


@pytest.mark.parametrize('options', ['--object-type phase', '--max-amplitude 1'])
def test_constraints_that_do_not_hold_are_named(
    options: str, caplog: pytest.LogCaptureFixture
) -> None:
    scan = simulate(SimulationConfig(size=32, rows=3, columns=3))
    warn_of_constraints(scan, 30, Misfit(1.04, 0.01), options)
    assert not caplog.records
    warn_of_constraints(scan, 30, WRONG, options)
    assert f'kept to {options}, and the object misses' in caplog.text
    # Who bounds the amplitude by that of empty space learns that the unit is another one.
    assert ('so that 1 lies between' in caplog.text) == ('amplitude' in options)


def test_images_of_the_near_field_are_not_sent_to_a_check_that_refuses_them() -> None:
    words = fit_in_words(WRONG, 30, is_near_field=True)
    assert words.endswith('distance, positions or probe may be wrong.')


@pytest.mark.parametrize('focus_m', [None, -1e-4])
def test_a_curvature_that_counts_twice_is_a_cause_in_a_cone_beam_alone(
    focus_m: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    near = simulate(SimulationConfig(size=16, rows=3, columns=3, fresnel_number=0.2))
    geometry = dataclasses.replace(near.geometry, focus_object_distance_m=focus_m)
    warn_of_misfit(dataclasses.replace(near, geometry=geometry), 30, WRONG, None)
    assert ('the curvature of the beam' in caplog.text) == (focus_m is not None)


@pytest.mark.parametrize(
    ('origin', 'option', 'words'),
    [
        ('given', '--refine-probe', 'which --refine-probe corrects, and --probe-from-patterns'),
        ('given', None, 'a guess, which --probe-from-patterns replaces'),
        ('found', '--refine-probe', 'which --refine-probe corrects. With'),
        ('found', None, 'a probe that is a guess. ptychopinn check'),
    ],
)
def test_what_was_tried_with_the_probe_is_not_recommended_again(
    origin: ProbeOrigin, option: str | None, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    scan = simulate(SimulationConfig(size=16, rows=3, columns=3))
    warn_of_misfit(dataclasses.replace(scan, probe_origin=origin), 30, WRONG, option)
    assert words in caplog.text


@pytest.mark.parametrize(
    ('origin', 'is_known', 'begins'),
    [
        ('given', True, None),
        ('given', False, 'the refined probe is far from the given one'),
        ('patterns', False, 'the probe was made of the patterns'),
        ('found', False, 'the probe was made of the patterns'),
    ],
)
def test_what_an_unknown_probe_leaves_open_is_stated(
    origin: ProbeOrigin, is_known: bool, begins: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    scan = dataclasses.replace(
        simulate(SimulationConfig(size=16, rows=3, columns=3)), probe_origin=origin
    )
    warn_of_unknown_probe(scan, is_known=is_known)
    words = unknown_probe_in_words(is_known=is_known)
    if begins is None:
        assert words == caplog.text == ''
        return
    assert 'up to a slope only' in words
    (line,) = caplog.messages
    assert line.startswith(f'{scan.name}: {begins}')
    assert 'rotated by 180 degrees' in line
    assert '--probe-from FILE' in line


def test_single_patterns_have_other_words_for_an_unknown_probe(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scan = one_by_one(simulate(SimulationConfig(size=32, rows=2, columns=2, step_px=32.0)))
    warn_of_unknown_probe(scan, is_known=False)
    assert unknown_probe_in_words(is_known=False, is_single_shot=True) == caplog.text == ''


def test_of_patterns_alone_no_position_is_wrong(caplog: pytest.LogCaptureFixture) -> None:
    words = fit_in_words(WRONG, 30, is_single_shot=True)
    assert words == (
        'The object misses the counts by 5.0 times shot noise: the probe may be wrong, or more '
        'iterations may help.'
    )
    scan = simulate(SimulationConfig(size=32, rows=2, columns=2, step_px=32.0))
    warn_of_misfit(one_by_one(scan), 30, WRONG, None)
    assert 'too few iterations' in caplog.text
    assert 'positions' not in caplog.text


@pytest.mark.parametrize(
    ('curvature', 'is_alone', 'n_warnings'), [(0, True, 1), (0.6, True, 0), (0, False, 0)]
)
def test_twins_are_told_of_where_patterns_stand_alone(
    caplog: pytest.LogCaptureFixture, curvature: float, is_alone: bool, n_warnings: int
) -> None:
    config = SimulationConfig(size=32, rows=2, columns=2, step_px=32.0)
    scan = simulate(config, probe=curved_probe(32, 12.0, 0.15, curvature))
    warn_of_twins(one_by_one(scan) if is_alone else scan)
    assert caplog.text.count('an object and its twin') == n_warnings
