"""Open thousands of damaged files, and count how each of them ended.

    python benchmarks/fuzz.py --times 1000
    python benchmarks/fuzz.py --formats CXI --first 17 --times 1 --keep /tmp/damaged

Each file is damaged at random, in its bytes or in what it holds (`tests/damage.py`), and opened in
a child process, which may use 2 GiB of memory beyond those of its start, 10 seconds for each file,
no socket and no other program, and writes nothing. There are two good ends: the file opens and can
be described, or it is refused with an error of this package. Anything else is a fault, for which
this program ends with 1.
"""

import argparse
import collections
import json
import os
import resource
import select
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / 'tests'))

import damage
from unit.legacy.model_files import tensorflow_members, zip_bytes

import ptychopinn_plugin as pinn
from ptychopinn_plugin import legacy
from ptychopinn_plugin.cli.provenance import hash_of
from ptychopinn_plugin.cli.reproduce import _find_inputs, _read_run
from ptychopinn_plugin.cli.settings import add_from_file, assemble_config
from ptychopinn_plugin.config import Config
from ptychopinn_plugin.data.readers.mask_files import read_mask
from ptychopinn_plugin.data.summary import describe_scan
from ptychopinn_plugin.errors import PtychoPinnError
from ptychopinn_plugin.model_file import describe_model, read_model

MAX_SECONDS = 10.0
"""A file that is not open by then counts as a hang."""

MAX_MORE_BYTES = 2 << 30
"""The memory of a child may grow by this."""

FILES_PER_CHILD = 500
"""A child is replaced after this number of files, so that none of them can hide what it leaves."""

MIN_MESSAGE = 40
"""An error that helps has at least this number of characters."""

FORBIDDEN = ('socket.', 'subprocess.', 'os.system', 'os.exec', 'os.fork', 'os.posix_spawn', 'pty.',
             'ctypes.dlopen', 'pickle.find_class', 'os.remove', 'os.rename',
             'os.mkdir', 'os.rmdir', 'os.link', 'os.symlink', 'os.truncate', 'shutil.')  # fmt: skip
"""No file may lead to one of these events of `sys.addaudithook`."""


@dataclass(frozen=True)
class Format:
    """A kind of file: an intact one, and what opens it.

    `open` is given the folder, in which the file has its name.
    """

    name: str
    file: Path
    open: Callable[[Path], object]


def describe(scan: Any) -> str:
    """Do what `ptychopinn inspect` does with a scan, as JSON without NaN."""
    return json.dumps(describe_scan(scan), allow_nan=False)


def load(path: Path) -> str:
    """Load a scan and describe it."""
    return describe(pinn.load_scan(path))


def open_model(path: Path) -> object:
    """Open a model file, and describe it; its numbers are finite."""
    model = read_model(path)
    json.dumps(describe_model(model), allow_nan=False)
    assert all(np.isfinite(weight).all() for weight in model.weights.values()), 'not finite'
    return model


def reconstruct_with(path: Path, scan: Path) -> object:
    """Reconstruct with the network of a model file alone."""
    none = pinn.config.RefinementConfig(iterations=0)
    found = pinn.reconstruct(path, scan, refinement=none, backend='pytorch')
    assert np.isfinite(found.object_).all(), 'the object is not finite'
    return found


def resume(path: Path, scan: Path) -> object:
    """Continue a training that has all its epochs but one."""
    return pinn.train(scan, Config.from_dict({'training': {'epochs': 3}}), resume=path)


def open_settings(path: Path) -> object:
    """Read the settings of a command from a file."""
    add_from_file({'reading': {}}, path)
    return assemble_config({}, file=path)


def open_result(path: Path) -> object:
    """Read what a result holds of its run, and look for the files of it."""
    return _find_inputs(_read_run(path.parent), path.parent, {})


def make_formats(folder: Path) -> list[Format]:
    """Write an intact file of each format."""

    def at(name: str) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    settings = pinn.SimulationConfig(size=32, rows=4, columns=5, step_px=4.0, pupil_radius=0.12)
    scan = pinn.simulate(settings)
    pinn.write_scan(at('scan.npz'), scan)
    small = {
        'training': {'epochs': 2, 'target_iterations': 10, 'device': 'cpu'},
        'model': {'filters_scale': 0.25, 'passes': 2},
    }
    config = Config.from_dict(small)
    with warnings.catch_warnings():
        # Twenty patterns are few.
        warnings.simplefilter('ignore', UserWarning)
        model = pinn.train(scan, config, backend='pytorch').model
        result = pinn.reconstruct(model, scan)
    pinn.save_model(at('model/wts.h5.zip'), model)
    pinn.write_reconstruction(at('reconstruction/reconstruction.npz'), result)
    write_scans(at, scan, result)
    write_legacy_files(at)
    write_settings(at, config)
    return list_formats(folder)


