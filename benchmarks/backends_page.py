"""Write the tables of docs/backends.md: what each backend honours, and which opens whose models.

    python benchmarks/backends_page.py [--check | --only settings|capabilities|devices|models]

Every setting is changed, one at a time, in a training run of a second and a reconstruction with
each backend; 'yes' means that the result changed as it should. Capabilities are tried likewise, and
devices are tried where the machine has them; what it does not have is 'not tested'. No cell is
written by hand. Both frameworks must be installed.
"""

import argparse
import dataclasses
import hashlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ptychopinn_plugin.backends.protocol import Progress
from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Reconstruction, Scan, fit_to_size
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.errors import BackendUnavailableError
from ptychopinn_plugin.model import Model

PAGE = Path(__file__).parents[1] / 'docs' / 'backends.md'
BACKENDS = ('pytorch', 'tensorflow')

BASE = {
    'model': {'filters_scale': 0.25, 'passes': 2},
    'training': {'epochs': 2, 'target_iterations': 10, 'device': 'cpu', 'batch_size': 8},
    'inference': {'device': 'cpu'},
    'refinement': {'iterations': 2},
}
CNN = {'architecture': 'cnn', 'pattern_size': 64}

CHANGES: dict[str, tuple[Any, dict[str, dict[str, Any]]]] = {
    'model.architecture': ('cnn', {'model': {'pattern_size': 64}}),
    'model.pattern_size': (24, {}),
    'model.gridsize': (2, {}),
    'model.model_type': ('supervised', {}),
    'model.filters_scale': (0.5, {}),
    'model.passes': (1, {}),
    'model.amplitude_activation': ('softplus', {'model': CNN}),
    'model.pad_object': (False, {'model': CNN}),
    'model.border_decoder': (False, {'model': CNN}),
    'model.overlap_constraint': (False, {'model': {'gridsize': 2}}),
    'training.epochs': (1, {}),
    'training.max_minutes': (0.01, {'training': {'epochs': 40}}),
    'training.batch_size': (16, {}),
    'training.learning_rate': (1e-2, {}),
    'training.optimizer': ('adam', {}),
    'training.weight_decay': (0.5, {}),
    'training.schedule': ('constant', {}),
    'training.warmup_fraction': (0.5, {}),
    'training.gradient_clip': (1e-3, {}),
    'training.gradient_accumulation_steps': (2, {}),
    'training.ema_decay': (0.0, {'training': {'epochs': 2}}),
    'training.precision': ('bfloat16', {}),
    'training.early_stop_patience': (1, {'training': {'learning_rate': 0.0, 'epochs': 4}}),
    'training.validation_fraction': (0.5, {}),
    'training.seed': (1, {}),
    'training.poisson_weight': (0.1, {}),
    'training.amplitude_mae_weight': (1.0, {}),
    'training.target': ('none', {}),
    'training.target_weight': (0.1, {}),
    'training.target_iterations': (20, {}),
    'training.target_positions': (True, {}),
    'training.target_intensities': (True, {}),
    'training.total_variation_weight': (1.0, {}),
    'training.probe_trainable': (True, {}),
    'training.intensity_scale_trainable': (True, {}),
    'training.n_groups': (10, {}),
    'training.neighbor_count': (20, {'model': {'gridsize': 2}}),
    'training.n_subsample': (30, {}),
    'inference.phase_synchronization': (False, {}),
    'inference.stitching_weights': ('uniform', {}),
    'inference.test_time_rotations': ('one', {}),
    'inference.intensity_scale': ('scan', {}),
    'refinement.iterations': (0, {}),
    'refinement.max_seconds': (0.01, {'refinement': {'iterations': 20}}),
    'refinement.batch_size': (2, {}),
    'refinement.probe': (True, {}),
    'refinement.positions': (True, {}),
    'refinement.position_scale': (True, {'refinement': {'positions': True}}),
    'refinement.intensities': (True, {}),
    'refinement.opr_modes': (2, {}),
    'refinement.probe_radius': (4.0, {'refinement': {'probe': True}}),
    'refinement.object_type': ('phase', {}),
    'refinement.min_amplitude': (1.0, {}),
    'refinement.max_amplitude': (1.0, {}),
    'refinement.total_variation': (1.0, {}),
    'refinement.seed': (1, {}),
}
"""Each setting has a value that differs from `BASE`, and what must be set for it to matter."""

NO_SUCH_DEVICE = 'cuda:99'
"""A setting of the device that is honoured makes this an error."""

SAME_OBJECT = 1e-4
"""Objects whose distance, as a share of their norm, is below this differ by rounding."""


