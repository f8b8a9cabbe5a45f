"""Patterns and positions of a stream as a scan, read by the rules of the scan files."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, FloatArray
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.readers.finishing import with_probe_of_patterns
from ptychopinn_plugin.data.readers.frame_centre import centred
from ptychopinn_plugin.data.readers.mask_files import with_mask
from ptychopinn_plugin.data.readers.matching import (
    NOTE_OF_OTHER_POSITIONS,
    Product,
    join,
    known_geometry,
    measurement_of,
)
from ptychopinn_plugin.data.readers.request import ReadingRequest
from ptychopinn_plugin.data.reorientation import orient_positions, reorient
from ptychopinn_plugin.data.scan import ProbeOrigin
from ptychopinn_plugin.data.starting_probe import made_probe
from ptychopinn_plugin.orientation import Orientation
from ptychopinn_plugin.storage.atomic import atomic_path
from ptychopinn_plugin.streaming.matching import MatchedBatch
from ptychopinn_plugin.streaming.messages import Opening, Unit


@dataclass(frozen=True)
class ScanRules:
    """How the patterns of a stream become a scan; what the user gave comes before what was sent.

    Attributes
    ----------
    request : ReadingRequest
        Its name is that of a scan to which the sender gives none.
    product : Product, optional
        Positions, probe and geometry that were known before the scan.
    orientation : Orientation
        How patterns and positions are oriented.
    probe_from_patterns : bool
        Make the probe of the patterns, whatever product and sender give.
    """

    request: ReadingRequest
    product: Product | None = None
    orientation: Orientation = field(default_factory=Orientation)
    probe_from_patterns: bool = False

    @property
    def is_centred(self) -> bool:
        """Whether the user has given where the beam meets the detector."""
        return self.request.beam_center_px is not None


def assemble(batch: MatchedBatch, unit: Unit, opening: Opening, rules: ScanRules) -> Scan:
    """Return the scan of all patterns, in the order of their indexes.

    Positions in metres are treated as those of Ptychodus' files, and positions in pixels as those
    of NPZ files, so that a reconstruction is the same as from such a file.

    Parameters
    ----------
    batch : MatchedBatch
    unit : 'm' or 'px'
    opening : Opening
    rules : ScanRules

    Raises
    ------
    DataError
        If the size of an object pixel is unknown where positions are in metres, or patterns,
        positions or probe are not what they must be.
    """
    scan = _as_sent(batch, unit, opening, rules)
    oriented = reorient(scan, rules.orientation, is_centred=rules.is_centred)
    return _with_probe_by_the_rules(oriented, rules)


def _with_probe_by_the_rules(scan: Scan, rules: ScanRules) -> Scan:
    """Return an oriented scan with a probe of its patterns, where that is what it is to have."""
    if scan.probe_origin != 'patterns':
        return with_probe_of_patterns(scan) if rules.probe_from_patterns else scan
    if rules.orientation == Orientation():
        return scan
    # It was made of the patterns as they were sent.
    probe, _ = made_probe(scan.patterns, scan.bad_pixels, scan.geometry)
    return dataclasses.replace(scan, probe=probe)


def _as_sent(batch: MatchedBatch, unit: Unit, opening: Opening, rules: ScanRules) -> Scan:
    """Return the scan before it is oriented."""
    order = np.argsort(batch.indexes, kind='stable')
    if (np.diff(order) == 1).all():
        order = slice(None)  # type: ignore[assignment]
    indexes, positions = batch.indexes[order], batch.positions[order]
    patterns = batch.patterns[order]
    measurement = measurement_of(patterns, indexes, opening.bad_pixels, geometry=opening.geometry)
    request = rules.request
    probe = opening.probe if request.probe is None else request.probe
    request = dataclasses.replace(request, name=opening.name or request.name, probe=probe)
    if unit == 'm':
        known = rules.product or Product(indexes, positions)
        if known.probe_variation is not None:
            notes = (*known.notes, NOTE_OF_OTHER_POSITIONS)
            known = dataclasses.replace(known, probe_variation=None, notes=notes)
        geometry = opening.geometry.with_values_of(known.geometry)
        known = dataclasses.replace(
            known, indexes=indexes, positions_m=positions, geometry=geometry
        )
        return join(measurement, known, request)
    more: tuple[str, ...] = ()
    if probe is None and rules.product is not None:
        probe = rules.product.probe
        if rules.product.probe_variation is not None:
            more = (NOTE_OF_OTHER_POSITIONS,)
    bad_pixels = with_mask(measurement.bad_pixels, request.mask, patterns.shape[1:])
    geometry = opening.geometry
    counts, bad_pixels, notes = centred(
        *(measurement.patterns, bad_pixels, probe, request.beam_center_px),
        is_near_field=geometry.with_values_of(request.given_geometry).is_near_field,
    )
    if request.geometry is not None:
        geometry = known_geometry(geometry, request.geometry, counts.shape)
    origin: ProbeOrigin = 'given'
    if probe is None:
        probe, note = made_probe(counts, bad_pixels, geometry)
        origin, notes = 'patterns', (*notes, note)
    return Scan(
        patterns=counts,
        positions_px=positions,
        probe=probe,
        bad_pixels=bad_pixels,
        pattern_indexes=indexes,
        geometry=geometry,
        probe_origin=origin,
        name=request.name,
        notes=(*measurement.notes, *notes, *more),
    )


class PartMaker:
    """Makes scans of parts of a stream, all in the same coordinates and with the same probe.

    Parameters
    ----------
    opening : callable
        Returns what is known of the scan by now.
    rules : ScanRules
    """

    def __init__(self, opening: Callable[[], Opening], rules: ScanRules) -> None:
        self._opening, self._rules = opening, rules
        self._probe: ComplexArray | None = None

    def make(self, batch: MatchedBatch, unit: Unit) -> Scan:
        """Return the scan of a part; see `assemble`."""
        opening = self._opening()
        replaces = self._rules.probe_from_patterns
        if self._probe is not None and (opening.probe is None or replaces):
            opening = dataclasses.replace(opening, probe=self._probe)
        scan = _as_sent(batch, unit, opening, self._rules)
        if self._probe is not None and opening.probe is self._probe:
            scan = dataclasses.replace(scan, probe_origin='patterns')
        # Those of `_as_sent` begin where the part begins.
        positions = batch.positions[np.argsort(batch.indexes, kind='stable')]
        pixel = (1.0, 1.0)
        if unit == 'm':
            positions = positions / _pixel_m(scan)
            pixel = tuple(_pixel_m(scan).tolist())
        orientation = self._rules.orientation
        oriented = reorient(scan, orientation, is_centred=self._rules.is_centred)
        if self._probe is None:
            oriented = _with_probe_by_the_rules(oriented, self._rules)
            if oriented.probe_origin != 'given':
                # It is made of the patterns of the first part, and stays, so that parts fit
                # together.
                self._probe = oriented.probe
        if orientation != Orientation():
            # The scan is rotated around the mean of its positions, which must not move: it is 0.
            both = np.concatenate([positions, -positions])
            positions = orient_positions(both, orientation, pixel)[: len(positions)]
        return dataclasses.replace(oriented, positions_px=positions)


def _pixel_m(scan: Scan) -> FloatArray:
    geometry = scan.geometry
    return np.array([geometry.pixel_height_m, geometry.pixel_width_m], dtype=np.float64)


def write_received(path: Path, batch: MatchedBatch, unit: Unit, opening: Opening) -> None:
    """Write what was received as one message, which a folder that is watched takes again.

    Parameters
    ----------
    path : Path
    batch : MatchedBatch
    unit : 'm' or 'px'
    opening : Opening

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    values: dict[str, Any] = {**vars(opening.geometry), 'name': opening.name}
    values |= {'probe': opening.probe, 'bad_pixels': opening.bad_pixels}
    values |= {'indexes': batch.indexes, 'patterns': batch.patterns}
    values |= {f'positions_{unit}': batch.positions, 'end': True, 'n_patterns': len(batch)}
    arrays = {name: value for name, value in values.items() if value is not None}
    with atomic_path(path) as temporary, temporary.open('wb') as file:
        np.savez(file, **arrays)
