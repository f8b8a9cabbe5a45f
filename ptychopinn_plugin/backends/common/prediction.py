"""What reconstruction decides alike in every backend: photons, probe and rotations."""

import logging
from collections.abc import Callable, Sequence

from ptychopinn_plugin.array_types import ComplexArray
from ptychopinn_plugin.backends.common.iteration_plan import LITTLE_OVERLAP
from ptychopinn_plugin.config import IntensityScale, Rotations
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.errors import ConfigError, DataError
from ptychopinn_plugin.model import Model
from ptychopinn_plugin.network import NetworkDescription
from ptychopinn_plugin.physics import is_same_probe

logger = logging.getLogger(__name__)

WINDOW_ENERGY = 0.98
"""The window of a network holds this share of the energy of the probe."""

SAME_EXPOSURE = 2.0
"""Mean counts within this factor count as the same exposure."""


def check_same_field(model: Model, scans: Sequence[Scan]) -> None:
    """Check that a network meets patterns of the near field only if it was trained on such.

    Raises
    ------
    DataError
        If a scan is of the other kind.
    """
    was_near = bool(model.data_summary.get('near_field', False))
    for scan in scans:
        if scan.geometry.is_near_field != was_near:
            kinds = ('near', 'far') if was_near else ('far', 'near')
            raise DataError(
                f'The model was trained on patterns of the {kinds[0]} field, and {scan.name} is of '
                f'the {kinds[1]} field. Train another one on such scans, or iterate alone: '
                'ptychopinn refine.'
            )


def choose_photons(scan: Scan, reference: float, rule: IntensityScale) -> float:
    """Return the energy of the probe: as in training, or by this scan's own mean counts."""
    own = scan.mean_photons()
    # Amplitudes of scans of one exposure stay comparable with the training's; far from it, the
    # probe's energy must follow the counts, or the object takes the factor (decision 4).
    same = reference / SAME_EXPOSURE <= own <= reference * SAME_EXPOSURE
    return reference if rule == 'model' or (rule == 'auto' and same) else own


def corrected_probe(model: Model, scan: Scan, *, warns: bool = True) -> ComplexArray:
    """Return a scan's probe, as training corrected it where it met the same probe.

    Parameters
    ----------
    model : Model
    scan : Scan
        At the size of the model's patterns.
    warns : bool
        Whether the log states where training met another probe.

    Returns
    -------
    ndarray of complex, shape (n_modes, height, width)
    """
    for corrected in model.corrected_probes:
        if is_same_probe(corrected.before, scan.probe):
            return corrected.after
    if model.corrected_probes and warns:
        logger.warning(
            '%s: its probe is none of those that training corrected, and is used as it is; to '
            'correct it, use --refine-probe (refinement.probe).',
            scan.name,
        )
    return scan.probe


def choose_rotations(
    rule: Rotations, description: NetworkDescription, overlap: Callable[[], float]
) -> tuple[int, ...]:
    """Return the rotations, in units of 90 degrees, in which the network gets each pattern.

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
    can_rotate = description.architecture == 'sweepnet'
    if rule == 'four' and not can_rotate:
        raise ConfigError(
            'inference.test_time_rotations = four needs a model of architecture sweepnet; this one '
            f'is {description.architecture}. Leave the setting at auto.'
        )
    # On dense scans iterations make good any difference, and a rotation costs a run of the network
    # (decision 11).
    four = rule == 'four' or (rule == 'auto' and can_rotate and overlap() < LITTLE_OVERLAP)
    return (0, 1, 2, 3) if four else (0,)
