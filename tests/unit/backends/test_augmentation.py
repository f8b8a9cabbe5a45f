"""Sub-scans come at every density and exposure, so that one network serves all scans."""

from functools import cache
from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin.backends.common.sampling import (
    SUBSCAN_SIZE,
    SubScan,
    TrainingScan,
    draw_subscan,
    epoch_parts,
    subscan_batches,
    thinned_amplitudes,
)
from ptychopinn_plugin.config import Config, ModelConfig
from ptychopinn_plugin.data.places import median_step
from ptychopinn_plugin.network import describe_network

STEP_PX = 5.0


@cache
def draw(architecture: str, count: int = 60) -> tuple[np.ndarray, list[float], list[np.ndarray]]:
    """Return the steps, exposures and positions of sub-scans of a raster of 36 x 36 positions."""
    model = ModelConfig.from_dict({'architecture': architecture, 'pattern_size': 64})
    positions_px = STEP_PX * np.stack(np.mgrid[:36, :36], axis=-1).reshape(-1, 2)
    members = np.arange(len(positions_px))
    scan = TrainingScan(0, None, positions_px, members, labels=None, countable=True)
    found: list[Any] = []

    def make(*arguments: Any) -> Any:
        found.append(arguments)

    for seed in range(count):
        rng = np.random.default_rng(seed)
        draw_subscan(describe_network(model, 64), scan, Config(model=model), rng, make)
    positions = [positions_px[chosen] for _, chosen, *_ in found]
    steps = np.array([median_step(part) / STEP_PX for part in positions])
    return steps, [exposure for *_, exposure, _ in found], positions


def test_dense_and_sparse_sub_scans_are_drawn() -> None:
    """Little overlap is met in training, from a scan that has plenty."""
    steps, _, positions = draw('sweepnet')
    assert 0.2 < (steps == 1).mean() < 0.6
    assert steps.max() > 4
    assert len(np.unique(steps.round(2))) >= 4
    assert max(len(part) for part in positions) == SUBSCAN_SIZE
    assert min(len(part) for part in positions) < SUBSCAN_SIZE


def test_a_sub_scan_lies_together() -> None:
    steps, _, positions = draw('sweepnet')
    dense = [part for part, step in zip(positions, steps, strict=True) if step == 1]
    assert dense
    # 256 neighbours cover a circle of 18 steps, or half a circle of 26 at the edge of the scan.
    assert all(np.ptp(part, axis=0).max() <= 26 * STEP_PX for part in dense)
    middles = np.array([part.mean(axis=0) for part in dense])
    assert np.ptp(middles, axis=0).min() > 5 * STEP_PX


def test_short_exposures_are_drawn() -> None:
    _, exposures, _ = draw('sweepnet')
    assert set(exposures) == {1.0, 0.3, 0.1}
    assert 0.3 < np.mean(np.array(exposures) == 1) < 0.7


def test_a_network_that_sees_groups_learns_from_the_scan_as_it_is() -> None:
    steps, exposures, _ = draw('cnn')
    assert set(steps) == {1.0}
    assert set(exposures) == {1.0}


def test_groups_are_met_in_an_order_drawn_anew_each_time() -> None:
    groups = np.arange(200)[:, np.newaxis]
    subscan = SubScan(0, 1.0, None, groups, ['flat'], labels=None, label_coverage=None)
    batches = subscan_batches(subscan, 8, np.random.default_rng(0))
    met = np.concatenate([batch.groups.ravel() for batch in batches]).reshape(2, 200)
    for order in met:
        assert abs(np.corrcoef(order, np.arange(200))[0, 1]) < 0.3
    assert (met[0] == met[1]).mean() < 0.1


def test_the_batches_of_several_sub_scans_are_mixed() -> None:
    """Steps of one density after steps of another would each undo what the others taught."""
    positions_px = STEP_PX * np.stack(np.mgrid[:32, :32], axis=-1).reshape(-1, 2)
    scan = TrainingScan(0, None, positions_px, np.arange(1024), labels=None, countable=True)
    made: list[SubScan] = []

    def make(_: Any, __: Any, groups: Any, exposure: float, ___: Any) -> SubScan:
        made.append(SubScan(0, exposure, None, groups, ['flat'], labels=None, label_coverage=None))
        return made[-1]

    description = describe_network(ModelConfig(), 64)
    parts = epoch_parts(description, [scan], Config(), [0], make)
    batches = [batch for part in parts for batch in part]
    assert len(made) == 4
    origin = [next(n for n, one in enumerate(made) if one is batch.subscan) for batch in batches]
    assert set(origin) == {0, 1, 2, 3}
    changes = np.count_nonzero(np.diff(origin))
    # One after the other would be three.
    assert changes > len(batches) / 3


@pytest.mark.parametrize('exposure', [0.3, 0.1])
def test_thinned_counts_are_those_of_a_shorter_exposure(exposure: float) -> None:
    """Poisson counts again: whole, at the share of the mean, with a variance of their mean."""
    counts = np.random.default_rng(0).poisson(50.0, size=(200, 16, 16))
    rng = np.random.default_rng(1)
    amplitudes = thinned_amplitudes(np.sqrt(counts, dtype=np.float32), exposure, rng)
    thinned = amplitudes.astype(float) ** 2
    np.testing.assert_allclose(thinned, np.rint(thinned), atol=1e-4)
    assert (thinned <= counts + 1e-4).all()
    assert thinned.mean() == pytest.approx(50 * exposure, rel=0.02)
    assert thinned.var() == pytest.approx(50 * exposure, rel=0.05)
