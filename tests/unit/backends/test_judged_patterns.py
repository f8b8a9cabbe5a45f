"""On how many patterns objects are compared, and how patches come onto a canvas on a CPU."""

import numpy as np
import pytest

from ptychopinn_plugin.backends.common.canvas import place_one_by_one
from ptychopinn_plugin.backends.common.forward import judged_stride


@pytest.mark.parametrize(
    ('n_positions', 'stride'),
    [(1, 1), (49, 1), (511, 1), (512, 2), (1024, 4), (4096, 16), (65_536, 16)],
)
def test_a_quarter_of_a_usual_scan_and_a_sixteenth_of_a_large_one(
    n_positions: int, stride: int
) -> None:
    assert judged_stride(n_positions) == stride


@pytest.mark.parametrize('dtype', [np.float32, np.float64, np.complex64, np.complex128])
def test_patches_add_up_where_they_overlap(dtype: type) -> None:
    patches = np.array([[[1, 2], [3, 4]], [[10, 20], [30, 40]]], dtype)
    canvas = place_one_by_one(patches, [0, 1], [1, 0], (3, 4))
    assert canvas.dtype == dtype
    np.testing.assert_array_equal(canvas, [[0, 1, 2, 0], [10, 23, 4, 0], [30, 40, 0, 0]])
