"""Every setting, with its default written once.

Frozen dataclasses, passed as arguments; nothing is global. A `Config` goes to and
from TOML, and into the model file.
"""

import dataclasses
import math
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import tomli_w

from ptychopinn_plugin.errors import ConfigError

Architecture = Literal['sweepnet', 'cnn']
ModelType = Literal['pinn', 'supervised']
Activation = Literal['sigmoid', 'swish', 'softplus', 'relu']
Schedule = Literal['constant', 'exponential', 'cosine', 'one-cycle', 'plateau']
Optimizer = Literal['adam', 'adamw']
Precision = Literal['float32', 'bfloat16', 'float16']
Target = Literal['iterations', 'none']
MAX_SEED = 2**31 - 1
"""Every generator of random numbers takes a seed up to this, as does Qt's box for numbers."""

MAX_EPOCHS_OR_ITERATIONS = 1_000_000
"""Nobody waits for more epochs or iterations; a file with more is damaged or does harm."""

COMMAND_LINE = ('backend', 'reading')
"""A `config.toml` may hold these besides a `Config`: what computes, and how scans are read."""

IntensityScale = Literal['auto', 'scan', 'model']
StitchingWeights = Literal['intensity', 'amplitude', 'uniform']
Rotations = Literal['auto', 'one', 'four']
ObjectType = Literal['auto', 'complex', 'amplitude', 'phase']


def setting(
    default: Any,
    help_: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    unit: str = '',
) -> Any:
    """Declare a field with its help and limits, which the command line and the panel show."""
    metadata = {'help': help_, 'minimum': minimum, 'maximum': maximum, 'unit': unit}
    return field(default=default, metadata=metadata)


def photons_setting(use: str) -> Any:
    """Declare the mean photons of a pattern, which the command line and the panel both offer."""
    help_ = f'Patterns of another unit are scaled to this mean number of photons{use}'
    return setting(None, help_, minimum=1.0, maximum=1e12)


class Validated:
    """Check types, choices and limits of each field after construction."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            value = _checked(getattr(self, item.name), hints[item.name], item, type(self).__name__)
            # A text may have become a path, or a whole number a float; the class is frozen.
            object.__setattr__(self, item.name, value)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build from plain values; a name that is not a field is an error that lists them.

        Raises
        ------
        ConfigError
            If a name is not a field, or a value is not one that its field can have.
        """
        known = {item.name for item in dataclasses.fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(
                f'{cls.__name__} has no field {unknown[0]!r}. Fields: {", ".join(sorted(known))}.'
            )
        return cls(**values)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed, validated again."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]


def _checked(value: Any, hint: Any, item: dataclasses.Field[Any], owner: str) -> Any:
    name = f'{owner}.{item.name}'
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union) and type(None) in arguments:
        if value is None:
            return None
        hint = next(a for a in arguments if a is not type(None))
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(
                f'{name} must be one of {", ".join(map(str, arguments))}; got {value!r}.'
            )
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            # Such a number has more than 308 digits, which nobody wants to see.
            raise ConfigError(f'{name} must be a finite number; got one beyond 1e308.') from None
    if hint is Path and isinstance(value, str):
        value = Path(value)
    # For Python True is a whole number.
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise ConfigError(f'{name} must be of type {hint.__name__}; got {value!r}.')
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f'{name} must be a finite number; got {value}.')
    low, high = item.metadata.get('minimum'), item.metadata.get('maximum')
    if low is not None and value < low:
        raise ConfigError(f'{name} must be at least {low}; got {value}.')
    if high is not None and value > high:
        raise ConfigError(f'{name} must be at most {high}; got {value}.')
    return value


