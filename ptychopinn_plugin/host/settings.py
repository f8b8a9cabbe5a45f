"""The plugin's settings in Ptychodus: a table of rows, of which panel and settings file are made.

Defaults, limits and explanations come from `config`, where each is written once.
"""

import dataclasses
import logging
import re
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal

from ptychodus.api.parameters import Parameter, ParameterGroup
from ptychodus.api.settings import SettingsRegistry

from ptychopinn_plugin.backends.selection import AUTOMATIC, find_backends
from ptychopinn_plugin.config import (
    Config,
    InferenceConfig,
    ModelConfig,
    RefinementConfig,
    TrainingConfig,
    Validated,
    photons_setting,
    setting,
)
from ptychopinn_plugin.errors import ConfigError
from ptychopinn_plugin.host.former_names import key_of, read_former_names
from ptychopinn_plugin.host.presets import BY_THE_OVERLAP, NORMAL_MINUTES, Presets
from ptychopinn_plugin.host.recent_models import RecentModels

GROUP_NAME = 'PtychoPINNPlugin'

DEVICES = ('auto', 'cpu', 'cuda', 'cuda:1', 'cuda:2', 'cuda:3', 'mps')
"""The dropdown offers these; machines with more GPUs continue the numbers."""

MAX_INTEGER = 10**9
"""Whole numbers without a limit in `config` get this one: Qt's boxes and bars take 32 bits."""

logger = logging.getLogger('ptychopinn_plugin')


@dataclasses.dataclass(frozen=True)
class HostOptions(Validated):
    """Settings that only the host has, beside those of `Config`."""

    preset: Literal['Quick look', 'Normal', 'Best', 'Custom'] = setting(
        'Normal',
        'A preset sets the rows that are named below it; Custom stands there once one of them '
        'differs',
    )
    single_shot: bool = setting(
        False,
        'Patterns share nothing: each is reconstructed alone, and the patches lie side by side',
    )
    probe_from_patterns: bool = setting(
        False,
        'The probe of the product is left out, for where it is a wrong guess, and one is made of '
        'the patterns by trial reconstructions',
    )
    backend: str = setting(
        AUTOMATIC, 'This framework computes, unless PTYCHOPINN_BACKEND in the environment names one'
    )
    fine_tune: bool = setting(False, 'Training starts from the loaded model, not from scratch')
    keep_training_state: bool = setting(
        True,
        'The model file keeps what "ptychopinn train" needs to resume the training, and is larger '
        'for it',
    )
    photons: float | None = photons_setting(', in training and inference')
    threads: int | None = setting(
        None,
        'PyTorch computes with this number of threads on a CPU; without one, with as many as do '
        'not wait for other programs',
        minimum=1,
        maximum=1024,
    )
    idle_minutes: float = setting(
        10.0,
        'After this time without a run the worker ends and frees its memory, on the GPU too',
        minimum=0.1,
        maximum=1440.0,
        unit='min',
    )


