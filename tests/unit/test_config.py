"""Settings: each limit, each choice, what is unknown, and the way through TOML."""

import dataclasses
import typing
from pathlib import Path
from typing import Any

import pytest

from ptychopinn_plugin.config import (
    Config,
    InferenceConfig,
    ModelConfig,
    RefinementConfig,
    TrainingConfig,
    Validated,
)
from ptychopinn_plugin.data.simulation import SimulationConfig
from ptychopinn_plugin.errors import ConfigError

SECTIONS: list[type[Any]] = [
    ModelConfig,
    TrainingConfig,
    InferenceConfig,
    RefinementConfig,
    SimulationConfig,
]
FIELDS = [(section, item) for section in SECTIONS for item in dataclasses.fields(section)]
NUMBERS = [
    (section, item)
    for section, item in FIELDS
    if not {int, float}.isdisjoint(
        {typing.get_type_hints(section)[item.name]}
        | set(typing.get_args(typing.get_type_hints(section)[item.name]))
    )
]
CHOICES = [
    (section, item)
    for section, item in FIELDS
    if typing.get_origin(typing.get_type_hints(section)[item.name]) is typing.Literal
]


def name_of(value: Any) -> str:
    return value.name if isinstance(value, dataclasses.Field) else getattr(value, '__name__', '')


def is_float(section: type[Any], item: dataclasses.Field[Any]) -> bool:
    hint = typing.get_type_hints(section)[item.name]
    return float in (hint, *typing.get_args(hint))


def build(section: type[Any], name: str, value: Any) -> Any:
    if name in ('rows', 'columns'):
        return section(**{'rows': 3, 'columns': 3, name: value})
    return section(**{name: value})


@pytest.mark.parametrize('section', SECTIONS, ids=name_of)
def test_defaults_are_valid_and_frozen(section: type[Any]) -> None:
    config = section()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, dataclasses.fields(section)[0].name, 3)


@pytest.mark.parametrize(('section', 'item'), FIELDS, ids=name_of)
def test_each_setting_has_a_help_text(section: type[Any], item: dataclasses.Field[Any]) -> None:
    assert len(item.metadata['help']) > 3


@pytest.mark.parametrize(('section', 'item'), NUMBERS, ids=name_of)
def test_each_number_has_a_lower_limit(section: type[Any], item: dataclasses.Field[Any]) -> None:
    low = item.metadata['minimum']
    assert low is not None
    name = f'{section.__name__}.{item.name}'
    if item.name != 'pattern_size' or low >= 16:
        kept = getattr(build(section, item.name, low), item.name)
        assert kept == low
    below = low - 1e-9 - abs(low) * 1e-9 if is_float(section, item) else low - 1
    with pytest.raises(ConfigError, match=rf'{name} must be at least {low}'):
        build(section, item.name, below)


@pytest.mark.parametrize(
    ('section', 'item'),
    [pair for pair in NUMBERS if pair[1].metadata['maximum'] is not None],
    ids=name_of,
)
def test_each_upper_limit(section: type[Any], item: dataclasses.Field[Any]) -> None:
    high = item.metadata['maximum']
    assert getattr(build(section, item.name, high), item.name) == high
    above = high * (1 + 1e-9) if is_float(section, item) else high + 1
    with pytest.raises(ConfigError, match=rf'{item.name} must be at most'):
        build(section, item.name, above)


@pytest.mark.parametrize(('section', 'item'), NUMBERS, ids=name_of)
@pytest.mark.parametrize('value', [float('nan'), 'three', True, [1]], ids=str)
def test_no_number_is_an_error(
    section: type[Any], item: dataclasses.Field[Any], value: Any
) -> None:
    with pytest.raises(ConfigError, match=rf'{section.__name__}\.'):
        build(section, item.name, value)


@pytest.mark.parametrize(('section', 'item'), CHOICES, ids=name_of)
def test_each_choice(section: type[Any], item: dataclasses.Field[Any]) -> None:
    choices = typing.get_args(typing.get_type_hints(section)[item.name])
    for choice in choices:
        if choice == 'image':
            continue  # needs a file
        # A diffuser is of the near field alone.
        more = {'fresnel_number': 0.1} if choice == 'diffuser' else {}
        assert getattr(section(**{item.name: choice, **more}), item.name) == choice
    for wrong in (choices[0].upper(), '', None, 1, [choices[0]]):
        with pytest.raises(ConfigError, match=f'must be one of {", ".join(choices)}'):
            section(**{item.name: wrong})


def test_whole_numbers_are_taken_as_real_ones() -> None:
    rate = TrainingConfig(learning_rate=1).learning_rate
    assert rate == 1.0
    assert isinstance(rate, float)


@pytest.mark.parametrize(
    ('section', 'values'),
    [
        (ModelConfig, {'passes': 2.0}),
        (ModelConfig, {'pad_object': 1}),
        (ModelConfig, {'pad_object': 'yes'}),
        (ModelConfig, {'passes': None}),
        (TrainingConfig, {'device': 3}),
        (TrainingConfig, {'device': None}),
    ],
)
def test_another_type(section: type[Any], values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match='must be of type'):
        section(**values)


