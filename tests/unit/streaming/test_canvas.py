"""Objects of parts become one object, whatever their phases."""

from dataclasses import replace

import numpy as np
import pytest

from ptychopinn_plugin.data import Reconstruction
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.streaming import canvas
from ptychopinn_plugin.streaming.canvas import GrowingObject

SIDE = 20


def truth() -> np.ndarray:
    rng = np.random.default_rng(0)
    values = rng.uniform(0.5, 1, (60, 60)) * np.exp(1j * rng.uniform(-1, 1, (60, 60)))
    return values.astype(np.complex64)


def part(row: int, column: int, phase: float = 0.0, energy: float = 100.0) -> Reconstruction:
    """Return what a backend would make of a piece of the object, with a free phase and scale."""
    piece = truth()[row : row + SIDE, column : column + SIDE]
    scale = np.sqrt(100.0 / energy)
    return Reconstruction(
        object_=(piece * scale * np.exp(1j * phase)).astype(np.complex64),
        origin_px=np.array([row - 30.0, column - 30.0]),
        coverage=np.ones((SIDE, SIDE), np.float32),
        probe=np.full((1, 4, 4), np.sqrt(energy / 16), np.complex64),
        positions_px=np.array([[row, column], [row + 1.0, column]]),
        pattern_indexes=np.array([row, row + 1]) + 100 * column,
        backend='test',
    )


@pytest.mark.parametrize('order', [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_parts_are_put_together_in_one_phase_and_scale(order: tuple[int, ...]) -> None:
    parts = [part(0, 0), part(0, 12, 1.0), part(14, 0, -2.0, 400.0), part(14, 12, 3.0, 50.0)]
    found = GrowingObject()
    for number in order:
        found.add(parts[number])
    result = found.reconstruction()
    assert result is not None
    assert result.object_.shape == (34, 32)
    assert result.origin_px.tolist() == [-30.0, -30.0]
    expected = truth()[:34, :32]
    factor = np.vdot(result.object_, expected)
    image = result.object_ * (factor / abs(factor))
    first = {0: 1.0, 3: np.sqrt(2.0)}[order[0]]
    np.testing.assert_allclose(image, expected * first, rtol=1e-4, atol=1e-4)
    assert found.n_patterns == len(result.positions_px) == 8
    assert result.coverage.max() == 1


def test_nothing_at_first() -> None:
    found = GrowingObject()
    assert found.reconstruction() is None
    assert found.n_patterns == 0


def test_a_pattern_of_several_parts_counts_once() -> None:
    found = GrowingObject()
    found.add(part(1, 0))
    found.add(part(0, 0, 2.0))
    result = found.reconstruction()
    assert found.n_patterns == 3
    assert result.pattern_indexes.tolist() == [0, 1, 2]
    assert result.positions_px.tolist() == [[0, 0], [1, 0], [2, 0]]


def test_positions_in_a_wrong_unit_do_not_take_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canvas, 'MAX_CANVAS_PX', 10_000)
    found = GrowingObject()
    found.add(part(0, 0))
    with pytest.raises(DataError, match='in the unit that was stated'):
        found.add(replace(part(0, 0), origin_px=np.array([5e4, 5e4])))
    assert found.reconstruction().object_.shape == (SIDE, SIDE)