At = Callable[[str], Path]
"""It returns the path of a file, whose folder is there."""


def write_scans(at: At, scan: pinn.Scan, result: pinn.Reconstruction) -> None:
    """Write a scan in every format that is read."""
    from unit.data import test_matlab, test_ptypy_files

    for name in ('pair', 'pair-patterns'):
        pinn.write_product(at(f'{name}/product.h5'), result)
        write_patterns(at(f'{name}/diffraction.h5'), scan)
    write_cxi(at('scan.cxi'), scan)
    write_emd(at('scan.emd'), scan)
    small_scan = pinn.Scan(
        scan.patterns[:, 8:24, 10:22], scan.positions_px, scan.probe[:, 8:24, 10:22]
    )
    test_ptypy_files.save(at('scan.ptyd'), test_ptypy_files.contents(small_scan))
    for version, save in test_matlab.SAVES.items():
        save(at(f'scan-{version}.mat'), test_matlab.as_variables(scan))


def write_settings(at: At, config: Config) -> None:
    """Write a mask, settings, and what a result holds of its run."""
    np.save(at('mask.npy'), np.eye(32, dtype=np.uint8))
    at('settings/config.toml').write_text(
        'backend = "pytorch"\n[training]\nepochs = 3\nlearning_rate = 1e-3\n'
        '[model]\npasses = 2\n[inference]\nbatch_size = 8\n[reading]\ndomain = "counts"\n'
        'beam_center = "16,16"\n[refinement]\niterations = 30\n'
    )
    run = {
        'command': 'reconstruct',
        'backend': 'pytorch',
        'settings': config.to_dict(),
        'reading': {},
        'inputs': {'scan': _input(at('scan.npz'))},
        'model': _input(at('model/wts.h5.zip')),
    }
    at('result/metrics.json').write_text(json.dumps({'provenance': run}))


def write_legacy_files(at: At) -> None:
    """Write what PtychoPINN leaves."""
    from unit.legacy import model_files
    from unit.legacy.published import torch_state

    at('legacy/settings.yaml').write_text(
        'model: {N: 64, gridsize: 2, n_filters_scale: 2, amp_activation: sigmoid}\n'
        'nepochs: 50\nbatch_size: 16\nnphotons: 1.0e+9\nprobe_scale: 4\ntrain_data_file: a.npz\n'
    )
    at('legacy/wts.h5.zip').write_bytes(zip_bytes(tensorflow_members()))
    state = torch_state(1, attention=True, border=4)
    model_files.write_checkpoint(at('legacy/last.ckpt'), state)


def list_formats(folder: Path) -> list[Format]:
    """Return how each of the files is opened."""
    from unit.data import test_matlab

    intact = folder / 'scan.npz'
    return [
        Format('NPZ scan', intact, load),
        Format(
            'diffraction.h5',
            folder / 'pair-patterns' / 'diffraction.h5',
            lambda path: describe(pinn.load_scan(path.parent)),
        ),
        Format(
            'product.h5',
            folder / 'pair' / 'product.h5',
            lambda path: (pinn.read_reconstruction(path), describe(pinn.load_scan(path.parent))),
        ),
        Format('CXI', folder / 'scan.cxi', load),
        Format('EMD', folder / 'scan.emd', load),
        *(
            Format(f'MATLAB {version}', folder / f'scan-{version}.mat', load)
            for version in test_matlab.SAVES
        ),
        Format('PtyPy', folder / 'scan.ptyd', load),
        Format(
            'reconstruction',
            folder / 'reconstruction' / 'reconstruction.npz',
            pinn.read_reconstruction,
        ),
        Format('mask', folder / 'mask.npy', read_mask),
        Format('model', folder / 'model' / 'wts.h5.zip', open_model),
        Format(
            'model, used',
            folder / 'model' / 'wts.h5.zip',
            lambda path: reconstruct_with(path, intact),
        ),
        Format(
            'model, resumed', folder / 'model' / 'wts.h5.zip', lambda path: resume(path, intact)
        ),
        Format('TensorFlow archive', folder / 'legacy' / 'wts.h5.zip', open_model),
        Format('Lightning checkpoint', folder / 'legacy' / 'last.ckpt', open_model),
        Format('config.toml', folder / 'settings' / 'config.toml', open_settings),
        Format('settings in YAML', folder / 'legacy' / 'settings.yaml', legacy.from_legacy),
        Format('metrics.json', folder / 'result' / 'metrics.json', open_result),
    ]


