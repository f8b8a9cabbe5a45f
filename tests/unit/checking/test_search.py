"""What decides between trials that explain the patterns equally well."""

import dataclasses
import itertools

import numpy as np
import pytest

from ptychopinn_plugin.checking.search import AXIS_CHANGES, _Search, is_symmetric, row_order
from ptychopinn_plugin.checking.trials import MIN_TRIAL_POSITIONS, Trial, cut_piece
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.reorientation import orient_positions
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.orientation import AxisChange, Orientation


@pytest.fixture(scope='module')
def scan() -> Scan:
    """Return a scan of many positions, with larger patterns than their light needs."""
    return simulate(SimulationConfig(size=96, rows=12, columns=14, step_px=6.0))


def test_rows_are_told_from_columns() -> None:
    rows = np.array([(y, x) for y, x in itertools.product(range(6), range(8))], dtype=float)
    assert row_order(rows) == 3
    back = rows.copy()
    back[:, 0] *= -1
    assert row_order(back) == 1
    assert row_order(-rows) == -1
    assert row_order(rows[:, ::-1]) == 2
    # Every second row of a snake goes back.
    snake = rows.reshape(6, 8, 2).copy()
    snake[1::2] = snake[1::2, ::-1]
    assert row_order(snake.reshape(-1, 2)) == 2
    assert row_order(np.random.default_rng(0).permutation(rows)) == 0


def test_a_round_probe_is_symmetric_and_another_is_not(scan: Scan) -> None:
    assert all(is_symmetric(scan.probe, change) for change in AXIS_CHANGES)
    slope = np.linspace(0.2, 1.0, 96)[:, np.newaxis] ** 4
    found = [change for change in AXIS_CHANGES if is_symmetric(scan.probe * slope, change)]
    assert found == [AxisChange(), AxisChange(reverse_x=True)]


def test_a_piece_is_compact_and_in_the_middle(scan: Scan) -> None:
    piece = cut_piece(scan)
    assert piece.scan.pattern_shape == (64, 64)
    assert len(piece.held_out) >= 8
    assert len(piece.held_out) + len(piece.fitted) == len(piece.scan)
    held, fitted = (piece.scan.positions_px[one] for one in (piece.held_out, piece.fitted))
    assert (held.min(axis=0) > fitted.min(axis=0)).all()
    assert (held.max(axis=0) < fitted.max(axis=0)).all()
    # What is in another unit has the same piece.
    metres = orient_positions(scan.positions_px, Orientation(scale_positions=1e-8))
    tiny = cut_piece(Scan(scan.patterns, metres, scan.probe))
    assert np.array_equal(tiny.scan.pattern_indexes, piece.scan.pattern_indexes)


def test_no_exposure_of_a_held_out_place_is_fitted(scan: Scan) -> None:
    thrice = scan.subset(np.repeat(np.arange(len(scan)), 3))
    piece = cut_piece(thrice)
    held, fitted = (piece.scan.positions_px[one] for one in (piece.held_out, piece.fitted))
    distances = np.linalg.norm(held[:, np.newaxis] - fitted, axis=-1)
    assert distances.min() > 1
    assert len(piece.scan) == len(cut_piece(scan).scan)


def test_a_few_positions_cannot_be_checked(scan: Scan) -> None:
    with pytest.raises(DataError, match=f'At least {MIN_TRIAL_POSITIONS} positions'):
        cut_piece(scan.subset(np.arange(MIN_TRIAL_POSITIONS - 1)))


@pytest.mark.parametrize(
    ('best', 'given', 'made'),
    [
        (Orientation(flip='both'), ['--flip', 'both'], []),
        (Orientation(scale_positions=0.8), ['--scale-positions', '0.8'], []),
        (
            Orientation(scale_positions=1e8),
            ['--scale-positions', '1e+08'],
            ['--scale-positions', '1e+08'],
        ),
        (Orientation(swap_positions=True), ['--swap-positions'], ['--swap-positions']),
    ],
)
def test_what_a_guessed_probe_does_not_tell(
    scan: Scan, best: Orientation, given: list[str], made: list[str]
) -> None:
    """A probe made of the patterns has the wrong sign or size of its defocus, as often as not."""
    piece = cut_piece(scan)
    size = len(piece.held_out)
    for is_made, options in ((False, given), (True, made)):
        search = _Search(
            scan, dataclasses.replace(piece, is_probe_made=is_made), None, 'cpu', lambda *_: None
        )
        for orientation, residual in ((Orientation(), 0.1), (best, 1e-9)):
            search.done[orientation, True] = Trial(orientation, True, np.full(size, residual))
        found = search.conclude(search.done[best, True])
        assert found.orientation.to_words() == options
        assert found.verdict == ('wrong' if options else 'right')


def test_a_gain_is_judged_pattern_by_pattern() -> None:
    hard = np.array([1.0, 10.0, 100.0, 1000.0])
    first, second = (Trial(Orientation(), False, hard * factor) for factor in (1.0, 2.0))
    noisy = Trial(Orientation(), False, hard * [2.0, 0.5, 2.0, 0.5])
    assert first.gain_over(noisy) == pytest.approx(0.0)
    assert second.gain_over(first) <= 0
    nothing = Trial(Orientation(), False, np.full(4, np.inf))
    assert first.gain_over(nothing) == np.inf
    assert nothing.gain_over(first) == 0.0
