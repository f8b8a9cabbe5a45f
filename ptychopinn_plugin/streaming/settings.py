"""The settings of a stream: when it waits, what it shows, and when it ends."""

from dataclasses import dataclass
from typing import Literal

from ptychopinn_plugin.config import Validated, setting


@dataclass(frozen=True)
class StreamSettings(Validated):
    """How a running scan is received and shown."""

    patterns: int | None = setting(
        None,
        'the number of patterns of the scan, where the source does not send it; with the last '
        'one the scan ends',
        minimum=1,
    )
    wait_seconds: float = setting(
        10.0,
        'a pattern waits for this time for its position, and is left out then',
        minimum=0.0,
        unit='s',
    )
    max_waiting: int = setting(
        4096,
        'not more patterns than this wait for positions; where one more comes, the one that '
        'waits longest is left out',
        minimum=1,
    )
    start_timeout: float | None = setting(
        None,
        'the command ends with an error where nothing comes in this time',
        minimum=0.1,
        unit='s',
    )
    idle_timeout: float = setting(
        60.0, 'the scan ends where nothing more comes for this time', minimum=0.1, unit='s'
    )
    update_patterns: int = setting(
        64,
        'a trained network predicts this number of patterns at a time',
        minimum=1,
        maximum=65536,
    )
    update_seconds: float = setting(
        2.0,
        'product.h5 and the picture are not written more often than this',
        minimum=0.0,
        unit='s',
    )
    final: bool = setting(
        True,
        'at the end the whole scan is reconstructed as by ptychopinn reconstruct; without, what '
        'was shown last is the result and patterns are not kept',
    )
    queue: int = setting(
        4096,
        'with --no-final and a trained network: the number of patterns that wait to be predicted',
        minimum=1,
    )
    when_full: Literal['wait', 'drop'] = setting(
        'wait',
        'while that queue is full: wait, and the source waits or loses patterns by its own rule; '
        'or drop, and new patterns are left out and counted',
    )