@dataclasses.dataclass(frozen=True)
class Row:
    """One setting as the panel shows it.

    Attributes
    ----------
    group : str
        Title of the box that holds it.
    label : str
        The name of its field in words, with the unit where it has one.
    names : tuple of str
        'section.field' of what it sets; several where one row sets them all.
    only_for : str, optional
        'pinn' or 'supervised': the other algorithm has no use for it.
    needs : tuple of str, optional
        Another setting and the value that gives this one an effect; with others it is greyed.
    zero : str
        What the panel shows in place of 0, where 0 stands for something else.
    open_value : int
        What panel and settings file write for a setting that is left open.
    start : object, optional
        The default in Ptychodus, where it is not that of the field.
    """

    group: str
    label: str
    names: tuple[str, ...]
    only_for: str | None = None
    needs: tuple[str, str] | None = None
    zero: str = ''
    start: Any = None
    open_value: int = 0

    @property
    def key(self) -> str:
        """Its name in the settings file, as 'TrainingBatchSize'."""
        section, _, field = self.names[0].rpartition('.')
        return key_of(section, field)

    @property
    def field(self) -> dataclasses.Field[Any]:
        """Declaration of the setting, with default, help and limits."""
        section, _, name = self.names[0].rpartition('.')
        owner = _SECTIONS[section]
        return next(item for item in dataclasses.fields(owner) if item.name == name)

    @property
    def kind(self) -> type:
        """The type of its values: bool, int, float or str."""
        section, _, name = self.names[0].rpartition('.')
        hint = typing.get_type_hints(_SECTIONS[section])[name]
        if typing.get_origin(hint) in (types.UnionType, typing.Union):
            hint = next(part for part in typing.get_args(hint) if part is not type(None))
        return str if typing.get_origin(hint) is Literal else hint

    @property
    def choices(self) -> Sequence[str]:
        """What a dropdown offers; empty where the setting has none."""
        if self.names == ('backend',):
            return (AUTOMATIC, *find_backends())
        if self.names[0].endswith('.device'):
            return DEVICES
        section, _, name = self.names[0].rpartition('.')
        hint = typing.get_type_hints(_SECTIONS[section])[name]
        return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()

    @property
    def is_optional(self) -> bool:
        """Whether it may be left open, which settings file and panel write as `open_value`."""
        return self.field.default is None

    @property
    def default(self) -> Any:
        """Its value where nobody has chosen one."""
        default = self.field.default if self.start is None else self.start
        return self.open_value if default is None else default

    def in_words(self, value: Any) -> str:
        """Return a value as the panel shows it."""
        if self.is_optional and value == self.open_value:
            return self.zero
        return f'{value:g}' if isinstance(value, float) else str(value)

    @property
    def lowest(self) -> Any:
        """The lowest value of panel and settings file."""
        return self.open_value if self.is_optional else self.field.metadata['minimum']

    def nearest(self, value: Any) -> Any:
        """Return the number that is taken for one outside the limits.

        Below the minimum that is the minimum, and `open_value` only where it or less is given.
        """
        low, high = self.field.metadata['minimum'], self.field.metadata['maximum']
        if self.is_optional and value <= self.open_value:
            return self.open_value
        if low is not None and value < low:
            return low
        if high is None:
            high = MAX_INTEGER if self.kind is int else None
        return value if high is None else min(value, high)

    @property
    def tool_tip(self) -> str:
        """Its text in whole sentences: what the setting does, its limits and its default."""
        about, default = self.field.metadata, self.default
        low, high, unit = about['minimum'], about['maximum'], about['unit']
        sentences = [str(about['help'])]
        if high is not None:
            limits = f'Values from {_figure(low)} to {_figure(high)} {unit}'.rstrip()
            sentences.append(f'{limits} are valid')
        elif low is not None:
            sentences.append(f'The value must be at least {_figure(low)} {unit}'.rstrip())
        if self.is_optional and default == self.open_value:
            sentences.append(f'The default is {default:g}, which stands for: {self.zero}')
        elif self.is_optional:
            stands = f'{self.open_value} stands for: {self.zero}'
            sentences.append(f'The default is {default:g}; {stands}')
        elif isinstance(default, bool):
            sentences.append(f'It is {"on" if default else "off"} by default')
        else:
            value = f'{default:g}' if isinstance(default, float) else default
            sentences.append(f'The default is {value}')
        return '. '.join(sentences) + '.'


def _figure(value: float) -> str:
    """Return a limit as people write it: whole up to ten digits."""
    return f'{value:,.0f}' if value == int(value) and value < 1e10 else f'{value:g}'


_SECTIONS: dict[str, type] = {
    '': HostOptions,
    'model': ModelConfig,
    'training': TrainingConfig,
    'inference': InferenceConfig,
    'refinement': RefinementConfig,
}

_CNN = ('model.architecture', 'cnn')
_WITH_TARGET = ('training.target', 'iterations')

