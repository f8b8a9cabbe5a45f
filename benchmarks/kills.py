"""Kill trainings, reconstructions and streams at random moments, and look at what is left.

    python benchmarks/kills.py --times 30 --folder /tmp/kills
    python benchmarks/kills.py --commands stream --times 30
    python benchmarks/kills.py --commands train --kinds 'revoked permission' --times 6

Each run is forked from a process that has imported PyTorch, and is hit at a random moment of its
life in one of these ways: SIGKILL, SIGTERM, SIGINT, a disk that is full (a small tmpfs; where that
may not be mounted, a limit on the size of files), or a folder that may no longer be written to;
where root runs this, without the right to write in spite of that. After each hit,

- every file under a final name opens,
- the same command, with ``--resume`` where there is something to continue, ends well,
- with the bits of a run that nobody has disturbed,
- and nothing unfinished, and no lock, is left in the folder.

A stream takes a scan that another process sends meanwhile. What it has received and kept when it is
hit is a part of that scan, to the bit; where it has kept a scan, that is reconstructed next, and
otherwise the stream is run again.
"""

import argparse
import collections
import ctypes
import hashlib
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ptychopinn_plugin.backends import checkpoints
from ptychopinn_plugin.backends.common import sampling, training_loop
from ptychopinn_plugin.data import load_scan, read_reconstruction, write_scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.model_file import read_model

KINDS = ('SIGKILL', 'SIGTERM', 'SIGINT', 'full disk', 'revoked permission')
COMMANDS = ('train', 'reconstruct', 'stream')

CAPABILITY_VERSION = 0x20080522
"""Of Linux' call `capset`: 64 capabilities in three sets, each in two numbers of 32 bits."""

UNEXPECTED = 70
"""A run that ends with an exception instead of an error has this exit code."""

ROWS = 7
N_PATTERNS = ROWS**2

TRAIN = ['--epochs', '3', '--target-iterations', '20', '--passes', '2', '--filters-scale', '0.25']
REFINE = ['--refine', '60']

SEND = ['--rate', '25', '--batch', '4', '--delay', '0']
RECEIVE = ['--update-patterns', '8', '--update-seconds', '0', '--start-timeout', '20']
"""A sender is there for two seconds, in which the object is written several times."""


def run_forked(arguments: list[str], prepare: Callable[[], None], log: Path) -> int:
    """Begin a command in a child process and return its number."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        prepare()
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        checkpoints.MIN_SECONDS, checkpoints.MAX_WRITING_FRACTION = 0.0, math.inf
        # An epoch has several parts, and a checkpoint after each of them.
        training_loop.RESUME_POINT_SECONDS, sampling.SUBSCAN_SIZE = -1.0, 10
        from ptychopinn_plugin.cli import main

        main(arguments)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001 - nobody else would report a fault
        traceback.print_exc()
        code = UNEXPECTED
    finally:
        os._exit(code)


def wait(pid: int) -> int:
    """Return the exit code of a child; minus the number of the signal that has killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Job:
    """One command with its reference: train, reconstruct, or stream."""

    def __init__(self, name: str, scan: Path, model: Path) -> None:
        self.name, self.scan, self.model = name, scan, model

    def arguments(self, output: Path) -> list[str]:
        """Return the command line, which continues where there is something to continue."""
        if self.name == 'train':
            return self._train(output)
        kept = output / 'scan.npz'
        if self.name == 'stream' and not kept.exists():
            source = ['--source', f'folder:{self.arriving(output)}']
            return ['stream', str(self.model), *source, '-o', str(output), *RECEIVE, *REFINE]
        scan = kept if self.name == 'stream' else self.scan
        return ['reconstruct', str(self.model), str(scan), '-o', str(output), *REFINE]

    def _train(self, output: Path) -> list[str]:
        command = ['train', str(self.scan), '-o', str(output), '--backend', 'pytorch']
        for name in ('checkpoint.h5.zip', 'wts.h5.zip'):
            if (output / name).exists():
                return [*command, '--resume', str(output / name), '--epochs', '3']
        return [*command, *TRAIN, '--device', 'cpu']

    def arriving(self, output: Path) -> Path:
        """Return the folder in which the files of a stream appear."""
        return output.with_name(f'{output.name}-arriving')

    @contextmanager
    def sending(self, output: Path) -> Iterator[None]:
        """Send the scan of a stream meanwhile, to its end."""
        if self.name != 'stream':
            yield
            return
        command = ['replay', str(self.scan), '--to', f'folder:{self.arriving(output)}', *SEND]
        sender = run_forked(command, lambda: None, Path(os.devnull))
        try:
            yield
        finally:
            assert wait(sender) == 0, 'the sender has failed'

    def is_whole(self, output: Path) -> bool:
        """Return whether the run had the whole scan; a stream that was stopped has a part."""
        return self.name != 'stream' or len(load_scan(output / 'scan.npz')) == N_PATTERNS

    def bits(self, output: Path) -> str:
        """Return a hash of what counts of a result."""
        digest = hashlib.sha256()
        if self.name != 'train':
            digest.update(read_reconstruction(output / 'reconstruction.npz').object_.tobytes())
        else:
            model = read_model(output / 'wts.h5.zip')
            for name in sorted(model.weights):
                digest.update(model.weights[name].tobytes())
            assert model.training_state is not None
            for name in sorted(model.training_state.arrays):
                digest.update(np.asarray(model.training_state.arrays[name]).tobytes())
        return digest.hexdigest()


