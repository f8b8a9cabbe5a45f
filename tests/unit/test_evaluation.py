"""Whole evaluations: coordinates, origins, regions, and what is written."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from ptychopinn_plugin.data.geometry import Geometry
from ptychopinn_plugin.data.reconstruction import Reconstruction
from ptychopinn_plugin.data.scan import Scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.errors import DataError, OutputError
from ptychopinn_plugin.evaluation import evaluate, plot_evaluation
from ptychopinn_plugin.metrics import shift_image


@pytest.fixture(scope='module')
def scan() -> Scan:
    return simulate(SimulationConfig(size=32, rows=16, columns=13, object_kind='letters'))


def reconstruction_of(
    scan: Scan,
    *,
    corner: tuple[int, int] = (0, 0),
    origin_px: tuple[float, float] | None = None,
) -> Reconstruction:
    """Return the true object from a corner on, as if a backend had found it."""
    assert scan.object_ is not None
    object_ = scan.object_[corner[0] :, corner[1] :]
    return Reconstruction(
        object_=object_,
        origin_px=np.array(corner if origin_px is None else origin_px, dtype=np.float64),
        coverage=np.ones(object_.shape, dtype=np.float32),
        probe=scan.probe,
        positions_px=scan.positions_px,
        backend='none',
    )


@pytest.mark.parametrize('corner', [(0, 0), (5, 11)])
def test_the_truth_is_perfect(scan: Scan, corner: tuple[int, int]) -> None:
    result = evaluate(reconstruction_of(scan, corner=corner), scan)
    assert result.amplitude.ssim == pytest.approx(1)
    assert result.phase.ssim == pytest.approx(1)
    assert result.amplitude.mae == pytest.approx(0, abs=1e-6)
    assert result.ring_correlation.crossing(0.5) == 1
    assert result.shift_px == pytest.approx((0, 0), abs=0.01)
    assert abs(result.scale) == pytest.approx(1, abs=1e-6)


def test_region_is_the_box_of_the_positions(scan: Scan) -> None:
    top, bottom, left, right = evaluate(reconstruction_of(scan, corner=(3, 4)), scan).region_px
    y, x = scan.positions_px.T
    assert (top, left) == (np.ceil(y.min()), np.ceil(x.min()))
    assert (bottom - 1, right - 1) == (np.floor(y.max()), np.floor(x.max()))


def test_global_phase_and_scale_do_not_matter(scan: Scan) -> None:
    found = reconstruction_of(scan)
    rescaled = dataclasses.replace(found, object_=found.object_ * (0.3 * np.exp(2.2j)))
    result = evaluate(rescaled, scan)
    assert result.phase.ssim == pytest.approx(1, abs=1e-5)
    assert result.amplitude.ssim == pytest.approx(1, abs=1e-5)
    assert result.scale == pytest.approx(np.exp(-2.2j) / 0.3, rel=1e-4)


def test_residual_shift_is_found_and_reported(scan: Scan) -> None:
    found = reconstruction_of(scan)
    moved = dataclasses.replace(found, object_=shift_image(found.object_, (-1.4, 2.3)))
    result = evaluate(moved, scan)
    assert result.shift_px == pytest.approx((1.4, -2.3), abs=0.05)
    # Letters are sharp: moving them to and fro costs something.
    assert result.amplitude.ssim > 0.96
    assert result.phase.ssim > 0.96


def test_wrong_origin_is_a_shift(scan: Scan) -> None:
    result = evaluate(reconstruction_of(scan, corner=(6, 6), origin_px=(8, 5)), scan)
    assert result.shift_px == pytest.approx((-2, 1), abs=0.05)
    assert result.phase.ssim > 0.99


def test_fraction_of_an_origin_is_no_residual_shift(scan: Scan) -> None:
    found = reconstruction_of(scan)
    # Its pixel [0, 0] shows what lies at (0.4, -0.3).
    moved = dataclasses.replace(
        found,
        object_=shift_image(found.object_, (-0.4, 0.3)),
        origin_px=np.array([0.4, -0.3]),
    )
    result = evaluate(moved, scan)
    assert result.shift_px == pytest.approx((0, 0), abs=0.03)
    assert result.phase.ssim > 0.98


@pytest.mark.parametrize('change', ['mirrored', 'transposed', 'conjugate'])
def test_wrong_axes_and_signs_score_low(scan: Scan, change: str) -> None:
    found = reconstruction_of(scan)
    object_ = {
        'mirrored': found.object_[:, ::-1],
        'transposed': np.pad(found.object_.T, ((0, 40), (0, 0)), mode='edge'),
        'conjugate': found.object_.conj(),
    }[change]
    result = evaluate(dataclasses.replace(found, object_=object_), scan)
    assert result.phase.ssim < 0.4
    assert result.ring_correlation.crossing(0.5) < 0.2


def test_noise_scores_lower(scan: Scan) -> None:
    found = reconstruction_of(scan)
    rng = np.random.default_rng(0)
    noisy = found.object_ + 0.05 * (rng.normal(size=(2, *found.object_.shape)).T @ [1, 1j]).T
    result = evaluate(dataclasses.replace(found, object_=noisy), scan)
    assert result.amplitude.ssim < 0.95
    assert result.phase.psnr_db < 40


def test_other_kinds_of_truth(scan: Scan) -> None:
    assert scan.object_ is not None
    found = reconstruction_of(scan, corner=(2, 3))
    for result in (
        evaluate(found, reconstruction_of(scan, corner=(7, 1))),
        evaluate(found, scan.object_),
        evaluate(found, scan.object_[4:, 6:], truth_origin_px=(4.0, 6.0)),
    ):
        assert result.amplitude.ssim == pytest.approx(1)
        assert result.shift_px == pytest.approx((0, 0), abs=0.01)


def test_what_cannot_be_compared(scan: Scan) -> None:
    found = reconstruction_of(scan)
    with pytest.raises(DataError, match='holds no object to compare with'):
        evaluate(found, dataclasses.replace(scan, object_=None))
    with pytest.raises(DataError, match='share at least 16 x 16'):
        evaluate(found, found.object_, truth_origin_px=(500.0, 0.0))
    # A scan along a line, or of one pattern, is not blamed on the truth.
    for few, box in (
        (slice(0, 13), r'13 positions within \d\.\d x 6\d\.\d'),
        (slice(1), r'1 position'),
    ):
        narrow = dataclasses.replace(found, positions_px=found.positions_px[few])
        with pytest.raises(DataError, match=rf'at least 16 x 16 pixels; got {box}'):
            evaluate(narrow, scan)
    other, pixel = (
        dataclasses.replace(found, geometry=Geometry(pixel_height_m=size, pixel_width_m=size))
        for size in (1e-8, 2e-8)
    )
    with pytest.raises(DataError, match=r'of one size; .* 1e-08 x .* 2e-08 x'):
        evaluate(other, pixel)
    with pytest.raises(DataError, match='must be an image'):
        evaluate(found, found.object_[np.newaxis])


def test_dictionary_is_json(scan: Scan) -> None:
    values = json.loads(json.dumps(evaluate(reconstruction_of(scan), scan).to_dict()))
    assert set(values['frc']['crossings']) == {'0.5', '1/7', 'half-bit'}
    assert len(values['frc']['frequencies']) == len(values['frc']['correlation'])
    assert values['amplitude']['ssim'] == pytest.approx(1)


def test_exact_match_is_json_too(scan: Scan) -> None:
    assert scan.object_ is not None
    result = evaluate(reconstruction_of(scan), scan)
    perfect = dataclasses.replace(result.amplitude, psnr_db=float('inf'))
    values = dataclasses.replace(result, amplitude=perfect).to_dict()
    assert json.loads(json.dumps(values, allow_nan=False))['amplitude']['psnr_db'] is None


def test_plot_is_written_without_global_state(scan: Scan, tmp_path: Path) -> None:
    result = evaluate(reconstruction_of(scan), scan)
    plot_evaluation(result, tmp_path / 'evaluation.png')
    assert (tmp_path / 'evaluation.png').read_bytes().startswith(b'\x89PNG')
    assert [path.name for path in tmp_path.iterdir()] == ['evaluation.png']
    with pytest.raises(OutputError, match='no folder'):
        plot_evaluation(result, tmp_path / 'missing' / 'evaluation.png')