ROWS = (
    # It comes first: where a settings file names it, the rows that the file names as well win.
    Row('Run', 'Preset', ('preset',)),
    Row('Run', 'Backend', ('backend',)),
    Row('Run', 'Device', ('training.device', 'inference.device')),
    Row('Run', 'Threads', ('threads',), zero='by measurement'),
    Row('Run', 'Seed', ('training.seed', 'refinement.seed')),
    Row('Run', 'Photons', ('photons',), zero='as the data'),
    Row('Run', 'Single shot', ('single_shot',)),
    Row('Run', 'Probe from patterns', ('probe_from_patterns',)),
    Row('Run', 'Idle minutes', ('idle_minutes',)),
    Row('Model', 'Architecture', ('model.architecture',)),
    Row('Model', 'Pattern size [px]', ('model.pattern_size',), zero='as the data'),
    Row('Model', 'Gridsize', ('model.gridsize',)),
    Row('Model', 'Overlap constraint', ('model.overlap_constraint',)),
    Row('Model', 'Filters scale', ('model.filters_scale',)),
    Row('Model', 'Passes', ('model.passes',), needs=('model.architecture', 'sweepnet')),
    Row('Model', 'Amplitude activation', ('model.amplitude_activation',), needs=_CNN),
    Row('Model', 'Pad object', ('model.pad_object',), needs=_CNN),
    Row('Model', 'Border decoder', ('model.border_decoder',), needs=_CNN),
    Row('Training', 'Epochs', ('training.epochs',)),
    Row(
        'Training',
        'Max minutes',
        ('training.max_minutes',),
        zero='no limit',
        start=NORMAL_MINUTES,
    ),
    Row('Training', 'Batch size', ('training.batch_size',)),
    Row('Training', 'Learning rate', ('training.learning_rate',)),
    Row('Training', 'Schedule', ('training.schedule',)),
    Row('Training', 'Precision', ('training.precision',)),
    Row('Training', 'Poisson weight', ('training.poisson_weight',), 'pinn'),
    Row('Training', 'Amplitude MAE weight', ('training.amplitude_mae_weight',), 'pinn'),
    Row('Training', 'Total variation weight', ('training.total_variation_weight',)),
    Row('Training', 'Target', ('training.target',), 'pinn'),
    Row('Training', 'Target weight', ('training.target_weight',), 'pinn', _WITH_TARGET),
    Row('Training', 'Target iterations', ('training.target_iterations',), 'pinn', _WITH_TARGET),
    Row(
        'Training',
        'Refine target positions',
        ('training.target_positions',),
        'pinn',
        _WITH_TARGET,
    ),
    Row(
        'Training',
        'Refine target intensities',
        ('training.target_intensities',),
        'pinn',
        _WITH_TARGET,
    ),
    Row('Training', 'Probe trainable', ('training.probe_trainable',), 'pinn'),
    Row('Training', 'Intensity scale trainable', ('training.intensity_scale_trainable',), 'pinn'),
    Row('Training', 'Validation fraction', ('training.validation_fraction',)),
    Row(
        'Training',
        'Early stop patience',
        ('training.early_stop_patience',),
        zero='off',
    ),
    Row('Training', 'Subsample', ('training.n_subsample',), zero='all'),
    Row('Training', 'Fine-tune', ('fine_tune',)),
    Row('Training', 'Keep training state', ('keep_training_state',)),
    Row('Inference', 'Batch size', ('inference.batch_size',)),
    Row('Inference', 'Phase synchronization', ('inference.phase_synchronization',)),
    Row('Inference', 'Stitching weights', ('inference.stitching_weights',)),
    Row('Inference', 'Test-time rotations', ('inference.test_time_rotations',)),
    Row('Inference', 'Prior passes', ('inference.prior_passes',), zero='by the overlap'),
    Row('Inference', 'Intensity scale', ('inference.intensity_scale',)),
    Row(
        'Refinement',
        'Iterations',
        ('refinement.iterations',),
        zero='by the overlap',
        open_value=BY_THE_OVERLAP,
    ),
    Row('Refinement', 'Max seconds', ('refinement.max_seconds',), zero='no limit'),
    Row('Refinement', 'Batch size', ('refinement.batch_size',)),
    Row('Refinement', 'Refine probe', ('refinement.probe',)),
    Row('Refinement', 'Drop outliers', ('refinement.drop_outliers',)),
    Row('Refinement', 'Refine positions', ('refinement.positions',)),
    Row(
        'Refinement',
        'Refine position scale',
        ('refinement.position_scale',),
        needs=('refinement.positions', 'True'),
    ),
    Row('Refinement', 'Refine intensities', ('refinement.intensities',)),
    Row('Refinement', 'OPR modes', ('refinement.opr_modes',)),
    Row(
        'Refinement',
        'Probe radius [px]',
        ('refinement.probe_radius',),
        needs=('refinement.probe', 'True'),
        zero='no limit',
    ),
    Row('Refinement', 'Object type', ('refinement.object_type',)),
    Row('Refinement', 'Min amplitude', ('refinement.min_amplitude',), zero='no limit'),
    Row('Refinement', 'Max amplitude', ('refinement.max_amplitude',), zero='no limit'),
    Row(
        'Refinement',
        'Total variation',
        ('refinement.total_variation',),
        zero='by the overlap',
        open_value=BY_THE_OVERLAP,
    ),
)

MODEL_ROW = 'model file'
"""This row shows the loaded model, which is no setting: `RecentModels` keeps it."""

BASIC = frozenset(
    {
        MODEL_ROW,
        'preset',
        'backend',
        'training.device',
        'training.max_minutes',
        'fine_tune',
        'refinement.iterations',
        'refinement.probe',
        'refinement.positions',
    }
)
"""The panel shows these by itself; the other rows wait behind *All settings*."""