@dataclass(frozen=True)
class ModelConfig(Validated):
    """What the network is."""

    architecture: Architecture = setting(
        'sweepnet',
        'sweepnet is a small network that corrects back-projections, pass by pass; '
        'cnn is the published encoder with two decoders',
    )
    pattern_size: int | None = setting(
        None,
        'The model takes square patterns of this side, or of that of the first scan',
        minimum=16,
        maximum=1024,
        unit='px',
    )
    gridsize: int = setting(
        1, 'A group holds gridsize² neighbouring patterns', minimum=1, maximum=5
    )
    model_type: ModelType = setting(
        'pinn',
        'pinn learns from the patterns alone; supervised learns from the object in the scan file',
    )
    filters_scale: float = setting(
        1.0, 'This factor multiplies the number of filters in every layer', minimum=0.25, maximum=8
    )
    passes: int = setting(
        3,
        'The network sweepnet corrects the stitched object this many times',
        minimum=1,
        maximum=16,
    )
    amplitude_activation: Activation = setting(
        'sigmoid', 'This activation ends the decoder of the amplitude in cnn'
    )
    pad_object: bool = setting(True, 'The network cnn predicts the central half of a patch')
    border_decoder: bool = setting(True, 'A second branch of cnn predicts the border of a patch')
    overlap_constraint: bool = setting(
        True, 'The patches of a group are averaged where they overlap before diffraction'
    )

    def sized_for(self, pattern_shape: tuple[int, int]) -> 'ModelConfig':
        """Return the settings with a size of patterns: the shorter side of the data's, if unset."""
        return self.replace(pattern_size=self.pattern_size or min(pattern_shape))


@dataclass(frozen=True)
class TrainingConfig(Validated):
    """How the network learns."""

    epochs: int = setting(
        100,
        'Training meets each pattern about twice in an epoch',
        minimum=1,
        maximum=MAX_EPOCHS_OR_ITERATIONS,
    )
    max_minutes: float | None = setting(
        None, 'Training, its target included, stops after this time', minimum=0.01, unit='min'
    )
    batch_size: int = setting(32, 'A batch holds this number of patterns', minimum=1, maximum=4096)
    learning_rate: float = setting(
        1e-3, 'The learning rate reaches this value at its peak', minimum=0.0, maximum=1.0
    )
    optimizer: Optimizer = setting('adamw', 'The optimizer is adam or adamw')
    weight_decay: float = setting(
        1e-4, 'The optimizer adamw shrinks the weights at this rate', minimum=0.0, maximum=1.0
    )
    schedule: Schedule = setting('one-cycle', 'The learning rate follows this schedule')
    warmup_fraction: float = setting(
        0.05,
        'The learning rate rises during this fraction of the training',
        minimum=0.0,
        maximum=0.9,
    )
    gradient_clip: float = setting(
        1.0,
        'A gradient of a larger norm is scaled down to this norm; 0 leaves all gradients alone',
        minimum=0.0,
    )
    gradient_accumulation_steps: int = setting(
        1, 'This number of batches shares one step of the optimizer', minimum=1
    )
    ema_decay: float = setting(
        0.8,
        'The average of the weights, which is validated and kept, holds on to this fraction of '
        'itself from epoch to epoch; 0 keeps the weights of an epoch as they are',
        minimum=0.0,
        maximum=0.999,
    )
    precision: Precision = setting('float32', 'The network computes with this arithmetic')
    early_stop_patience: int | None = setting(
        None,
        'Training stops after this number of epochs without a better validation loss',
        minimum=1,
    )
    validation_fraction: float = setting(
        0.05,
        'This fraction of the groups is held out where no validation scan is given',
        minimum=0,
        maximum=0.9,
    )
    seed: int = setting(
        0,
        'The same seed gives the same bits on a CPU with the same number of threads',
        minimum=0,
        maximum=MAX_SEED,
    )
    device: str = setting('auto', 'This device computes: auto, cpu, cuda, cuda:1, mps')
    poisson_weight: float = setting(
        1.0, 'The Poisson likelihood has this weight in the loss', minimum=0.0
    )
    amplitude_mae_weight: float = setting(
        0.0, 'The mean absolute error of the amplitudes has this weight in the loss', minimum=0.0
    )
    target: Target = setting(
        'iterations',
        'iterations reconstructs the training scan first, by iterations, and learns from that '
        'object too; none learns from the likelihood alone',
    )
    target_weight: float = setting(
        2.0, 'The distance to the target has this weight in the loss', minimum=0.0
    )
    target_iterations: int = setting(
        100,
        'This number of iterations reconstructs the target',
        minimum=1,
        maximum=MAX_EPOCHS_OR_ITERATIONS,
    )
    target_positions: bool = setting(
        False, 'The target corrects the scan positions, which training then uses'
    )
    target_intensities: bool = setting(
        False,
        'The target gives the beam an intensity of its own at each pattern, for a beam that drifts '
        'or flickers, which training then uses',
    )
    total_variation_weight: float = setting(
        0.0, 'The total variation of the predicted patches has this weight in the loss', minimum=0.0
    )
    probe_trainable: bool = setting(
        False, 'Target and training correct the probe, for scans whose probe is a guess'
    )
    intensity_scale_trainable: bool = setting(False, 'Training corrects the intensity scale')
    n_groups: int | None = setting(
        None, 'An epoch uses this number of groups, or all where it is not given', minimum=1
    )
    neighbor_count: int = setting(
        8, 'A group is chosen among this number of nearest neighbours of its seed', minimum=1
    )
    n_subsample: int | None = setting(
        None, 'Training uses this number of patterns of each scan', minimum=1
    )