def quick_scan(config: Config, **changes: Any) -> Scan:
    """Return a scan as small as the network allows."""
    if config.model.architecture == 'cnn':
        return simulate(SimulationConfig(size=64, rows=4, columns=5))
    size = config.model.pattern_size
    if size is not None:
        # A backend takes scans as they are; their readers fit them (decision 31).
        return fit_to_size(quick_scan(configured(), **changes), size)
    small = SimulationConfig(
        size=32, rows=8, columns=8, step_px=4.0, pupil_radius=0.12, defocus=100.0
    )
    return simulate(small.replace(**changes))


def configured(*changes: dict[str, dict[str, Any]]) -> Config:
    """Return `BASE` with changes."""
    values: dict[str, dict[str, Any]] = {name: dict(part) for name, part in BASE.items()}
    for change in changes:
        for section, part in change.items():
            values[section].update(part)
    return Config.from_dict(values)


def fingerprint(name: str, config: Config) -> str:
    """Return what a backend makes of a configuration, in short."""
    backend, scan = create_backend(name), quick_scan(config)
    trained = backend.train([scan], config)
    # The scan is brighter, so that the rule of the intensity scale matters.
    other = dataclasses.replace(scan, patterns=scan.patterns * np.float32(1.5))
    found = backend.reconstruct(other, config.inference, config.refinement)
    assert trained.model.training_state is not None
    parts = [*trained.model.weights.values(), trained.model.probe, found.object_, found.probe]
    parts.append(np.array([trained.model.intensity_scale, len(trained.history)]))
    return hashlib.sha256(b''.join(part.tobytes() for part in parts)).hexdigest()


def all_settings() -> Iterator[tuple[str, str]]:
    """Yield the name and help of each setting."""
    for section in dataclasses.fields(Config):
        part = getattr(Config(), section.name)
        for item in dataclasses.fields(part):
            yield f'{section.name}.{item.name}', item.metadata['help']


def drops_outliers(name: str) -> bool:
    """Return whether a backend leaves out a pattern that does not fit."""
    scan = quick_scan(configured())
    patterns = scan.patterns.astype(np.float32)
    patterns[[9, 54]] = patterns[[54, 9]]
    spoilt = dataclasses.replace(scan, patterns=patterns)
    found = create_backend(name).refine(spoilt, RefinementConfig(10, drop_outliers=True))
    return len(found.dropped) > 0


def rejects_device(section: str) -> Callable[[str], bool]:
    """Return what decides whether a backend looks at the device of this section."""

    def measure(name: str) -> bool:
        config = configured()
        backend, scan = create_backend(name), quick_scan(config)
        backend.train([scan], config)
        elsewhere = configured({section: {'device': NO_SUCH_DEVICE}})
        try:
            if section == 'training':
                backend.train([scan], elsewhere)
            else:
                backend.reconstruct(scan, elsewhere.inference, elsewhere.refinement)
        except BackendUnavailableError:
            return True
        return False

    return measure


def is_free_of_batches(name: str) -> bool:
    """Return whether another batch size of the inference leaves the object as it is."""
    config = configured({'refinement': {'iterations': 0}})
    backend, scan = create_backend(name), quick_scan(config)
    backend.train([scan], config)
    first, second = (
        backend.reconstruct(scan, config.inference.replace(batch_size=size), config.refinement)
        for size in (32, 5)
    )
    return distance(first, second) < SAME_OBJECT


def counts_passes(name: str) -> bool:
    """Return whether another number of passes of the built-in prior gives another object."""
    backend, scan = create_backend(name), quick_scan(configured())
    backend.model = Model.built_in()
    inference, refinement = InferenceConfig(device='cpu'), RefinementConfig(iterations=0)
    first, second = (
        backend.reconstruct(scan, inference.replace(prior_passes=passes), refinement)
        for passes in (1, 2)
    )
    return distance(first, second) > SAME_OBJECT


ELSEWHERE: dict[str, tuple[str, Callable[[str], bool]]] = {
    'training.device': (
        'This device computes: auto, cpu, cuda, cuda:1, mps',
        rejects_device('training'),
    ),
    'inference.device': (
        'This device computes: auto, cpu, cuda, cuda:1, mps',
        rejects_device('inference'),
    ),
    'inference.prior_passes': (
        'The built-in prior makes this number of passes, also after a trained network; without one '
        'the overlap decides',
        counts_passes,
    ),
    'inference.batch_size': (
        'It changes speed and memory; the result stays the same',
        is_free_of_batches,
    ),
    'refinement.drop_outliers': (
        'Patterns that do not fit the others are left out, and the rest is reconstructed again',
        drops_outliers,
    ),
}
"""A trained model does not show these settings: here is what they do, and how that is measured."""


