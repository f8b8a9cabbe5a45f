"""`ptychopinn replay`: send a scan file as a beamline would, for `ptychopinn stream`."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ptychopinn_plugin.cli.common import read_scans, report
from ptychopinn_plugin.cli.options import READING, AsJson, Given, Section, takes_settings
from ptychopinn_plugin.config import Validated, setting
from ptychopinn_plugin.text import count


@dataclass(frozen=True)
class ReplaySettings(Validated):
    """How a scan is sent."""

    rate: float = setting(
        0.0, 'patterns in a second; 0 is as fast as possible', minimum=0.0, unit='1/s'
    )
    batch: int = setting(1, 'patterns in a message', minimum=1)
    unit: Literal['px', 'm'] = setting('px', 'unit of the positions')
    separate: bool = setting(False, 'positions come in messages of their own, after their patterns')
    shuffle: int = setting(
        0, 'patterns change their order within windows of this length', minimum=0
    )
    lose: float = setting(0.0, 'this part of the patterns is not sent', minimum=0.0, maximum=0.99)
    delay: float = setting(
        1.0, 'time before the first pattern, in which a receiver connects', minimum=0.0, unit='s'
    )
    seed: int = setting(0, 'the seed decides about order and losses', minimum=0, maximum=2**32 - 1)


@takes_settings(Section('replay', ReplaySettings, 'Sending'), READING)
def replay_command(
    scan: Annotated[Path, typer.Argument(metavar='SCAN', help='The scan to send.')],
    to: Annotated[
        str,
        typer.Option(
            '--to',
            metavar='ADDRESS',
            help='hdf5:FILE, folder:DIR, zmq:tcp://HOST:PORT, zmq+sub:tcp://HOST:PORT or '
            'pva:CHANNEL.',
        ),
    ],
    as_json: AsJson = False,
    *,
    given: Given,
) -> None:
    """Send a scan as a beamline would, to try ptychopinn stream.

    Over PV Access, images go to CHANNEL, and what else is known to CHANNEL:positions; the probe is
    not sent there.

    \b
    Examples:
      ptychopinn replay scan.npz --to zmq:tcp://127.0.0.1:5555 --rate 200
      ptychopinn replay scan.npz --to hdf5:growing.h5 --rate 200 --batch 10
      ptychopinn replay scan.npz --to folder:arriving --shuffle 32 --lose 0.01
    """
    from ptychopinn_plugin.streaming.replay import ReplayPlan, replay
    from ptychopinn_plugin.streaming.senders import open_sender

    settings = ReplaySettings.from_dict(given['replay'])
    (read,) = read_scans([scan], given)
    plan = ReplayPlan(
        rate_hz=settings.rate,
        batch=settings.batch,
        unit=settings.unit,
        separates=settings.separate,
        shuffle=settings.shuffle,
        lose=settings.lose,
        seed=settings.seed,
    )
    with open_sender(to) as sender:
        time.sleep(settings.delay)
        began = time.monotonic()
        sent = replay(read, sender, plan)
        seconds = time.monotonic() - began
    rate = sent / seconds if seconds > 0 else None
    values: dict[str, Any] = {'sent': sent, 'seconds': seconds, 'patterns_per_second': rate}
    line = f'sent {count(sent, "pattern")} of {read.name} to {to} in {seconds:.2f} s'
    report(values, [line], as_json=as_json)
