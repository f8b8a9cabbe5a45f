"""Settings files that were written under the former names of settings."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from ptychodus.api import settings as host_settings
from ptychodus.api.settings import SettingsRegistry

from ptychopinn_plugin.config import (
    Config,
    InferenceConfig,
    RefinementConfig,
    TrainingConfig,
)
from ptychopinn_plugin.former_settings import RENAMED_SETTINGS
from ptychopinn_plugin.host.former_names import key_of
from ptychopinn_plugin.host.presets import NORMAL_MINUTES
from ptychopinn_plugin.host.settings import GROUP_NAME, ROWS, PluginSettings

from .hosts import run_host

FORMER_FILE = Path(__file__).with_name('settings_with_former_names.ini')
"""The plugin wrote this before its settings were renamed, with values other than the defaults."""

EXPECTED = Config(
    training=TrainingConfig(
        epochs=12, target='none', target_weight=0.5, target_iterations=40, validation_fraction=0.2
    ),
    inference=InferenceConfig(phase_synchronization=False, test_time_rotations='four'),
    refinement=RefinementConfig(iterations=7),
)

Read = Callable[[str], tuple[Config, SettingsRegistry]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Return a function that reads lines of the plugin's section with a registry of the host."""

    def read_lines(lines: str) -> tuple[Config, SettingsRegistry]:
        file = tmp_path / 'settings.ini'
        file.write_text(f'[{GROUP_NAME}]\n{lines}\n')
        registry = SettingsRegistry()
        settings = PluginSettings(registry)
        registry.open_settings(file)
        return settings.config('pinn'), registry

    return read_lines


def test_a_whole_file_of_before_is_read(caplog: pytest.LogCaptureFixture) -> None:
    registry = SettingsRegistry()
    settings = PluginSettings(registry)
    with caplog.at_level(logging.INFO):
        registry.open_settings(FORMER_FILE)
    assert settings.config('pinn') == EXPECTED
    # One line for each, and no warning of the host that a key is unknown.
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 7
    assert all(record.levelno == logging.INFO for record in caplog.records)
    assert any('TrainingTeacherSweeps is named TrainingTargetIterations' in line for line in lines)


def test_what_is_saved_holds_todays_names_alone(tmp_path: Path) -> None:
    registry = SettingsRegistry()
    PluginSettings(registry)
    registry.open_settings(FORMER_FILE)
    registry.save_settings(tmp_path / 'saved.ini')
    text = (tmp_path / 'saved.ini').read_text()
    keys = {line.partition(' = ')[0] for line in text.splitlines() if ' = ' in line}
    assert keys == {row.key for row in ROWS} | {'RecentModels'}
    again = SettingsRegistry()
    settings = PluginSettings(again)
    again.open_settings(tmp_path / 'saved.ini')
    assert settings.config('pinn') == EXPECTED


def test_every_row_that_was_renamed_is_read(read: Read) -> None:
    shown = {row.names[0]: row for row in ROWS}
    renamed = {
        f'{section}.{name}': key_of(section, former)
        for section, names in RENAMED_SETTINGS.items()
        for former, name in names.items()
        if f'{section}.{name}' in shown
    }
    assert len(renamed) == 7
    for name, key in renamed.items():
        row = shown[name]
        value = row.choices[-1] if row.choices else 'False' if row.kind is bool else '1'
        value = '0.5' if row.kind is float else value
        config, _ = read(f'{key} = {value}')
        assert config != Config(), key


def test_the_former_choice_of_the_target_is_translated(read: Read) -> None:
    config, _ = read('TrainingTarget = none\n')
    assert config.training.target == 'none'
    config, _ = read('TrainingTeacher = sweeps\nRefinementSweeps = 3')
    assert (config.training.target, config.refinement.iterations) == ('iterations', 3)


@pytest.mark.parametrize('newest_first', [True, False])
def test_where_a_file_holds_both_the_new_one_wins(
    read: Read, caplog: pytest.LogCaptureFixture, newest_first: bool
) -> None:
    lines = ['RefinementIterations = 5', 'RefinementSweeps = 9']
    with caplog.at_level(logging.INFO):
        config, _ = read('\n'.join(lines if newest_first else reversed(lines)))
    assert config.refinement.iterations == 5
    (line,) = caplog.messages
    assert 'RefinementSweeps is named RefinementIterations today' in line
    assert 'the new one counts' in line


def test_a_bad_value_under_a_former_name_leaves_the_setting(
    read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        config, _ = read('RefinementSweeps = many\nTrainingEpochs = 3')
    assert config == Config(training=TrainingConfig(epochs=3, max_minutes=NORMAL_MINUTES))
    (line,) = caplog.messages
    assert 'RefinementIterations' in line
    assert "got 'many'" in line


def test_the_host_still_warns_of_a_key_that_nobody_knows(
    read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    _, registry = read('RefinementSweeps = 3\nRefinementSpeed = 9')
    if not hasattr(host_settings, '_warn_unrecognized_keys'):
        pytest.skip('This Ptychodus does not look for unknown keys.')
    (line,) = (line for line in caplog.messages if 'refinementspeed' in line)
    assert 'unrecognized' in line
    assert set(registry[GROUP_NAME].parameters()) == {row.key for row in ROWS} | {'RecentModels'}


def test_the_application_reads_former_names_wherever_it_opens_a_file() -> None:
    """At the start, as with ``ptychodus -f``, and later, as window and batch mode do."""
    reported, warnings = run_host(
        f"""
from pathlib import Path

def values(model):
    group = model.settings_registry[{GROUP_NAME!r}].parameters()
    keys = 'TrainingTargetIterations', 'InferenceTestTimeRotations', 'RefinementIterations'
    return [group[key].get_value() for key in keys]

file = Path({str(FORMER_FILE)!r})
started = values(ModelCore(file, log_level=logging.INFO))
model = ModelCore(log_level=logging.INFO)
before = values(model)
model.settings_registry.open_settings(file)
report(model, started=started, before=before, opened=values(model))
"""
    )
    assert reported['started'] == reported['opened'] == [40, 'four', 7]
    assert reported['before'] == [100, 'auto', -1]
    assert not warnings
