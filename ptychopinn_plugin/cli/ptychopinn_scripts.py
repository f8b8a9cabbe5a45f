"""The scripts of PtychoPINN under their own options: `ptycho-train` and `ptycho-inference`."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptychopinn_plugin.cli.common import report
from ptychopinn_plugin.cli.log import logger
from ptychopinn_plugin.cli.options import READING, Given, Section, takes_settings
from ptychopinn_plugin.config import Validated, setting
from ptychopinn_plugin.errors import ConfigError
from ptychopinn_plugin.legacy.fields import OLDER_NAMES, Field, Owner, fields_of

if TYPE_CHECKING:
    from ptychopinn_plugin.legacy.configuration import LegacySettings
    from ptychopinn_plugin.model_file import Model

DEPRECATED = {**OLDER_NAMES, 'device': 'accelerator'}
"""Each older name of an option is a key, the name that took its place is the value."""

_ACCELERATORS = {'gpu': 'cuda', 'tpu': 'auto'}

_TORCH_OPTIONS = {
    'torch-accelerator': 'accelerator',
    'torch-learning-rate': 'learning_rate',
    'torch-scheduler': 'scheduler',
    'torch-accumulate-grad-batches': 'accum_steps',
    'torch-loss-mode': 'torch_loss_mode',
    'learning-rate': 'learning_rate',
    'accumulate-grad-batches': 'accum_steps',
}
"""PtychoPINN's scripts and those of its torch side have these other names of options."""

_NO_EFFECT: dict[str, type] = {
    'do_stitching': bool,
    'comparison_plot': bool,
    'phase_vmin': float,
    'phase_vmax': float,
    'quiet': bool,
    'verbose': bool,
    'console-level': str,
    'deterministic': bool,
    'num-workers': int,
    'inference-batch-size': int,
    'logger': str,
    'disable_mlflow': bool,
    'torch-deterministic': bool,
    'torch-num-workers': int,
    'torch-inference-batch-size': int,
    'torch-logger': str,
    'torch-enable-checkpointing': bool,
    'torch-checkpoint-save-top-k': int,
}
"""These options of theirs change no result. They are taken so that a script runs as it is."""


def _options_of(owner: Owner, more: dict[str, str]) -> type[Validated]:
    """Make settings of PtychoPINN's fields, for options under their own names."""
    known: dict[str, Field] = {**fields_of('ModelConfig'), **fields_of(owner)}
    members: list[Any] = []
    for name, item in known.items():
        if name in DEPRECATED:
            continue
        members.append((name, item.kind | None, setting(item.default, item.effect)))
    for name, text in more.items():
        newer = known.get(DEPRECATED.get(name, ''))
        members.append((name, (newer.kind if newer else str) | None, setting(None, text)))
    for option, name in _TORCH_OPTIONS.items():
        if name in known or name in more:
            kind = known[name].kind if name in known else str
            text = f'another name of {name}'
            members.append((_field(option), kind | None, setting(None, text)))
    for option, kind in _NO_EFFECT.items():
        default = False if kind is bool else None
        members.append((_field(option), kind | None, setting(default, 'no effect')))
    return dataclasses.make_dataclass(owner, members, bases=(Validated,), frozen=True)


def _field(option: str) -> str:
    return option.replace('-', '_') + ('_' if '-' in option else '')


def _older(*names: str) -> dict[str, str]:
    return {name: f'deprecated: {DEPRECATED[name]}' for name in names}


_ACCELERATOR = {'accelerator': 'auto, cpu, gpu, cuda, mps'}
_TRAINING = _options_of(
    'TrainingConfig', {**_ACCELERATOR, **_older('n_images', 'max_epochs', 'device')}
)
_INFERENCE = _options_of(
    'InferenceConfig', {**_ACCELERATOR, **_older('n_images', 'test_data', 'device')}
)


def _section(settings: type[Validated]) -> Section:
    names = {item.name: item.name for item in dataclasses.fields(settings)}  # type: ignore[arg-type]
    names |= {_field(option): option for option in (*_TORCH_OPTIONS, *_NO_EFFECT)}
    return Section('theirs', settings, "PtychoPINN's options", names)


_Yaml = Annotated[
    Path | None,
    typer.Option('--config', metavar='FILE', help="PtychoPINN's settings in YAML; options win."),
]


@takes_settings(_section(_TRAINING), READING)
def ptycho_train_command(config: _Yaml = None, *, given: Given) -> None:
    """Train as PtychoPINN's training script does, with its options and its defaults.

    --output_dir gets what `train` leaves; with --test_data_file that scan is reconstructed as
    well. What an option does here: docs/migrating.md.

    \b
    Examples:
      ptychopinn ptycho-train --train_data_file a.npz --output_dir out --nepochs 50
      ptychopinn ptycho-train --train_data_file a.npz --test_data_file b.npz --gridsize 2
        --n_groups 512 --backend pytorch --output_dir out
    """
    from ptychopinn_plugin.cli.outputs import MODEL_FILE
    from ptychopinn_plugin.cli.train import train_command

    settings = _settings(given, config, 'TrainingConfig')
    scan, output = _needed(settings, 'train_data'), _needed(settings, 'output')
    sections: Any = settings.config.to_dict()
    chosen = {'training': sections['training'], 'model': sections['model']}
    _function(train_command)(
        [scan], output, backend=settings.backend, given={**chosen, 'reading': given['reading']}
    )
    if settings.test_data is not None:
        _reconstruct(output / MODEL_FILE, settings.test_data, settings, given)


