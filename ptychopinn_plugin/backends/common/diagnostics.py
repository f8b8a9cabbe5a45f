"""The note on a scan that seems to be something other than it is taken for."""

import dataclasses
import logging
import math
from collections.abc import Callable

import numpy as np

from ptychopinn_plugin.array_types import FloatArray
from ptychopinn_plugin.backends.common.opr import MIN_OPR_PATTERNS
from ptychopinn_plugin.backends.common.phase_drift import MIN_PATTERNS, SURE_OF_DRIFT, SlowErrors
from ptychopinn_plugin.backends.common.positions import MIN_POSITIONS
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.pattern_fit import NORMAL_QUARTILE, PatternFit
from ptychopinn_plugin.physics import LIT_COUNTS, Misfit, twin_similarity

SUSPICIOUS = 1.5
"""A misfit of more times shot noise is suspicious: right scans end at 0.95 to 1.1 times."""

NEGLIGIBLE = 1e-3
"""A misfit of a smaller share of the counts is left alone: unfinished iterations of very bright
patterns miss more than their noise."""

SUSPICIOUS_FRACTION = 3e-3
"""Where shot noise is unknown, a misfit of a larger share of the counts is suspicious. Right scans
of 10⁵ photons end at 0.001."""

SUSPICIOUS_CORRELATION = 0.1
"""A higher correlation of what is missed is suspicious. Noise has no correlation; wrong positions,
axes and probes leave 0.3 to 0.8."""

LIKE_TWIN = 0.9
"""Under a probe as like its own twin, single patterns fit objects and their twins almost alike."""

WITHIN_NOISE = 1.2
"""A misfit of up to this many times shot noise is as good as the counts allow."""

CHECK = 'ptychopinn check SCAN finds which'
"""This is what users do where a scan seems to be something other than it is taken for."""

MIN_ITERATIONS = 10
"""After fewer iterations the object is not yet as good as its probe allows."""

BEAM_VARIATION = 0.018
"""A beam whose log intensity has a larger standard deviation varies: a drift by 6 % from
the first pattern to the last has that, and costs the phase 0.03 of its SSIM."""

OWN_DEVIANCE = 1.5
"""Where patterns miss their counts by more, whatever their dose is, no beam is measured."""

INTENSITIES = '--refine-intensities (refinement.intensities)'
TARGET_INTENSITIES = '--refine-intensities (training.target_intensities)'
"""This is what users set where the beam varies, as they write it: in iterations, in training."""

LIT_COUNTS_FRACTION = 1e-5
"""In an unknown unit, a lit pixel expects at least this share of the counts of a pattern."""

BOUNDS_UNIT = (
    ' The unit of --min-amplitude and --max-amplitude is the root mean square of the amplitude '
    'under the light, so that 1 lies between them.'
)
"""A note on bounds that do not hold ends so."""

logger = logging.getLogger(__name__)


def warn_of_twins(scan: Scan) -> None:
    """Warn where the probe is its own twin: patterns alone fit an object and its twin alike."""
    if not scan.is_single_shot or twin_similarity(scan.probe) < LIKE_TWIN:
        return
    logger.warning(
        '%s: under this probe a single pattern fits an object and its twin (turned by 180 degrees, '
        'with the opposite phase) almost alike: patches may be turned, or mixed. A beam out '
        'of focus, whose phase is curved, distinguishes them; so do patterns that overlap, '
        'reconstructed together.',
        scan.name,
    )


def judge_misfit(scan: Scan, measure: Callable[[float], Misfit | None]) -> Misfit | None:
    """Measure how far an object is from the counts of a scan.

    Parameters
    ----------
    scan : Scan
    measure : callable
        Computes the object's misfit on pixels that expect at least the given number of counts.

    Returns
    -------
    Misfit or None
        None where there is too little light. Where the counts are no whole numbers, and so in
        another unit than photons, `over_noise` is None.
    """
    if scan.is_countable():
        return measure(LIT_COUNTS)
    misfit = measure(LIT_COUNTS_FRACTION * scan.mean_counts())
    return None if misfit is None else dataclasses.replace(misfit, over_noise=None)