def _input(path: Path) -> dict[str, str]:
    return {'name': path.name, 'path': str(path), 'sha256': hash_of(path)}


def write_patterns(path: Path, scan: Any) -> None:
    """Write Ptychodus' file of patterns."""
    import h5py

    with h5py.File(path, 'w') as file:
        patterns = file.create_dataset('patterns', data=scan.patterns.astype(np.uint16))
        patterns.attrs['detector_pixel_width_m'] = 75e-6
        patterns.attrs['detector_pixel_height_m'] = 75e-6
        file['indexes'] = np.arange(len(scan))
        file['bad_pixels'] = scan.bad_pixels


def write_cxi(path: Path, scan: Any) -> None:
    """Write a CXI file."""
    import h5py

    positions = np.c_[scan.positions_px[:, ::-1], np.zeros(len(scan))] * 1e-8
    with h5py.File(path, 'w') as file:
        file['entry_1/data_1/data'] = scan.patterns.astype(np.uint16)
        file['entry_1/sample_1/geometry_1/translation'] = positions
        file['entry_1/instrument_1/source_1/energy'] = 1.3e-15
        file['entry_1/instrument_1/source_1/illumination'] = scan.probe[0]
        detector = file.create_group('entry_1/instrument_1/detector_1')
        detector['distance'] = 1.7
        detector['distance'].attrs['units'] = 'm'
        detector['x_pixel_size'], detector['y_pixel_size'] = 75e-6, 75e-6


def write_emd(path: Path, scan: Any) -> None:
    """Write an EMD file of a raster."""
    import h5py

    with h5py.File(path, 'w') as file:
        root = file.create_group('experiment')
        root.attrs['emd_group_type'] = 'root'
        cube = root.create_group('datacube')
        cube.attrs['emd_group_type'] = 'array'
        cube['data'] = scan.patterns.reshape(4, 5, 32, 32).astype(np.uint16)
        values = {'R_pixel_size': 2.0, 'R_pixel_units': 'A', 'Q_pixel_size': 0.05,
                  'Q_pixel_units': 'A^-1'}  # fmt: skip
        for key, value in values.items():
            root[f'metadatabundle/calibration/{key}'] = value


