"""Write the tables of docs/backends.md: what each backend honours, and who opens whose models.

    python benchmarks/backends_page.py [--check | --models]

Every setting is changed, one at a time, in a training run of a second and a reconstruction with
each backend. A mark means that the result was another one; where none can be, the table says why.
Both frameworks must be installed.
"""

import argparse
import dataclasses
import hashlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Reconstruction, Scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate

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
    'refinement.batch_size': (2, {}),
    'refinement.probe': (True, {}),
    'refinement.seed': (1, {}),
}
"""A value that differs from `BASE`, and what must be set for it to matter."""

ELSEWHERE = {
    'training.device': 'cpu, cuda, cuda:1 and auto in both; mps: TensorFlow needs its own plugin',
    'inference.device': 'as training.device',
    'inference.batch_size': 'speed and memory; the result stays the same',
}
"""Settings that change no result on a CPU, and what they do."""

BEYOND = (
    ('Several scans, a validation scan', 'yes', 'yes', ''),
    ('Probe modes, bad pixels, patterns of another size', 'yes', 'yes', ''),
    ('Resume, bit for bit on one CPU', 'yes', 'yes', 'on the backend that began'),
    ('Fine-tuning of a model of either backend', 'yes', 'yes', 'see the table below'),
    ('The same seed gives the same bits on a CPU', 'yes', 'yes', 'each its own bits'),
    ('Apple GPUs', 'yes', 'with tensorflow-metal', 'not tested'),
    ('Memory of a GPU', 'on demand', 'on demand', 'TF_FORCE_GPU_ALLOW_GROWTH is set'),
)


def quick_scan(config: Config) -> Scan:
    """Return a scan as small as the network allows."""
    if config.model.architecture == 'cnn':
        return simulate(SimulationConfig(size=64, rows=4, columns=5))
    return simulate(
        SimulationConfig(size=32, rows=8, columns=8, step_px=4.0, pupil_radius=0.12, defocus=100.0)
    )


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
    # A brighter scan, so that the rule of the intensity scale matters.
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


def features() -> list[str]:
    """Return the lines of the table of settings."""
    lines = ['| setting | PyTorch | TensorFlow | |', '|---|---|---|---|']
    base: dict[tuple[str, str], str] = {}
    for name, help_ in all_settings():
        if name in ELSEWHERE:
            lines.append(f'| `{name}` | yes | yes | {ELSEWHERE[name]} |')
            continue
        value, context = CHANGES[name]
        section, _, field = name.partition('.')
        cells = []
        for backend in BACKENDS:
            without = configured(context)
            key = (backend, str(context))
            base.setdefault(key, fingerprint(backend, without))
            changed = fingerprint(backend, configured(context, {section: {field: value}}))
            cells.append('yes' if changed != base[key] else '**no**')
        print(name, cells, flush=True)
        lines.append(f'| `{name}` | {cells[0]} | {cells[1]} | {help_} |')
    lines += [f'| {" | ".join(row)} |' for row in BEYOND]
    return lines


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


def main() -> None:
    """Write the page, or with --check only say whether a setting has no effect."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--check', action='store_true', help='only the settings; write nothing')
    parser.add_argument('--models', action='store_true', help='only the table of models')
    options = parser.parse_args()
    text = PAGE.read_text(encoding='utf-8')
    if not options.models:
        table = features()
        if options.check:
            sys.exit(any('**no**' in line for line in table))
        text = put(text, 'settings', table)
    text = put(text, 'models', cross_loading())
    PAGE.write_text(text, encoding='utf-8')


if __name__ == '__main__':
    main()
