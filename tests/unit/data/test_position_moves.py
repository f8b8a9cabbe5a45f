"""What all moves of positions have in common."""

import numpy as np
import pytest

from ptychopinn_plugin.data.position_moves import measure_moves


def test_the_affine_part_is_found() -> None:
    rng = np.random.default_rng(0)
    given = rng.uniform(0, 80, (200, 2)) + 300
    angle, shear = np.radians(1.5), np.radians(0.4)
    # Where the unit steps in y and in x lead, as (y, x): turned from y towards x.
    turn_y, turn_x = angle + shear / 2, angle - shear / 2
    image = np.array(
        [
            [1.02 * np.cos(turn_y), 1.02 * np.sin(turn_y)],
            [-0.99 * np.sin(turn_x), 0.99 * np.cos(turn_x)],
        ]
    )
    found = measure_moves(given, given @ image + 3)
    assert (found.scale_y, found.scale_x) == pytest.approx((1.02, 0.99), abs=1e-9)
    assert found.rotation_deg == pytest.approx(1.5, abs=1e-9)
    assert found.shear_deg == pytest.approx(0.4, abs=1e-9)
    plain = measure_moves(given, given + 3)
    assert (plain.rms_px, plain.largest_px, plain.scale_x) == pytest.approx((18**0.5, 18**0.5, 1))
