"""What reconstruction decides alike in every backend: photons, probe, rotations and blocks."""

import logging
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from ptychopinn_plugin.array_types import ComplexArray, FloatArray, IntArray
from ptychopinn_plugin.backends.common.iteration_plan import LITTLE_OVERLAP
from ptychopinn_plugin.backends.common.timing import Stopwatch
from ptychopinn_plugin.config import IntensityScale, Rotations
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.grouping import covering_groups, spatial_blocks
from ptychopinn_plugin.errors import ConfigError
from ptychopinn_plugin.model import Model
from ptychopinn_plugin.network import NetworkDescription
from ptychopinn_plugin.physics import is_same_probe

logger = logging.getLogger(__name__)

Image = TypeVar('Image')
Stitched = TypeVar('Stitched', covariant=True)
Part = TypeVar('Part')

BLOCK_BYTES = 1 << 26
"""Patches that are stitched together take this, and as much again weighted.

A larger scan is stitched block by block.
"""

STITCHING_FLOOR = 1e-3
"""Below this share of the brightest coverage a pixel stays as it was."""

UNIFORM_FRACTION = 0.01
"""Uniform weights count a pixel from this share of the probe's peak on."""

WINDOW_ENERGY = 0.98
"""The window of a network holds this share of the energy of the probe."""

SAME_EXPOSURE = 2.0
"""Mean counts within this factor count as the same exposure."""


def choose_photons(scan: Scan, reference: float, rule: IntensityScale) -> float:
    """Return the energy of the probe: as in training, or by this scan's own mean counts."""
    own = scan.mean_photons()
    same = reference / SAME_EXPOSURE <= own <= reference * SAME_EXPOSURE
    return reference if rule == 'model' or (rule == 'auto' and same) else own


def corrected_probe(model: Model, scan: Scan) -> ComplexArray:
    """Return a scan's probe, as training corrected it where it met the same probe.

    Parameters
    ----------
    model : Model
    scan : Scan
        At the size of the model's patterns.

    Returns
    -------
    ndarray of complex, shape (n_modes, height, width)
    """
    for corrected in model.corrected_probes:
        if is_same_probe(corrected.before, scan.probe):
            return corrected.after
    if model.corrected_probes:
        logger.warning(
            '%s: its probe is none of those that training corrected, and is used as it is; to '
            'correct it, use --refine-probe (refinement.probe).',
            scan.name,
        )
    return scan.probe


def choose_rotations(
    rule: Rotations, description: NetworkDescription, overlap: Callable[[], float]
) -> tuple[int, ...]:
    """Return the quarter turns in which the network looks at each pattern.

    Parameters
    ----------
    rule : 'auto', 'one' or 'four'
        See `InferenceConfig`.
    description : NetworkDescription
    overlap : callable
        Measures `physics.illumination_overlap`, where the rule needs it.

    Raises
    ------
    ConfigError
        If the rule is four, and the network sees groups of bare patterns.
    """
    can_turn = description.architecture == 'sweepnet'
    if rule == 'four' and not can_turn:
        raise ConfigError(
            'inference.test_time_rotations = four needs a model of architecture sweepnet; this one '
            f'is {description.architecture}. Leave the setting at auto.'
        )
    four = rule == 'four' or (rule == 'auto' and can_turn and overlap() < LITTLE_OVERLAP)
    return (0, 1, 2, 3) if four else (0,)


def block_size(description: NetworkDescription, n_bytes: int) -> int:
    """Return how many patterns are stitched together."""
    # Twice a group: a block that is halved must still hold one.
    return max(2 * description.group_size, n_bytes // (8 * description.window_px**2))


class Stitches(Protocol[Part, Stitched]):
    """Puts predicted patches together."""

    def add(self, parts: list[Part], phase_synchronization: bool) -> None:
        """Add patches, after their global phases are synchronized where the request has that."""
        ...

    def object_(self) -> Stitched:
        """Return the weighted mean of all patches."""
        ...


def run_passes(
    description: NetworkDescription,
    patch_origins_px: FloatArray,
    flat: Image,
    *,
    passes: int | None,
    phase_synchronization: bool,
    stitch: Callable[[Image], Stitches[Part, Image]],
    predict: Callable[[IntArray, Image, bool], Iterable[Part]],
    correct_phase_drift: Callable[[Image], Image],
    stopwatch: Stopwatch,
    observer: Callable[[int, Image], bool | None] | None,
) -> list[Image]:
    """Let a network predict a scan's object pass by pass, block by block.

    Parameters
    ----------
    description : NetworkDescription
    patch_origins_px : ndarray, shape (n_positions, 2)
        (y, x) of the positions.
    flat : Image
        The object before the first pass.
    passes : int, optional
        Fewer than the network's.
    phase_synchronization : bool
    stitch : callable
        Makes a stitcher from the object of the pass before.
    predict : callable
        Predicts patches, in batches, of groups (n_groups, group_size) from an object; the last
        argument is true while it is still flat.
    correct_phase_drift : callable
        Corrects the slow drift of the phase after the last pass.
    stopwatch : Stopwatch
        Gets the seconds of 'predict' and 'stitch'.
    observer : callable, optional
        Gets the number of passes done and the object; True stops.

    Returns
    -------
    list of Image
        `flat` and the object after each pass.
    """
    objects = [flat]
    blocks = spatial_blocks(patch_origins_px, block_size(description, BLOCK_BYTES))
    for number in range(description.passes if passes is None else passes):
        stitcher = stitch(objects[-1])
        for block in blocks:
            groups = block[covering_groups(patch_origins_px[block], description.group_size)]
            parts = list(predict(groups, objects[-1], number == 0))
            stopwatch.lap('predict')
            stitcher.add(parts, phase_synchronization)
            stopwatch.lap('stitch')
        objects.append(stitcher.object_())
        if phase_synchronization and number + 1 == description.passes:
            objects[-1] = correct_phase_drift(objects[-1])
        stopwatch.lap('stitch')
        if observer is not None and observer(number + 1, objects[-1]):
            break
    return objects
