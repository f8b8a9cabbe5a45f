"""A scan in memory, sent again as it was measured: at a rate, in any order, with losses."""

import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import IntArray
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.errors import ConfigError
from ptychopinn_plugin.streaming.messages import Unit
from ptychopinn_plugin.streaming.senders import ScanSender


@dataclass(frozen=True)
class ReplayPlan:
    """How a scan is sent.

    Attributes
    ----------
    rate_hz : float
        Patterns in a second; 0 is as fast as possible.
    batch : int
        Patterns in a message.
    unit : 'm' or 'px'
        Of the positions.
    separates : bool
        Whether positions come in messages of their own, after their patterns.
    shuffle : int
        Patterns change their order within windows of this length; 0 keeps it.
    lose : float
        This part of the patterns is not sent.
    seed : int
        Of both.
    """

    rate_hz: float = 0.0
    batch: int = 1
    unit: Unit = 'px'
    separates: bool = False
    shuffle: int = 0
    lose: float = 0.0
    seed: int = 0


def replay(
    scan: Scan,
    sender: ScanSender,
    plan: ReplayPlan,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Send a scan; return how many patterns were sent.

    Indexes are the scan's `pattern_indexes` where they ascend, else the order in the file.

    Parameters
    ----------
    scan : Scan
    sender : ScanSender
        Opened.
    plan : ReplayPlan
    sleep : callable

    Raises
    ------
    ConfigError
        If positions are to be sent in metres, and the scan has no size of a pixel.
    """
    assert scan.pattern_indexes is not None
    indexes = scan.pattern_indexes
    if not (np.diff(indexes) > 0).all() or indexes[0] < 0:
        indexes = np.arange(len(scan))
    positions = scan.positions_px * _pixel(scan, plan.unit)
    sender.send(opening_of(scan, plan.unit))
    began, sent = time.monotonic(), 0
    order = _order(len(scan), plan)
    for start in range(0, len(order), plan.batch):
        rows = order[start : start + plan.batch]
        place = {f'positions_{plan.unit}': positions[rows]}
        patterns = {'indexes': indexes[rows], 'patterns': np.asarray(scan.patterns[rows])}
        if plan.separates:
            sender.send(patterns)
            sender.send({'indexes': indexes[rows], **place})
        else:
            sender.send({**patterns, **place})
        sent += len(rows)
        if plan.rate_hz > 0:
            sleep(max(0.0, began + sent / plan.rate_hz - time.monotonic()))
    sender.send({'end': True, 'n_patterns': len(scan)})
    return sent


def opening_of(scan: Scan, unit: Unit) -> dict[str, Any]:
    """Return what is sent before the first pattern of a scan."""
    known = {item.name: getattr(scan.geometry, item.name) for item in fields(scan.geometry)}
    opening: dict[str, Any] = {
        'name': scan.name,
        'n_patterns': len(scan),
        'unit': unit,
        'pattern_shape': list(scan.pattern_shape),
        'pattern_dtype': scan.patterns.dtype.str,
        'bad_pixels': scan.bad_pixels,
        **{name: value for name, value in known.items() if value is not None},
    }
    if scan.probe_origin == 'given':
        opening['probe'] = scan.probe
    return opening


def _pixel(scan: Scan, unit: Unit) -> Any:
    if unit == 'px':
        return 1.0
    size = scan.geometry.pixel_height_m, scan.geometry.pixel_width_m
    if not (size[0] and size[1]):
        raise ConfigError(
            f'{scan.name} holds no size of an object pixel, which positions in metres need. Send '
            'them in pixels: --unit px.'
        )
    return np.array(size)


def _order(count: int, plan: ReplayPlan) -> IntArray:
    rng = np.random.default_rng(plan.seed)
    order = np.arange(count)
    if plan.shuffle > 1:
        windows = [order[i : i + plan.shuffle] for i in range(0, count, plan.shuffle)]
        order = np.concatenate([rng.permutation(window) for window in windows])
    if plan.lose > 0:
        order = order[rng.random(count) >= plan.lose]
    return order
