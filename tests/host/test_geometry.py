"""Where the object lies: our result over Pty-Chi's, both made by Ptychodus of one scan."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from ptychodus.api.io import load_product
from ptychodus.api.object import ObjectPosition
from ptychodus.api.product import Product
from skimage.registration import phase_cross_correlation

from ptychopinn_plugin.data import Scan

from .conftest import needs, write_batch_folder
from .hosts import run_python

pytestmark = needs('torch', 'ptychi')

PTYCHI = """
[PtyChi]
NumEpochs = 40
BatchSize = 16

[PtyChiProbe]
IsOptimizable = False
"""


# Both in one process, whose start with Pty-Chi takes longer than what it computes. Its search for
# devices starts one more.
BATCH = """
import sys
import ptychodus.model.ptychi.device as device
from ptychodus.__main__ import main
device.probe_devices_via_subprocess = lambda: []
for source in {sources}:
    sys.argv = ['ptychodus', '-b', 'reconstruct', '-i', source, '-o', source + '/out']
    assert not main()
"""


@pytest.fixture(scope='module')
def results(small_scan: Scan, tmp_path_factory: pytest.TempPathFactory) -> tuple[Product, Product]:
    """Return the products of this plugin and of Pty-Chi's rPIE."""
    folder = tmp_path_factory.mktemp('geometry')
    # A scan that lies far from the origin, at another distance in y than in x.
    settings: dict[str, Any] = {'shift_px': (20.5, -31.25), 'iterations': 30}
    # Without a model file, the built-in model reconstructs.
    ours = write_batch_folder(folder / 'ours', small_scan, **settings)
    theirs = write_batch_folder(
        folder / 'theirs', small_scan, algorithm='pty-chi_rpie', more=PTYCHI, **settings
    )
    sources = [str(ours), str(theirs)]
    run = run_python(BATCH.format(sources=sources), PTYCHOPINN_BACKEND='')
    assert run.returncode == 0, run.stdout + run.stderr
    last = [sorted((source / 'out').glob('product.*.h5'))[-1] for source in (ours, theirs)]
    return load_product(last[0]), load_product(last[1])


def field_phase(product: Product, height_px: int, width_px: int) -> tuple[NDArray, NDArray]:
    """Return the phase of the scanned field and where its first pixel lies, (y, x) in metres."""
    points, geometry = product.probe_positions, product.object_.get_geometry()
    y_px = geometry.map_probe_positions_to_object_y_px(points)
    x_px = geometry.map_probe_positions_to_object_x_px(points)
    top, left = round(float(y_px.min())), round(float(x_px.min()))
    first = geometry.map_coordinates_object_to_probe(ObjectPosition(0, left, top))
    values = product.object_.get_layer(0)[top : top + height_px, left : left + width_px]
    # The free global phase goes.
    values = values * np.exp(-1j * np.angle(values.mean()))
    return np.angle(values), np.array([first.y_m, first.x_m])


def test_our_object_lies_on_ptychis(results: tuple[Product, Product]) -> None:
    (ours, at), (theirs, there) = (field_phase(product, 26, 34) for product in results)
    pixel = results[0].object_.get_pixel_geometry()
    shift, *_ = phase_cross_correlation(theirs, ours, upsample_factor=50)
    # The pictures and the geometry give one distance.
    between_m = there - at + shift * [pixel.height_m, pixel.width_m]
    between_px = between_m / [pixel.height_m, pixel.width_m]
    assert np.abs(between_px).max() < 0.5, between_px


def test_our_object_is_neither_mirrored_nor_turned(results: tuple[Product, Product]) -> None:
    ours, theirs = (field_phase(product, 26, 26)[0] for product in results)

    def likeness(reoriented: NDArray) -> float:
        return float(np.corrcoef(reoriented.ravel(), theirs.ravel())[0, 1])

    upright = likeness(ours)
    # Both are right, and neither is converged to the last.
    assert upright > 0.6
    others = [np.rot90(image, rotations) for image in (ours, ours.T) for rotations in range(4)][1:]
    assert max(map(likeness, others)) < upright - 0.3
    # Neither is its phase the other way round.
    assert likeness(-ours) < 0


def test_our_object_is_the_true_one(results: tuple[Product, Product], small_scan: Scan) -> None:
    ours, _ = field_phase(results[0], 26, 34)
    assert small_scan.object_ is not None
    # Ptychodus' middle of a patch lies half a pixel before ours.
    top, left = np.rint(small_scan.positions_px.min(axis=0) - 0.5).astype(int)
    true = np.angle(small_scan.object_[top : top + 26, left : left + 34])
    likeness = np.corrcoef(ours.ravel(), true.ravel())[0, 1]
    assert likeness > 0.8, likeness


def test_pixels_have_the_same_size(results: tuple[Product, Product]) -> None:
    ours, theirs = (product.object_.get_pixel_geometry() for product in results)
    assert ours.width_m == pytest.approx(theirs.width_m, rel=1e-6)
    assert ours.height_m == pytest.approx(theirs.height_m, rel=1e-6)
