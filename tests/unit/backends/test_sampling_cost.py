"""What an epoch spends on choosing its sub-scans grows with the scan, and no faster."""

import time
from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin.backends.common.sampling import (
    SPACINGS,
    SUBSCAN_SIZE,
    TrainingScan,
    draw_subscan,
)
from ptychopinn_plugin.config import Config, ModelConfig
from ptychopinn_plugin.data.places import median_step
from ptychopinn_plugin.network import describe_network


def scan_of(side: int) -> TrainingScan:
    raster = 5.5 * np.stack(np.mgrid[:side, :side], axis=-1).reshape(-1, 2)
    positions_px = raster + np.random.default_rng(0).uniform(-1, 1, raster.shape)
    return TrainingScan(
        0, None, positions_px, np.arange(len(positions_px)), labels=None, countable=True
    )


def drawn_positions(scan: TrainingScan, seed: int) -> Any:
    drawn: list[Any] = []
    draw_subscan(
        describe_network(ModelConfig(), 64),
        scan,
        Config(),
        np.random.default_rng(seed),
        lambda *arguments: drawn.append(arguments[1]),  # type: ignore[arg-type, return-value]
    )
    return drawn[0]


def seconds_of(scan: TrainingScan, seed: int) -> float:
    description, config = describe_network(ModelConfig(), 64), Config()
    begun = time.thread_time()
    draw_subscan(description, scan, config, np.random.default_rng(seed), lambda *_: None)  # type: ignore[arg-type, return-value]
    return time.thread_time() - begun


def epoch_seconds(scan: TrainingScan, each: dict[float, float]) -> float:
    """Return the seconds of an epoch; what is found once for a scan, before, is added."""
    subscans = len(scan.members) / SUBSCAN_SIZE
    return subscans * sum(each[spacing] for spacing in SPACINGS) / len(SPACINGS)


def test_65536_positions_cost_no_more_than_16_times_4096() -> None:
    """By the quickest of several sub-scans of each density, so that other work does not weigh."""
    least: list[dict[float, float]] = [{}, {}]
    scans = [scan_of(64), scan_of(256)]
    once = [min(seconds_of(scan_of(side), 0) for _ in range(3)) for side in (64, 256)]
    for seed in range(80):
        # The first number that a sub-scan draws decides its density.
        spacing = SPACINGS[np.random.default_rng(seed).integers(len(SPACINGS))]
        for scan, found in zip(scans, least, strict=True):
            found[spacing] = min(found.get(spacing, np.inf), seconds_of(scan, seed))
    small, large = (
        first + epoch_seconds(scan, found)
        for first, scan, found in zip(once, scans, least, strict=True)
    )
    assert large < 1.5 * 16 * small


def test_sub_scans_of_a_large_scan_lie_together_at_their_density() -> None:
    scan = scan_of(128)
    steps = set()
    for seed in range(12):
        positions = scan.patch_origins_px[drawn_positions(scan, seed)]
        assert len(positions) == SUBSCAN_SIZE
        step = median_step(positions)
        steps.add(round(step / scan.places.step_px))
        # A circle, or a quarter of one in a corner of the scan.
        assert np.ptp(positions, axis=0).max() < 2.5 * np.sqrt(SUBSCAN_SIZE) * max(step, 5.5)
    assert {1, 5} <= steps


@pytest.mark.parametrize('exposures', [3, 26])
def test_repeated_exposures_leave_neighbours_in_a_sub_scan(exposures: int) -> None:
    """Sub-scans of 12 x 12 places, each measured again and again, hold many places."""
    raster = 5.5 * np.stack(np.mgrid[:12, :12], axis=-1).reshape(-1, 2)
    positions_px = np.tile(raster, (exposures, 1))
    positions_px += np.random.default_rng(0).uniform(-0.1, 0.1, positions_px.shape)
    members = np.arange(len(positions_px))
    scan = TrainingScan(0, None, positions_px, members, labels=None, countable=True)
    assert scan.places.step_px == pytest.approx(5.5, abs=0.2)
    per_place = set()
    for seed in range(24):
        drawn = drawn_positions(scan, seed)
        assert len(set(drawn.tolist())) == len(drawn)
        number = len(set(scan.places.place_of[drawn].tolist()))
        assert number >= 4
        per_place.add(round(len(drawn) / number))
    assert 1 in per_place
    assert max(per_place) > 1
