"""The files of a run: complete and together, or not there at all."""

import csv
import json
import logging
import math
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ptychopinn_plugin.backends.common.ranks import Launch
from ptychopinn_plugin.cli.log import show_note
from ptychopinn_plugin.cli.signals import holding_signals
from ptychopinn_plugin.errors import OutputError
from ptychopinn_plugin.storage import atomic
from ptychopinn_plugin.storage.lock import locked_folder

logger = logging.getLogger('ptychopinn_plugin')


MODEL_FILE = 'wts.h5.zip'
CHECKPOINT_FILE = 'checkpoint.h5.zip'

_MOVING = f'{atomic.UNFINISHED}moving-'
"""A stage is named so when all is written and only the names are to be given."""


@contextmanager
def staged_outputs(
    folder: Path, names: Sequence[str], *, rescue: str | None = None
) -> Iterator[Path]:
    """Yield a folder to write to, whose files move to `folder` together at the end.

    The run owns `folder` meanwhile. If the block fails, results of a former run stay as they are,
    and a folder that was made for this run goes again. What a killed run has left goes, or is
    brought to its end where only the names were missing.

    Parameters
    ----------
    folder : Path
    names : sequence of str
        The files to come; checked before the work begins.
    rescue : str, optional
        A file that took long to make. If it is complete when something else fails, it is kept as
        ``rescued-NAME``.

    Raises
    ------
    OutputError
        If `folder` cannot be written to, or another run writes to it.
    """
    if Launch.of_environment().rank > 0:
        # Of several processes rank 0 alone owns the folder, and writes to it.
        with tempfile.TemporaryDirectory() as unused:
            yield Path(unused)
        return
    stage = folder / f'{atomic.UNFINISHED}{secrets.token_hex(4)}'
    with output_folder(folder), locked_folder(folder):
        clear_leftovers(folder, names)
        try:
            _check_names(folder, names)
            _spare_scan(folder, names)
            atomic.check_output_folder(stage)
            yield stage
            with holding_signals():
                stage = _move_files(stage, folder)
                shutil.rmtree(stage, ignore_errors=True)
        except OutputError as error:
            # Messages name the folder that the user gave, not the one in which files are staged.
            raise OutputError(str(error).replace(str(stage), str(folder))) from error
        finally:
            with _unwinding():
                if rescue is not None and (stage / rescue).is_file():
                    _rescue(stage / rescue, folder)
                shutil.rmtree(stage, ignore_errors=True)


def clear_leftovers(folder: Path, names: Sequence[str]) -> None:
    """Remove what killed runs have left in a folder that this run owns.

    A run that was killed while its files got their names is brought to its end; a model that such
    a run had finished is kept as ``rescued-NAME``.

    Parameters
    ----------
    folder : Path
    names : sequence of str
        The files of this command, which may lie there half written.
    """
    checkpoint = Path(CHECKPOINT_FILE)
    own = (*names, MODEL_FILE, *atomic.names_of_checkpoint(checkpoint))
    atomic.remove_partial(folder, own)
    for path in sorted(folder.glob(f'{atomic.UNFINISHED}*')):
        if not path.is_dir():
            continue
        # Its files were complete, and some may have their names already.
        if path.name.startswith(_MOVING):
            logger.warning('The results of a run that was killed at its end are in %s now.', folder)
            _give_names(path, folder)
        elif (path / MODEL_FILE).is_file():
            _rescue(path / MODEL_FILE, folder)
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Create a folder where it is missing; if the block fails, it goes again where it is empty.

    Raises
    ------
    OutputError
        If `folder` cannot be written to.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        atomic.check_output_folder(folder)
        yield
    except BaseException:
        for path in created:
            # One that is not empty stays, and so do those above it.
            with suppress(OSError):
                path.rmdir()
        raise


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file, in one go or not at all."""
    write_text(path, to_json(values) + '\n')


def write_text(path: Path, text: str) -> None:
    """Write a text file, in one go or not at all."""
    with atomic.atomic_path(path) as temporary:
        temporary.write_text(text, encoding='utf-8')


def write_history(path: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Write one row an epoch; a column that an epoch lacks stays empty."""
    columns = list(dict.fromkeys(name for row in history for name in row))
    with atomic.atomic_path(path) as temporary, temporary.open('w', newline='') as file:
        writer = csv.DictWriter(file, columns, lineterminator='\n')
        writer.writeheader()
        writer.writerows({name: f'{value:.9g}' for name, value in row.items()} for row in history)


