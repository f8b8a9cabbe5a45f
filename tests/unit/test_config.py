"""Settings: limits, names, TOML."""

import math
from pathlib import Path

import pytest

from ptychopinn_plugin.config import Config, InferenceConfig, ModelConfig, TrainingConfig
from ptychopinn_plugin.errors import ConfigError


@pytest.mark.parametrize(
    ('section', 'values', 'words'),
    [
        (ModelConfig, {'gridsize': 6}, 'at most 5'),
        (ModelConfig, {'gridsize': 0}, 'at least 1'),
        (ModelConfig, {'architecture': 'transformer'}, 'one of sweepnet, cnn'),
        (ModelConfig, {'filters_scale': math.nan}, 'at least 0.25'),
        (TrainingConfig, {'epochs': 2.5}, 'of type int'),
        (TrainingConfig, {'epochs': True}, 'of type int'),
        (TrainingConfig, {'probe_trainable': 1}, 'of type bool'),
        (TrainingConfig, {'learning_rate': -1}, 'at least 0'),
        (InferenceConfig, {'batch_size': 0}, 'at least 1'),
    ],
)
def test_a_wrong_value_names_its_field(section: type, values: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=f'{section.__name__}.{next(iter(values))}.*{words}'):
        section(**values)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"no field 'epoch'.*epochs"):
        Config.from_dict({'training': {'epoch': 3}})
    with pytest.raises(ConfigError, match=r'no section \[train\].*training'):
        Config.from_dict({'train': {}})


def test_toml_round_trip(tmp_path: Path) -> None:
    config = Config(
        model=ModelConfig(gridsize=2, pattern_size=128), training=TrainingConfig(max_minutes=3)
    )
    path = tmp_path / 'config.toml'
    path.write_text(config.to_toml())
    assert Config.from_toml(path) == config


def test_a_broken_toml_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / 'config.toml'
    path.write_text('[training\nepochs = 3')
    with pytest.raises(ConfigError) as caught:
        Config.from_toml(path)
    assert 'config.toml' in str(caught.value)
    assert '\n' not in str(caught.value)
