"""`ptychopinn bench`: how fast this machine is, beside what it allows and beside an earlier run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ptychopinn_plugin.cli.options import AsJson
from ptychopinn_plugin.cli.outputs import to_json
from ptychopinn_plugin.config import TrainingConfig
from ptychopinn_plugin.errors import ConfigError

SLOWER = 1
"""The command exits with this code where something got slower by more than the noise."""


_Sizes = Annotated[str, typer.Option(metavar='LIST', help='Sides of the patterns, in pixels.')]
_BatchSizes = Annotated[str, typer.Option(metavar='LIST', help='Patterns in a batch.')]
_Backends = Annotated[
    list[str] | None,
    typer.Option(help='Measure this backend; may be repeated. All that are installed else.'),
]
_Precision = Annotated[
    str, typer.Option(help='Arithmetic of the network: float32, bfloat16 or float16.')
]
_Device = Annotated[str, typer.Option(help='auto, cpu, cuda, cuda:1 ...')]
_Patterns = Annotated[int, typer.Option(min=16, help='Patterns of each scan.')]
_Rounds = Annotated[
    int, typer.Option(min=2, help='How often each rate is measured; they show the noise.')
]
_Quick = Annotated[
    bool, typer.Option('--quick', help='About half a minute: 64 px, 64 patterns, two rounds.')
]
_Starts = Annotated[
    bool,
    typer.Option(help='Start new processes too, for times to the first picture and memory.'),
]
_Against = Annotated[
    str | None,
    typer.Option(metavar='ptychi', help="Measure Pty-Chi's rPIE and LSQ-ML on the same scan."),
]
_Compare = Annotated[
    Path | None,
    typer.Option(
        metavar='OLD.json',
        help='Compare with an earlier run; the exit code is 1 if a share of the floor got '
        'worse by more than the noise.',
    ),
]


def bench_command(
    sizes: _Sizes = '64,128,256',
    batch_sizes: _BatchSizes = '32',
    backend: _Backends = None,
    precision: _Precision = 'float32',
    device: _Device = 'cpu',
    patterns: _Patterns = 512,
    rounds: _Rounds = 3,
    quick: _Quick = False,
    starts: _Starts = True,
    against: _Against = None,
    compare: _Compare = None,
    as_json: AsJson = False,
) -> int:
    """Measure how fast this machine trains and reconstructs, beside the least time it could take.

    Operations and bytes of a pattern are counted by formula, and the peaks of the machine are
    measured in the same run: a large matrix product and a large copy. The share of that floor is
    what runs are compared by. Backends take turns, so that other work weighs on all of them.

    \b
    Examples:
      ptychopinn bench --quick
      ptychopinn bench --sizes 64,128 --batch-sizes 32,256 --json
      ptychopinn bench --sizes 64 --against ptychi
      ptychopinn bench --quick --compare old.json
    """
    from ptychopinn_plugin import bench

    if against not in (None, 'ptychi'):
        raise ConfigError(f'--against must be ptychi; got {against!r}.')
    # Wrong values end the command before minutes are spent.
    TrainingConfig.from_dict({'precision': precision})
    old = None if compare is None else bench.read_report(compare)
    options = bench.BenchOptions(
        sizes=_numbers('--sizes', '64' if quick else sizes, 16),
        batch_sizes=_numbers('--batch-sizes', batch_sizes, 1),
        backends=_checked_backends(backend or ()),
        patterns=min(patterns, 64) if quick else patterns,
        rounds=2 if quick else rounds,
        iterations=2 if quick else 4,
        precision=precision,
        device=device,
        starts=(1 if quick else 2) if starts else 0,
        rival=against,
    )
    report = bench.run_bench(options, lambda line: typer.echo(line, err=True))
    worse: list[str] = []
    if old is not None:
        report['comparison'], worse = bench.compare(old, report)
    typer.echo(to_json(report) if as_json else '\n'.join(_lines(report)))
    return SLOWER if worse else 0


def _numbers(option: str, text: str, least: int) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(','))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < least:
        raise ConfigError(
            f'{option} must be whole numbers of at least {least} with commas between, as 64,128; '
            f'got {text!r}.'
        )
    return numbers


def _checked_backends(names: Sequence[str]) -> tuple[str, ...]:
    from ptychopinn_plugin.backends.selection import choose

    return tuple(choose(name).name for name in names)


def _lines(report: Mapping[str, Any]) -> list[str]:
    machine, peaks = report['machine'], report['peaks']
    load = '' if machine['load'] is None else f', load {machine["load"]:.1f} before the run'
    lines = [
        f'{machine["processor"]}, {machine["cores"]} cores{load}; peaks '
        f'{peaks["operations_per_second"] / 1e9:.0f} GFLOP/s, '
        f'{peaks["bytes_per_second"] / 1e9:.1f} GB/s',
        f'{"":26s}{"backend":14s}{"px":>4s}{"batch":>7s}{"measured":>10s}{"floor":>10s}'
        f'{"share":>9s}{"noise":>7s}',
    ]
    lines += [
        f'{row["what"]:26s}{row["backend"]:14s}{row["size"]:4d}{row["batch_size"] or "":>7}'
        f'{row["value"]:10.4g}{row["floor"]:10.4g}{row["share"]:9.2%}{row["noise"]:7.0%}'
        f'  {row["unit"]}'
        for row in report['rows']
    ]
    for row in report.get('comparison', ()):
        verdict = 'SLOWER' if row['worse'] else 'as before or faster'
        lines.append(
            f'{row["key"]}: {row["ratio"]:.2f} times the earlier share, noise '
            f'{row["noise"]:.0%}: {verdict}'
        )
    return lines
