"""Patterns that do not fit are found, and the object is better without them, in each backend."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ptychopinn_plugin.backends.common import reconstruction_run
from ptychopinn_plugin.backends.protocol import Backend, Progress
from ptychopinn_plugin.config import RefinementConfig
from ptychopinn_plugin.data import (
    Reconstruction,
    Scan,
    read_reconstruction,
    write_product,
    write_reconstruction,
)
from ptychopinn_plugin.evaluation import evaluate

WRONG = (3, 24, 66)


@pytest.fixture(scope='module')
def scan(tiny: Callable[..., Scan]) -> Scan:
    return tiny(photons=1e4)


@pytest.fixture(scope='module')
def spoilt(scan: Scan) -> Scan:
    """Swap two patterns, and let one have twice the light; the numbers of patterns start at 500."""
    patterns = scan.patterns.astype(np.float32)
    patterns[[3, 66]] = patterns[[66, 3]]
    patterns[24] *= 2
    return dataclasses.replace(scan, patterns=patterns, pattern_indexes=500 + np.arange(len(scan)))


@pytest.fixture(scope='module')
def backend(make_backend: Callable[[], Backend]) -> Backend:
    return make_backend()


@pytest.fixture(scope='module')
def found(backend: Backend, spoilt: Scan) -> Reconstruction:
    settings = RefinementConfig(iterations=15, drop_outliers=True)
    return backend.refine(spoilt, settings, device='cpu')


def test_they_are_dropped_and_the_object_is_better(
    backend: Backend, spoilt: Scan, found: Reconstruction
) -> None:
    kept = backend.refine(spoilt, RefinementConfig(iterations=15), device='cpu')
    assert kept.pattern_fit is not None
    listed = {outlier.pattern_index for outlier in kept.pattern_fit.outliers}
    assert {outlier.pattern_index for outlier in found.dropped} == listed
    assert listed >= {500 + place for place in WRONG}
    assert len(listed) <= 4
    assert kept.dropped == ()
    assert len(kept.positions_px) == 80
    assert len(found.positions_px) == 80 - len(listed)
    assert not listed & set(found.pattern_indexes.tolist())
    reasons = {outlier.pattern_index: outlier.reason for outlier in found.dropped}
    assert reasons[524] == 'dose'
    outlier = next(outlier for outlier in found.dropped if outlier.pattern_index == 524)
    assert (outlier.y_px, outlier.x_px) == tuple(spoilt.positions_px[24])
    before, after = (evaluate(result, spoilt).phase for result in (kept, found))
    assert after.mae < 0.8 * before.mae
    assert after.ssim > before.ssim


def test_a_clean_scan_has_none(backend: Backend, scan: Scan) -> None:
    settings = RefinementConfig(iterations=15, drop_outliers=True)
    found = backend.refine(scan, settings, device='cpu')
    assert found.pattern_fit is not None
    assert found.pattern_fit.outliers == ()
    assert found.dropped == ()
    assert found.pattern_fit.deviances.shape == (80,)
    assert np.median(found.pattern_fit.deviances) == pytest.approx(1, abs=0.25)


def test_files_tell_of_them(found: Reconstruction, tmp_path: Path) -> None:
    write_reconstruction(tmp_path / 'a.npz', found)
    again = read_reconstruction(tmp_path / 'a.npz')
    assert again.dropped == found.dropped
    assert again.pattern_fit is not None
    assert found.pattern_fit is not None
    assert again.pattern_fit.outliers == found.pattern_fit.outliers
    np.testing.assert_array_equal(again.pattern_fit.deviances, found.pattern_fit.deviances)
    write_product(tmp_path / 'product.h5', found)
    import h5py

    with h5py.File(tmp_path / 'product.h5') as file:
        indexes = {outlier.pattern_index for outlier in found.dropped}
        assert set(file['dropped_indexes'][()].tolist()) == indexes
    read_reconstruction(tmp_path / 'product.h5')


def test_stop_ends_the_first_run(backend: Backend, spoilt: Scan) -> None:
    def stop(progress: Progress) -> bool:
        return progress.stage == 'refine' and progress.step >= 3

    settings = RefinementConfig(iterations=15, drop_outliers=True)
    found = backend.refine(spoilt, settings, device='cpu', observer=stop)
    assert len(found.positions_px) == 80
    assert found.dropped == ()
    # Who stops waits for no look at all patterns.
    assert found.pattern_fit is None
    assert found.provenance['course']['ended'] == 'stopped'


def test_a_full_memory_at_the_second_look_leaves_the_object(
    backend: Backend,
    spoilt: Scan,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The iterations are done by then, and took long."""

    def run_out(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(reconstruction_run, 'iterate_without', run_out)
    found = backend.refine(spoilt, RefinementConfig(iterations=15), device='cpu')
    assert len(found.likelihoods) == 16
    assert found.pattern_fit is not None
    assert found.pattern_fit.outliers == ()
    assert 'memory ran out' in caplog.text
    assert 'The object is complete' in caplog.text
