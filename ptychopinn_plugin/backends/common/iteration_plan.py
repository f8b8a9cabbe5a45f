"""What a reconstruction is going to do, and why: passes of a network and iterations.

Where illuminations overlap well, iterations converge fast. Where they overlap little, knowledge
spreads slowly from pattern to pattern, and more iterations pay; where they hardly touch, data
leave most phases open, and the learned prior is applied more often.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ptychopinn_plugin.backends.common.iteration_schedule import Ended
from ptychopinn_plugin.backends.common.starts import START_KINDS
from ptychopinn_plugin.config import ObjectType
from ptychopinn_plugin.network import NetworkDescription
from ptychopinn_plugin.text import count

LightLevel = Literal['bright', 'usual', 'faint', 'very faint']

LITTLE_OVERLAP = 4.0
"""With fewer illuminations over each other, data decide slowly."""

HARDLY_TOUCHING = 1.5
"""With fewer illuminations over each other, data alone leave most of the phases open."""

BRIGHT = 1000.0
"""With as many photons in a pixel of the object, where illuminations overlap well, a learned prior
has no noise to take away that iterations leave."""

FAINT = 60.0
"""With fewer photons in a pixel of the object, where illuminations hardly touch, the iterations
between many passes fit noise: half as many of both are better."""

VERY_FAINT = 10.0
"""With fewer photons in a pixel of the object, where illuminations overlap little, a learned prior
takes noise for structure: iterations alone come out better."""

SAME_AS_TWIN = 0.995
"""Where patterns alone leave the choice between an object and its twin, a learned prior mixes them:
from this likeness of the probe to its own twin on, iterations alone come out better."""

USUAL_ITERATIONS = 30
"""A scan whose illuminations overlap well gets this number."""

MORE_ITERATIONS = 100
"""A scan with little overlap gets at most this number."""

AFTER_PASS_ITERATIONS = 20
"""This number comes after the last pass of a learned prior."""

AFTER_FAINT_PASS_ITERATIONS = 10
"""This number comes after it where illuminations hardly touch and the scan is faint."""

MIN_BLOCK = 5
"""Where iterations gain much, fewer than this number before a pass are worth less than no pass."""

LONG_BLOCK = 40
"""Where iterations still gain much, this number comes before and after a pass of a prior."""


TOTAL_VARIATION = 0.25
"""Where few illuminations overlap, this weight of the total variation decides some of what data
leave open; see `constraints.ObjectConstraints`."""

FEW_OVERLAP = 2.0
"""Up to this number of illuminations over each other the total variation has its whole weight, and
from `LITTLE_OVERLAP` on none: in between it costs more and more of the phase, and gains less."""

MIN_TRIAL_S = 10.0
"""With a shorter limit of time there are no trials of starts."""

STARTS: Mapping[ObjectType, str] = {
    'complex': 'a flat object is the best start',
    'amplitude': 'an object that changes no phase is the best start',
    'phase': 'an object that absorbs nothing is the best start',
}
"""What trials of starts have found, as a clause; see `common.starts`."""

WITHOUT_PRIOR = '; the learned prior has never met the near field and is left out'
"""In the near field the reason of a plan ends so."""


@dataclass(frozen=True)
class IterationPlan:
    """Passes and iterations of one reconstruction.

    Attributes
    ----------
    overlap : float
        See `physics.illumination_overlap`.
    before_passes : tuple of int
        Iterations before each pass of a learned prior.
    iterations : int
        At the end.
    stops_when_converged : bool
        Whether the last iterations end where they no longer gain.
    reason : str
        A clause.
    limit_s : float, optional
        The whole reconstruction is to end at about this time after its beginning.
    network_passes : int
        Of a network that predicts patches, before all iterations.
    rotations : int
        In this number of rotations it sees each pattern.
    may_go_back : bool
        Whether the object of an earlier block may be taken, where the last one fits worse.
    total_variation : float
        See `constraints.ObjectConstraints`.
    starts : tuple of str
        Objects of these kinds are tried as starts, beside a flat one; see `common.starts`.
    passes_need_flat_start : bool
        Passes are left out where an object of a kind is the best start: iterations alone come as
        far from there, and farther for objects that the corpus of the prior lacks.
    """

    overlap: float
    before_passes: tuple[int, ...]
    iterations: int
    stops_when_converged: bool
    reason: str
    limit_s: float | None = None
    network_passes: int = 0
    rotations: int = 1
    may_go_back: bool = False
    total_variation: float = 0.0
    starts: tuple[ObjectType, ...] = ()
    passes_need_flat_start: bool = False

    @property
    def total(self) -> int:
        """All iterations."""
        return sum(self.before_passes) + self.iterations

    @property
    def is_empty(self) -> bool:
        """Whether nothing is going to be computed, so that the object stays flat."""
        return not (self.total or self.before_passes or self.network_passes)

    def without_passes(self) -> 'IterationPlan':
        """Return a plan of iterations alone in place of one with passes of a learned prior."""
        return replace(
            self,
            before_passes=(),
            iterations=MORE_ITERATIONS,
            stops_when_converged=True,
            may_go_back=False,
            passes_need_flat_start=False,
        )

    def is_worth_a_pass(self, iterations: float) -> bool:
        """Return whether a pass pays after the number of iterations that time is left for."""
        return iterations >= MIN_BLOCK or self.overlap < HARDLY_TOUCHING

    def in_words(self) -> str:
        """Return in words what is planned and why, as one sentence."""
        most = 'at most ' if self.stops_when_converged else ''
        text = most + (count(self.iterations, 'iteration') if self.iterations else 'no iterations')
        if self.before_passes:
            passes = count(len(self.before_passes), 'pass', 'es')
            before, after = ('it', 'it') if len(self.before_passes) == 1 else ('each', 'them')
            text = (
                f'{passes} of the learned prior with {self.before_passes[0]} iterations before '
                f'{before} and {text} after {after}'
            )
        if self.network_passes:
            passes = count(self.network_passes, 'pass', 'es')
            rotated = '' if self.rotations == 1 else f' in {self.rotations} rotations'
            text = f'{passes} of the network{rotated} and {text}'
        if self.starts:
            text = f'the best of {1 + len(self.starts)} starts, {text}'
        if self.passes_need_flat_start:
            text += (
                f' (at most {MORE_ITERATIONS} iterations alone if an object of one kind is best)'
            )
        if self.total_variation:
            text += f', with a total variation of weight {self.total_variation:g}'
        limit = '' if self.limit_s is None else f', within {self.limit_s:g} s'
        return f'plan: {text}{limit}, {self.reason}'


@dataclass(frozen=True)
class Course:
    """What was planned for a reconstruction, what was done of it, and why it ended.

    Attributes
    ----------
    overlap : float
    planned, done : tuple of int
        The iterations before each pass, and those at the end.
    ended : str
        See `iteration_schedule.Ended`.
    reason : str
        Of the plan, a clause.
    max_seconds : float, optional
        The limit of the plan.
    network_passes, rotations : int
        Of the plan.
    total_variation : float
        Of the plan.
    start : str, optional
        The kind of the object that trials have chosen as a start, where there were any; 'complex'
        stands for a flat one.
    """

    overlap: float
    planned: tuple[int, ...]
    done: tuple[int, ...]
    ended: Ended
    reason: str
    max_seconds: float | None
    network_passes: int = 0
    rotations: int = 1
    total_variation: float = 0.0
    start: ObjectType | None = None

    @classmethod
    def of_plan(
        cls,
        plan: IterationPlan,
        done: Sequence[int],
        ended: Ended,
        start: ObjectType | None = None,
    ) -> 'Course':
        """Return the course of a plan that has ended."""
        planned = (*plan.before_passes, plan.iterations)
        return cls(
            overlap=round(plan.overlap, 2),
            planned=planned,
            done=tuple(done),
            ended=ended,
            reason=plan.reason,
            max_seconds=plan.limit_s,
            network_passes=plan.network_passes,
            rotations=plan.rotations,
            total_variation=plan.total_variation,
            start=start,
        )

    @classmethod
    def of_result(cls, provenance: Mapping[str, Any]) -> 'Course | None':
        """Return the course in the provenance of a result; None where a backend leaves it out."""
        if 'course' not in provenance:
            return None
        values = provenance['course']
        return cls(
            overlap=values['overlap'],
            planned=tuple(values['planned']),
            done=tuple(values['done']),
            ended=values['ended'],
            reason=values['reason'],
            max_seconds=values['max_seconds'],
            # Earlier results lack them.
            network_passes=values.get('network_passes', 0),
            rotations=values.get('rotations', 1),
            total_variation=values.get('total_variation', 0.0),
            start=values.get('start'),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for the provenance of a result."""
        return {
            'overlap': self.overlap,
            'planned': list(self.planned),
            'done': list(self.done),
            'ended': self.ended,
            'reason': self.reason,
            'max_seconds': self.max_seconds,
            'network_passes': self.network_passes,
            'rotations': self.rotations,
            'total_variation': self.total_variation,
            'start': self.start,
        }

    def in_words(self) -> str:
        """Return in words what was planned, and how it ended where that is not as planned."""
        *before, last = self.planned
        words = IterationPlan(
            *(self.overlap, tuple(before), last, False, self.reason),
            network_passes=self.network_passes,
            rotations=self.rotations,
            total_variation=self.total_variation,
            starts=() if self.start is None else START_KINDS,
        ).in_words()
        if self.start is not None:
            words += f'; {STARTS[self.start]}'
        n_done, n_planned = sum(self.done), sum(self.planned)
        match self.ended:
            case 'converged':
                return f'{words}; ended after {n_done} of {n_planned}, as they gained no more'
            case 'time':
                limit = f'the limit of {self.max_seconds:g} s'
                return f'{words}; {limit} ended them after {n_done} of {n_planned}'
            case 'stopped':
                return f'{words}; stopped after {n_done} of {n_planned}'
        return words


