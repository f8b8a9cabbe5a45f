"""The files of a run: complete and together, or not there at all."""

import csv
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import typer

from ptychopinn_plugin.errors import OutputError
from ptychopinn_plugin.storage import atomic


@contextmanager
def staged_outputs(
    folder: Path, names: Sequence[str], *, rescue: str | None = None
) -> Iterator[Path]:
    """Yield a folder to write to, whose files move to `folder` together at the end.

    If the block fails, results of a former run stay as they are, and a folder that was made for
    this run goes again.

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
        If `folder` cannot be written to.
    """
    stage = folder / f'.unfinished-{secrets.token_hex(4)}'
    finished = False
    with output_folder(folder):
        try:
            _check_names(folder, names)
            _spare_scan(folder, names)
            atomic.check_output_folder(stage)
            yield stage
            _move_files(stage, folder)
            finished = True
        except OutputError as error:
            # Users know the folder that they named.
            raise OutputError(str(error).replace(str(stage), str(folder))) from error
        finally:
            if not finished and rescue is not None and (stage / rescue).is_file():
                _rescue(stage / rescue, folder / f'rescued-{rescue}')
            shutil.rmtree(stage, ignore_errors=True)


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


def to_json(values: Mapping[str, Any]) -> str:
    """Return JSON that every parser reads: NaN and infinity become null."""
    return json.dumps(_plain(values), indent=2, allow_nan=False, ensure_ascii=False)


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


def _move_files(stage: Path, folder: Path) -> None:
    """Give all files their names; where one cannot have it, those before it go back.

    A file that is replaced keeps a second name in the stage until all are moved, so that at each
    moment a complete file stands under every name.
    """
    former = stage / 'former'
    moved: list[Path] = []
    try:
        paths = sorted(path for path in stage.iterdir() if path.is_file())
        for path in paths:
            atomic.sync_file(path)
        former.mkdir()
        for path in paths:
            target = folder / path.name
            if target.exists():
                atomic.link_or_copy(target, former / path.name)
            os.replace(path, target)
            moved.append(path)
        atomic.sync_folder(folder)
    except OSError as error:
        _move_back(moved, folder, former)
        raise OutputError(
            f'Cannot write to {folder}: {error.strerror or error}. The files of before are back. '
            'Choose another folder.'
        ) from error


def _move_back(moved: Sequence[Path], folder: Path, former: Path) -> None:
    for path in reversed(moved):
        target = folder / path.name
        # What cannot be moved back stays; what went wrong first is being reported.
        with suppress(OSError):
            os.replace(target, path)
        with suppress(OSError):
            if (former / path.name).exists():
                os.replace(former / path.name, target)


def _rescue(path: Path, target: Path) -> None:
    try:
        os.replace(path, target)
    except OSError:
        # What went wrong first is being reported.
        return
    typer.echo(f'note: what was finished is kept as {target}', err=True)
