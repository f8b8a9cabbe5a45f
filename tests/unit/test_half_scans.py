"""Two halves of a scan: how it is cut, and what their agreement shows. No backend is needed."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from ptychopinn_plugin import half_scans
from ptychopinn_plugin.data import Geometry, Reconstruction, Scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.half_scans import Resolution, compare_halves, plot_halves, split_scan


def make_scan(**changes: object) -> Scan:
    config = SimulationConfig.from_dict(
        {'size': 32, 'rows': 12, 'columns': 10, 'step_px': 4.0, 'jitter_px': 0.3, **changes}
    )
    return simulate(config)


@pytest.fixture(scope='module')
def scan() -> Scan:
    return make_scan()


def noisy(sigma: float, cutoff: float = 1.0):
    """Return what reconstructs a half as the truth, with noise above a spatial frequency."""
    rng = np.random.default_rng(0)

    def reconstruct(part: Scan) -> Reconstruction:
        assert part.object_ is not None
        shape = part.object_.shape
        noise = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
        frequency = 2 * np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1]))
        noise = np.fft.ifft2(np.fft.fft2(noise) * (frequency >= cutoff))
        return Reconstruction(
            object_=(part.object_ + sigma * noise).astype(np.complex64),
            origin_px=np.zeros(2),
            coverage=np.ones(shape, dtype=np.float32),
            probe=part.probe,
            positions_px=part.positions_px,
            backend='none',
            geometry=Geometry(pixel_height_m=2e-9, pixel_width_m=2e-9),
        )

    return reconstruct


def test_a_raster_becomes_a_checkerboard() -> None:
    scan = make_scan(jitter_px=0.0)
    first, second = split_scan(scan)
    assert len(first) == len(second) == 60
    row, column = np.rint((first.positions_px - scan.positions_px[0]) / 4.0).astype(int).T
    colours = (row + column) % 2
    assert max(colours.mean(), 1 - colours.mean()) > 0.8
    whole = np.sort(np.concatenate([first.pattern_indexes, second.pattern_indexes]))
    np.testing.assert_array_equal(whole, np.arange(120))


@pytest.mark.parametrize('kind', ['random', 'repeated', 'spiral'])
def test_both_halves_cover_the_field(kind: str) -> None:
    rng = np.random.default_rng(3)
    scan = make_scan()
    if kind == 'random':
        positions_px = rng.uniform(20, 60, (120, 2))
    elif kind == 'repeated':
        positions_px = np.repeat(scan.positions_px[:60], 2, axis=0)
    else:
        angle = np.sqrt(np.arange(120.0))
        positions_px = 40 + 3.2 * angle[:, None] * np.stack(
            [np.sin(4 * angle), np.cos(4 * angle)], axis=1
        )
    moved = dataclasses.replace(scan, positions_px=positions_px)
    first, second = split_scan(moved)
    assert abs(len(first) - len(second)) <= 1
    # Every position of one half has one of the other near it.
    gaps = np.linalg.norm(first.positions_px[:, None] - second.positions_px[None], axis=-1)
    nearest = np.linalg.norm(positions_px[:, None] - positions_px[None], axis=-1)
    np.fill_diagonal(nearest, np.inf)
    assert np.median(gaps.min(axis=1)) <= 1.6 * np.median(nearest.min(axis=1)) + 1e-9
    if kind == 'repeated':
        assert np.median(gaps.min(axis=1)) == 0


def test_equal_halves_resolve_a_pixel(scan: Scan) -> None:
    found = compare_halves(scan, noisy(0.0))
    assert {name: r.is_limit for name, r in found.resolutions().items()} == dict.fromkeys(
        ('0.5', '1/7', 'half-bit'), True
    )
    assert found.resolutions()['0.5'].half_period_m == pytest.approx(2e-9)
    assert found.overlap == pytest.approx(2 * found.half_overlap, rel=0.2)


def test_the_resolution_is_where_noise_begins(scan: Scan) -> None:
    found = compare_halves(scan, noisy(0.5, cutoff=0.4))
    half = found.resolutions()['0.5']
    assert half.share_of_nyquist == pytest.approx(0.4, abs=0.06)
    assert half.half_period_px == pytest.approx(1 / half.share_of_nyquist)
    assert half.half_period_m == pytest.approx(2e-9 / half.share_of_nyquist)
    assert not half.is_limit
    assert any('0.5: 2.' in line and 'nm)' in line for line in found.in_words())


def test_little_overlap_is_told(scan: Scan) -> None:
    found = compare_halves(scan, noisy(0.1))
    sparse = dataclasses.replace(found, half_overlap=half_scans.LITTLE_OVERLAP_OF_HALVES - 0.1)
    dense = dataclasses.replace(found, half_overlap=half_scans.LITTLE_OVERLAP_OF_HALVES + 0.1)
    assert 'overlap little' in sparse.in_words()[-1]
    assert not any('overlap little' in line for line in dense.in_words())


def test_halves_that_do_not_agree_resolve_nothing() -> None:
    found = Resolution.of(0.0, Geometry())
    assert found.half_period_px is None
    assert found.to_dict()['share_of_nyquist'] == 0


def test_the_picture_names_the_halves(scan: Scan, tmp_path: Path) -> None:
    plot_halves(compare_halves(scan, noisy(0.1)), tmp_path / 'a.png')
    assert (tmp_path / 'a.png').read_bytes().startswith(b'\x89PNG')


def test_scans_that_cannot_be_cut(scan: Scan) -> None:
    with pytest.raises(DataError, match='at least 8 patterns; the scan has 7'):
        split_scan(scan.subset(np.arange(7)))
    with pytest.raises(DataError, match='single-shot'):
        split_scan(dataclasses.replace(scan, is_single_shot=True))
