"""The defocus of an unknown probe, found by trial reconstructions."""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray
from ptychopinn_plugin.backends.protocol import Observer, Progress
from ptychopinn_plugin.config import RefinementConfig
from ptychopinn_plugin.data import Reconstruction, Scan
from ptychopinn_plugin.data.places import find_places
from ptychopinn_plugin.data.starting_probe import Pupil, far_amplitude
from ptychopinn_plugin.physics import cover, illumination_overlap, with_modes

PATTERNS = 64
"""Trials take this number of patterns around the middle of the scan."""

PROBE_TRIAL_ITERATIONS = 9
"""A trial takes this number of iterations, after which likelihoods distinguish defoci."""

PROBE_FINAL_ITERATIONS = 30
"""The best trial takes this number, and its corrected probe is the result."""

DEFOCUS_STEP = 1.5
"""Trials differ in defocus (`starting_probe.Pupil`) by this much; then by half of it."""

MAX_DEFOCUS = 15.0
"""No larger defocus is tried, in either direction."""

MAX_RADIUS_FRACTION = 0.28
"""No probe is tried whose root mean square radius is a larger share of the side of the patterns."""

MIN_OVERLAP = 2.0
"""Illuminations that overlap less can be given an object that fits any probe. They are looked at
only where no probe overlaps more."""

RIVAL = 1.25
"""The best of the other side of the focus is tried as long as the best, unless it is worse by
this factor."""

UNSURE = 1.02
"""Where it then still is not worse by this factor, the patterns do not decide."""

logger = logging.getLogger(__name__)


class IterateFromFlat(Protocol):
    """Iterates from a flat object, and warns of nothing."""

    def __call__(
        self, scan: Scan, refinement: RefinementConfig, *, observer: Observer
    ) -> Reconstruction:
        """Return the object and the corrected probe."""
        ...


def find_probe(scan: Scan, trial: IterateFromFlat, *, observer: Observer) -> tuple[Scan, bool]:
    """Return a scan whose probe is one for iterations to start from, and whether to stop.

    Probes of the mean pattern with several defoci on both sides of the focus are tried on some
    neighbouring patterns. That of the highest likelihood wins, and its corrected probe is the
    result, with the modes that were requested.

    Parameters
    ----------
    scan : Scan
        Where its `probe_origin` is 'patterns', in the far field; any other is returned as it is.
    trial : callable
    observer : callable
        It is called after each iteration of a trial; with True the search ends, with the best
        so far.
    """
    if scan.probe_origin != 'patterns':
        return scan, False
    if scan.geometry.is_near_field:
        # The mean image shows the probe itself, and no side of a focus is to be chosen.
        return dataclasses.replace(scan, probe_origin='found'), False
    if scan.is_single_shot:
        logger.warning(
            '%s: single patterns do not determine the probe; the one made of their mean is a '
            'guess. Give a probe: probe_from=FILE (--probe-from FILE).',
            scan.name,
        )
        return scan, False
    search = _Search(_middle_of(scan), trial, observer)
    probe, unsure = search.run()
    if unsure:
        logger.warning(
            '%s: the patterns hardly show on which side of its focus the probe is, so that the '
            'object may be wrong. Give a probe: probe_from=FILE (--probe-from FILE).',
            scan.name,
        )
    n_modes = len(scan.probe)
    probe = with_modes(probe, n_modes) if n_modes > 1 else probe
    return dataclasses.replace(scan, probe=probe, probe_origin='found'), search.stopped


def _middle_of(scan: Scan) -> Scan:
    # Of several exposures of a place one is enough.
    first = find_places(scan.positions_px)[0]
    positions_px = scan.positions_px[first]
    distances = np.square(positions_px - np.median(positions_px, axis=0)).sum(axis=1)
    nearest = np.sort(first[np.argsort(distances, kind='stable')[:PATTERNS]])
    return dataclasses.replace(scan.subset(nearest), object_=None)


@dataclass(frozen=True)
class _Tried:
    """A defocus that was tried."""

    defocus: float
    loss: float
    overlaps: bool

    def rank(self) -> tuple[bool, float]:
        return (not self.overlaps, self.loss)


