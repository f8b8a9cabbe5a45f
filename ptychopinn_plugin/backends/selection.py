"""Which backend runs, and why: one rule, in one function."""

import functools
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ptychopinn_plugin.backends.spec import BackendSpec, entry_points_of
from ptychopinn_plugin.errors import BackendUnavailableError, ConfigError, UnknownBackendError

if TYPE_CHECKING:
    from ptychopinn_plugin.backends.protocol import Backend
    from ptychopinn_plugin.backends.spec import Join

ENTRY_POINT_GROUP = 'ptychopinn_plugin.backends'
ENVIRONMENT_VARIABLE = 'PTYCHOPINN_BACKEND'
AUTOMATIC = 'auto'
"""Wherever a backend is named, this and an empty name leave the choice to what comes next."""

Source = Literal['argument', 'environment', 'setting', 'model', 'auto']

_AUTOMATIC_ORDER = ('pytorch', 'tensorflow')
_NAMED_BY: dict[Source, str] = {
    'argument': 'requested',
    'environment': f'requested by {ENVIRONMENT_VARIABLE}',
    'setting': 'requested by the saved setting',
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """A backend and what decided for it.

    Attributes
    ----------
    name : str
    source : str
        'argument', 'environment', 'setting', 'model' or 'auto'.
    """

    name: str
    source: Source


def find_backends() -> dict[str, BackendSpec]:
    """Return every known backend by name, in the order of automatic choice.

    Installed or not: a backend is known if an entry point names it.
    """
    found: dict[str, BackendSpec] = {}
    for entry in entry_points_of(ENTRY_POINT_GROUP):
        try:
            spec = entry.load()
        except Exception as error:  # noqa: BLE001 - others' code, which may raise anything
            reason = f'{type(error).__name__}: {error}'
            _warn_once(f'The backend {entry.name!r} does not load and is left out: {reason}.')
            continue
        if not isinstance(spec, BackendSpec):
            _warn_once(f'The backend {entry.name!r} is no BackendSpec and is left out.')
        elif spec.name in found:
            _warn_once(f'Two backends are named {spec.name!r}; {entry.value} is left out.')
        else:
            found[spec.name] = spec
    return {name: found[name] for name in sorted(found, key=_automatic_rank)}


@functools.cache
def _warn_once(text: str) -> None:
    """Warn of what stays as it is, however often somebody looks."""
    logger.warning('%s', text)


def choose(
    explicit: str | None = None,
    *,
    setting: str | None = None,
    model_backend: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Choice:
    """Choose the backend: the first of these that names one.

    1. `explicit`: an argument, the option `--backend`;
    2. the environment variable PTYCHOPINN_BACKEND;
    3. `setting`: what a settings file holds;
    4. `model_backend`: the backend that trained the model;
    5. what is installed: PyTorch, then TensorFlow, then others by name.

    Case does not matter, aliases are accepted, an empty name and 'auto' name none. What is named
    and cannot run is an error; another backend never steps in silently.

    Parameters
    ----------
    explicit, setting, model_backend : str, optional
    environment : mapping of str to str, optional
        In place of `os.environ`.

    Returns
    -------
    Choice

    Raises
    ------
    UnknownBackendError
        If no backend has the name.
    BackendUnavailableError
        If its framework is missing or too old, or no backend is installed.
    """
    specs = find_backends()
    variables = os.environ if environment is None else environment
    ranked: list[tuple[str | None, Source]] = [
        (explicit, 'argument'),
        (variables.get(ENVIRONMENT_VARIABLE), 'environment'),
        (setting, 'setting'),
        (model_backend, 'model'),
    ]
    for written, source in ranked:
        name = (written or '').strip().lower()
        if name and name != AUTOMATIC:
            return Choice(_checked(name, source, specs), source)
    for name, spec in specs.items():
        if spec.problem() is None:
            return Choice(name, 'auto')
    raise BackendUnavailableError(_none_installed(specs))


def create_backend(name: str) -> 'Backend':
    """Import a backend with its framework and make one.

    Parameters
    ----------
    name : str
        As in `Choice.name`; aliases are accepted.

    Raises
    ------
    UnknownBackendError
        If no backend has this name.
    BackendUnavailableError
        If its framework is missing, too old or fails to import.
    """
    specs = find_backends()
    spec = specs[_checked(name.strip().lower(), 'argument', specs)]
    try:
        make = spec.load()
    except (ImportError, OSError, AttributeError) as error:
        # OSError: a shared library of the framework is missing.
        reason = next(iter(str(error).splitlines()), '') or type(error).__name__
        raise BackendUnavailableError(
            f'Backend {spec.name!r} is installed but does not import: {reason.rstrip(".")}. '
            f'Install it anew with {spec.install_command}, and see: ptychopinn doctor.'
        ) from error
    return make()


def find_joining(choice: Choice) -> 'Join':
    """Return the context in which several processes compute with a backend.

    Raises
    ------
    ConfigError
        If the backend computes in one process alone.
    """
    specs = find_backends()
    if not specs[choice.name].joining:
        able = ', '.join(name for name, spec in specs.items() if spec.joining)
        raise ConfigError(
            f'Several processes compute together only with: {able}. The backend is {choice.name} '
            f'({choice.source}). Use --backend {able}, or one process.'
        )
    return specs[choice.name].load_joining()


def _checked(written: str, source: Source, specs: Mapping[str, BackendSpec]) -> str:
    """Return the name that is meant, if that backend can run."""
    name = _resolve(written, specs)
    problem = specs[name].problem() if name else 'is not known here'
    if name and problem is None:
        return name
    usable = _usable(specs)
    if source == 'model':
        raise BackendUnavailableError(_model_needs(written, problem, specs.get(name or ''), usable))
    if name is None:
        raise UnknownBackendError(
            f'Backend {written!r} ({_NAMED_BY[source]}) is not known; valid: '
            f'{", ".join((*specs, AUTOMATIC))}; installed: {_listed(usable)}.'
        )
    by = '' if source == 'argument' else f', {_NAMED_BY[source]},'
    raise BackendUnavailableError(
        f'Backend {name!r}{by} {problem} (installed: {_listed(usable)}). '
        f'Run: {specs[name].install_command}.'
    )


def _resolve(written: str, specs: Mapping[str, BackendSpec]) -> str | None:
    if written in specs:
        return written
    return next((name for name, spec in specs.items() if written in spec.aliases), None)


def _model_needs(
    written: str, problem: str | None, spec: BackendSpec | None, usable: list[str]
) -> str:
    ways = []
    if spec is not None:
        ways.append(f'run: {spec.install_command}')
    if usable:
        ways.append(
            f'choose another one: --backend {usable[0]}, {ENVIRONMENT_VARIABLE}={usable[0]}, or '
            "Backend in Ptychodus' panel"
        )
    return (
        f'The model was made by backend {written!r}, which {problem} '
        f'(installed: {_listed(usable)}). To use it, {" or ".join(ways) or "install a backend"}.'
    )


def _none_installed(specs: Mapping[str, BackendSpec]) -> str:
    if not specs:
        return (
            'No backend is known: the entry points of ptychopinn-plugin are not installed. '
            "Run: pip install 'ptychopinn-plugin[pytorch]'."
        )
    states = '; '.join(f'{name} {spec.problem()}' for name, spec in specs.items())
    command = next(iter(specs.values())).install_command
    return f'No backend can run here: {states}. Run: {command}.'


def _usable(specs: Mapping[str, BackendSpec]) -> list[str]:
    return [name for name, spec in specs.items() if spec.problem() is None]


def _listed(names: list[str]) -> str:
    return ', '.join(names) or 'none'


def _automatic_rank(name: str) -> tuple[int, str]:
    if name in _AUTOMATIC_ORDER:
        return _AUTOMATIC_ORDER.index(name), name
    return len(_AUTOMATIC_ORDER), name
