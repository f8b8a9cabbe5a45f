"""What a dataset of HDF5 needs besides its own file: other files, memory, and decompression.

HDF5 fills what it does not find of a virtual dataset with zeros, without a warning, and its errors
on a broken link or a missing filter name neither. Here both become errors that name it. `limits`
has the rules for where links may lead and how large arrays may be; raw files, which HDF5 reads from
anywhere without a trace, are refused.
"""

import importlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from ptychopinn_plugin.data.readers.limits import limits
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.packages import is_importable
from ptychopinn_plugin.storage.untrusted import tiny_chunks

MAX_LINKS = 8
"""Links are followed from one to the next this many times."""

MAX_NUMBERED = 100_000
"""Of a dataset in numbered files, this many are looked at."""

HDF5_DAMAGE = (OSError, RuntimeError, KeyError, UnicodeDecodeError)
"""h5py raises these where an HDF5 file is damaged, and KeyError where a link is broken."""

INSTALL_FILTERS = 'pip install hdf5plugin'

_FILTERS = {
    307: 'bzip2',
    32000: 'LZF',
    32001: 'blosc',
    32004: 'LZ4',
    32008: 'bitshuffle',
    32013: 'ZFP',
    32015: 'zstd',
    32017: 'SZ',
    32018: 'FCIDECOMP',
    32024: 'SZ3',
    32026: 'blosc2',
    32028: 'SPERR',
}
"""hdf5plugin brings these filters; The HDF Group lists them under these numbers."""


def check_readable(dataset: Any) -> None:
    """Raise a DataError if a dataset needs what is not here or may not be had.

    Parameters
    ----------
    dataset : h5py.Dataset

    Raises
    ------
    DataError
        It names the missing file, the filter and what installs it, or the limit.
    """
    _refuse_raw_files(dataset)
    path = Path(dataset.file.filename)
    try:
        n_bytes = dataset.dtype.itemsize
    except (ValueError, TypeError) as error:
        raise DataError(
            f'{dataset.name} of {path} must hold numbers or texts; its type is not one of them, or '
            f'damaged ({error}). Write the file again.'
        ) from error
    # An image file in memory has no path.
    sources = {path} if path.is_file() else set()
    if dataset.is_virtual:
        sources |= _check_sources(dataset, path.parent)
    _refuse_tiny_chunks(dataset)
    # HDF5 inflates whole chunks, however little of one is read.
    chunk = math.prod(dataset.chunks or (0,)) * n_bytes
    claimed = max(int(dataset.size or 0) * n_bytes, chunk)
    limits().check_size(
        f'{dataset.name} of {path}', claimed, sum(source.stat().st_size for source in sources)
    )
    _check_filters(dataset)


def _refuse_tiny_chunks(dataset: Any) -> None:
    """Raise a DataError where finding the pieces of a dataset would take minutes."""
    n_chunks, chunk_bytes = tiny_chunks(dataset)
    if n_chunks:
        raise DataError(
            f'{dataset.name} of {dataset.file.filename} is stored in {n_chunks} chunks of '
            f'{chunk_bytes} bytes, which would take very long to read. Write it in larger ones: '
            'h5repack -l CHUNK=... (or contiguous: h5repack -l CONTI).'
        )


def _refuse_raw_files(dataset: Any) -> None:
    for name, _, _ in dataset.external or ():
        raise DataError(
            f'The numbers of {dataset.name} of {dataset.file.filename} lie in the raw file {name}, '
            'which is not read: HDF5 would take any file of this machine for numbers. Write them '
            'into the HDF5 file (h5repack -l CONTI).'
        )


def refuse_special_files(file: Any) -> None:
    """Raise a DataError where a name at the top leads to a pipe or device, which may never end.

    Raises
    ------
    DataError
        If one does.
    """
    for name in file:
        link = file.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            found = Path(file.filename).parent / link.filename
            if found.exists() and not found.is_file() and not found.is_dir():
                raise DataError(
                    f'{file.filename}: {name} is a link to {found}, which is no regular file. It '
                    'is not read.'
                )


