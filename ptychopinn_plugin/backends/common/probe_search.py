"""The defocus of a probe that nobody knows, found by trial reconstructions."""

import dataclasses
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray
from ptychopinn_plugin.backends.protocol import Observer, Progress
from ptychopinn_plugin.config import RefinementConfig
from ptychopinn_plugin.data import Reconstruction, Scan
from ptychopinn_plugin.data.starting_probe import defocused, pupil_of, root_mean_square_radius
from ptychopinn_plugin.physics import with_modes

PATTERNS = 96
"""Trials take this number of patterns around the middle of the scan."""

ITERATIONS = 9
"""A trial takes this number of iterations, after which likelihoods tell defoci apart."""

FINAL_ITERATIONS = 30
"""The best trial takes this number, and its corrected probe is the result."""

RADIUS_STEP = 1.5
"""Trials differ in the radius of the probe by this factor; then by its square root."""

MAX_RADIUS_SHARE = 0.28
"""The largest trial has a root mean square radius of this share of the side of the patterns."""

RIVAL = 1.25
"""The best of the other side of the focus is tried as long as the best, unless it is worse by
this factor."""

UNSURE = 1.02
"""Where it then still is not worse by this factor, the patterns do not tell."""

logger = logging.getLogger(__name__)


class Trial(Protocol):
    """Iterates from a flat object, and warns of nothing."""

    def __call__(
        self, scan: Scan, refinement: RefinementConfig, *, observer: Observer
    ) -> Reconstruction:
        """Return the object and the corrected probe."""
        ...


def find_probe(scan: Scan, trial: Trial, *, observer: Observer) -> tuple[Scan, bool]:
    """Return a scan whose probe is one for iterations to start from, and whether to stop.

    Probes of the mean pattern with several defoci on both sides of the focus are tried on some
    neighbouring patterns. That of the highest likelihood wins, and its corrected probe is the
    result, with the modes that were asked for.

    Parameters
    ----------
    scan : Scan
        Where its `probe_origin` is 'patterns'; any other is returned as it is.
    trial : callable
    observer : callable
        It is called after each iteration of a trial; with True the search ends, with the best
        so far.
    """
    if scan.probe_origin != 'patterns':
        return scan, False
    if scan.is_single_shot:
        logger.warning(
            '%s: patterns one by one do not tell the probe; the one made of their mean is a guess. '
            'Give a probe: probe_from=FILE (--probe-from FILE).',
            scan.name,
        )
        return scan, False
    search = _Search(_middle_of(scan), trial, observer)
    probe, unsure = search.run()
    if unsure:
        logger.warning(
            '%s: the patterns hardly tell on which side of its focus the probe is, so that the '
            'picture may be a wrong one. Give a probe: probe_from=FILE (--probe-from FILE).',
            scan.name,
        )
    n_modes = len(scan.probe)
    probe = with_modes(probe, n_modes) if n_modes > 1 else probe
    return dataclasses.replace(scan, probe=probe, probe_origin='found'), search.stopped


def _middle_of(scan: Scan) -> Scan:
    distances = np.square(scan.positions_px - np.median(scan.positions_px, axis=0)).sum(axis=1)
    nearest = np.sort(np.argsort(distances, kind='stable')[:PATTERNS])
    return dataclasses.replace(scan.subset(nearest), object_=None)


@dataclass(frozen=True)
class _Defocus:
    """A probe that is tried, and how far its object is from the counts."""

    radius_px: float
    beyond_focus: bool
    loss: float = field(default=np.inf, compare=False)


class _Search:
    def __init__(self, scan: Scan, trial: Trial, observer: Observer) -> None:
        self._scan, self._trial, self._observer = scan, trial, observer
        self._pupil = pupil_of(scan.probe)
        self._done, self._total = 0, 0
        self.stopped = False

    def run(self) -> tuple[ComplexArray, bool]:
        """Return the best probe, corrected, and whether one of the other side is as good."""
        focus = root_mean_square_radius(defocused(self._pupil, 0.0))
        largest = MAX_RADIUS_SHARE * min(self._scan.pattern_shape)
        candidates = list(_coarse(focus, largest))
        self._total = (len(candidates) + 4) * ITERATIONS + 2 * FINAL_ITERATIONS
        tried = [self._try(each) for each in candidates if not self.stopped]
        sides = []
        for beyond in (False, True):
            same = [each for each in tried if each.beyond_focus == beyond]
            if not same:
                continue
            best = min(same, key=lambda each: each.loss)
            near = (_nearer(best, RADIUS_STEP**-0.5), _nearer(best, RADIUS_STEP**0.5))
            same += [self._try(each) for each in near if not self.stopped]
            sides.append(min(same, key=lambda each: each.loss))
        sides.sort(key=lambda each: each.loss)
        if self.stopped:
            return self._probe(sides[0]), False
        if len(sides) == 2 and sides[1].loss > RIVAL * sides[0].loss:
            sides = sides[:1]
        ends = [self._reconstruct(self._probe(each), FINAL_ITERATIONS) for each in sides]
        ends.sort(key=lambda each: each.likelihoods[-1])
        unsure = len(ends) == 2 and ends[1].likelihoods[-1] < UNSURE * ends[0].likelihoods[-1]
        return ends[0].probe, unsure

    def _try(self, defocus: _Defocus) -> _Defocus:
        found = self._reconstruct(self._probe(defocus), ITERATIONS)
        return dataclasses.replace(defocus, loss=float(found.likelihoods[-1]))

    def _probe(self, defocus: _Defocus) -> ComplexArray:
        return defocused(self._pupil, defocus.radius_px, beyond_focus=defocus.beyond_focus)

    def _reconstruct(self, probe: ComplexArray, iterations: int) -> Reconstruction:
        def watch(progress: Progress) -> bool:
            step = self._done + progress.step
            self.stopped = bool(self._observer(Progress('probe', step, self._total)))
            return self.stopped

        found = self._trial(
            dataclasses.replace(self._scan, probe=probe),
            RefinementConfig(iterations=iterations, probe=True),
            observer=watch,
        )
        self._done += iterations
        return found


def _nearer(defocus: _Defocus, factor: float) -> _Defocus:
    return dataclasses.replace(defocus, radius_px=factor * defocus.radius_px)


def _coarse(focus: float, largest: float) -> Iterator[_Defocus]:
    yield _Defocus(focus, beyond_focus=False)
    radius = largest
    while radius > RADIUS_STEP**0.5 * focus:
        yield _Defocus(radius, beyond_focus=False)
        yield _Defocus(radius, beyond_focus=True)
        radius /= RADIUS_STEP