def to_json(values: Mapping[str, Any], indent: int | None = 2) -> str:
    """Return JSON that every parser reads: NaN and infinity become null; no indent is one line."""
    text = json.dumps(_plain(values), indent=indent, allow_nan=False, ensure_ascii=False)
    # Bytes of a file name that are no UTF-8 become JSON's own escapes, from which `json.loads`
    # makes the same name again.
    return text.encode('utf-8', 'backslashreplace').decode('utf-8')


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _check_names(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        if (folder / name).is_dir():
            raise OutputError(
                f'{folder / name} must become a file; it is a folder. Choose another --output.'
            )


def _spare_scan(folder: Path, names: Sequence[str]) -> None:
    """Refuse to replace the product that belongs to the patterns beside it."""
    if 'product.h5' in names and all(
        (folder / name).is_file() for name in ('diffraction.h5', 'product.h5')
    ):
        raise OutputError(
            f'{folder} holds a scan of Ptychodus, whose product.h5 would be replaced. '
            'Choose another --output.'
        )


def _move_files(stage: Path, folder: Path) -> Path:
    """Give all files their names, or none; return where the stage lies now.

    If the process is killed on the way, the next run goes on with it, see `clear_leftovers`.
    """
    try:
        for path in _files(stage):
            # Bytes come before names, or a power cut could leave names of empty files.
            atomic.sync_file(path)
        moving = stage.with_name(_MOVING + stage.name.removeprefix(atomic.UNFINISHED))
        os.rename(stage, moving)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    try:
        try:
            atomic.sync_folder(folder)
        except OSError as error:
            raise _cannot_write(folder, error) from error
        _give_names(moving, folder)
    except BaseException:
        # The next run must not go on with what has failed.
        os.rename(moving, stage)
        raise
    return moving


def _files(stage: Path) -> list[Path]:
    return sorted(path for path in stage.iterdir() if path.is_file())


def _cannot_write(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f'Cannot write to {folder}: {error.strerror or error}. What was there before is there '
        'still. Choose another folder.'
    )


def _give_names(stage: Path, folder: Path) -> None:
    """Move files from a stage; where one cannot be moved, those before it go back.

    A file that is replaced keeps a second name in the stage until all are moved, so that at each
    moment a complete file stands under every name.
    """
    former = stage / 'former'
    moved: list[Path] = []
    try:
        shutil.rmtree(former, ignore_errors=True)
        former.mkdir()
        for path in _files(stage):
            target = folder / path.name
            if target.exists():
                atomic.link_or_copy(target, former / path.name)
            os.replace(path, target)
            moved.append(path)
        atomic.sync_folder(folder)
    except OSError as error:
        _move_back(moved, folder, former)
        raise _cannot_write(folder, error) from error


def _move_back(moved: Sequence[Path], folder: Path, former: Path) -> None:
    for path in reversed(moved):
        target = folder / path.name
        # What cannot be moved back stays; what went wrong first is being reported.
        with suppress(OSError):
            os.replace(target, path)
        with suppress(OSError):
            if (former / path.name).exists():
                os.replace(former / path.name, target)


@contextmanager
def _unwinding() -> Iterator[None]:
    """Let no signal end what cleans up."""
    with suppress(KeyboardInterrupt), holding_signals():
        yield


def _rescue(path: Path, folder: Path) -> None:
    target, number = folder / f'rescued-{path.name}', 1
    while target.exists():
        number += 1
        target = folder / f'rescued-{number}-{path.name}'
    try:
        os.replace(path, target)
    except OSError:
        # What went wrong first is being reported.
        return
    show_note(f'what was finished is kept as {target}')
