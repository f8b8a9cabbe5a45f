"""The table of rows: each setting once, saved, loaded and validated by the host's registry."""

import dataclasses
import logging
from pathlib import Path

import pytest
from ptychodus.api.settings import SettingsRegistry

from ptychopinn_plugin.config import Config, TrainingConfig
from ptychopinn_plugin.errors import ConfigError
from ptychopinn_plugin.host.presets import CUSTOM, NORMAL_MINUTES, PRESETS
from ptychopinn_plugin.host.settings import (
    GROUP_NAME,
    ROWS,
    HostOptions,
    PluginSettings,
    Row,
)


@pytest.fixture
def registry() -> SettingsRegistry:
    return SettingsRegistry()


@pytest.fixture
def settings(registry: SettingsRegistry) -> PluginSettings:
    return PluginSettings(registry)


DEFAULTS = Config(training=TrainingConfig(max_minutes=NORMAL_MINUTES))
"""In Ptychodus a training has a time limit."""


def test_untouched_settings_are_the_defaults(settings: PluginSettings) -> None:
    assert settings.config('pinn') == DEFAULTS
    assert settings.options == HostOptions()
    assert settings.config('supervised').model.model_type == 'supervised'


def test_keys_are_unique() -> None:
    assert len({row.key for row in ROWS}) == len(ROWS)
    assert len({name for row in ROWS for name in row.names}) == sum(len(row.names) for row in ROWS)


@pytest.mark.parametrize('row', ROWS, ids=lambda row: row.key)
def test_each_row_explains_itself(row: Row) -> None:
    assert row.tool_tip[:-1].strip()
    assert row.tool_tip.endswith('.')
    low = row.field.metadata['minimum']
    # Ptychodus' spin boxes need a minimum.
    assert row.kind is not int or row.is_optional or low is not None


@pytest.mark.parametrize('row', ROWS, ids=lambda row: row.key)
def test_a_label_is_the_name_of_the_setting_in_words(row: Row) -> None:
    """One vocabulary for the window, the settings file, `config.toml` and the command line."""
    _, _, field = row.names[0].rpartition('.')
    in_window = {
        'n_subsample': 'subsample',
        'target_positions': 'refine_target_positions',
        'target_intensities': 'refine_target_intensities',
        'probe': 'refine_probe',
        'positions': 'refine_positions',
        'position_scale': 'refine_position_scale',
        'intensities': 'refine_intensities',
    }
    name = in_window.get(field, field)
    label = row.label.partition(' [')[0]
    assert label[0].isupper()
    assert label.lower().replace('-', ' ') == name.replace('_', ' ')


@pytest.mark.parametrize('row', ROWS, ids=lambda row: row.key)
def test_each_row_survives_a_settings_file(row: Row, tmp_path: Path) -> None:
    before, after = SettingsRegistry(), SettingsRegistry()
    changed, loaded = PluginSettings(before), PluginSettings(after)
    parameter = changed.parameters[row.names[0]]
    value = _another(row)
    parameter.set_value(value)
    before.save_settings(tmp_path / 'settings.ini')
    after.open_settings(tmp_path / 'settings.ini')
    assert loaded.parameters[row.names[0]].get_value() == value
    assert loaded.options == changed.options
    assert loaded.config('pinn') == changed.config('pinn')
    # One row changed, and so did what it stands for.
    assert (loaded.config('pinn'), loaded.options) != (DEFAULTS, HostOptions())


def _another(row: Row) -> object:
    """Return a valid value that is not the default."""
    default = row.field.default
    if row.choices:
        return next(choice for choice in row.choices if choice != default)
    if row.kind is bool:
        return not default
    if row.names[0] in ('model.pattern_size', 'photons'):
        return 64
    if row.kind is float:
        return 0.5 if default != 0.5 else 0.25
    return 3 if default != 3 else 4


@pytest.mark.parametrize(
    ('line', 'words'),
    [
        ('TrainingEpochs = many', "expected a number; got 'many'"),
        ('TrainingEpochs = 0', 'at least 1'),
        # Qt's boxes and progress bar end the application over what 32 bits do not hold.
        ('TrainingEpochs = 3000000000', 'at most 1000000'),
        ('TrainingNSubsample = 99999999999999999999', 'at most 1000000000'),
        ('RefinementIterations = 2147483647', 'at most 1000000'),
        ('TrainingLearningRate = nan', 'finite number'),
        ('TrainingSchedule = lunar', 'one-cycle'),
        ('ModelPadObject = perhaps', "expected True or False; got 'perhaps'"),
        ('ModelPatternSize = 7', 'at least 16'),
        ('IdleMinutes = -1', 'at least 0.1'),
        ('TrainingDevice = gpu0', "expected auto, cpu, cuda, cuda:1 ..., or mps; got 'gpu0'"),
    ],
)
def test_a_value_that_cannot_be_is_named_and_the_former_kept(
    settings: PluginSettings,
    registry: SettingsRegistry,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    line: str,
    words: str,
) -> None:
    file = tmp_path / 'settings.ini'
    file.write_text(f'[{GROUP_NAME}]\n{line}\nTrainingBatchSize = 8\n')
    with caplog.at_level(logging.WARNING):
        registry.open_settings(file)
    (record,) = caplog.records
    assert words in record.getMessage()
    assert f'{GROUP_NAME}.{line.split()[0]}' in record.getMessage()
    assert settings.options == HostOptions()
    # The lines beside it count.
    expected = DEFAULTS.training.replace(batch_size=8)
    assert settings.config('pinn') == Config(training=expected)