def test_none_only_where_it_means_something() -> None:
    config = TrainingConfig(max_minutes=None, early_stop_patience=None)
    assert config.max_minutes is None
    with pytest.raises(ConfigError, match=r'TrainingConfig\.epochs must be of type int; got None'):
        TrainingConfig(epochs=None)  # type: ignore[arg-type]


def test_replace_checks_again() -> None:
    config = ModelConfig().replace(passes=5)
    assert config.passes == 5
    with pytest.raises(ConfigError, match='passes'):
        config.replace(passes=0)


@pytest.mark.parametrize('section', SECTIONS, ids=name_of)
def test_an_unknown_name_lists_the_known_ones(section: type[Validated]) -> None:
    with pytest.raises(ConfigError, match="has no field 'nepoch'") as raised:
        section.from_dict({'nepoch': 3})
    for item in dataclasses.fields(section):  # type: ignore[arg-type]
        assert item.name in str(raised.value)


def test_an_unknown_section_lists_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r'no section \[trainig\].*model, training, inference, refinement'
    ):
        Config.from_dict({'trainig': {}})


def test_a_section_of_another_type() -> None:
    with pytest.raises(ConfigError, match='model'):
        Config(model=TrainingConfig())  # type: ignore[arg-type]


def test_dictionary_round_trip() -> None:
    config = Config(
        model=ModelConfig(architecture='cnn', pattern_size=128, gridsize=3),
        training=TrainingConfig(max_minutes=2, schedule='plateau', probe_trainable=True),
        inference=InferenceConfig(phase_synchronization=False),
        refinement=RefinementConfig(iterations=0),
    )
    values = config.to_dict()
    assert 'early_stop_patience' not in values['training']
    assert values['training']['max_minutes'] == 2.0
    assert Config.from_dict(values) == config
    assert Config.from_dict({}) == Config()


def test_toml_round_trip(tmp_path: Path) -> None:
    config = Config(
        model=ModelConfig(filters_scale=1 / 3, overlap_constraint=False),
        training=TrainingConfig(learning_rate=1.2345678901234e-5, n_groups=77, device='cuda:1'),
    )
    path = tmp_path / 'config.toml'
    path.write_text(config.to_toml(), encoding='utf-8')
    assert Config.from_toml(path) == config


def test_a_part_of_a_toml_file_is_enough(tmp_path: Path) -> None:
    path = tmp_path / 'config.toml'
    path.write_text('[training]\nepochs = 3\n', encoding='utf-8')
    assert Config.from_toml(path) == Config(training=TrainingConfig(epochs=3))
    path.write_text('backend = "pytorch"\n[reading]\nmask_hot = true\n', encoding='utf-8')
    assert Config.from_toml(path) == Config()
    path.write_text('', encoding='utf-8')
    assert Config.from_toml(path) == Config()


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('[training\n', 'not a readable TOML file'),
        ('[training]\nepochs = 0\n', r'TrainingConfig\.epochs must be at least 1; got 0'),
        ('[training]\nepochs = nan\n', r'TrainingConfig\.epochs must be of type int'),
        (
            f'[training]\nlearning_rate = 1{400 * "0"}\n',
            r'learning_rate must be a finite number; got one beyond 1e308',
        ),
        ('[training]\nlearning_rate = nan\n', r'learning_rate must be a finite number; got nan'),
        ('[training]\nepoch = 1\n', "has no field 'epoch'"),
        ('epochs = 1\n', r'no section \[epochs\]'),
    ],
)
def test_a_wrong_toml_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / 'config.toml'
    path.write_text(text, encoding='utf-8')
    with pytest.raises(ConfigError, match=message):
        Config.from_toml(path)


def test_a_toml_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='not a readable TOML file'):
        Config.from_toml(tmp_path / 'missing.toml')
    (tmp_path / 'binary.toml').write_bytes(b'\xff\xfe\x00')
    with pytest.raises(ConfigError, match='not a readable TOML file'):
        Config.from_toml(tmp_path / 'binary.toml')


def test_a_value_where_a_section_belongs(tmp_path: Path) -> None:
    path = tmp_path / 'config.toml'
    path.write_text('model = 3\n', encoding='utf-8')
    with pytest.raises(ConfigError, match='model'):
        Config.from_toml(path)


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / 'config.toml'
    path.write_text('[training]\nepochs = 3\n', encoding='utf-8-sig')
    assert Config.from_toml(path) == Config(training=TrainingConfig(epochs=3))


def test_a_path_of_windows_is_explained(tmp_path: Path) -> None:
    path = tmp_path / 'config.toml'
    path.write_text('[reading]\nproduct = "C:\\data\\product.h5"\n', encoding='utf-8')
    with pytest.raises(ConfigError, match='write paths in single quotes'):
        Config.from_toml(path)
    path.write_text("[reading]\nproduct = 'C:\\data\\product.h5'\n", encoding='utf-8')
    assert Config.from_toml(path) == Config()
