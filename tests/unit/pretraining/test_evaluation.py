"""How patterns alone are judged: middles of patches, in the coordinates of the scan."""

import numpy as np
import pytest

from ptychopinn_plugin.data import Reconstruction, Scan
from ptychopinn_plugin.pretraining.evaluation import lines_alone, middles, mosaic_ssim


def found_from(scan: Scan, origin: int) -> Reconstruction:
    """Return the truth as if it had been found, on a canvas that begins elsewhere."""
    assert scan.object_ is not None
    canvas = 0.5 * scan.object_[origin:, origin:]
    return Reconstruction(
        object_=canvas,
        origin_px=np.array([origin, origin], dtype=np.float64),
        coverage=np.ones(canvas.shape, np.float32),
        probe=scan.probe,
        positions_px=scan.positions_px,
        backend='test',
        is_single_shot=True,
    )


@pytest.mark.parametrize('origin', [38, 39, 40])
def test_truth_is_found_wherever_the_canvas_begins(origin: int) -> None:
    scan = lines_alone(curvature=0.6, count=9)
    assert np.any(scan.positions_px % 1 == 0.5), 'rounding must matter for this to be a test'
    found = found_from(scan, origin)
    np.testing.assert_allclose(middles(found, scan), middles(scan), rtol=1e-5)
    assert mosaic_ssim(found, scan) == pytest.approx(1.0, abs=1e-6)
    elsewhere = scan.positions_px[:4] + 5
    assert mosaic_ssim(found, scan, elsewhere) == pytest.approx(1.0, abs=1e-6)
    assert middles(scan, tile_centres_px=elsewhere).shape == (40, 40)
