"""The settings of Ptychodus that a finding names do what the check found."""

import itertools

import numpy as np
import pytest

from ptychopinn_plugin.data.reorientation import change_axes, orient_positions
from ptychopinn_plugin.host.finding import Flips, _preset, finding_in_words
from ptychopinn_plugin.host.worker.messages import CheckDone
from ptychopinn_plugin.orientation import AxisChange, Orientation

BOOLEANS = (False, True)
AXIS_CHANGES = [AxisChange(*flags) for flags in itertools.product(BOOLEANS, repeat=3)]
FLIPS = [Flips(*flags) for flags in itertools.product(BOOLEANS, repeat=3)]


def as_ptychodus_loads(images: np.ndarray, flips: Flips) -> np.ndarray:
    """Turn patterns with the host's own steps, in its order."""
    steps = pytest.importorskip('ptychodus.api.preprocess.diffraction')
    wanted = {
        'HorizontalFlipStep': flips.horizontal,
        'VerticalFlipStep': flips.vertical,
        'TransposeStep': flips.transpose,
    }
    for name, is_wanted in wanted.items():
        if is_wanted:
            images = getattr(steps, name)().apply(images)
    return images


@pytest.mark.parametrize('change', AXIS_CHANGES)
@pytest.mark.parametrize('now', FLIPS)
def test_flips_do_what_the_change_of_axes_does(change: AxisChange, now: Flips) -> None:
    # Of an odd side, as ours keep zero frequency in its pixel.
    images = np.arange(30).reshape(2, 3, 5)
    wanted = change_axes(as_ptychodus_loads(images, now), change)
    np.testing.assert_array_equal(
        as_ptychodus_loads(images, Flips.of(change.after(now.axis_change))), wanted
    )


@pytest.mark.parametrize('change', AXIS_CHANGES)
def test_the_preset_does_what_the_change_of_axes_does(change: AxisChange) -> None:
    module = pytest.importorskip('ptychodus.model.product.probe_positions.builder')
    builder = module.ProbePositionsBuilder
    (number,) = (
        number
        for number, label in enumerate(builder.labels_for_preset_transforms(builder))
        if label == _preset(change)
    )
    # As `assign_preset_transform` fills its matrix.
    along_x, along_y = (
        -1 if is_negative(number) else 1 for is_negative in (builder.negate_x, builder.negate_y)
    )
    matrix = np.diag([along_x, along_y])
    if builder.swap_xy(number):
        matrix = np.array([[0, along_y], [along_x, 0]])
    positions_px = np.array([[1.0, 2.0], [5.0, 9.0], [-4.0, 3.0]])
    by_host = (positions_px[:, ::-1] @ matrix.T)[:, ::-1]
    ours = orient_positions(positions_px, Orientation.of(None, change))
    np.testing.assert_allclose(np.diff(ours, axis=0), np.diff(by_host, axis=0))


def test_words_name_settings_of_the_window() -> None:
    needed = Orientation(flip='vertical', invert_positions='y', scale_positions=0.8)
    done = CheckDone('wrong', 30, needed, (), (12, 20), 0.02, -1.0, 0.4, is_probe_refined=True)
    text = finding_in_words('scan7', done, Flips(transpose=True))
    for words in (
        'scan7: The scan is wrong as it is loaded. ',
        'with Flip Horizontal and Transpose ticked in place of Transpose in the box Transform',
        'with x = 20 and y = 12 as Center in the box Crop',
        'the preset (x, y) \u2192 (+x, \u2212y) in the box Transformation',
        'by 0.8.',
        'The positions are 1.25 times too large in pixels',
        'The probe had to be corrected for this',
        'before no trial was possible',
    ):
        assert words in text, text
    assert '--' not in text