def open_all(output: Path, scan: Path) -> list[str]:
    """Open every file under a final name; return the names of those that do not open."""
    from matplotlib.image import imread

    openers: dict[str, Callable[[Path], object]] = {
        '.zip': read_model,
        '.npz': read_reconstruction,
        '.h5': read_reconstruction,
        '.json': lambda path: json.loads(path.read_text()),
        '.png': imread,
        '.csv': lambda path: np.genfromtxt(path, delimiter=',', names=True),
        '.toml': lambda path: path.read_text(),
        '.log': lambda path: path.read_text(),
    }
    broken = []
    for path in output.iterdir():
        if path.name.startswith('.'):
            continue
        try:
            with warnings.catch_warnings():
                # A damaged checkpoint must not pass because of the one before it.
                warnings.simplefilter('error')
                if path.name == 'scan.npz':
                    compare_scans(path, scan)
                else:
                    openers[path.suffix](path)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it counts
            broken.append(f'{path.name} ({type(error).__name__}: {error})')
    return broken


def compare_scans(received: Path, sent: Path) -> None:
    """Check that a scan which was received is what was sent, up to where it was stopped."""
    found, whole = load_scan(received), load_scan(sent)
    np.testing.assert_array_equal(found.patterns, whole.patterns[: len(found)])
    np.testing.assert_array_equal(found.positions_px, whole.positions_px[: len(found)])


def drop_capabilities() -> None:
    """Let permissions count for root as for any other owner of a file.

    Another user would not do: he may not be allowed to read Python's own modules.
    """
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(header, (ctypes.c_uint32 * 6)()) != 0:
        raise OSError(ctypes.get_errno(), 'The capabilities of root cannot be dropped.')


def mount(output: Path, size: int, *, again: bool = False) -> bool:
    """Put a disk of this size below a folder, or change the size; return whether it is allowed."""
    options = f'remount,size={size}' if again else f'size={size}'
    command = ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(output)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def hit(job: Job, kind: str, output: Path, seconds: float, rng: random.Random) -> str:
    """Disturb one run, and return how it ended."""
    with job.sending(output):
        return _hit(job, kind, output, seconds, rng)


def _hit(job: Job, kind: str, output: Path, seconds: float, rng: random.Random) -> str:
    after, prepare = rng.uniform(0, seconds), lambda: None
    if kind == 'full disk':
        size = rng.randrange(1, 160) * 4096
        if not mount(output, size):
            # Where nothing may be mounted, no file grows beyond the size.
            def prepare() -> None:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

            code = wait(run_forked(job.arguments(output), prepare, Path(os.devnull)))
            return f'no disk could be mounted; files up to {size} bytes, exit {code}'
        code = wait(run_forked(job.arguments(output), prepare, Path(os.devnull)))
        mount(output, 1 << 28, again=True)
        return f'of {size} bytes, exit {code}'
    if kind == 'revoked permission':
        if os.geteuid() == 0:
            prepare = drop_capabilities
        pid = run_forked(job.arguments(output), prepare, Path(os.devnull))
        time.sleep(after)
        output.chmod(0o555)
        code = wait(pid)
        output.chmod(0o755)
        return f'after {after:.2f} s, exit {code}'
    pid = run_forked(job.arguments(output), prepare, Path(os.devnull))
    time.sleep(after)
    os.kill(pid, getattr(signal, kind))
    return f'after {after:.2f} s, exit {wait(pid)}'


