"""The scripts of PtychoPINN under their own options: `ptycho-train` and `ptycho-inference`."""

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptychopinn_plugin.cli.common import report
from ptychopinn_plugin.cli.journal import logger
from ptychopinn_plugin.cli.options import READING, Given, Section, takes_settings
from ptychopinn_plugin.config import Validated, setting
from ptychopinn_plugin.errors import ConfigError
from ptychopinn_plugin.legacy.fields import Field, Owner, fields_of

if TYPE_CHECKING:
    from ptychopinn_plugin.legacy.configuration import LegacySettings

DEPRECATED = {
    'n_images': 'n_groups',
    'max_epochs': 'nepochs',
    'device': 'accelerator',
    'test_data': 'test_data_file',
}
"""Older names of options, and those that took their place."""

_PATHS = ('train_data_file', 'test_data_file', 'test_data', 'output_dir', 'model_path')
_NUMBERS = ('n_groups', 'n_images', 'max_epochs', 'n_subsample', 'subsample_seed')
_KINDS: dict[str, type] = {
    **dict.fromkeys(_PATHS, Path),
    **dict.fromkeys((*_NUMBERS, 'neighbor_pool_size'), int),
    'gradient_clip_val': float,
}
_ACCELERATORS = {'gpu': 'cuda', 'tpu': 'auto'}


def _options_of(owner: Owner, more: dict[str, str]) -> type[Validated]:
    """Make settings of PtychoPINN's fields, for options under their own names."""
    known: dict[str, Field] = {**fields_of('ModelConfig'), **fields_of(owner)}
    members: list[Any] = []
    for name, item in known.items():
        if name in DEPRECATED:
            continue
        kind = _KINDS.get(name) or (str if item.default is None else type(item.default))
        members.append((name, kind | None, setting(item.default, item.effect)))
    for name, text in more.items():
        members.append((name, _KINDS.get(name, str) | None, setting(None, text)))
    return dataclasses.make_dataclass(owner, members, bases=(Validated,), frozen=True)


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
    names = [item.name for item in dataclasses.fields(settings)]  # type: ignore[arg-type]
    return Section('theirs', settings, "PtychoPINN's options", dict(zip(names, names, strict=True)))


_Yaml = Annotated[
    Path | None,
    typer.Option('--config', metavar='FILE', help="PtychoPINN's settings in YAML; options win."),
]


@takes_settings(_section(_TRAINING), READING)
def ptycho_train(config: _Yaml = None, *, given: Given) -> None:
    """Train as PtychoPINN's training script does, with its options and its defaults.

    Leaves in --output_dir what `train` leaves; with --test_data_file that scan is reconstructed as
    well. What an option does here: docs/migrating.md.

    \b
    Examples:
      ptychopinn ptycho-train --train_data_file a.npz --output_dir out --nepochs 50
      ptychopinn ptycho-train --train_data_file a.npz --test_data_file b.npz --gridsize 2
        --n_groups 512 --backend pytorch --output_dir out
    """
    from ptychopinn_plugin.cli.train import MODEL_FILE, train

    settings = _settings(given, config, 'TrainingConfig')
    scan, output = _needed(settings, 'train_data'), _needed(settings, 'output')
    sections: Any = settings.config.to_dict()
    chosen = {'training': sections['training'], 'model': sections['model']}
    _function(train)(
        [scan], output, backend=settings.backend, given={**chosen, 'reading': given['reading']}
    )
    if settings.test_data is not None:
        _reconstruct(output / MODEL_FILE, settings.test_data, settings, given)


@takes_settings(_section(_INFERENCE), READING)
def ptycho_inference(config: _Yaml = None, *, given: Given) -> None:
    """Reconstruct as PtychoPINN's inference script does, with its options.

    --model_path is a model file of this package or of PtychoPINN, or the folder that holds its
    wts.h5.zip. Leaves in --output_dir what `reconstruct` leaves.

    \b
    Examples:
      ptychopinn ptycho-inference --model_path out --test_data_file b.npz --output_dir result
      ptychopinn ptycho-inference --model_path last.ckpt --test_data_file b.npz --output_dir x
    """
    from ptychopinn_plugin.legacy.workflow import find_model

    settings = _settings(given, config, 'InferenceConfig')
    model, scan = _needed(settings, 'model'), _needed(settings, 'test_data')
    _reconstruct(find_model(model), scan, settings, given)


def _reconstruct(model: Path, scan: Path, settings: 'LegacySettings', given: Given) -> None:
    from ptychopinn_plugin.cli.reconstruct import reconstruct_into
    from ptychopinn_plugin.legacy.workflow import subsample_scan

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
    from ptychopinn_plugin.legacy.configuration import from_legacy, read_settings

    theirs = _newer(read_settings(config)) if config else {}
    theirs |= _newer(given['theirs'])
    accelerator = theirs.pop('accelerator', None)
    settings = from_legacy(theirs, owner=owner)
    changed = settings.config
    if 'N' not in theirs:
        # The size of the first scan's patterns.
        changed = changed.replace(model=changed.model.replace(pattern_size=None))
    if accelerator is not None:
        device = _ACCELERATORS.get(accelerator, accelerator)
        changed = changed.replace(
            training=changed.training.replace(device=device),
            inference=changed.inference.replace(device=device),
        )
    return dataclasses.replace(settings, config=changed)


def _newer(theirs: dict[str, Any]) -> dict[str, Any]:
    """Return settings under their newer names."""
    for old in set(DEPRECATED) & set(theirs):
        logger.warning('%s is deprecated; it is taken as %s.', old, DEPRECATED[old])
    older = {DEPRECATED[name]: value for name, value in theirs.items() if name in DEPRECATED}
    return older | {name: value for name, value in theirs.items() if name not in DEPRECATED}


def _needed(settings: 'LegacySettings', name: str) -> Path:
    value = getattr(settings, name)
    option = {
        'train_data': 'train_data_file',
        'test_data': 'test_data_file',
        'output': 'output_dir',
        'model': 'model_path',
    }[name]
    if value is None:
        raise ConfigError(f'--{option} is needed and was not given. Add --{option} PATH.')
    return Path(value)


def _function(command: Any) -> Any:
    """Return the function below the options that `takes_settings` added."""
    return command.__wrapped__