def plan_reconstruction(
    overlap: float,
    *,
    requested: int | None,
    limit_s: float | None,
    dose: float | None,
    network: NetworkDescription | None = None,
    requested_passes: int | None = None,
    requested_variation: float | None = None,
    is_single_shot: bool = False,
    is_near_field: bool = False,
    probe_twin_similarity: float = 0.0,
    may_try_starts: bool = False,
) -> IterationPlan:
    """Plan passes and iterations, where the user has not given a number of them.

    Parameters
    ----------
    overlap : float
        How many illuminations lie over each other, see `physics.illumination_overlap`.
    requested : int, optional
        Iterations at the end; see `RefinementConfig.iterations`.
    limit_s : float, optional
    dose : float, optional
        Photons in a lit pixel of the object; unknown where counts are no photons, and no total
        variation is planned then.
    network : NetworkDescription, optional
        Of a learned prior, which is the only one whose passes lie between iterations.
    requested_passes : int, optional
        See `InferenceConfig.prior_passes`.
    requested_variation : float, optional
        See `RefinementConfig.total_variation`.
    is_single_shot : bool
        Patterns share nothing.
    is_near_field : bool
        Learned priors have met objects of the far field alone, and get no pass unless it is
        requested.
    probe_twin_similarity : float
        See `physics.twin_similarity`.
    may_try_starts : bool
        Nothing is known of the object, and the object alone is to be found.
    """
    leaves_twins = is_single_shot and probe_twin_similarity >= SAME_AS_TWIN
    # Where no iterations are to follow, a pass is all that there is, however much data decide.
    can_do_without = requested_passes is None and requested != 0
    level = light_level(overlap, dose) if can_do_without else 'usual'
    blocks = () if network is None else plan_passes(network, requested_passes, overlap, level)
    no_prior = is_near_field and network is not None and requested_passes is None
    # The prior would mix an object and its twin, between which nothing decides.
    if requested_passes is None and (leaves_twins or no_prior):
        blocks = ()
    if limit_s is not None and can_do_without and overlap >= LITTLE_OVERLAP:
        # Data decide here, and a pass takes the time of the iterations after it.
        blocks = ()
    planned = MORE_ITERATIONS if overlap < LITTLE_OVERLAP else USUAL_ITERATIONS
    if blocks:
        planned = blocks[-1] if blocks[-1] == LONG_BLOCK else AFTER_PASS_ITERATIONS
        planned = AFTER_FAINT_PASS_ITERATIONS if level == 'faint' else planned
    iterations = planned if requested is None else requested
    # They pay where data leave much open, and where noise does not hide which start is right.
    tries_starts = (
        may_try_starts
        and requested is None
        and overlap < HARDLY_TOUCHING
        and light_level(overlap, dose) == 'usual'
        and not (leaves_twins or is_near_field)
        and (limit_s is None or limit_s >= MIN_TRIAL_S)
    )
    variation = (
        _plan_variation(overlap, dose) if requested_variation is None else requested_variation
    )
    return IterationPlan(
        overlap=overlap,
        before_passes=blocks,
        iterations=iterations,
        # A number that was given is kept to, and a prior's last block ends as planned.
        stops_when_converged=requested is None and not blocks,
        reason=_reason(overlap, is_single_shot=is_single_shot, leaves_twins=leaves_twins)
        + ('' if network is None or no_prior or level == 'usual' else _dose_in_words(dose))
        + (WITHOUT_PRIOR if no_prior else ''),
        limit_s=limit_s,
        may_go_back=requested is None and bool(blocks),
        starts=START_KINDS if tries_starts else (),
        passes_need_flat_start=tries_starts and bool(blocks) and requested_passes is None,
        # Where nothing iterates, nothing smooths.
        total_variation=variation if iterations or blocks else 0.0,
    )