def check_links(file: Any, key: str) -> None:
    """Raise a DataError where a name leads, link by link, to a file that may not be read.

    Parameters
    ----------
    file : h5py.Group
    key : str
        A path in it. Where it is broken or not there, nothing is wrong yet.
    """
    _walk(file, key, 0)


def _walk(file: Any, key: str, depth: int) -> None:
    group = file['/'] if key.startswith('/') else file
    parts = [part for part in key.split('/') if part]
    for number, part in enumerate(parts):
        link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
        rest = '/'.join(parts[number + 1 :])
        if isinstance(link, h5py.SoftLink):
            if depth < MAX_LINKS:
                _walk(group, f'{link.path}/{rest}', depth + 1)
            return
        if isinstance(link, h5py.ExternalLink):
            owner = Path(group.file.filename)
            found = _find_file(link.filename, owner.parent)
            if found is not None and depth < MAX_LINKS:
                name = f'{owner}: {group.name.rstrip("/")}/{part}'
                limits().follow(found, owner, f'{name} is a link to the file {found}')
                if h5py.is_hdf5(found):
                    with h5py.File(found, 'r') as other:
                        _walk(other, f'/{link.path.lstrip("/")}/{rest}', depth + 1)
            return
        if link is None:
            return
        group = group[part]


def check_path(path: Path) -> None:
    """Do the same for all datasets of a file, for readers that open it themselves.

    Virtual datasets of less than three axes, which hold no patterns, and broken links may be
    missing: what needs them fails with a message. Files that are no HDF5 pass. What those readers
    then do cannot be limited.
    """
    if not path.is_file() or not h5py.is_hdf5(path):
        return
    try:
        with h5py.File(path, 'r') as file:
            names: list[str] = []
            file.visit_links(names.append)
            for name in names:
                check_links(file, name)
            for dataset in _datasets(file):
                _refuse_raw_files(dataset)
                if dataset.is_virtual and dataset.ndim > 2:
                    _check_sources(dataset, path.parent)
                _load_filters(dataset)
    except HDF5_DAMAGE:
        # The file is damaged, which the reader will report in its own way.
        return


def broken_links(path: Path) -> list[str]:
    """Return a clause on each link of an HDF5 file whose file or dataset is missing."""
    if not path.is_file() or not h5py.is_hdf5(path):
        return []
    try:
        with h5py.File(path, 'r') as file:
            names: list[str] = []
            file.visit_links(names.append)
            broken = (broken_link(file, name) for name in names)
            return list(dict.fromkeys(text for text in broken if text))
    except HDF5_DAMAGE:
        return []


def broken_link(file: Any, key: str) -> str:
    """Return what is missing behind a name, where a link on the way leads nowhere.

    Parameters
    ----------
    file : h5py.Group
    key : str
        A path in it.

    Returns
    -------
    str
        A clause without an end, as "/a/b is a link to /c in the file d.h5, which is missing";
        nothing where the name is not broken or not there.
    """
    return _broken(file, key, 0)


def _broken(file: Any, key: str, depth: int) -> str:
    group = file['/'] if key.startswith('/') else file
    parts = [part for part in key.split('/') if part]
    for number, part in enumerate(parts):
        link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
        if link is None:
            return ''
        try:
            group = group[part]
        except (KeyError, OSError):
            name = f'{group.name.rstrip("/")}/{part}'
            if isinstance(link, h5py.ExternalLink):
                return _external(name, link, Path(group.file.filename))
            if isinstance(link, h5py.SoftLink) and depth < 8:
                rest = '/'.join([link.path, *parts[number + 1 :]])
                return _broken(group, rest, depth + 1)
            return ''
    return ''


def _external(name: str, link: Any, path: Path) -> str:
    what = f'{name} is a link to {link.path} in the file {link.filename}'
    found = _find_file(link.filename, path.parent)
    if found is None:
        return f'{what}, which is missing'
    return f'{what}, which does not hold it or is damaged'


def _find_file(name: str, folder: Path) -> Path | None:
    """Look for a file where HDF5 does: beside the one that names it, then in the current folder."""
    candidates = [folder / name, Path(name)]
    if Path(name).is_absolute():
        candidates.insert(1, folder / Path(name).name)
    for variable in ('HDF5_VDS_PREFIX', 'HDF5_EXT_PREFIX'):
        prefix = os.environ.get(variable, '').replace('${ORIGIN}', str(folder))
        candidates += [Path(prefix) / name] if prefix else []
    return next((path for path in candidates if path.is_file()), None)


