"""From defaults, a file and options to what is in force."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from ptychopinn_plugin.cli.options import READING, Given, Section, takes_settings
from ptychopinn_plugin.cli.settings import assemble_config, parse_assignment, refuse_changes
from ptychopinn_plugin.config import Config, RefinementConfig, TrainingConfig
from ptychopinn_plugin.errors import ConfigError


def test_nothing_given_is_the_default() -> None:
    assert assemble_config({}) == Config()


def test_precedence(tmp_path: Path) -> None:
    file = tmp_path / 'config.toml'
    file.write_text('[training]\nepochs = 7\nseed = 7\nbatch_size = 7\nlearning_rate = 0.07\n')
    config = assemble_config(
        {'training': {'epochs': 9}},
        file=file,
        assignments=['training.epochs=8', 'training.seed=8'],
        base={'training': {'batch_size': 6, 'weight_decay': 0.06}},
    )
    training = config.training
    assert training.epochs == 9
    assert training.seed == 8
    assert training.batch_size == 7
    assert training.weight_decay == 0.06
    assert training.schedule == TrainingConfig().schedule


def test_a_run_can_be_repeated_from_its_own_file(tmp_path: Path) -> None:
    config = assemble_config({'training': {'epochs': 3}, 'model': {'gridsize': 2}})
    (tmp_path / 'config.toml').write_text(config.to_toml(), encoding='utf-8')
    assert assemble_config({}, file=tmp_path / 'config.toml') == config


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('training.epochs=20', ('training', 'epochs', 20)),
        ('training.learning-rate = 1e-4', ('training', 'learning_rate', 1e-4)),
        ('training.probe_trainable=yes', ('training', 'probe_trainable', True)),
        ('training.target=none', ('training', 'target', 'none')),
        ('training.max_minutes=none', ('training', 'max_minutes', None)),
        ('training.device="cuda:1"', ('training', 'device', 'cuda:1')),
    ],
)
def test_assignment(text: str, expected: tuple[str, str, Any]) -> None:
    assert parse_assignment(text) == expected


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('epochs=20', 'section.name=value'),
        ('training.epochs', 'section.name=value'),
        ('nowhere.epochs=20', 'Sections: model, training, inference, refinement'),
        ('training.epoch=20', 'Fields: .*epochs'),
        ('training.epochs=some', 'whole number'),
        ('training.probe_trainable=perhaps', 'true or false'),
    ],
)
def test_wrong_assignment(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_assignment(text)


def test_changes_are_refused_where_they_cannot_be() -> None:
    old = Config()
    new = assemble_config({'training': {'epochs': 7}})
    refuse_changes(old, new, ('training.epochs',), 'Leave it.')
    refuse_changes(old, new, ('training',), 'Leave it.')
    with pytest.raises(ConfigError, match=r'training.epochs was 100 .* got 7. Leave it.'):
        refuse_changes(old, new, ('model',), 'Leave it.')


def _call(*arguments: str) -> Given:
    seen: list[Given] = []

    @takes_settings(
        Section('refinement', RefinementConfig, 'Refinement', options={'iterations': 'refine'}),
        READING,
    )
    def command(name: Annotated[str, typer.Argument()], *, given: Given) -> None:
        seen.append(given)

    app = typer.Typer()
    app.command()(command)
    app(['file', *arguments], standalone_mode=False)
    return seen[0]


def test_only_what_was_given_arrives() -> None:
    assert _call() == {'refinement': {}, 'reading': {}}
    given = _call(
        '--refine', '0', '--no-probe', '--probe-from', 'a.npz', '--mask-hot', '--photons', '1e5'
    )
    assert given['refinement'] == {'iterations': 0, 'probe': False}
    assert given['reading'] == {'probe_from': Path('a.npz'), 'mask_hot': True, 'photons': 1e5}


def test_every_setting_says_what_it_is() -> None:
    for item in dataclasses.fields(Config):
        settings = type(getattr(Config(), item.name))
        for part in dataclasses.fields(settings):
            assert part.metadata['help']
