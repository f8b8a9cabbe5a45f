r"""What is known about an object, and kept by the iterations: the same in every backend.

After each iteration the object is replaced by an allowed one that is near to it. Patterns that
overlap well need none of this; where they overlap little, or the counts are few, what is known
decides what they leave open. First comes the total variation, whose proximal step is

.. math:: \arg\min_Z \tfrac12 \sum |Z - O|^2
    + \Theta \sum \sqrt{|\partial_y Z|^2 + |\partial_x Z|^2}

[1]_, solved in its dual by the accelerated projected gradients of [2]_. Then come the kind of the
object and the bounds of its amplitude, which are projections of each pixel.

References
----------
.. [1] L. Rudin, S. Osher, E. Fatemi, Physica D 60 (1992) 259, doi:10.1016/0167-2789(92)90242-F.
.. [2] A. Beck, M. Teboulle, IEEE Trans. Image Process. 18 (2009) 2419,
   doi:10.1109/TIP.2009.2028250.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray
from ptychopinn_plugin.backends.common.iteration_steps import MOMENTUM
from ptychopinn_plugin.backends.common.overlap import measure_dose, measure_overlap
from ptychopinn_plugin.backends.common.ranks import current_ranks
from ptychopinn_plugin.config import ObjectType, RefinementConfig

MIN_DUAL_STEPS, MAX_DUAL_STEPS = 4, 12
"""A proximal step of the total variation takes this number of steps in its dual. They need not
converge: the next iteration goes on from where this one ends."""

DUAL_STEPS_OF_NOISE = 16
"""This number belongs to a weight of 1, within the limits: smoothing reaches farther with more."""

DUAL_STEP = 0.125
"""The squared norm of the gradient of an image is at most 8."""

MAX_BAND_PIXELS = 1 << 18
"""A large object is smoothed in bands of at most about this number of pixels: the dual and what it
is made of take ten times the memory of the object."""

Tensor = TypeVar('Tensor')


@dataclass(frozen=True)
class ObjectConstraints:
    """What an object is known to be.

    Attributes
    ----------
    object_type : 'complex', 'amplitude' or 'phase'
        An amplitude object changes no phase, and a phase object absorbs nothing.
    min_amplitude, max_amplitude : float, optional
        Bounds of the amplitude, whose root mean square under the light is about 1.
    total_variation : float
        The weight of the total variation, in units of the noise that counting gives to a pixel.
    """

    object_type: ObjectType = 'complex'
    min_amplitude: float | None = None
    max_amplitude: float | None = None
    total_variation: float = 0.0

    @classmethod
    def of(cls, settings: RefinementConfig) -> Self:
        """Return those of some settings."""
        return cls(
            # What nobody knows is kept to by nothing.
            'complex' if settings.object_type == 'auto' else settings.object_type,
            settings.min_amplitude,
            settings.max_amplitude,
            settings.total_variation or 0.0,
        )

    @property
    def leaves_all_free(self) -> bool:
        """Whether nothing is known."""
        return self == NOTHING_KNOWN

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The least and the largest amplitude; None where both are open."""
        if self.min_amplitude is None and self.max_amplitude is None:
            return None
        largest = math.inf if self.max_amplitude is None else self.max_amplitude
        return self.min_amplitude or 0.0, largest

    @property
    def dual_steps(self) -> int:
        """The number of steps in the dual of the total variation."""
        wanted = math.ceil(DUAL_STEPS_OF_NOISE * self.total_variation)
        return min(max(wanted, MIN_DUAL_STEPS), MAX_DUAL_STEPS)

    @property
    def fixes_slopes(self) -> bool:
        """Whether a slope of the phase is not free to go from the object to the probe."""
        return self.object_type == 'amplitude'

    @property
    def fixes_amplitude_slopes(self) -> bool:
        """Whether the object's amplitude is not free to vary, as that of the beams is."""
        return self.object_type == 'phase' or self.bounds is not None

    def in_words(self) -> str:
        """Return the options that set them, as users write them."""
        options = {
            '--object-type': None if self.object_type == 'complex' else self.object_type,
            '--min-amplitude': self.min_amplitude,
            '--max-amplitude': self.max_amplitude,
            '--total-variation': self.total_variation or None,
        }
        given = {name: value for name, value in options.items() if value is not None}
        return ', '.join(
            f'{name} {value if isinstance(value, str) else format(value, "g")}'
            for name, value in given.items()
        )


NOTHING_KNOWN = ObjectConstraints()
"""Iterations move every pixel of the object as the patterns show."""


def dual_momenta(steps: int) -> Iterator[float]:
    """Yield how far each dual step goes on beyond its end: (t - 1) / t' of [2]_."""
    before = 1.0
    for _ in range(steps):
        after = (1 + math.sqrt(1 + 4 * before**2)) / 2
        yield (before - 1) / after
        before = after