def _check_sources(dataset: Any, folder: Path, depth: int = 0) -> set[Path]:
    """Check the files that a virtual dataset is put together from, and return them."""
    missing: list[str] = []
    present: set[Path] = set()
    owner = Path(dataset.file.filename)
    for source in dataset.virtual_sources():
        if source.file_name == '.' or source.file_name in missing:
            continue
        # An unlimited dataset in numbered files ends where they end.
        numbers = range(MAX_NUMBERED) if '%b' in source.file_name else (0,)
        for number in numbers:
            name = source.file_name.replace('%b', str(number))
            found = _find_file(name, folder)
            if found is None:
                if '%b' not in source.file_name:
                    missing.append(name)
                break
            if found not in present:
                what = f'{dataset.name} of {owner} is put together from the file {found}'
                limits().follow(found, owner, what)
                present.add(found)
            if '%b' not in source.file_name:
                _check_source(dataset, found, source.dset_name, depth)
    if missing:
        more = f' and {len(missing) - 3} more' if len(missing) > 3 else ''
        raise DataError(
            f'{dataset.name} of {dataset.file.filename} is put together from other files, of which '
            f'{", ".join(missing[:3])}{more} {"are" if len(missing) > 1 else "is"} missing; HDF5 '
            'would put zeros in their place. Copy them to the same folder, at the paths that the '
            'file names.'
        )
    return present


def _check_source(dataset: Any, path: Path, name: str, depth: int) -> None:
    try:
        with h5py.File(path, 'r') as file:
            check_links(file, name)
            if name in file:
                source = file[name]
                _refuse_raw_files(source)
                if source.is_virtual:
                    if depth >= MAX_LINKS:
                        raise DataError(f'{path}: {name} leads from file to file without end.')
                    _check_sources(source, path.parent, depth + 1)
                _check_filters(source)
                return
            reason = f'holds no {name}'
    except HDF5_DAMAGE as error:
        reason = f'cannot be read ({" ".join(str(error).split())})'
    raise DataError(
        f'{dataset.name} of {dataset.file.filename} is put together from other files, of which '
        f'{path} {reason}. Copy or write that file again.'
    )


def _datasets(file: Any) -> Iterator[Any]:
    found: list[Any] = []
    file.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
    # What lies behind links to other files is not visited.
    names: list[str] = []
    file.visit_links(names.append)
    for name in names:
        if isinstance(file.get(name, getlink=True), h5py.ExternalLink) and name in file:
            found += [file[name]] if isinstance(file[name], h5py.Dataset) else []
    yield from found


def _load_filters(dataset: Any) -> list[tuple[int, str]]:
    """Return number and name of the filters that are missing after an import of hdf5plugin."""
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(number) for number in range(plist.get_nfilters())]
    codes = [(int(item[0]), item[3].decode('utf-8', 'replace')) for item in filters]
    missing = [item for item in codes if not h5py.h5z.filter_avail(item[0])]
    if missing and is_importable('hdf5plugin'):
        # It registers its filters when it is imported.
        importlib.import_module('hdf5plugin')
        missing = [item for item in missing if not h5py.h5z.filter_avail(item[0])]
    return missing


def missing_filter(dataset: Any) -> str:
    """Return an error text that names the filter which a dataset needs, or nothing."""
    for code, own_name in _load_filters(dataset):
        name = _FILTERS.get(code) or own_name.split(';')[0] or 'unknown'
        message = (
            f'{dataset.name} of {dataset.file.filename} is compressed with {name} (HDF5 filter '
        )
        message += f'{code}), which is not installed here. '
        if code in _FILTERS:
            return message + f'Run: {INSTALL_FILTERS}.'
        return message + 'Install its HDF5 plugin, or write the file with gzip (h5repack).'
    return ''


def _check_filters(dataset: Any) -> None:
    message = missing_filter(dataset)
    if message:
        raise DataError(message)
