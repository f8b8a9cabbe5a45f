"""How patterns and positions of a file are turned, so that both are in the object's coordinates."""

import dataclasses
from dataclasses import dataclass
from typing import Literal, Self

from ptychopinn_plugin.config import Validated, setting

Flip = Literal['vertical', 'horizontal', 'both']
Inversion = Literal['y', 'x', 'both']

_FLIPS: dict[Flip | None, tuple[bool, bool]] = {
    None: (False, False),
    'vertical': (True, False),
    'horizontal': (False, True),
    'both': (True, True),
}
_INVERSIONS: dict[Inversion | None, tuple[bool, bool]] = {
    None: (False, False),
    'y': (True, False),
    'x': (False, True),
    'both': (True, True),
}

OPTIONS = {'rotate_scan_deg': 'rotate-scan'}
"""A field has this name on the command line, where it is not its own."""


@dataclass(frozen=True)
class AxisChange:
    """One of eight ways to swap and reverse axes: y and x swapped first, each reversed then.

    Attributes
    ----------
    swap, reverse_y, reverse_x : bool
    """

    swap: bool = False
    reverse_y: bool = False
    reverse_x: bool = False

    def after(self, first: Self) -> 'AxisChange':
        """Return the change that does `first` and then this one."""
        reversed_ = (first.reverse_y, first.reverse_x)
        if self.swap:
            reversed_ = reversed_[::-1]
        return AxisChange(
            self.swap != first.swap,
            self.reverse_y != reversed_[0],
            self.reverse_x != reversed_[1],
        )

    @property
    def is_mirror(self) -> bool:
        """Whether it makes a left hand a right one."""
        return (self.swap + self.reverse_y + self.reverse_x) % 2 == 1


@dataclass(frozen=True)
class Orientation(Validated):
    """What is done to patterns and positions after they are read, in the order of the fields.

    Patterns are transposed first and flipped then. Positions are swapped, inverted, rotated and
    scaled, in this order. The probe, and an object in the file, stay as they are: they are in the
    coordinates of the object, in which the result is.
    """

    transpose: bool = setting(
        False, 'rows of the patterns become columns, before they are flipped; the probe stays'
    )
    flip: Flip | None = setting(
        None,
        'mirror the patterns: vertical (top and bottom change places), horizontal (left and '
        'right), or both',
    )
    swap_positions: bool = setting(False, 'y and x of the positions change places')
    invert_positions: Inversion | None = setting(
        None, 'change the sign of the positions in y, x or both, after they are swapped'
    )
    rotate_scan_deg: float | None = setting(
        None,
        'turn the positions around their mean, counter-clockwise in the picture, after that',
        minimum=-360.0,
        maximum=360.0,
        unit='degrees',
    )
    scale_positions: float | None = setting(
        None,
        'multiply the positions, where pixel size or unit are wrong',
        minimum=1e-12,
        maximum=1e12,
    )

    @property
    def of_patterns(self) -> AxisChange:
        """How the patterns are turned."""
        return AxisChange(self.transpose, *_FLIPS[self.flip])

    @property
    def of_positions(self) -> AxisChange:
        """How the positions are turned, without rotation by an angle."""
        return AxisChange(self.swap_positions, *_INVERSIONS[self.invert_positions])

    @property
    def changes(self) -> int:
        """How many of the fields change something."""
        return len(self._given())

    @classmethod
    def of(
        cls,
        patterns: AxisChange | None = None,
        positions: AxisChange | None = None,
        *,
        rotate_scan_deg: float | None = None,
        scale_positions: float | None = None,
    ) -> 'Orientation':
        """Return the orientation that changes these axes."""
        patterns, positions = patterns or AxisChange(), positions or AxisChange()
        flip = next(k for k, v in _FLIPS.items() if v == (patterns.reverse_y, patterns.reverse_x))
        invert = next(
            k for k, v in _INVERSIONS.items() if v == (positions.reverse_y, positions.reverse_x)
        )
        return cls(
            transpose=patterns.swap,
            flip=flip,
            swap_positions=positions.swap,
            invert_positions=invert,
            rotate_scan_deg=rotate_scan_deg or None,
            scale_positions=None if scale_positions == 1 else scale_positions,
        )

    def after(self, first: 'Orientation') -> 'Orientation':
        """Return the orientation that does `first` and then this one."""
        degrees = first.rotate_scan_deg or 0.0
        # A mirror turns the other way round what was rotated before it.
        degrees = -degrees if self.of_positions.is_mirror else degrees
        return Orientation.of(
            self.of_patterns.after(first.of_patterns),
            self.of_positions.after(first.of_positions),
            rotate_scan_deg=degrees + (self.rotate_scan_deg or 0.0),
            scale_positions=(first.scale_positions or 1.0) * (self.scale_positions or 1.0),
        )

    def to_words(self) -> list[str]:
        """Return the words of a command line that give it."""
        words = []
        for name, value in self._given().items():
            words.append(f'--{OPTIONS.get(name, name.replace("_", "-"))}')
            if value is not True:
                words.append(f'{value:.6g}' if isinstance(value, float) else str(value))
        return words

    def _given(self) -> dict[str, object]:
        return {
            item.name: getattr(self, item.name)
            for item in dataclasses.fields(self)
            if getattr(self, item.name) != item.default
        }
