"""What a user reads before the first run, and how fast it comes."""

import dataclasses
import json
import re
import subprocess
import sys
from typing import Any

import pytest
import typer.main

from ptychopinn_plugin.cli import app
from ptychopinn_plugin.config import (
    InferenceConfig,
    ModelConfig,
    RefinementConfig,
    TrainingConfig,
)

COMMANDS = (
    'train',
    'reconstruct',
    'refine',
    'stream',
    'replay',
    'check',
    'evaluate',
    'inspect',
    'convert',
    'export',
    'group',
    'simulate',
    'bench',
    'ptycho-train',
    'ptycho-inference',
)
HEAVY = ('torch', 'tensorflow', 'scipy', 'matplotlib', 'skimage', 'h5py', 'ptychodus')


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('COLUMNS', '160')
    monkeypatch.setenv('NO_COLOR', '1')


@pytest.mark.parametrize('command', COMMANDS)
def test_help_teaches_by_examples(run: Any, command: str) -> None:
    shown = run(command, '--help')
    assert shown.code == 0
    assert 'Examples:' in shown.out
    assert shown.out.count(f'ptychopinn {command} ') >= 3


@pytest.mark.parametrize('command', [name for name in COMMANDS if name != 'simulate'])
def test_examples_can_be_typed_as_they_stand(command: str) -> None:
    """Each example parses: a renamed option does not stay behind in a help text."""
    known: Any = typer.main.get_command(app)
    found = known.commands[command]
    _, _, text = found.help.partition('Examples:\n')
    examples = re.sub(r'\n +(?=--)', ' ', text).splitlines()
    assert examples
    for example in examples:
        program, name, *arguments = example.split()
        assert (program, name) == ('ptychopinn', command)
        found.make_context(command, arguments)


@pytest.mark.parametrize(
    ('command', 'section', 'settings'),
    [
        ('train', 'training', TrainingConfig),
        ('train', 'model', ModelConfig),
        ('reconstruct', 'inference', InferenceConfig),
        ('reconstruct', 'refinement', RefinementConfig),
    ],
)
def test_settings_stand_below_the_name_of_their_box(
    command: str, section: str, settings: type
) -> None:
    """As in the panel of Ptychodus: Training, Model, Inference and Refinement."""
    known: Any = typer.main.get_command(app)
    panels = {each.name: each.rich_help_panel for each in known.commands[command].params}
    for field in dataclasses.fields(settings):
        heading = panels[f'{section}_{field.name}']
        assert heading.partition(':')[0] == section.title()


def test_overview_lists_every_command(run: Any) -> None:
    for shown in (run('--help'), run()):
        assert shown.code == 0
        for command in (*COMMANDS, 'demo', 'doctor'):
            assert f' {command} ' in shown.out


def test_options_say_default_limits_and_unit(run: Any) -> None:
    shown = ' '.join(run('train', '--help').out.split())
    assert 'default 100; 1 to 1000000' in shown
    assert 'at least 0.01 min' in shown
    assert 'constant, exponential, cosine, one-cycle, plateau' in shown
    assert '--probe-trainable' in shown
    assert '--no-probe-trainable' in shown


def test_simulate_has_an_option_for_each_setting(run: Any) -> None:
    shown = run('simulate', '--help').out
    for option in ('--object', '--probe', '--path', '--step', '--photons', '--modes', '--seed'):
        assert f'{option} ' in shown


def test_version(run: Any) -> None:
    assert run('--version').out.startswith('ptychopinn-plugin ')


def test_help_imports_nothing_heavy() -> None:
    code = (
        'import json, sys\n'
        'from ptychopinn_plugin.cli import app\n'
        "app(['--help'], standalone_mode=False)\n"
        f'print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))'
    )
    child = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert json.loads(child.stdout.splitlines()[-1]) == []


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (('bogus',), "No such command 'bogus'"),
        (('train',), 'ptychopinn train --help'),
        (('train', 'scan.npz'), '--output'),
        (('train', 'scan.npz', '-o', 'x', '--epochs', 'many'), '--epochs'),
        (('train', 'scan.npz', '-o', 'x', '--epohcs', '3'), '--epohcs'),
        (('simulate', 'scan.npz', '--seeed', '3'), 'ptychopinn simulate --help'),
    ],
)
def test_a_wrong_command_line_is_one_line(run: Any, arguments: Any, expected: str) -> None:
    assert expected in run(*arguments).error()