def warn_of_unknown_probe(scan: Scan, *, is_known: bool) -> None:
    """State what patterns do not show of an object where its probe is not known.

    Parameters
    ----------
    scan : Scan
    is_known : bool
        See `Reconstruction.is_probe_known`.
    """
    if is_known or scan.is_single_shot:
        return
    why = (
        'the refined probe is far from the given one, which was a guess'
        if scan.has_probe_of_file
        else 'the probe was made of the patterns'
    )
    twin = (
        ''
        if scan.geometry.is_near_field
        else ' Nor do they show whether positions are inverted in y and x, which would give the '
        'conjugate object rotated by 180 degrees.'
    )
    logger.warning(
        "%s: %s. Patterns then do not show whether the object's phase has a slope: it is shown "
        'without one.%s A measured probe decides: probe_from=FILE (--probe-from FILE).',
        *(scan.name, why, twin),
    )


def unknown_probe_in_words(*, is_known: bool, is_single_shot: bool = False) -> str:
    """Return what is not determined where the probe is not known; empty where it is.

    Parameters
    ----------
    is_known : bool
        See `Reconstruction.is_probe_known`.
    is_single_shot : bool
        Each patch has a slope of its own then.
    """
    if is_known or is_single_shot:
        return ''
    return (
        'As the probe is not known, the phase is determined up to a slope only, and is shown '
        'without one.'
    )


def warn_of_misfit(scan: Scan, iterations: int, misfit: Misfit | None, option: str | None) -> None:
    """Name what may be wrong with a scan, where iterations end far above noise.

    Parameters
    ----------
    scan : Scan
    iterations : int
        How many were done.
    misfit : Misfit, optional
    option : str, optional
        What to set to correct the probe, as users write it; None where that was done.
    """
    if not points_to_a_fault(misfit, iterations):
        return
    assert misfit is not None
    if misfit.over_noise is None:
        size = f'{misfit.share:.1%} of the counts, and not as noise does'
    else:
        size = f'the counts by {misfit.over_noise:.1f} times what shot noise explains'
    ways = [] if option is None else [f'{option} corrects']
    if scan.has_probe_of_file:
        ways.append('--probe-from-patterns replaces where it is far from the true one')
    remedy = f', which {", and ".join(ways)}' if ways else ''
    if ways:
        remedy += '. With any other cause, another probe would only hide the fault'
    if scan.is_single_shot:
        # Positions mean nothing here, and `check` has nothing to compare.
        logger.warning(
            '%s: the object misses %s. Likely causes: too few iterations, as patterns alone '
            'converge slowly; a wrong photon energy, distance or pixel size; or a probe that is a '
            'guess%s.',
            *(scan.name, size, remedy),
        )
        return
    if scan.geometry.is_near_field:
        curved = (
            ''
            if scan.geometry.magnification() == 1
            else 'a probe with the curvature of the beam, which the distance of the focus already '
            'takes into account; '
        )
        logger.warning(
            '%s: the object misses %s. Likely causes: a wrong distance, photon energy, pixel size '
            'or focus; positions in another order than the patterns, with x and y swapped or '
            'inverted; light that comes into the frames from outside of them, for which '
            '--frame-margin PX gives room; %sor a probe that is a guess%s.',
            *(scan.name, size, curved, remedy),
        )
        return
    logger.warning(
        '%s: the object misses %s. Likely causes: positions in another order than the patterns, '
        'with x and y swapped, inverted or in another unit; patterns that are transposed or '
        'flipped; a wrong photon energy, distance or pixel size; pixels behind a beamstop or in a '
        'gap of the detector that no mask covers, for which there is --mask FILE; or a probe that '
        'is a guess%s. %s.',
        *(scan.name, size, remedy, CHECK),
    )