class _Search:
    """Trial reconstructions of a scan whose probe is a pupil out of focus by an unknown amount.

    Defoci of both signs are tried with few iterations each; around the best of each side the steps
    are halved, and what is left is iterated to the end.

    Parameters
    ----------
    scan : Scan
        Its probe gives the amplitude of the pupil.
    trial : callable
        Reconstructs a scan from a flat object, with its probe corrected.
    observer : callable
    """

    def __init__(self, scan: Scan, trial: IterateFromFlat, observer: Observer) -> None:
        self._scan, self._trial, self._observer = scan, trial, observer
        self._pupil = Pupil(far_amplitude(scan.probe))
        self._done, self._total = 0, 0
        self.stopped = False

    def run(self) -> tuple[ComplexArray, bool]:
        """Return the best probe, corrected, and whether one of the other side is as good."""
        defoci = list(self._defoci())
        self._total = (len(defoci) + 4) * PROBE_TRIAL_ITERATIONS + 2 * PROBE_FINAL_ITERATIONS
        tried = self._try(defoci)
        sides = []
        for sign in (1, -1):
            same = [each for each in tried if sign * each.defocus >= 0]
            if not same:
                continue
            middle = min(same, key=_Tried.rank).defocus
            nearer = [middle - DEFOCUS_STEP / 2, middle + DEFOCUS_STEP / 2]
            sides.append(min([*same, *self._try(nearer)], key=_Tried.rank))
        sides.sort(key=_Tried.rank)
        best = sides[0]
        if self.stopped:
            return self._pupil.probe(best.defocus), False
        ends = [self._reconstruct(self._pupil.probe(best.defocus), PROBE_FINAL_ITERATIONS)]
        for rival in sides[1:]:
            # Near the focus both sides may end at the same defocus.
            differs = rival.defocus != best.defocus and rival.overlaps == best.overlaps
            if differs and rival.loss < RIVAL * best.loss:
                probe = self._pupil.probe(rival.defocus)
                ends.append(self._reconstruct(probe, PROBE_FINAL_ITERATIONS))
        ends.sort(key=lambda each: each.likelihoods[-1])
        unsure = len(ends) == 2 and ends[1].likelihoods[-1] < UNSURE * ends[0].likelihoods[-1]
        return ends[0].probe, unsure

    def _defoci(self) -> Iterator[float]:
        largest = self._pupil.defocus_of(MAX_RADIUS_FRACTION * min(self._scan.pattern_shape))
        yield 0.0
        for number in range(1, 1 + int(min(largest, MAX_DEFOCUS) / DEFOCUS_STEP)):
            yield number * DEFOCUS_STEP
            yield -number * DEFOCUS_STEP

    def _try(self, defoci: Sequence[float]) -> list[_Tried]:
        tried = []
        for defocus in defoci:
            if self.stopped:
                break
            probe = self._pupil.probe(defocus)
            found = self._reconstruct(probe, PROBE_TRIAL_ITERATIONS)
            overlaps = _overlap(self._scan, probe) >= MIN_OVERLAP
            tried.append(_Tried(defocus, float(found.likelihoods[-1]), overlaps))
        return tried

    def _reconstruct(self, probe: ComplexArray, iterations: int) -> Reconstruction:
        def watch(progress: Progress) -> bool:
            step = self._done + progress.step
            self.stopped = bool(self._observer(Progress('probe', step, self._total)))
            return self.stopped

        found = self._trial(
            dataclasses.replace(self._scan, probe=probe),
            # Probes overlap differently: a total variation of the plan would smooth the object of
            # one and not that of another, and their losses would not be alike.
            RefinementConfig(iterations=iterations, probe=True, total_variation=0.0),
            observer=watch,
        )
        self._done += iterations
        return found


def _overlap(scan: Scan, probe: ComplexArray) -> float:
    """Return how many illuminations overlap, at positions rounded to pixels."""
    # On a canvas that begins with the first pixel of the first patch.
    patch_origins_px = scan.positions_px - scan.positions_px.min(axis=0)
    height, width = np.ceil(patch_origins_px.max(axis=0)).astype(int) + probe.shape[-2:]
    coverage = cover(probe, patch_origins_px, (int(height), int(width)))
    return illumination_overlap(coverage, probe)
