"""What a scan is but for its patterns, which may be large: known at once, and checked at once."""

from dataclasses import dataclass

from ptychopinn_plugin.array_types import ComplexArray, FloatArray
from ptychopinn_plugin.data.scan import Scan, check_coordinates, check_probe


@dataclass(frozen=True)
class ScanOutline:
    """A scan without its patterns.

    Attributes
    ----------
    positions_px : ndarray of float64, shape (n_positions, 2)
        (y, x), as in `Scan`.
    pattern_shape : (int, int)
        Height and width of a pattern in pixels.
    probe : ndarray of complex, shape (n_modes, height, width), optional
        None where one is still to be made, of the patterns.
    name : str
    is_single_shot : bool
        As in `Scan`.

    Raises
    ------
    DataError
        If positions are no numbers or far away from the others, or the probe is of another size
        than the patterns.
    """

    positions_px: FloatArray
    pattern_shape: tuple[int, int]
    probe: ComplexArray | None
    name: str
    is_single_shot: bool = False

    def __post_init__(self) -> None:
        check_coordinates('positions_px', self.positions_px, len(self), self.pattern_shape)
        if self.probe is not None:
            check_probe(self.probe, self.pattern_shape)

    def __len__(self) -> int:
        return len(self.positions_px)

    @classmethod
    def of(cls, scan: Scan) -> 'ScanOutline':
        """Return the outline of a scan that is in memory."""
        return cls(
            *(scan.positions_px, scan.pattern_shape, scan.probe, scan.name), scan.is_single_shot
        )
