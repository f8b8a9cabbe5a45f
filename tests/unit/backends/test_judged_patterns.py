"""On how many patterns objects are compared, and how patches come onto a canvas on a CPU."""

from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin.backends.common.canvas import place_one_by_one, window_of, window_shape
from ptychopinn_plugin.backends.common.judged_patterns import judged_stride
from ptychopinn_plugin.backends.common.phase_drift import better_of


@pytest.mark.parametrize(
    ('n_positions', 'stride'),
    [(1, 1), (49, 1), (511, 1), (512, 2), (1024, 3), (4096, 13), (65_536, 13)],
)
def test_a_third_of_a_usual_scan_and_a_thirteenth_of_a_large_one(
    n_positions: int, stride: int
) -> None:
    assert judged_stride(n_positions) == stride


@pytest.mark.parametrize('side', [32, 50, 64, 100, 256])
def test_all_columns_of_a_raster_are_compared(side: int) -> None:
    compared = np.arange(0, side**2, judged_stride(side**2))
    assert len(set(compared % side)) == side


class Parabola:
    """A forward model of 1,024 patterns to which an object is a number, best at 3."""

    def __init__(self) -> None:
        self.strides: list[int] = []

    def __len__(self) -> int:
        return 1024

    def evaluate_loss(self, object_: Any, *, stride: int) -> float:
        self.strides.append(stride)
        return float((object_ - 3) ** 2)


@pytest.mark.parametrize(('corrected', 'expected'), [(2.5, 2.5), (9.0, 2.0), (2.0, 2.0)])
def test_a_correction_is_taken_where_it_raises_the_likelihood(
    corrected: float, expected: float
) -> None:
    forward = Parabola()
    assert better_of(forward, 2.0, corrected) == expected
    assert forward.strides == [3, 3]


@pytest.mark.parametrize('dtype', [np.float32, np.float64, np.complex64, np.complex128])
def test_patches_add_up_where_they_overlap(dtype: type) -> None:
    patches = np.array([[[1, 2], [3, 4]], [[10, 20], [30, 40]]], dtype)
    canvas = place_one_by_one(patches, [0, 1], [1, 0], (3, 5))
    assert canvas.dtype == dtype
    np.testing.assert_array_equal(canvas, [[0, 1, 2, 0, 0], [10, 23, 4, 0, 0], [30, 40, 0, 0, 0]])
    with pytest.raises(ValueError, match='shorter'):
        place_one_by_one(patches, [0, 1], [1], (3, 5))


def test_the_window_of_some_patches() -> None:
    rows, columns = np.array([5, 2, 9]), np.array([4, 30, 7])
    window = window_of(rows, columns, 8, 16)
    assert window == (slice(2, 17), slice(4, 46))
    assert window_shape(window) == (15, 42)