def features() -> list[str]:
    """Return the lines of the table of settings."""
    lines = ['| setting | PyTorch | TensorFlow | |', '|---|---|---|---|']
    base: dict[tuple[str, str], str] = {}
    for name, help_ in all_settings():
        if name in ELSEWHERE:
            help_, measure = ELSEWHERE[name]
            lines.append(row_of(f'`{name}`', measure, help_))
            continue
        value, context = CHANGES[name]
        section, _, field = name.partition('.')
        changes = {section: {field: value}}
        lines.append(row_of(f'`{name}`', partial(is_honoured, base, context, changes), help_))
    return lines


def is_honoured(
    base: dict[tuple[str, str], str],
    context: dict[str, dict[str, Any]],
    changes: dict[str, dict[str, Any]],
    backend: str,
) -> bool:
    """Return whether changes to a configuration give another result; `base` keeps those without."""
    key = (backend, str(context))
    base.setdefault(key, fingerprint(backend, configured(context)))
    return fingerprint(backend, configured(context, changes)) != base[key]


def row_of(what: str, measure: Callable[[str], bool | None], note: str) -> str:
    """Return a row of a table: what was measured with each backend; None is 'not tested'."""
    words = {True: 'yes', False: '**no**', None: 'not tested'}
    cells = [words[measure(backend)] for backend in BACKENDS]
    print(what, cells, flush=True)
    return f'| {what} | {" | ".join(cells)} | {note} |'


def learns_from_several(name: str) -> bool:
    """Return whether a second scan changes what is learned, and a third is validated on."""
    config = configured()
    scans = [quick_scan(config, seed=seed) for seed in (1, 2, 3)]
    one = create_backend(name).train(scans[:1], config)
    two = create_backend(name).train(scans[:2], config, validation=scans[2:])
    losses = [row['validation_loss'] for row in two.history]
    return not same_weights(one.model, two.model) and bool(np.isfinite(losses).all())


def takes_other_patterns(name: str) -> bool:
    """Return whether modes, bad pixels and another size of patterns are taken as they should be."""
    config = configured()
    backend = create_backend(name)
    backend.train([quick_scan(config, n_modes=2, dead_pixels=5)], config)
    larger = quick_scan(config, size=40, n_modes=2, dead_pixels=5)
    assert larger.bad_pixels is not None
    hidden = larger.patterns.copy()
    hidden[:, larger.bad_pixels] = 12345
    found, same = (
        backend.reconstruct(scan, config.inference, config.refinement)
        for scan in (larger, dataclasses.replace(larger, patterns=hidden))
    )
    return len(found.probe) == 2 and distance(found, same) < SAME_OBJECT


def resumes_exactly(name: str) -> bool:
    """Return whether a training that was stopped ends with the bits of one that was not."""
    config = configured({'training': {'epochs': 3}})
    scan = quick_scan(config)
    whole = create_backend(name).train([scan], config)

    def stop_after_one(progress: Progress) -> bool:
        return progress.stage == 'train' and progress.step >= 1

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'wts.h5.zip'
        first, second = create_backend(name), create_backend(name)
        stopped = first.train([scan], config, observer=stop_after_one)
        first.save_model(path)
        rest = second.train([scan], config, base_model=second.open_model(path), resume=True)
    return len(stopped.history) < len(rest.history) and same_weights(rest.model, whole.model)


