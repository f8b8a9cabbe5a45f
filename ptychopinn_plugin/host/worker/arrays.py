"""The arrays that go between the host and its worker beside a message, by name and shape.

They are fields of these classes on both sides; `ipc` alone turns them into shared memory and back.
"""

from dataclasses import dataclass
from typing import Any

from ptychopinn_plugin.array_types import BoolArray, ComplexArray, FloatArray, IntArray, RealArray
from ptychopinn_plugin.data.probe_variation import ProbeVariation
from ptychopinn_plugin.data.scan import Scan


# Arrays have no single truth value, so that classes which hold them are not compared.
@dataclass(frozen=True, eq=False, kw_only=True)
class _Probe:
    """A probe, and how it varies from pattern to pattern.

    Attributes
    ----------
    probe : ndarray of complex64, shape (n_modes, height, width)
    probe_eigenmodes, opr_weights : ndarray, optional
        The fields of `probe_variation`; None where the probe is the same for all patterns.
    """

    probe: ComplexArray
    probe_eigenmodes: ComplexArray | None = None
    opr_weights: FloatArray | None = None

    @property
    def probe_variation(self) -> ProbeVariation | None:
        """How the probe varies from pattern to pattern; None where it does not."""
        if self.probe_eigenmodes is None or self.opr_weights is None:
            return None
        return ProbeVariation(self.probe_eigenmodes, self.opr_weights)


def variation_fields(variation: ProbeVariation | None) -> dict[str, Any]:
    """Return how a probe varies as fields of `ScanArrays` or `ResultArrays`."""
    if variation is None:
        return {}
    return {'probe_eigenmodes': variation.eigenmodes, 'opr_weights': variation.weights}


@dataclass(frozen=True, eq=False, kw_only=True)
class ScanArrays(_Probe):
    """What goes beside a `ReconstructJob` or a `CheckJob`.

    Attributes
    ----------
    patterns, positions_px, bad_pixels, pattern_indexes : ndarray
        As in `data.Scan`.
    """

    patterns: RealArray
    positions_px: FloatArray
    bad_pixels: BoolArray
    pattern_indexes: IntArray

    @classmethod
    def of(cls, scan: Scan) -> 'ScanArrays':
        """Return the arrays of a scan that a job needs."""
        assert scan.bad_pixels is not None
        assert scan.pattern_indexes is not None
        return cls(
            patterns=scan.patterns,
            positions_px=scan.positions_px,
            probe=scan.probe,
            bad_pixels=scan.bad_pixels,
            pattern_indexes=scan.pattern_indexes,
            **variation_fields(scan.probe_variation),
        )

    def to_scan(self, **others: Any) -> Scan:
        """Return the scan; `others` are fields of it that travel in the job."""
        return Scan(
            patterns=self.patterns,
            positions_px=self.positions_px,
            probe=self.probe,
            bad_pixels=self.bad_pixels,
            pattern_indexes=self.pattern_indexes,
            probe_variation=self.probe_variation,
            **others,
        )


@dataclass(frozen=True, eq=False)
class ObjectPicture:
    """What may go beside a `RunProgress`.

    Attributes
    ----------
    object_ : ndarray of complex64, shape (height, width)
        The object as far as it is known.
    origin_px : ndarray of float64, shape (2,), optional
        (y, x) of its first pixel; None where it is shown and goes into no product.
    """

    object_: ComplexArray
    origin_px: FloatArray | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class ResultArrays(_Probe):
    """What goes beside a `ReconstructionDone`.

    Attributes
    ----------
    object_ : ndarray of complex64, shape (height, width)
    origin_px : ndarray of float64, shape (2,)
        (y, x) of its first pixel.
    moves_px : ndarray of float64, shape (n_positions, 2), optional
        (y, x) from the given positions, where they were refined.
    intensities : ndarray of float64, shape (n_positions,), optional
        The beam's at each position, 1 on average, where they were refined.
    """

    object_: ComplexArray
    origin_px: FloatArray
    moves_px: FloatArray | None = None
    intensities: FloatArray | None = None


@dataclass(frozen=True, eq=False)
class CheckPictures:
    """What may go beside a `CheckDone`: objects of its trials.

    Attributes
    ----------
    given : ndarray of complex64, shape (height, width), optional
        That of the scan as it is.
    best : ndarray of complex64, shape (height, width), optional
        That of the best trial, where this is another one.
    trials : ndarray of complex64, shape (height, width), optional
        Several of them in one picture, the best first.
    """

    given: ComplexArray | None = None
    best: ComplexArray | None = None
    trials: ComplexArray | None = None


ReportArrays = ObjectPicture | ResultArrays | CheckPictures