@takes_settings(_section(_INFERENCE), READING)
def ptycho_inference_command(config: _Yaml = None, *, given: Given) -> None:
    """Reconstruct as PtychoPINN's inference script does, with its options.

    --model_path is a model file of this package or of PtychoPINN, or the folder that holds its
    wts.h5.zip. --output_dir gets what `reconstruct` leaves.

    \b
    Examples:
      ptychopinn ptycho-inference --model_path out --test_data_file b.npz --output_dir result
      ptychopinn ptycho-inference --model_path last.ckpt --test_data_file b.npz --output_dir x
    """
    from ptychopinn_plugin import api
    from ptychopinn_plugin.ptychopinn_workflow import find_model

    settings = _settings(given, config, 'InferenceConfig')
    path, scan = find_model(_needed(settings, 'model_path')), _needed(settings, 'test_data')
    model = api.open_model(path, with_training_state=False)
    _warn_of_model_options(settings, model)
    _reconstruct(model, scan, settings, given)


def _warn_of_model_options(settings: 'LegacySettings', model: 'Model') -> None:
    """Name the options of the network that differ from the model file, which decides."""
    if model.is_prior:
        return
    requested = {
        item: settings.given[name]
        for name, item in fields_of('ModelConfig').items()
        if item.ours and settings.given and settings.given.get(name) is not None
    }
    there = model.config.model.replace(pattern_size=model.pattern_size)
    for item, value in requested.items():
        ours = getattr(there, item.ours.removeprefix('model.'))
        if item.take(value) != ours:
            logger.warning(
                '%s = %s has no effect: the model file decides, and it holds %s.',
                item.name,
                value,
                item.give(ours),
            )


def _reconstruct(
    model: 'Path | Model', scan: Path, settings: 'LegacySettings', given: Given
) -> None:
    from ptychopinn_plugin.cli.reconstruct import reconstruct_into
    from ptychopinn_plugin.ptychopinn_workflow import subsample_scan

    select = functools.partial(subsample_scan, settings=settings)
    chosen: Given = {'inference': {'device': settings.config.inference.device}, 'refinement': {}}
    values, lines = reconstruct_into(
        _needed(settings, 'output'),
        model,
        scan,
        settings.backend,
        {**chosen, 'reading': given['reading']},
        select,
    )
    report(values, lines, as_json=False)


def _settings(given: Given, config: Path | None, owner: Owner) -> 'LegacySettings':
    """Put a YAML file and options together, older names mapped, in our terms."""
    from ptychopinn_plugin.legacy.configuration import from_legacy
    from ptychopinn_plugin.legacy.plain_settings import newer_names, read_settings

    theirs = newer_names(read_settings(config), DEPRECATED) if config else {}
    theirs |= newer_names(_plain_options(given['theirs']), DEPRECATED)
    accelerator = theirs.pop('accelerator', None)
    settings = from_legacy(theirs, owner=owner)
    changed = settings.config
    if 'N' not in theirs:
        # This is the size of the first scan's patterns.
        changed = changed.replace(model=changed.model.replace(pattern_size=None))
    if accelerator is not None:
        device = _ACCELERATORS.get(accelerator, accelerator)
        changed = changed.replace(
            training=changed.training.replace(device=device),
            inference=changed.inference.replace(device=device),
        )
    return dataclasses.replace(settings, config=changed)


def _plain_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options under the names of fields, without those that have no effect."""
    others = {_field(option): name for option, name in _TORCH_OPTIONS.items()}
    without = {_field(option): option for option in _NO_EFFECT}
    values = {name: value for name, value in given.items() if name not in {**others, **without}}
    for name, newer in others.items():
        if name in given:
            values.setdefault(newer, given[name])
    ignored = [f'--{option}' for name, option in without.items() if name in given]
    if ignored:
        logger.info('Options of PtychoPINN without an effect here: %s.', ', '.join(ignored))
    return values


def _needed(settings: 'LegacySettings', name: str) -> Path:
    value = getattr(settings, name)
    option = {
        'train_data': 'train_data_file',
        'test_data': 'test_data_file',
        'output': 'output_dir',
        'model_path': 'model_path',
    }[name]
    if value is None:
        raise ConfigError(f'--{option} is needed and was not given. Add --{option} PATH.')
    return Path(value)


def _function(command: Any) -> Any:
    """Return the function below the options that `takes_settings` added."""
    return command.__wrapped__
