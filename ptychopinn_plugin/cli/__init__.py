"""The command `ptychopinn`; frameworks and libraries are imported by the command that uses them."""

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, cast

import typer
import typer.main
from typer.core import TyperGroup

from ptychopinn_plugin._version import __version__
from ptychopinn_plugin.cli.bench import bench_command
from ptychopinn_plugin.cli.check import check_command
from ptychopinn_plugin.cli.convert import convert_command
from ptychopinn_plugin.cli.demo import demo_command
from ptychopinn_plugin.cli.doctor import doctor_command
from ptychopinn_plugin.cli.evaluate import evaluate_command
from ptychopinn_plugin.cli.export import export_command
from ptychopinn_plugin.cli.group import group_command
from ptychopinn_plugin.cli.inspect import inspect_command
from ptychopinn_plugin.cli.log import showing_warnings
from ptychopinn_plugin.cli.options import joined_lines
from ptychopinn_plugin.cli.ptychopinn_scripts import (
    ptycho_inference_command,
    ptycho_train_command,
)
from ptychopinn_plugin.cli.ranks import keeping_quiet, refuse_several_processes
from ptychopinn_plugin.cli.reconstruct import reconstruct_command, refine_command
from ptychopinn_plugin.cli.replay import replay_command
from ptychopinn_plugin.cli.reproduce import reproduce_command
from ptychopinn_plugin.cli.signals import exit_code, handling_signals
from ptychopinn_plugin.cli.stream import stream_command
from ptychopinn_plugin.cli.train import train_command
from ptychopinn_plugin.errors import ConfigError, PtychoPinnError

__all__ = ['app', 'main']

BAD_INPUT, INTERRUPTED = 2, 130

# Newer versions of typer carry their own copy of click: take its base class from what they export.
_ClickError = cast(type[Exception], typer.BadParameter.__mro__[2])


class _Commands(TyperGroup):
    """The commands; `simulate`, whose settings import SciPy, is completed when it is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        _refuse_empty(rest)
        refuse_several_processes(name)
        if name == 'simulate':
            module = importlib.import_module('ptychopinn_plugin.cli.simulate')
            single = typer.Typer(add_completion=False, rich_markup_mode='rich')
            function = module.simulate_command
            single.command(name, help=joined_lines(function.__doc__))(function)
            command = typer.main.get_command(single)
        return name, command, rest


def _refuse_empty(arguments: Sequence[str]) -> None:
    """Refuse a value of no letters: as a path it would be the current folder."""
    for number, argument in enumerate(arguments):
        before = arguments[number - 1] if number else ''
        name = before if before.startswith('-') else 'an argument'
        if argument.startswith('--') and argument.endswith('='):
            name, argument = argument[:-1], ''
        if not argument:
            raise ConfigError(
                f'A value was expected for {name}; got an empty one. Give one, or leave it out. '
                'Is a variable of the shell not set?'
            )


app = typer.Typer(
    cls=_Commands,
    rich_markup_mode='rich',
    pretty_exceptions_enable=False,
    context_settings={'help_option_names': ['-h', '--help']},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f'ptychopinn-plugin {__version__}')
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option('--version', callback=_show_version, is_eager=True, help='Version.')
    ] = False,
) -> None:
    """Train a network on your own diffraction patterns, without labels, and see the object.

    \b
    First steps:
      ptychopinn demo -o demo            all of it on a simulated scan
      ptychopinn inspect scan.npz        what a file holds
      ptychopinn check scan.npz          whether patterns and positions go together
      ptychopinn train scan.npz -o run   a model: run/wts.h5.zip
      ptychopinn reconstruct run/wts.h5.zip scan.npz -o result
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


def _announce_simulate() -> None:
    """Simulate a scan with its true object, to try and to compare with."""


_COMMANDS: dict[str, Callable[..., int | None]] = {
    'demo': demo_command,
    'simulate': _announce_simulate,
    'train': train_command,
    'reconstruct': reconstruct_command,
    'refine': refine_command,
    'reproduce': reproduce_command,
    'stream': stream_command,
    'replay': replay_command,
    'check': check_command,
    'evaluate': evaluate_command,
    'inspect': inspect_command,
    'convert': convert_command,
    'export': export_command,
    'group': group_command,
    'ptycho-train': ptycho_train_command,
    'ptycho-inference': ptycho_inference_command,
    'bench': bench_command,
    'doctor': doctor_command,
}
for _name, _command in _COMMANDS.items():
    app.command(_name, help=joined_lines(_command.__doc__ or ''))(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and leave: 0 is done, 2 an error that the user can mend.

    A signal ends with 128 and its number: 130 for Ctrl-C, 143 for SIGTERM.

    Parameters
    ----------
    arguments : sequence of str, optional
        In place of ``sys.argv[1:]``.
    """
    try:
        with handling_signals(), keeping_quiet(), showing_warnings():
            code = app(arguments, prog_name='ptychopinn', standalone_mode=False)
    except PtychoPinnError as error:
        sys.exit(_fail(str(error)))
    except _ClickError as error:
        sys.exit(_fail(_explain(error)))
    except MemoryError as error:
        # NumPy puts the size of the array into the message; Python itself leaves it empty.
        detail = str(error) or 'the size of what did not fit is unknown'
        sys.exit(_fail(f'The memory of this machine is too small: {detail}. Use a smaller scan.'))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(exit_code())
    # Some versions of typer catch the interrupt and return this code.
    sys.exit(exit_code() if code == INTERRUPTED else code if isinstance(code, int) else 0)


def _fail(message: str) -> int:
    typer.echo(f'error: {" ".join(message.split())}', err=True)
    return BAD_INPUT


def _explain(error: Any) -> str:
    """Return what is wrong with a command line, and where its help is."""
    context = getattr(error, 'ctx', None)
    path = 'ptychopinn' if context is None else context.command_path
    return f'{error.format_message().rstrip(".")}. See: {path} --help.'
