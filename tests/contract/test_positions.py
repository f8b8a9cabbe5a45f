"""Positions that are refined during the iterations, against the truth."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ptychopinn_plugin.backends.protocol import Backend
from ptychopinn_plugin.config import Config, RefinementConfig
from ptychopinn_plugin.data import (
    Reconstruction,
    Scan,
    read_reconstruction,
    write_product,
    write_reconstruction,
)
from ptychopinn_plugin.plots import plot_reconstruction

REFINED = RefinementConfig(iterations=30, positions=True)


def error_px(found: np.ndarray, true: np.ndarray) -> float:
    """Return the distance of positions, root mean square, without what they share."""
    rest = found - true
    rest = rest - rest.mean(axis=0)
    return float(np.sqrt((rest**2).sum(axis=1).mean()))


@pytest.fixture(scope='module')
def wrong_scan(tiny_scan: Scan) -> Scan:
    errors = np.random.default_rng(4).normal(scale=1.0, size=tiny_scan.positions_px.shape)
    return dataclasses.replace(tiny_scan, positions_px=tiny_scan.positions_px + errors)


@pytest.fixture(scope='module')
def refined(make_backend: Callable[[], Backend], wrong_scan: Scan) -> Reconstruction:
    return make_backend().refine(wrong_scan, REFINED, device='cpu')


def test_wrong_positions_come_right(
    refined: Reconstruction, wrong_scan: Scan, tiny_scan: Scan
) -> None:
    true = tiny_scan.positions_px
    before = error_px(wrong_scan.positions_px, true)
    assert before > 1.3
    assert error_px(refined.positions_px, true) < before / 3
    assert refined.nominal_positions_px is not None
    np.testing.assert_array_equal(refined.nominal_positions_px, wrong_scan.positions_px)
    # What is best has less loss and variation together, so that the loss may rise by a little.
    assert np.diff(refined.likelihoods).max() < 1e-4 * refined.likelihoods[-1]


def test_every_file_has_them(refined: Reconstruction, tmp_path: Path) -> None:
    write_reconstruction(tmp_path / 'reconstruction.npz', refined)
    again = read_reconstruction(tmp_path / 'reconstruction.npz')
    np.testing.assert_array_equal(again.positions_px, refined.positions_px)
    assert again.position_moves() == refined.position_moves()
    write_product(tmp_path / 'product.h5', refined)
    product = read_reconstruction(tmp_path / 'product.h5')
    np.testing.assert_allclose(product.positions_px, refined.positions_px, atol=1e-6)
    plot_reconstruction(refined, tmp_path / 'reconstruction.png')
    assert (tmp_path / 'reconstruction.png').stat().st_size > 0


def test_right_positions_stay(
    make_backend: Callable[[], Backend], tiny_scan: Scan, caplog: pytest.LogCaptureFixture
) -> None:
    found = make_backend().refine(tiny_scan, REFINED, device='cpu')
    moves = found.position_moves()
    assert moves is not None
    assert moves.rms_px < 0.05
    assert ('the given positions are kept' in caplog.text) is (moves.rms_px == 0)


def test_the_target_of_training_corrects_them(
    make_backend: Callable[[], Backend],
    wrong_scan: Scan,
    brief: Callable[..., Config],
) -> None:
    losses = {}
    for refines in (False, True):
        seen: list[float] = []
        make_backend().train(
            [wrong_scan],
            brief(epochs=1, target_iterations=20, target_positions=refines),
            observer=lambda progress, seen=seen: (
                seen.append(progress.losses.get('poisson', 0.0))
                if progress.stage == 'target'
                else None
            ),
        )
        losses[refines] = seen[-1]
    assert losses[True] < 0.8 * losses[False]