def light_level(overlap: float, dose: float | None) -> LightLevel:
    """Return what the light means for a learned prior, where illuminations overlap so.

    Parameters
    ----------
    overlap : float
        See `physics.illumination_overlap`.
    dose : float, optional
        Photons in a lit pixel of the object; nothing follows where it is unknown.
    """
    if dose is None:
        return 'usual'
    if overlap >= LITTLE_OVERLAP:
        return 'bright' if dose >= BRIGHT else 'usual'
    if dose < VERY_FAINT:
        return 'very faint'
    return 'faint' if overlap < HARDLY_TOUCHING and dose < FAINT else 'usual'


def plan_passes(
    network: NetworkDescription, requested: int | None, overlap: float, level: LightLevel = 'usual'
) -> tuple[int, ...]:
    """Return how many iterations come before each pass: more passes where data decide less.

    Parameters
    ----------
    network : NetworkDescription
    requested : int, optional
        The number of passes; see `InferenceConfig.prior_passes`.
    overlap : float
        See `physics.illumination_overlap`.
    level : str
        See `light_level`.
    """
    if requested is None and level in ('bright', 'very faint'):
        return ()
    if requested is None and LITTLE_OVERLAP > overlap >= HARDLY_TOUCHING:
        # Iterations still gain much here, and each block of them begins with long steps.
        return (LONG_BLOCK, LONG_BLOCK)
    passes = requested
    if passes is None:
        passes = 1 if overlap >= LITTLE_OVERLAP else network.passes
        passes = (passes + 1) // 2 if level == 'faint' else passes
    return (network.iterations_before, *[network.iterations_between] * (passes - 1))[:passes]