def watch(events: list[str]) -> None:
    """Take down each event that no file may lead to."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == 'open':
            mode = arguments[1] if len(arguments) > 1 else None
            flags = arguments[2] if len(arguments) > 2 else 0
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if (isinstance(mode, str) and set(mode) & set('wax+')) or writes:
                events.append(f'open {arguments[0]!r} to write')
        elif event.startswith(FORBIDDEN):
            events.append(f'{event} {arguments!r}'[:200])

    sys.addaudithook(hook)


def open_one(kind: Format, path: Path, events: list[str]) -> tuple[str, str]:
    """Open a damaged file; return how that ended, and more about it."""
    events.clear()
    try:
        with warnings.catch_warnings(record=True) as noted:
            warnings.simplefilter('always')
            kind.open(path)
        verdict, more = 'opened', ''
    except PtychoPinnError as error:
        verdict, more = 'refused', str(error)
        if len(more) < MIN_MESSAGE or '\n' in more:
            verdict, more = 'fault', f'a message that does not help: {more!r}'
    except BaseException as error:  # noqa: BLE001 - whatever is raised counts
        last = traceback.extract_tb(error.__traceback__)[-3:]
        where = ' < '.join(f'{Path(item.filename).name}:{item.lineno}' for item in reversed(last))
        verdict, more = 'fault', f'{type(error).__name__}: {error} ({where})'
    else:
        other = [item for item in noted if not issubclass(item.category, UserWarning)]
        if other:
            item = other[0]
            where = f'{Path(item.filename).name}:{item.lineno}'
            verdict, more = 'fault', f'{item.category.__name__}: {item.message} ({where})'
    if events:
        verdict, more = 'fault', f'forbidden: {events[0]}'
    return verdict, more.replace('\n', ' ')


def damaged_at(kind: Format, seed: int, number: int, folder: Path) -> Path:
    """Write the damaged file of this number, beside copies of what belongs to it."""
    rng = np.random.default_rng([seed, *kind.name.encode(), number])
    path = folder / kind.file.parent.name / kind.file.name
    if not path.parent.exists():
        shutil.copytree(kind.file.parent, path.parent, ignore=_ignore_folders)
    path.write_bytes(damage.damage_content(kind.file.read_bytes(), rng))
    return path


def _ignore_folders(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_dir()]


def run_child(kind: Format, numbers: range, seed: int, folder: Path, pipe: int) -> None:
    """Open files of these numbers, and print how each ended, one line of JSON each."""
    used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MAX_MORE_BYTES, used + MAX_MORE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    events: list[str] = []
    watch(events)
    for number in numbers:
        path = damaged_at(kind, seed, number, folder)
        before = sorted(folder.rglob('*'))
        os.write(pipe, b'"began"\n')
        verdict, more = open_one(kind, path, events)
        if sorted(folder.rglob('*')) != before:
            verdict, more = 'fault', 'files were written or removed'
        os.write(pipe, json.dumps([verdict, more[:900]]).encode() + b'\n')


def run(kind: Format, numbers: range, seed: int, folder: Path) -> list[tuple[int, str, str]]:
    """Open files of these numbers in children; return number, end and more of each."""
    found: list[tuple[int, str, str]] = []
    following = numbers.start
    while following < numbers.stop:
        part = range(following, min(numbers.stop, following + FILES_PER_CHILD))
        for verdict, more in _of_child(kind, part, seed, folder):
            found.append((following, verdict, more))
            following += 1
    return found


def _of_child(kind: Format, numbers: range, seed: int, folder: Path) -> list[tuple[str, str]]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            run_child(kind, numbers, seed, folder, writing)
        except BaseException:  # noqa: BLE001 - a fault of this program
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    results: list[tuple[str, str]] = []
    text, deadline, hangs = b'', time.monotonic() + MAX_SECONDS, False
    while True:
        ready, _, _ = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            os.kill(pid, 9)
            hangs = True
            break
        data = os.read(reading, 1 << 16)
        if not data:
            break
        deadline, text = time.monotonic() + MAX_SECONDS, text + data
        *lines, text = text.split(b'\n')
        results += [tuple(json.loads(line)) for line in lines if line != b'"began"']
    os.close(reading)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if len(results) < len(numbers):
        what = f'no end after {MAX_SECONDS:g} s' if hangs else f'the process died ({code})'
        results.append(('fault', what))
    return results


def main() -> int:
    """Open damaged files of all formats, print the faults, and a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--times', type=int, default=200, help='files of each format')
    parser.add_argument('--first', type=int, default=0, help='number of the first file')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--formats', nargs='*', help='names, where not all are wanted')
    parser.add_argument('--keep', type=Path, help='a folder in which the last file of each stays')
    parser.add_argument('--show', type=int, default=0, help='messages of refusals to print')
    options = parser.parse_args()
    numbers = range(options.first, options.first + options.times)
    failed = False
    table = ['| format | files | opened | refused | faults |', '|---|---|---|---|---|']
    with tempfile.TemporaryDirectory() as temporary:
        for kind in make_formats(Path(temporary) / 'intact'):
            if options.formats and kind.name not in options.formats:
                continue
            kind.open(kind.file)
            folder = options.keep or Path(temporary) / 'damaged'
            folder.mkdir(parents=True, exist_ok=True)
            found = run(kind, numbers, options.seed, folder)
            counts = collections.Counter(verdict for _, verdict, _ in found)
            row = [
                kind.name,
                len(found),
                *(counts[name] for name in ('opened', 'refused', 'fault')),
            ]
            table.append(f'| {" | ".join(map(str, row))} |')
            failed = failed or counts['fault'] > 0
            for number, verdict, more in found:
                if verdict == 'fault':
                    print(f'{kind.name} {number}: {more}', flush=True)
            refusals = sorted({more for _, verdict, more in found if verdict == 'refused'})
            for more in refusals[: options.show]:
                print(f'{kind.name}: {more}')
            print(table[-1], flush=True)
    print('\n'.join(table))
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