def warn_of_constraints(scan: Scan, iterations: int, misfit: Misfit | None, options: str) -> None:
    """Warn where an object that had to keep to constraints misses its counts.

    Parameters
    ----------
    scan : Scan
    iterations : int
        How many were done.
    misfit : Misfit, optional
    options : str
        The constraints, as users write them; empty where there are none.
    """
    if options and points_to_a_fault(misfit, iterations):
        logger.warning(
            '%s: the iterations kept to %s, and the object misses its counts. What these options '
            'state may not be true of it: compare with a run without them.%s',
            *(scan.name, options, BOUNDS_UNIT if '-amplitude' in options else ''),
        )


def warn_of_moves(scan: Scan, moves_px: FloatArray, reach_px: float) -> None:
    """Warn where positions were to be refined and stayed, or moved as far as they may.

    Parameters
    ----------
    scan : Scan
    moves_px : ndarray of float64, shape (n_positions, 2)
    reach_px : float
        How far they may move in y and x.
    """
    if len(moves_px) < MIN_POSITIONS:
        logger.warning(
            '%s: the given positions are kept: %d patterns have too little in common to show '
            'where they belong.',
            *(scan.name, len(moves_px)),
        )
        return
    if not moves_px.any():
        logger.warning(
            '%s: the given positions are kept: moving them did not raise the likelihood by more '
            'than noise would.',
            scan.name,
        )
        return
    stopped = int((np.abs(moves_px) > reach_px - 0.5).any(axis=1).sum())
    if stopped:
        logger.warning(
            '%s: %s moved as far as they may, %d px in y or x, so that they may still be wrong. '
            'Likely causes: positions in another order than the patterns, with x and y swapped or '
            'inverted, or in another unit. The command "ptychopinn check" on the scan finds which.',
            *(scan.name, f'{stopped} of {len(moves_px)} positions', reach_px),
        )


def measure_beam_variation(
    fit: PatternFit, counted: FloatArray, errors: SlowErrors
) -> float | None:
    """Return the standard deviation of the beam's log intensity; None where it is steady.

    Parameters
    ----------
    fit : PatternFit
        Of an object that was made with a steady beam.
    counted : ndarray of float64, shape (n_positions,)
        Photons in each pattern.
    errors : SlowErrors
        Of that object.

    Returns
    -------
    float or None
        Iterations give a part of a drift to the object, so that it is rather more.
    """
    judged = np.isfinite(fit.deviances) & (fit.doses > 0)
    if not judged.any() or not np.median(fit.deviances[judged]) <= OWN_DEVIANCE:
        return None
    doses = np.log(fit.doses[judged])
    # A few patterns of another dose are outliers, and named as such.
    spread = float(np.median(np.abs(doses - np.median(doses)))) / NORMAL_QUARTILE
    counting = float(np.median(1 / np.maximum(counted, 1)))
    # The square of a median deviation has itself a standard deviation of this share.
    is_sure = spread**2 > counting * (1 + SURE_OF_DRIFT * 2.3 / math.sqrt(len(doses)))
    flicker = spread**2 - counting if is_sure else 0.0
    slow = errors.beam_drift() ** 2 - errors.noise**2 if errors.is_sure_of_drift else 0.0
    variation = math.sqrt(flicker + slow)
    return variation if variation >= BEAM_VARIATION else None


def warn_of_beam(scan: Scan, variation: float | None, option: str, constraints: str = '') -> None:
    """Warn that the beam's intensity varies, where it was taken to be steady.

    Parameters
    ----------
    scan : Scan
    variation : float, optional
        See `measure_beam_variation`.
    option : str
        What to set, as users write it.
    constraints : str
        What the object had to keep to, as users write it, where that leaves its amplitude no room.
    """
    if variation is None:
        return
    if constraints:
        logger.warning(
            '%s: the counts vary from pattern to pattern as no object explains that keeps to %s, '
            'by %.1f%% or more (standard deviation). Either the object is of another kind, or the '
            "beam's intensity varies: compare with a run without these options, and with one with "
            '%s, which gives each pattern its own intensity.',
            *(scan.name, constraints, 100 * variation, option),
        )
        return
    logger.warning(
        "%s: the beam's intensity seems to vary from pattern to pattern, by %.1f%% or more "
        '(standard deviation). The object takes a drift for its own transmission, and its phase '
        'suffers; %s gives each pattern its own intensity.',
        *(scan.name, 100 * variation, option),
    )


