"""Scans whose patterns share nothing, by where their illuminations lie."""

import logging

from ptychopinn_plugin.data.grouping import illumination_gap
from ptychopinn_plugin.data.preparation import one_by_one
from ptychopinn_plugin.data.scan import Scan

logger = logging.getLogger(__name__)

MAX_GAP_SIDES = 2.0
"""Positions that are further apart than this number of pattern sides are in another unit, more
likely than not, and are refused."""


def alone_where_apart(scan: Scan) -> Scan:
    """Let each pattern be reconstructed alone where no two illuminations touch.

    Parameters
    ----------
    scan : Scan

    Returns
    -------
    Scan
        See `one_by_one`. It is the same scan where illuminations touch, where the probe is not
        known, in the near field, and where positions lie so far apart that
        `grouping.check_positions` refuses them.
    """
    if scan.is_single_shot or scan.probe_origin == 'patterns' or scan.geometry.is_near_field:
        return scan
    gap = illumination_gap(scan)
    if gap is None or gap.distance_px > MAX_GAP_SIDES * max(scan.pattern_shape):
        return scan
    logger.warning(
        '%s: no two illuminations touch: the nearest positions are %.1f px apart and the probe is '
        '%d px wide. So each pattern is reconstructed alone, as with --single-shot '
        '(reading.single_shot). Where they should overlap, the scale of the positions is wrong: '
        'ptychopinn check finds it.',
        *(scan.name, gap.distance_px, gap.probe_width_px),
    )
    return one_by_one(scan)
