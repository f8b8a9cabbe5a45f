"""What a check of a scan found, in words, with the settings of Ptychodus that mend it.

Ptychodus flips patterns first and transposes them then, where `orientation` transposes first. It
writes positions as (x, y).
"""

from dataclasses import dataclass
from typing import ClassVar, cast

from ptychopinn_plugin.checking.search import Verdict
from ptychopinn_plugin.checking.wording import PROBE_CORRECTED, VERDICTS, remainder_note, scale_note
from ptychopinn_plugin.host.worker.messages import CheckDone
from ptychopinn_plugin.orientation import AxisChange, Orientation
from ptychopinn_plugin.text import count

MINUS = '\u2212'
"""The host's menu of presets has this sign and no hyphen."""


@dataclass(frozen=True)
class Flips:
    """How Ptychodus turns the patterns that it loads.

    Attributes
    ----------
    horizontal, vertical, transpose : bool
    """

    horizontal: bool = False
    vertical: bool = False
    transpose: bool = False

    KEYS: ClassVar[tuple[str, ...]] = ('FlipHorizontal', 'FlipVertical', 'Transpose')
    NAMES: ClassVar[tuple[str, ...]] = ('Flip Horizontal', 'Flip Vertical', 'Transpose')

    @classmethod
    def of(cls, change: AxisChange) -> 'Flips':
        """Return what does the same as a change of axes, which swaps first."""
        reversed_ = (change.reverse_x, change.reverse_y)
        return cls(*(reversed_[::-1] if change.swap else reversed_), change.swap)

    @property
    def axis_change(self) -> AxisChange:
        """The same as a change of axes, which swaps first."""
        flipped = (self.vertical, self.horizontal)
        return AxisChange(self.transpose, *(flipped[::-1] if self.transpose else flipped))

    @property
    def words(self) -> str:
        """The boxes that are ticked, as people read them."""
        flags = (self.horizontal, self.vertical, self.transpose)
        names = [name for name, is_on in zip(self.NAMES, flags, strict=True) if is_on]
        return ' and '.join(names) or 'none of them'


def finding_in_words(name: str, done: CheckDone, now: Flips) -> str:
    """Return the finding of a check in whole sentences.

    Parameters
    ----------
    name : str
        The scan's.
    done : CheckDone
    now : Flips
        How the host turns patterns that it loads now.
    """
    verdict = VERDICTS[cast(Verdict, done.verdict)]
    sentences = [verdict.replace('as it is read', 'as it is loaded')]
    if done.verdict == 'wrong':
        sentences += _remedies(done.orientation, done.beam_center_px, now)
        for other in done.equals[:1]:
            ways = _remedies(other, done.beam_center_px, now)
            sentences.append(f'or, with another orientation of the object: {"; ".join(ways)}')
        if (scale := done.orientation.scale_positions) is not None:
            sentences.append(scale_note(scale))
            if done.is_probe_refined:
                sentences.append(PROBE_CORRECTED)
    if done.much_over_noise is not None:
        sentences.append(remainder_note(done.much_over_noise))
    sentences.append(_figures(done))
    whole = ' '.join(f'{text[0].upper()}{text[1:]}.' for text in sentences)
    return f'{name}: {whole}'


def _figures(done: CheckDone) -> str:
    before = ''
    if done.verdict == 'wrong':
        given = done.given_residual
        before = f', before {given:.2g}' if given >= 0 else ', before no trial was possible'
    return (
        f'Of {count(done.trials, "trial")} the best leaves {done.residual:.2g} of the held-out '
        f'patterns unexplained{before}, without an object {done.uninformed_residual:.2g}'
    )


def _remedies(needed: Orientation, beam_center_px: tuple[int, ...], now: Flips) -> list[str]:
    """Return what to do in Ptychodus."""
    sentences = []
    if needed.of_patterns != AxisChange():
        flips = Flips.of(needed.of_patterns.after(now.axis_change))
        instead = '' if now == Flips() else f' in place of {now.words}'
        sentences.append(
            f'load the patterns again, with {flips.words} ticked{instead} in the box Transform of '
            'the dialog under Diffraction'
        )
    if beam_center_px:
        row, column = beam_center_px
        sentences.append(
            f'load the patterns again, with x = {column} and y = {row} as Center in the box Crop '
            'of the dialog under Diffraction'
        )
    if needed.of_positions != AxisChange():
        sentences.append(
            f'load the positions again, and choose the preset {_preset(needed.of_positions)} in '
            'the box Transformation of their editor under Positions'
        )
    if (scale := needed.scale_positions) is not None:
        sentences.append(
            f'multiply the factors of x and y in the box Transformation of the editor under '
            f'Positions by {scale:.4g}'
        )
    return sentences


def _preset(change: AxisChange) -> str:
    """Return the label of the host's preset that turns positions."""
    signs = [MINUS if is_reversed else '+' for is_reversed in (change.reverse_x, change.reverse_y)]
    axes = 'yx' if change.swap else 'xy'
    parts = [sign + axis for sign, axis in zip(signs, axes, strict=True)]
    return f'(x, y) \u2192 ({", ".join(parts)})'