def check(job: Job, output: Path, expected: str, log: Path) -> list[str]:
    """Return what is wrong with what is left, and with a run that goes on from it."""
    faults = open_all(output, job.scan)
    before = _bits_of_a_part(job, output)
    code = wait(run_forked(job.arguments(output), lambda: None, log))
    if code:
        return [*faults, f'the next run ended with {code}: {log.read_text()[-300:]}']
    faults += open_all(output, job.scan)
    if job.bits(output) != (expected if job.is_whole(output) else before or job.bits(output)):
        faults.append('other bits')
    faults += [f'{path.name} is left' for path in output.iterdir() if path.name.startswith('.')]
    return faults


def _bits_of_a_part(job: Job, output: Path) -> str | None:
    """Return the bits of a stream that was stopped and has made an object of what had come."""
    is_there = job.name == 'stream' and (output / 'reconstruction.npz').exists()
    return job.bits(output) if is_there else None


def main() -> int:
    """Hit all commands, print a line each and the sums."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--times', type=int, default=30, help='hits of each command')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--folder', type=Path, default=None)
    parser.add_argument('--commands', nargs='+', default=COMMANDS, choices=COMMANDS)
    parser.add_argument('--kinds', nargs='+', default=KINDS, choices=KINDS, help='in turn')
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    scan = folder / 'scan.npz'
    settings = SimulationConfig(size=32, rows=ROWS, columns=ROWS, step_px=4.0, pupil_radius=0.12)
    write_scan(scan, simulate(settings))
    # Before the first fork, so that a run takes seconds.
    import ptychopinn_plugin.backends.pytorch.adapter
    import ptychopinn_plugin.cli
    import ptychopinn_plugin.cli.stream
    import ptychopinn_plugin.plots
    import ptychopinn_plugin.streaming.live
    import ptychopinn_plugin.streaming.reception
    import ptychopinn_plugin.streaming.sources.folder  # noqa: F401

    rng, bad = random.Random(options.seed), 0
    sums: collections.Counter[tuple[str, str]] = collections.Counter()
    faulty: collections.Counter[tuple[str, str]] = collections.Counter()
    log = folder / 'log'
    model = folder / 'train-reference' / 'wts.h5.zip'
    for name in COMMANDS:
        if name not in options.commands and name != 'train':
            continue
        reference = folder / f'{name}-reference'
        reference.mkdir(exist_ok=True)
        job = Job(name, scan, model)
        begun = time.perf_counter()
        with job.sending(reference):
            code = wait(run_forked(job.arguments(reference), lambda: None, log))
        seconds = time.perf_counter() - begun
        if code:
            print(log.read_text())
            return 1
        if name not in options.commands:
            # The others need its model.
            continue
        expected = job.bits(reference)
        print(f'{name}: undisturbed in {seconds:.1f} s')
        for number in range(options.times):
            kind = options.kinds[number % len(options.kinds)]
            output = folder / f'{name}-{number}'
            output.mkdir()
            reported = hit(job, kind, output, seconds, rng)
            try:
                faults = check(job, output, expected, log)
            finally:
                subprocess.run(['umount', str(output)], capture_output=True, check=False)
            if reported.endswith(f'exit {UNEXPECTED}') and kind != 'SIGINT':
                faults.append('the run ended with an exception')
            log.unlink(missing_ok=True)
            sums[name, kind] += 1
            faulty[name, kind] += bool(faults)
            bad += bool(faults)
            print(f'{name} {number}: {kind}, {reported}: {"; ".join(faults) or "well"}', flush=True)
            shutil.rmtree(output)
            shutil.rmtree(job.arriving(output), ignore_errors=True)
    print('| what | hit by | times | faults |\n|---|---|---|---|')
    for (name, kind), times in sums.items():
        print(f'| {name} | {kind} | {times} | {faulty[name, kind]} |')
    print(f'{sum(sums.values())} hits, {bad} with a fault')
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main())
