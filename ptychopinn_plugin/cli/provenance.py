"""Where a result comes from: what was read, with which settings, by which model and software."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptychopinn_plugin.cli.options import Given, ScanReading
from ptychopinn_plugin.ptychodus_compat import PRODUCT_NAMES

if TYPE_CHECKING:
    from ptychopinn_plugin.config import Config
    from ptychopinn_plugin.model_file import Model

FILE_OPTIONS = ('product', 'positions', 'probe_from', 'mask')
"""These ways of reading a scan name further files."""

_PIECE = 1 << 20
"""Files are hashed in pieces of a MiB, as they may be larger than the memory."""


def describe_run(
    command: str,
    scan: Path,
    model: 'Path | Model | None',
    backend: str,
    config: 'Config',
    given: Given,
) -> dict[str, Any]:
    """Return what a run was, so that it can be run again.

    Parameters
    ----------
    command : str
        Which command it was.
    scan : Path
    model : Path or Model, optional
        What reconstructs; iterations alone have no model.
    backend : str
    config : Config
        In force; its sections 'inference' and 'refinement' count.
    given : dict of dict
        The section 'reading'.

    Returns
    -------
    dict
        Plain values but for paths; `with_relative_paths` and `without_paths` make them plain.
    """
    settings = config.to_dict()
    # Settings without a part in the result would make two equal runs look different.
    sections = ('refinement',) if model is None else ('inference', 'refinement')
    reading = dict(given['reading'])
    inputs = {'scan': _input(scan)}
    for name in FILE_OPTIONS:
        if reading.get(name) is not None:
            path = Path(reading.pop(name))
            plain = _plain_file(path)
            inputs[name] = _input(plain)
            if plain != path:
                inputs[name]['dataset'] = str(path)[len(str(plain)) + 1 :]
    return {
        'command': command,
        'backend': backend,
        'settings': {section: settings[section] for section in sections},
        'reading': {
            name: value
            for name, value in vars(ScanReading.from_dict(reading)).items()
            if name in reading
        },
        'inputs': inputs,
        'model': None if model is None else _describe_model(model),
    }


def with_relative_paths(run: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a run whose paths begin in the folder of its results, as `reproduce` needs them."""
    return _with_paths(run, lambda path: os.path.relpath(path.absolute(), folder.absolute()))


def without_paths(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run without paths, which results that are passed on need not disclose."""
    return _with_paths(run, lambda _: None)


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file, or of the files that make a folder a scan."""
    digest = hashlib.sha256()
    files = [path]
    if path.is_dir():
        files = [path / name for name in ('diffraction.h5', *PRODUCT_NAMES)]
    for file in files:
        if file.is_file():
            with file.open('rb') as stream:
                while piece := stream.read(_PIECE):
                    digest.update(piece)
    return digest.hexdigest()


def _plain_file(path: Path) -> Path:
    """Return the file of a mask, which can be followed by the name of a dataset."""
    if path.exists():
        return path
    name, colon, _ = str(path).rpartition(':')
    return Path(name) if colon else path


def _input(path: Path) -> dict[str, Any]:
    return {'name': path.name, 'path': path, 'sha256': hash_of(path)}


def _describe_model(model: 'Path | Model') -> dict[str, Any]:
    if not isinstance(model, Path):
        return {'name': 'in memory', 'path': None, 'sha256': model.fingerprint()}
    from ptychopinn_plugin.opening import BUILT_IN_KEYWORD

    if str(model) == BUILT_IN_KEYWORD and not model.exists():
        from ptychopinn_plugin.model_file import BUILT_IN_PATH

        return {'name': BUILT_IN_KEYWORD, 'path': None, 'sha256': hash_of(BUILT_IN_PATH)}
    return _input(model)


def _with_paths(run: Mapping[str, Any], change: Any) -> dict[str, Any]:
    def plain(item: Mapping[str, Any] | None) -> dict[str, Any] | None:
        if item is None:
            return None
        path = None if item['path'] is None else change(item['path'])
        return {**item, 'path': path} if path is not None else {**item, 'path': None}

    return {
        **run,
        'inputs': {name: plain(item) for name, item in run['inputs'].items()},
        'model': plain(run['model']),
    }
