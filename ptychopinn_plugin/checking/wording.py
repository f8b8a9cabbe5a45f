"""What a check found, in words that the command line and the window share."""

from collections.abc import Mapping

from ptychopinn_plugin.checking.search import Verdict

VERDICTS: Mapping[Verdict, str] = {
    'right': 'the scan is right: no other orientation and no factor on the positions is clearly '
    'better',
    'wrong': 'the scan is wrong as it is read',
    'unclear': 'nothing that was tried explains the patterns: other causes are positions in '
    'another order than the patterns, a probe that is a guess (--refine-probe; where it is far '
    'off, --probe-from-patterns), and illuminations that hardly overlap',
}
"""Each verdict means this for a scan."""

PROBE_CORRECTED = (
    'the probe had to be corrected for this: a wrong curvature of the probe is like a factor on '
    'the positions, and patterns cannot decide which of both is wrong'
)


def remainder_note(over_noise: float) -> str:
    """Return what may still be wrong with a scan whose positions and orientation are right.

    Parameters
    ----------
    over_noise : float
        What the best trial leaves, in times of shot noise; see `Check.much_over_noise`.
    """
    return (
        f'the best trial still leaves {over_noise:.1f} times shot noise, which no orientation and '
        'no factor mends: pixels behind a beamstop or in a gap that no mask covers, or a probe '
        'that is a guess, would do that'
    )


def scale_note(scale: float) -> str:
    """Return what a factor on the positions means.

    Parameters
    ----------
    scale : float
        What the positions must be multiplied by.
    """
    return (
        f'the positions are {1 / scale:.3g} times too large in pixels: a wrong unit, or a '
        'wrong photon energy, distance or detector pixel. Where the geometry is wrong, '
        'correct it instead, so that lengths in metres are right as well'
    )
