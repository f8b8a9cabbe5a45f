"""What a dataset of HDF5 needs besides its own file: other files, and decompression.

HDF5 fills what it does not find of a virtual dataset with zeros, without a warning, and its errors
on a broken link or a missing filter name neither. Here both become errors that name it.
"""

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.packages import is_importable

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
    """Raise a DataError if a dataset needs a file or a filter that is not here.

    Parameters
    ----------
    dataset : h5py.Dataset

    Raises
    ------
    DataError
        It names the missing file, or the filter and what installs it.
    """
    folder = Path(dataset.file.filename).parent
    if dataset.is_virtual:
        _check_sources(dataset, folder)
    for name, _, _ in dataset.external or ():
        if _find_file(name, folder) is None:
            raise DataError(
                f'The numbers of {dataset.name} of {dataset.file.filename} lie in the file {name}, '
                'which is missing. Copy it to the same folder.'
            )
    _check_filters(dataset)


def check_path(path: Path) -> None:
    """Do the same for all datasets of a file, for readers that open it themselves.

    Virtual datasets of less than three axes, which hold no patterns, and broken links may be
    missing: what needs them fails with a message. Files that are no HDF5 pass.
    """
    if not path.is_file() or not h5py.is_hdf5(path):
        return
    try:
        with h5py.File(path, 'r') as file:
            for dataset in _datasets(file):
                if dataset.is_virtual and dataset.ndim > 2:
                    _check_sources(dataset, path.parent)
                _load_filters(dataset)
    except (OSError, RuntimeError, KeyError):
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
            told = (broken_link(file, name) for name in names)
            return list(dict.fromkeys(text for text in told if text))
    except (OSError, RuntimeError, KeyError):
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
    candidates = [folder / name, folder / Path(name).name, Path(name)]
    for variable in ('HDF5_VDS_PREFIX', 'HDF5_EXT_PREFIX'):
        prefix = os.environ.get(variable, '').replace('${ORIGIN}', str(folder))
        candidates += [Path(prefix) / name] if prefix else []
    return next((path for path in candidates if path.is_file()), None)


def _check_sources(dataset: Any, folder: Path) -> None:
    missing: list[str] = []
    for source in dataset.virtual_sources():
        # An unlimited dataset in numbered files ends where they end.
        if source.file_name == '.' or '%b' in source.file_name or source.file_name in missing:
            continue
        found = _find_file(source.file_name, folder)
        if found is None:
            missing.append(source.file_name)
            continue
        _check_source(dataset, found, source.dset_name)
    if missing:
        more = f' and {len(missing) - 3} more' if len(missing) > 3 else ''
        raise DataError(
            f'{dataset.name} of {dataset.file.filename} is put together from other files, of which '
            f'{", ".join(missing[:3])}{more} {"are" if len(missing) > 1 else "is"} missing; HDF5 '
            'would put zeros in their place. Copy them to the same folder, at the paths that the '
            'file names.'
        )


def _check_source(dataset: Any, path: Path, name: str) -> None:
    try:
        with h5py.File(path, 'r') as file:
            if name in file:
                _check_filters(file[name])
                return
            reason = f'holds no {name}'
    except (OSError, RuntimeError, KeyError) as error:
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
        told = f'{dataset.name} of {dataset.file.filename} is compressed with {name} (HDF5 filter '
        told += f'{code}), which is not installed here. '
        if code in _FILTERS:
            return told + f'Run: {INSTALL_FILTERS}.'
        return told + 'Install its HDF5 plugin, or write the file with gzip (h5repack).'
    return ''


def _check_filters(dataset: Any) -> None:
    told = missing_filter(dataset)
    if told:
        raise DataError(told)