def warn_of_lonely_intensities(scan: Scan) -> None:
    """Warn where intensities were to be refined and cannot be determined."""
    if scan.is_single_shot or len(scan) < MIN_PATTERNS:
        logger.warning(
            "%s: the beam's intensities stay as they are: only patterns that overlap "
            'distinguish them from the transmission of the object.',
            scan.name,
        )


def warn_of_lonely_eigenmodes(scan: Scan) -> None:
    """Warn where eigenmodes were to be refined and cannot be determined."""
    if scan.is_single_shot or len(scan) < MIN_OPR_PATTERNS:
        logger.warning(
            '%s: no eigenmodes of the probe are refined: that takes patterns that overlap, at '
            'least %d.',
            scan.name,
            MIN_OPR_PATTERNS,
        )


def points_to_a_fault(misfit: Misfit | None, iterations: int) -> bool:
    """Return whether an object misses its counts by more than unfinished iterations explain.

    Parameters
    ----------
    misfit : Misfit, optional
        None where nothing is known.
    iterations : int
        How many were done.
    """
    return iterations >= MIN_ITERATIONS and misfit is not None and _is_suspicious(misfit)


def fit_in_words(
    misfit: Misfit | None,
    iterations: int,
    *,
    is_single_shot: bool = False,
    is_near_field: bool = False,
    beam_variation: float | None = None,
    subject: str = 'The object',
) -> str:
    """Return how well an object explains the counts, as a sentence; empty where that is unknown.

    Parameters
    ----------
    misfit : Misfit, optional
    iterations : int
        How many were done.
    is_single_shot : bool
        Patterns share nothing, so that positions cannot be wrong.
    is_near_field : bool
        Patterns are images, which `check` has no other orientations for.
    beam_variation : float, optional
        See `measure_beam_variation`.
    subject : str
        What fits or misses the counts, as the sentence begins.
    """
    if misfit is None or not math.isfinite(misfit.share):
        return ''
    over, unit_note, beam = misfit.over_noise, '', ''
    if beam_variation is not None:
        beam = (
            f"the beam's intensity varies by {beam_variation:.1%} or more; --refine-intensities "
            'takes that into account'
        )
    if over is None or not math.isfinite(over):
        size = f'{misfit.share:.2g} of the counts'
        unit_note = '; shot noise is unknown, as the counts are in another unit than photons'
    elif over <= WITHIN_NOISE:
        size = f'{subject} fits the counts within {WITHIN_NOISE:g} times shot noise'
        return f'{size}, but {beam}.' if beam else f'{size}.'
    else:
        size = f'the counts by {over:.1f} times shot noise'
    if beam:
        return f'{subject} misses {size}: {beam}.'
    if points_to_a_fault(misfit, iterations):
        if is_single_shot:
            return f'{subject} misses {size}: the probe may be wrong, or more iterations may help.'
        if is_near_field:
            return f'{subject} misses {size}: distance, positions or probe may be wrong.'
        return f'{subject} misses {size}: positions, probe or orientation may be wrong; {CHECK}.'
    return f'{subject} misses {size}{unit_note or "; more iterations may help"}.'


def _is_suspicious(misfit: Misfit) -> bool:
    if misfit.share <= NEGLIGIBLE or misfit.correlation <= SUSPICIOUS_CORRELATION:
        return False
    if misfit.over_noise is None:
        return misfit.share > SUSPICIOUS_FRACTION
    return misfit.over_noise > SUSPICIOUS