def fine_tunes_others(name: str) -> bool:
    """Return whether training goes on from a model that the other backend wrote."""
    config = configured()
    scan = quick_scan(config)
    other = next(backend for backend in BACKENDS if backend != name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'wts.h5.zip'
        first, second = create_backend(other), create_backend(name)
        first.train([scan], config)
        first.save_model(path)
        opened = second.open_model(path)
        tuned = second.train([scan], config, base_model=opened)
    losses = [row['loss'] for row in tuned.history]
    return not same_weights(opened, tuned.model) and bool(np.isfinite(losses).all())


def repeats_itself(name: str) -> bool:
    """Return whether two runs with one seed give the same bits on a CPU."""
    return fingerprint(name, configured()) == fingerprint(name, configured())


CAPABILITIES: tuple[tuple[str, Callable[[str], bool], str], ...] = (
    ('Several scans, a validation scan', learns_from_several, ''),
    ('Probe modes, bad pixels, patterns of another size', takes_other_patterns, ''),
    ('Resume, bit for bit on one CPU', resumes_exactly, 'on the backend that began'),
    ('Fine-tuning of a model of the other backend', fine_tunes_others, 'see the table of models'),
    ('The same seed gives the same bits on a CPU', repeats_itself, 'each backend its own bits'),
)


def runs_on(device: str) -> Callable[[str], bool | None]:
    """Return what decides whether a backend trains and reconstructs on a device, if it is here."""

    def measure(name: str) -> bool | None:
        config = configured({'training': {'device': device}, 'inference': {'device': device}})
        backend, scan = create_backend(name), quick_scan(config)
        try:
            backend.train([scan], config)
        except BackendUnavailableError:
            return None
        found = backend.reconstruct(scan, config.inference, config.refinement)
        return bool(np.isfinite(found.object_).all())

    return measure


DEVICES: tuple[tuple[str, Callable[[str], bool | None], str], ...] = (
    ('`cpu`', runs_on('cpu'), ''),
    ('`cuda`: an NVIDIA GPU', runs_on('cuda'), ''),
    ('`mps`: an Apple GPU', runs_on('mps'), 'TensorFlow needs the package tensorflow-metal'),
)


def measured_rows(
    head: str, rows: tuple[tuple[str, Callable[[str], bool | None], str], ...]
) -> list[str]:
    """Return the lines of a table of capabilities or devices."""
    lines = [f'| {head} | PyTorch | TensorFlow | |', '|---|---|---|---|']
    return lines + [row_of(*row) for row in rows]


def same_weights(first: Model, second: Model) -> bool:
    """Return whether two models hold the same bits."""
    return all(np.array_equal(first.weights[name], second.weights[name]) for name in first.weights)


def distance(first: Reconstruction, second: Reconstruction) -> float:
    """Return how far two objects are apart, as a share of their norm."""
    difference = np.linalg.norm(first.object_ - second.object_)
    return float(difference / np.linalg.norm(first.object_))


def cross_loading() -> list[str]:
    """Return the lines of the table of models that one backend wrote and the other opened."""
    lines = [
        '| architecture | N | gridsize | written by | opened by | objects differ by '
        '| validation loss: as opened, fine-tuned |',
        '|---|---|---|---|---|---|---|',
    ]
    cases = [(a, n, g) for a in ('sweepnet', 'cnn') for n in (64, 128) for g in (1, 2)]
    for architecture, size, gridsize in cases:
        scan = simulate(SimulationConfig(size=size, rows=5, columns=6))
        model = {'architecture': architecture, 'gridsize': gridsize, 'passes': 3}
        config = configured({'model': model, 'training': {'epochs': 3, 'validation_fraction': 0.2}})
        for writer, reader in (BACKENDS, BACKENDS[::-1]):
            row = _opened(scan, config, writer, reader)
            print(architecture, size, gridsize, writer, reader, row, flush=True)
            cells = (architecture, size, gridsize, writer, reader, *row)
            lines.append(f'| {" | ".join(map(str, cells))} |')
    return lines


def _opened(scan: Scan, config: Config, writer: str, reader: str) -> tuple[str, str]:
    first, second = create_backend(writer), create_backend(reader)
    first.train([scan], config)
    with tempfile.TemporaryDirectory() as folder:
        first.save_model(Path(folder) / 'wts.h5.zip')
        opened = second.open_model(Path(folder) / 'wts.h5.zip')
    found = [
        backend.reconstruct(scan, InferenceConfig(device='cpu'), RefinementConfig(iterations=0))
        for backend in (first, second)
    ]
    losses = []
    for rate, epochs in ((0.0, 1), (2e-4, 6)):
        training = config.training.replace(learning_rate=rate, epochs=epochs)
        tuned = second.train([scan], config.replace(training=training), base_model=opened)
        losses.append(min(row['validation_loss'] for row in tuned.history))
    return f'{distance(*found):.0e}', f'{losses[0]:.4f}, {losses[1]:.4f}'


def put(text: str, name: str, lines: list[str]) -> str:
    """Replace what stands between the marks of a table."""
    start, end = f'<!-- {name} -->', f'<!-- end of {name} -->'
    head, _, rest = text.partition(start)
    _, _, tail = rest.partition(end)
    assert rest, f'{PAGE} has no mark {start}.'
    return f'{head}{start}\n\n{chr(10).join(lines)}\n\n{end}{tail}'


TABLES: dict[str, Callable[[], list[str]]] = {
    'settings': features,
    'capabilities': lambda: measured_rows('capability', CAPABILITIES),
    'devices': lambda: measured_rows('device', DEVICES),
    'models': cross_loading,
}


def main() -> None:
    """Write the page, or with --check only print whether a setting has no effect."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--check', action='store_true', help='only the settings; write nothing')
    parser.add_argument('--only', choices=TABLES, help='only this table')
    options = parser.parse_args()
    if options.check:
        sys.exit(any('**no**' in line for line in features()))
    for name in [options.only] if options.only else TABLES:
        lines = TABLES[name]()
        # Read late: a table takes minutes, in which the page may have changed.
        PAGE.write_text(put(PAGE.read_text(encoding='utf-8'), name, lines), encoding='utf-8')


if __name__ == '__main__':
    main()
