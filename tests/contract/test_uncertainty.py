"""Each reconstruction states how sure its pixels are, in each backend and in its files."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from ptychopinn_plugin import plots
from ptychopinn_plugin.backends.protocol import Backend
from ptychopinn_plugin.config import RefinementConfig
from ptychopinn_plugin.data import (
    Reconstruction,
    Scan,
    read_reconstruction,
    write_product,
    write_reconstruction,
)
from ptychopinn_plugin.evaluation import evaluate

PHOTONS = (1e4, 1e6)


@pytest.fixture(scope='module')
def scans(tiny: Callable[..., Scan]) -> dict[float, Scan]:
    return {photons: tiny(rows=11, columns=11, photons=photons) for photons in PHOTONS}


@pytest.fixture(scope='module')
def found(
    make_backend: Callable[[], Backend], scans: dict[float, Scan]
) -> dict[float, Reconstruction]:
    backend = make_backend()
    settings = RefinementConfig(iterations=15)
    return {p: backend.refine(scan, settings, device='cpu') for p, scan in scans.items()}


def test_it_covers_the_truth(found: dict[float, Reconstruction], scans: dict[float, Scan]) -> None:
    for photons, result in found.items():
        assert result.amplitude_std is not None
        assert result.phase_std is not None
        compared = evaluate(result, scans[photons])
        top, bottom, left, right = compared.region_px
        origin = np.rint(result.origin_px).astype(int)
        box = (
            slice(top - origin[0], bottom - origin[0]),
            slice(left - origin[1], right - origin[1]),
        )
        error = np.angle(compared.image * compared.truth.conj())
        share = float((np.abs(error) < 1.6449 * result.phase_std[box]).mean())
        # It is the benchmark that calibrates; this is a small object of steep edges.
        assert 0.6 < share < 0.995, photons
    faint, bright = (found[photons].typical_std() for photons in PHOTONS)
    assert faint is not None
    assert bright is not None
    assert bright[0] < 0.5 * faint[0]
    assert bright[1] < 0.5 * faint[1]


def test_repeated_exposures_are_light_and_no_overlap(
    make_backend: Callable[[], Backend], tiny: Callable[..., Scan]
) -> None:
    """Where illuminations hardly touch, more exposures of a place leave its neighbours as open."""
    scan = tiny(rows=5, columns=5, step_px=16.0, photons=1e4)
    backend, few = make_backend(), RefinementConfig(iterations=10)
    stds = []
    for exposures in (1, 8):
        places = np.tile(np.arange(len(scan)), exposures)
        repeated = dataclasses.replace(scan.subset(places), pattern_indexes=np.arange(len(places)))
        typical = backend.refine(repeated, few, device='cpu').typical_std()
        assert typical is not None
        stds.append(typical[0])
    # Were they overlap, it would be less than half as large.
    assert 0.6 * stds[0] < stds[1] < stds[0]


def test_files_hold_it(found: dict[float, Reconstruction], tmp_path: Path) -> None:
    result = found[1e4]
    write_reconstruction(tmp_path / 'a.npz', result)
    again = read_reconstruction(tmp_path / 'a.npz')
    np.testing.assert_array_equal(again.amplitude_std, result.amplitude_std)
    np.testing.assert_array_equal(again.phase_std, result.phase_std)
    assert again.typical_std() == result.typical_std()
    write_product(tmp_path / 'product.h5', result)
    with h5py.File(tmp_path / 'product.h5') as file:
        np.testing.assert_array_equal(file['object_phase_std'][0], result.phase_std)
        assert file['object_amplitude_std'].shape == file['object'].shape
    assert read_reconstruction(tmp_path / 'product.h5').typical_std() is None


def test_pictures_show_it(
    found: dict[float, Reconstruction],
    scans: dict[float, Scan],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = []
    monkeypatch.setattr(plots, '_save', lambda figure, path: drawn.append(figure))
    plots.plot_reconstruction(found[1e4], tmp_path / 'a.png')
    plots.plot_reconstruction(found[1e4], tmp_path / 'a.png', truth=scans[1e4].object_)
    for figure in drawn:
        titles = [axes.get_title() for axes in figure.axes if axes.images]
        assert {'std of amplitude', 'std of phase (rad)', 'coverage'} <= set(titles)
        assert len(titles) == len(set(titles))