class PluginSettings:
    """The rows as observable parameters of the host.

    Parameters
    ----------
    registry : SettingsRegistry
        Gets the group `GROUP_NAME`, which it saves and loads with its own.
    algorithms : tuple of str
        Each has a model of its own.

    Attributes
    ----------
    parameters : dict of str to Parameter
        By 'section.field'.
    recent_models : RecentModels
    """

    def __init__(self, registry: SettingsRegistry, algorithms: tuple[str, ...] = ()) -> None:
        self._registry = registry
        self._group = registry.create_group(GROUP_NAME)
        self.parameters: dict[str, Parameter[Any]] = {}
        for row in ROWS:
            parameter = _create(self._group, row)
            _guard(parameter, row)
            self.parameters[row.names[0]] = parameter
        self.recent_models = RecentModels(self._group, algorithms)
        self._presets = Presets(self.parameters)
        read_former_names(registry, self._group, GROUP_NAME)

    def of_host(self, group: str, key: str) -> bool:
        """Return whether a setting of the host is on; one that it does not have is off."""
        try:
            return bool(self._registry[group].parameters()[key].get_value())
        except KeyError:
            return False

    @property
    def backend(self) -> str:
        """The backend that is chosen in the dropdown, or 'auto'."""
        return str(self.parameters['backend'].get_value())

    @property
    def options(self) -> HostOptions:
        """The settings that only the host has."""
        return HostOptions(**self._values()[''])

    def config(self, model_type: str) -> Config:
        """Return the settings of a run, validated.

        Parameters
        ----------
        model_type : str
            'pinn' or 'supervised', which the algorithm's name decides.

        Raises
        ------
        ConfigError
            The message names the setting.
        """
        values = self._values()
        values['model']['model_type'] = model_type
        del values['']
        return Config(**{section: _SECTIONS[section](**part) for section, part in values.items()})

    def _values(self) -> dict[str, dict[str, Any]]:
        """Return the values by section and field."""
        values: dict[str, dict[str, Any]] = {section: {} for section in _SECTIONS}
        for row in ROWS:
            value = self.parameters[row.names[0]].get_value()
            for name in row.names:
                section, _, field = name.rpartition('.')
                values[section][field] = (
                    None if row.is_optional and value == row.open_value else value
                )
        return values


def _create(group: ParameterGroup, row: Row) -> Parameter[Any]:
    about = row.field.metadata
    default: Any = row.default
    low, high = row.lowest, about['maximum']
    if row.kind is bool:
        return group.create_boolean_parameter(row.key, default)
    if row.kind is int:
        most = MAX_INTEGER if high is None else high
        return group.create_integer_parameter(row.key, default, minimum=low, maximum=most)
    if row.kind is float:
        return group.create_real_parameter(row.key, float(default), minimum=low, maximum=high)
    return group.create_string_parameter(row.key, default)


def _guard(parameter: Parameter[Any], row: Row) -> None:
    """Let a bad value in a settings file leave the setting as it is, and log a warning.

    Without this guard it would end the application.
    """

    def set_value_from_string(text: str) -> None:
        try:
            value = _parse(text, row)
        except ConfigError as error:
            kept = parameter.get_value_as_string()
            logger.warning('Settings file: %s.%s: %s Kept: %s.', GROUP_NAME, row.key, error, kept)
        else:
            parameter.set_value(value)

    parameter.set_value_from_string = set_value_from_string  # type: ignore[assignment, method-assign]


def _parse(text: str, row: Row) -> Any:
    written = text.strip()
    if row.kind is bool:
        known = {'true': True, '1': True, 'yes': True, 'false': False, '0': False, 'no': False}
        if written.lower() not in known:
            raise ConfigError(f'expected True or False; got {written!r}.')
        return known[written.lower()]
    try:
        value = row.kind(written)
    except ValueError as error:
        raise ConfigError(f'expected a number; got {written!r}.') from error
    if row.names == ('backend',) and value not in row.choices:
        # One that is installed elsewhere is kept; the error at its use explains what to do.
        return value
    if row.is_optional and value == row.open_value:
        return value
    if row.kind is int and row.field.metadata['maximum'] is None and value > MAX_INTEGER:
        raise ConfigError(f'expected at most {MAX_INTEGER}; got {value}.')
    if row.choices is DEVICES and not re.fullmatch(r'auto|cpu|mps|cuda(:\d+)?', value):
        raise ConfigError(f'expected auto, cpu, cuda, cuda:1 ..., or mps; got {value!r}.')
    section, _, field = row.names[0].rpartition('.')
    _SECTIONS[section](**{field: value})
    return value