def test_a_backend_that_is_missing_here_is_kept(
    settings: PluginSettings, registry: SettingsRegistry, tmp_path: Path
) -> None:
    file = tmp_path / 'settings.ini'
    file.write_text(f'[{GROUP_NAME}]\nBackend = jax\n')
    registry.open_settings(file)
    assert settings.backend == 'jax'


def test_a_gpu_that_the_dropdown_does_not_offer_is_kept(
    settings: PluginSettings, registry: SettingsRegistry, tmp_path: Path
) -> None:
    file = tmp_path / 'settings.ini'
    file.write_text(f'[{GROUP_NAME}]\nTrainingDevice = cuda:12\n')
    registry.open_settings(file)
    config = settings.config('pinn')
    assert (config.training.device, config.inference.device) == ('cuda:12', 'cuda:12')


def test_a_number_between_off_and_its_minimum_is_an_error(settings: PluginSettings) -> None:
    settings.parameters['model.pattern_size'].set_value(5)
    with pytest.raises(ConfigError, match='pattern_size'):
        settings.config('pinn')


@pytest.mark.parametrize('row', [row for row in ROWS if row.kind in (int, float)])
def test_the_nearest_number_is_one_that_a_run_takes(settings: PluginSettings, row: Row) -> None:
    parameter = settings.parameters[row.names[0]]
    low, high = row.field.metadata['minimum'], row.field.metadata['maximum']
    given = [-5, 0.001 if row.kind is float else 1, 10 * (high or 1)]
    for value in given:
        taken = row.nearest(value)
        parameter.set_value(taken)
        assert parameter.get_value() == taken
        # Neither raises an error.
        settings.config('pinn')
        assert settings.options is not None
        assert taken in (value, low, high, row.open_value)


def test_what_is_not_in_the_panel_is_a_choice() -> None:
    """Every setting is in the panel, or is left to the command line on purpose."""
    shown = {name for row in ROWS for name in row.names}
    left_out = {
        'model.model_type',  # the algorithm's name decides
        'training.gradient_accumulation_steps',
        'training.gradient_clip',
        'training.n_groups',
        'training.neighbor_count',
        'training.optimizer',
        'training.warmup_fraction',
        'training.ema_decay',
        'training.weight_decay',
    }
    every = {
        f'{section.name}.{field.name}'
        for section in dataclasses.fields(Config)
        for field in dataclasses.fields(section.default_factory)  # type: ignore[arg-type, misc]
    }
    assert shown & every | left_out == every


def test_a_preset_sets_rows_and_becomes_custom_with_one_of_them(settings: PluginSettings) -> None:
    preset = settings.parameters['preset']
    for name, values in PRESETS.items():
        preset.set_value(name)
        assert {key: settings.parameters[key].get_value() for key in values} == dict(values)
        assert preset.get_value() == name
    settings.parameters['training.epochs'].set_value(7)
    assert preset.get_value() == CUSTOM
    settings.parameters['training.epochs'].set_value(PRESETS['Best']['training.epochs'])
    assert preset.get_value() == 'Best'
    assert all(set(values) == set(PRESETS['Normal']) for values in PRESETS.values())


def test_rows_of_a_settings_file_win_over_its_preset(
    settings: PluginSettings, registry: SettingsRegistry, tmp_path: Path
) -> None:
    file = tmp_path / 'settings.ini'
    file.write_text(f'[{GROUP_NAME}]\nTrainingEpochs = 7\nPreset = Quick look\n')
    registry.open_settings(file)
    training = settings.config('pinn').training
    assert (training.epochs, training.max_minutes) == (7, 1.0)
    assert settings.options.preset == CUSTOM


def test_recent_models_are_kept_in_the_settings_file(tmp_path: Path) -> None:
    before, after = SettingsRegistry(), SettingsRegistry()
    models = PluginSettings(before, ('PINN',)).recent_models
    files = [tmp_path / f'50 % {number}.zip' for number in range(3)]
    for file in (*files, files[0]):
        file.touch()
        models.note('PINN', file)
    files[1].unlink()
    before.save_settings(tmp_path / 'settings.ini')
    loaded = PluginSettings(after, ('PINN',)).recent_models
    after.open_settings(tmp_path / 'settings.ini')
    assert loaded.paths() == [files[0], files[2]]
    assert loaded.loaded('PINN') == files[0]
    loaded.note('PINN', None)
    assert loaded.loaded('PINN') is None
    assert loaded.paths() == [files[0], files[2]]
