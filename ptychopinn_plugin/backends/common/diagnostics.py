"""What a backend suggests, in the log, where a result looks as if a setting would help."""

import logging
from collections.abc import Callable

from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.physics import Misfit

SUSPICIOUS = 1.5
"""Times shot noise. With the right probe, 30 iterations end at 0.95 to 1.1 times."""

NEGLIGIBLE = 1e-3
"""As a fraction of the counts. Unfinished iterations of bright patterns miss more than noise."""

MIN_ITERATIONS = 10
"""Before so many, the object is not yet as good as its probe allows."""

logger = logging.getLogger(__name__)


def suggest_probe(
    scan: Scan, iterations: int, measure: Callable[[], Misfit | None], option: str
) -> None:
    """Suggest to correct the probe, where iterations with the given one end far above shot noise.

    Parameters
    ----------
    scan : Scan
        Only whole counts can be judged.
    iterations : int
        How many were done.
    measure : callable
        Computes the object's misfit, or None where there is too little light.
    option : str
        What to set, as users write it.
    """
    if iterations < MIN_ITERATIONS or not scan.is_countable():
        return
    misfit = measure()
    if misfit and misfit.over_noise > SUSPICIOUS and misfit.share > NEGLIGIBLE:
        logger.warning(
            '%s: the object misses the counts by %.1f times what shot noise explains. The probe '
            '(or a position) may be a guess; to correct the probe, use %s.',
            *(scan.name, misfit.over_noise, option),
        )
