"""Files of `torch.save`, read without torch: a zip of a pickle and of raw numbers."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ptychopinn_plugin.errors import ArchiveError
from ptychopinn_plugin.legacy.pickles import read_pickle
from ptychopinn_plugin.legacy.storages import MAX_SIDE, LazyTensor, Storage, StorageType
from ptychopinn_plugin.storage.untrusted import SafeZip, open_zip

MAX_TENSORS_BYTES = 1 << 30
"""The tensors of a file may take this together; each counts, also where two share a storage."""


def read_torch_file(file: Path | bytes, source: str) -> Any:
    """Read what `torch.save` wrote.

    Parameters
    ----------
    file : Path or bytes
    source : str
        For messages.

    Returns
    -------
    plain values
        The tensors of the dictionary, or of its `state_dict` where it has one, as ndarray; an
        optimizer's are left unread.

    Raises
    ------
    ArchiveError
        If it is no such file, is damaged or names something that could run code.
    """
    with open_zip(file, source) as archive:
        return read_torch_archive(archive)


def read_torch_archive(archive: SafeZip) -> Any:
    """Read what `torch.save` wrote from a zip that is open already; see `read_torch_file`."""
    root = find_root(archive)
    order = '<'
    if f'{root}byteorder' in archive:
        order = '>' if archive.read(f'{root}byteorder').strip() == b'big' else '<'

    # Several tensors may share a storage, which is read once.
    @functools.cache
    def member(key: str) -> bytes:
        return archive.read(f'{root}data/{key}')

    def load(identity: Any) -> Storage:
        if not isinstance(identity, tuple) or len(identity) != 5 or identity[0] != 'storage':
            raise ValueError('a reference that is no storage')
        _, kind, key, _, count = identity
        if not isinstance(kind, StorageType) or not isinstance(key, str):
            raise ValueError('a storage of unknown type')
        if type(count) is not int or not 0 <= count < MAX_SIDE:
            raise ValueError('a storage of other than a number of numbers')
        return Storage(kind, count, lambda: member(key), order)

    data = archive.read(f'{root}data.pkl')
    values = read_pickle(data, f'{archive.source}: {root}data.pkl', persistent_load=load)
    return _with_tensors(values, archive.source)


def find_root(archive: SafeZip) -> str:
    """Return the folder of a torch file's members, such as 'archive/'.

    Raises
    ------
    ArchiveError
        If there is not exactly one such folder.
    """
    roots = [name[: -len('data.pkl')] for name in archive.names() if name.endswith('/data.pkl')]
    if len(roots) != 1:
        raise ArchiveError(
            f'{archive.source} is no file of torch.save: one data.pkl is needed, it holds '
            f'{len(roots)}. Files from before torch 1.6 must be saved again with a newer torch.'
        )
    return roots[0]


def is_torch_file(names: Sequence[str]) -> bool:
    """Return whether these are the members of a file of `torch.save`."""
    return any(name.count('/') == 1 and name.endswith('/data.pkl') for name in names)


def _with_tensors(values: Any, source: str) -> Any:
    """Read the numbers of the tensors in a state dictionary, in place."""
    if not isinstance(values, dict):
        return values
    inner = values.get('state_dict')
    target = inner if isinstance(inner, dict) else values
    tensors = {name: value for name, value in target.items() if isinstance(value, LazyTensor)}
    total = sum(tensor.nbytes for tensor in tensors.values())
    if total > MAX_TENSORS_BYTES:
        raise ArchiveError(
            f'{source} is refused: {len(tensors)} tensors of {total} bytes together; at most '
            f'{MAX_TENSORS_BYTES} are read.'
        )
    for name, tensor in tensors.items():
        try:
            target[name] = tensor.read()
        except ValueError as error:
            raise ArchiveError(f'{source}: {name} is damaged: {error}.') from error
    return values
