"""Warnings of settings that change nothing, or that do not suit the scan, before a run."""

import logging

import numpy as np

from ptychopinn_plugin.backends.common.constraints import ObjectConstraints
from ptychopinn_plugin.config import RefinementConfig
from ptychopinn_plugin.data import Scan

MAX_LIGHT_BEYOND = 0.1
"""A radius beyond which more than this share of the probe's light lies is likely a mistake."""

logger = logging.getLogger(__name__)


def warn_of_settings(
    scan: Scan, settings: RefinementConfig, *, iterations: int, is_flat: bool
) -> None:
    """Warn of settings that have no effect, or not the one that somebody wants.

    Parameters
    ----------
    scan : Scan
    settings : RefinementConfig
    iterations : int
        How many are planned.
    is_flat : bool
        Nothing is going to be computed.
    """
    _warn_of_unknown_noise(scan, settings.total_variation)
    _warn_of_probe_radius(scan, settings.probe_radius, refines_probe=settings.probe)
    known = ObjectConstraints.of(settings).in_words()
    if known and not iterations:
        logger.warning(
            '%s: %s has no effect, as it is for iterations, and none are planned: give a number of '
            'them (refinement.iterations).',
            *(scan.name, known),
        )
    if is_flat:
        logger.warning(
            '%s: neither iterations nor passes of a model are left, and the object stays flat. '
            'Give a number of iterations (refinement.iterations), or of passes of the built-in '
            'model (inference.prior_passes).',
            scan.name,
        )
    if settings.position_scale and not settings.positions:
        logger.warning(
            '%s: --refine-position-scale has no effect, as it is for positions that are corrected: '
            'add --refine-positions (refinement.positions).',
            scan.name,
        )


def _warn_of_unknown_noise(scan: Scan, weight: float | None) -> None:
    """Warn where somebody gave a weight in units of a noise that the counts do not show."""
    if weight and not scan.is_countable():
        logger.warning(
            '%s: a total variation is weighted in units of the noise of counting, and these counts '
            'are no whole numbers. They are taken for photons, %.3g in a pattern on average '
            '(--photons N sets that). Where that is wrong, so is the weight: too large, it '
            'flattens the object.',
            *(scan.name, scan.mean_counts()),
        )


def _warn_of_probe_radius(scan: Scan, radius_px: float | None, *, refines_probe: bool) -> None:
    """Warn where a radius of the probe has no effect, or takes much of its light."""
    if radius_px is None:
        return
    if not refines_probe:
        logger.warning(
            '%s: --probe-radius has no effect, as it is for a probe that is corrected: add '
            '--refine-probe (refinement.probe).',
            scan.name,
        )
        return
    y, x = (np.arange(side) - side // 2 for side in scan.probe.shape[-2:])
    light = np.square(np.abs(scan.probe), dtype=np.float64).sum(axis=0)
    lost = float(light[np.hypot(y[:, np.newaxis], x) > radius_px].sum() / light.sum())
    if lost > MAX_LIGHT_BEYOND:
        logger.warning(
            "%s: %.0f%% of the probe's light lies beyond --probe-radius %g px and is taken from "
            'it. Where that is not known to be wrong, give a larger radius.',
            *(scan.name, 100 * lost, radius_px),
        )
