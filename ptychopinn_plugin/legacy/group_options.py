"""How groups for PtychoPINN's loader are chosen; apart, so that a command's help needs no SciPy."""

from dataclasses import dataclass

from ptychopinn_plugin.config import Validated, setting


@dataclass(frozen=True)
class GroupOptions(Validated):
    """How groups are chosen."""

    gridsize: int = setting(
        1, 'a group holds gridsize² neighbouring patterns', minimum=1, maximum=5
    )
    n_groups: int | None = setting(
        None, 'how many groups; one for each pattern where not given', minimum=1
    )
    neighbor_count: int = setting(
        4, 'how many nearest neighbours of its seed a group is chosen from', minimum=1
    )
    enable_oversampling: bool = setting(
        False, 'draw more groups than there are patterns, from other choices of neighbours'
    )
    cover: bool = setting(
        False, 'nearest neighbours, so that every pattern is in a group; n_groups has no effect'
    )
    seed: int = setting(0, 'the same seed gives the same groups', minimum=0)