@dataclass(frozen=True)
class InferenceConfig(Validated):
    """How a trained network is applied."""

    batch_size: int = setting(32, 'A batch holds this number of patterns', minimum=1, maximum=65536)
    device: str = setting('auto', 'This device computes: auto, cpu, cuda, cuda:1, mps')
    phase_synchronization: bool = setting(
        True, 'The free global phases of the patches are brought into agreement'
    )
    stitching_weights: StitchingWeights = setting(
        'intensity',
        'Where patches overlap, intensity weights them by the intensity of the probe, amplitude by '
        'its amplitude, and uniform alike wherever it is brighter than a hundredth of its peak',
    )
    test_time_rotations: Rotations = setting(
        'auto',
        'The network sweepnet gets each pattern in one or in four rotations, 90 degrees apart; '
        'with four the mean of its corrections counts, which takes up to four times as long; auto '
        'takes four where illuminations overlap little',
    )
    prior_passes: int | None = setting(
        None,
        'The built-in model corrects the object this many times, with iterations in between, also '
        'after a trained network; where no number is given, it does so at most once where '
        'illuminations overlap well, more often where they overlap little, unless the light is '
        'very faint, and never after a trained network and a given number of iterations',
        minimum=0,
        maximum=100,
    )
    intensity_scale: IntensityScale = setting(
        'auto',
        'model scales counts as in training, so that amplitudes compare across scans; scan scales '
        'them by this scan alone; auto scales them as in training where the exposure is within a '
        'factor of two',
    )