def _plan_variation(overlap: float, dose: float | None) -> float:
    """Return the weight of the total variation where nobody has given one."""
    if dose is None:
        # It is in units of the noise of counting, which only photons have.
        return 0.0
    share = (LITTLE_OVERLAP - overlap) / (LITTLE_OVERLAP - FEW_OVERLAP)
    return round(TOTAL_VARIATION * min(max(share, 0.0), 1.0), 2)


def _dose_in_words(dose: float | None) -> str:
    """Return a clause on the light, which the plan depends on."""
    if dose is None:
        return ''
    number = f'{dose:,.0f}' if dose >= 10 else f'{dose:.2g}'
    return f', with {number} photons in a pixel'


def _reason(overlap: float, *, is_single_shot: bool, leaves_twins: bool) -> str:
    if leaves_twins:
        return 'as each pattern stands alone, under a beam that is its own twin'
    if is_single_shot:
        return 'as each pattern stands alone'
    times = f'{overlap:.2g}' if overlap < 10 else f'{overlap:.0f}'
    how = 'well' if overlap >= LITTLE_OVERLAP else 'little'
    if overlap < HARDLY_TOUCHING:
        return f'as illuminations hardly touch ({times} lie over each other)'
    return f'as illuminations overlap {how} ({times} lie over each other)'