@dataclass(frozen=True)
class Band:
    """Some rows of an image, and the rows around them that decide about them.

    Attributes
    ----------
    rows : slice
    around : slice
        The rows with those around them.
    inside : slice
        The rows among those.
    """

    rows: slice
    around: slice
    inside: slice


def cut_bands(shape: tuple[int, int], reach_px: int) -> list[Band]:
    """Cut an image into bands that are computed one by one, and joined give what the whole would.

    Parameters
    ----------
    shape : (int, int)
        Height and width in pixels.
    reach_px : int
        A row depends on this number of rows before and after it.
    """
    height, width = shape
    rows = max(4 * reach_px, MAX_BAND_PIXELS // width)
    bands = []
    for first in range(0, height, rows):
        stop = min(height, first + rows)
        begin, end = max(0, first - reach_px), min(height, stop + reach_px)
        inside = slice(first - begin, stop - begin)
        bands.append(Band(slice(first, stop), slice(begin, end), inside))
    return bands


class ConstraintKeeper(Generic[Tensor]):
    r"""Brings the objects of a run back to what is allowed.

    In an iteration the patterns draw an object towards what they show, by a share :math:`\Pi` of
    the way. With the step :math:`\beta`, the momentum :math:`\mu` and :math:`\Omega` illuminations
    over each other it is :math:`1 - (1 - \min(1, \beta / (1 - \mu)))^\Omega`. The weight of the
    total variation is :math:`\Pi \Theta / 2 \sqrt{W}`, so that both are in the same balance from
    the first iteration to the last; :math:`1 / 2 \sqrt{W}` is the standard deviation that counting
    gives to a pixel under :math:`W` photons.

    Parameters
    ----------
    kernels : IterationKernels
    forward : ForwardModel
        As it is before the first iteration.
    request : IterationRequest
    """

    def __init__(self, kernels: Any, forward: Any, request: Any) -> None:
        self._kernels, self._forward = kernels, forward
        self._constraints: ObjectConstraints = request.constraints
        self._grows, self._first_probe = request.refine_probe, forward.probe
        self._support: Any = None
        if request.probe_radius_px is not None:
            # Once on the device, for all iterations.
            support = probe_support(forward.shape, request.probe_radius_px)
            self._support = forward.to_tensor(support)
        self._overlap, self._noise = 1.0, 0.0
        if self._constraints.total_variation > 0:
            self._overlap = max(1.0, measure_overlap(kernels, forward))
            self._noise = 1 / (2 * math.sqrt(measure_dose(kernels, forward)))

    def allowed(self, object_: Tensor, probe: Tensor, step: float) -> Tensor:
        """Return an allowed object after the patterns have drawn it with a step."""
        kept = 1 - min(1.0, step / (1 - MOMENTUM))
        weight = self._constraints.total_variation * self._noise * (1 - kept**self._overlap)
        return self._constrained(object_, probe, weight)

    def in_bounds(self, object_: Tensor, probe: Tensor) -> Tensor:
        """Return an allowed object, made of others whose variation was smoothed."""
        return self._constrained(object_, probe, 0.0)

    def penalty(self, object_: Tensor, probe: Tensor) -> float:
        r"""Return what the total variation of an object costs, as the loss is: for each pixel.

        An iteration takes the gradient of the squared distance of amplitudes, which is about half
        of the loss; in these units the weight is :math:`2 \Theta \sqrt{W}`.
        """
        if not self._noise:
            return 0.0
        variation = self._growth(probe) * self._kernels.object_variation(object_)
        weight = self._constraints.total_variation / self._noise
        found = float(weight * variation) / float(self._forward.n_valid_pixels())
        # Each rank has computed it, and machines of several kinds round differently: all must call
        # the same object the best.
        return current_ranks().decide(found)

    def supported(self, probe: Tensor) -> Tensor:
        """Return a probe that is dark outside of its support."""
        if self._support is None:
            return probe
        found: Tensor = self._support * probe
        return found

    def _constrained(self, object_: Tensor, probe: Tensor, weight: float) -> Tensor:
        if self._constraints.leaves_all_free:
            return object_
        found: Tensor = self._kernels.constrain(
            object_, self._forward.coverage, self._constraints, weight, self._growth(probe)
        )
        return found

    def _growth(self, probe: Tensor) -> Any:
        """Return how much the probe has taken from the object, which gets it back at the end."""
        if not self._grows:
            return 1.0
        return self._kernels.norm(probe) / self._kernels.norm(self._first_probe)


def probe_support(shape: tuple[int, int], radius_px: float) -> ComplexArray:
    """Return 1 within a radius of the middle of a frame and 0 beyond, shape `shape`, complex64."""
    y, x = (np.arange(side) - side // 2 for side in shape)
    return (np.hypot(y[:, np.newaxis], x) <= radius_px).astype(np.complex64)