@dataclass(frozen=True)
class RefinementConfig(Validated):
    """Iterations over the stitched object."""

    iterations: int | None = setting(
        None,
        'This number of iterations refines the object; 0 leaves it as inference made it; '
        'without a number the overlap of the illuminations decides, and iterations end where they '
        'no longer gain',
        minimum=0,
        maximum=MAX_EPOCHS_OR_ITERATIONS,
    )
    max_seconds: float | None = setting(
        None,
        'The iterations of a reconstruction end at about this time after its beginning, and become '
        'fewer; with drop_outliers, which makes two runs, the first gets a half of it',
        minimum=0.01,
        unit='s',
    )
    batch_size: int = setting(
        64,
        'This number of patterns is updated together, or a 64th of the scan where that is more',
        minimum=1,
        maximum=65536,
    )
    probe: bool = setting(False, 'The iterations correct the probe as well')
    positions: bool = setting(False, 'The iterations correct the scan positions as well')
    position_scale: bool = setting(
        False,
        'Positions that are corrected may change in scale too, as with a wrong pixel size; noise '
        'draws it out by 1 to 2 %',
    )
    intensities: bool = setting(
        False,
        'The iterations let the beam have an intensity of its own at each pattern, for a beam that '
        'drifts or flickers',
    )
    opr_modes: int = setting(
        0,
        'The iterations describe a probe that varies from pattern to pattern by this number of '
        'eigenmodes and their weights (OPR); 0 keeps eigenmodes of the product as they are',
        minimum=0,
        maximum=16,
    )
    object_type: ObjectType = setting(
        'auto',
        'What is known of the object, which the iterations keep to: an amplitude object changes no '
        'phase, a phase object absorbs nothing, and a complex object does both; with auto nothing '
        'is known, and where patterns share little, starts of all three kinds are tried',
    )
    min_amplitude: float | None = setting(
        None,
        'The iterations keep the amplitude of the object at or above this, in units of its root '
        'mean square under the light',
        minimum=0.0,
    )
    max_amplitude: float | None = setting(
        None,
        'The iterations keep the amplitude of the object at or below this, in units of its root '
        'mean square under the light',
        minimum=0.01,
    )
    total_variation: float | None = setting(
        None,
        'Each iteration smooths fluctuations of about this size out of the object and keeps edges, '
        'in units of the noise that counting gives to a pixel; 0 smooths nothing, and without a '
        'number it is 0.25 where at most two illuminations overlap, and falls to 0 where four do',
        minimum=0.0,
        maximum=100.0,
    )
    probe_radius: float | None = setting(
        None,
        'A probe that is corrected is dark beyond this radius around the middle of its frame',
        minimum=0.5,
        unit='px',
    )
    drop_outliers: bool = setting(
        False,
        'Patterns that do not fit the others are left out, and the rest is reconstructed again',
    )
    seed: int = setting(
        0, 'The seed decides the order of the patterns', minimum=0, maximum=MAX_SEED
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        least, largest = self.min_amplitude, self.max_amplitude
        if least is not None and largest is not None and least > largest:
            raise ConfigError(
                'RefinementConfig.min_amplitude must not be above max_amplitude; got '
                f'{least:g} and {largest:g}. Change one of them.'
            )


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file, with or without the byte-order mark that Windows' editors write.

    Raises
    ------
    ConfigError
        If the file is not TOML. The message explains how a path with backslashes is written.
    """
    text = ''
    try:
        # Some editors begin a file with a byte order mark, which TOML does not allow.
        text = path.read_text(encoding='utf-8-sig')
        return tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        message = f'{path} is not a readable TOML file: {error}.'
        if re.search(r'=\s*"[^"\n]*\\', text):
            message += (
                ' In double quotes a backslash must be doubled; write paths in single quotes: '
                r"'C:\data\scan.npz'."
            )
        raise ConfigError(message) from error


@dataclass(frozen=True)
class Config(Validated):
    """All settings of a run but for how scans are read; `config.toml` holds one."""

    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    refinement: RefinementConfig = field(default_factory=RefinementConfig)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build from nested plain values; missing ones take their default.

        Raises
        ------
        ConfigError
            If there is no such section, a section is no mapping, or a field of it is wrong.
        """
        sections = {
            item.name: typing.get_type_hints(cls)[item.name] for item in dataclasses.fields(cls)
        }
        if not isinstance(values, Mapping):
            raise ConfigError(f'Settings must be sections of names and values; got {values!r}.')
        unknown = sorted(set(values) - set(sections))
        if unknown:
            raise ConfigError(
                f'There is no section [{unknown[0]}]. Sections: {", ".join(sections)}.'
            )
        for name, part in values.items():
            if not isinstance(part, dict):
                raise ConfigError(
                    f'[{name}] must be a section of settings; got {part!r}. '
                    f'Write it as [{name}] with a line for each setting.'
                )
        return cls(**{name: sections[name].from_dict(part) for name, part in values.items()})

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return nested plain values; a setting that is None is left out, as TOML has no null."""
        return {
            section: {name: value for name, value in values.items() if value is not None}
            for section, values in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_toml(cls, path: Path) -> Self:
        """Read a `config.toml`; what the command line alone uses, `COMMAND_LINE`, is left out."""
        values = read_toml(path)
        return cls.from_dict({name: v for name, v in values.items() if name not in COMMAND_LINE})

    def to_toml(self) -> str:
        """Return the text of a `config.toml`."""
        return tomli_w.dumps(self.to_dict())
