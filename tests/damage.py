"""Files damaged at random: their bytes, and what they hold, under checksums that are right again.

Every function takes a `numpy.random.Generator` and gives the same damage for the same one.
"""

import hashlib
import io
import json
import tomllib
import zipfile
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import h5py
import numpy as np
import tomli_w

Rng = np.random.Generator

HOSTILE_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 64, 2**31, 2**63, -(2**63), 10**400, 0.5, -0.5, 1e-300,
    1e38, 1e300, float('nan'), float('inf'), -float('inf'), '', 'x', '0', 'nan', '\0', '../../etc',
    'a' * 5000, 'ü☃', [], {}, [[]], [0] * 50, {'': None}, {'a': {'b': [1, None, 'c']}},
)  # fmt: skip
"""One of these takes the place of a value of JSON, TOML or a settings file."""

HOSTILE_NUMBERS = (
    0, 1, -1, 2**31, 2**53, 1e-38, 1e19, 1e38, 1e300, np.nan, np.inf, -np.inf,
)  # fmt: skip
"""One of these takes the place of numbers of an array."""


def damage_bytes(data: bytes, rng: Rng) -> bytes:
    """Return bytes with one to four faults: changed, cut off, moved, doubled or left out."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        size = len(changed)
        if size < 2:
            break
        # Tables are at the beginning and at the end of files, numbers between them.
        near = int(min(size, rng.choice([64, 1024, 1 << 14, size])))
        place = int(rng.integers(near))
        if rng.random() < 0.3:
            place = size - 1 - place
        length = int(min(size - place, rng.choice([1, 2, 4, 8, 64])))
        match int(rng.integers(8)):
            case 0:
                changed[place] ^= 1 << int(rng.integers(8))
            case 1:
                changed[place : place + length] = rng.bytes(length)
            case 2:
                changed[place : place + length] = b'\xff' * length
            case 3:
                changed[place : place + length] = bytes(length)
            case 4:
                del changed[int(rng.integers(size)) :]
            case 5:
                del changed[place : place + length]
            case 6:
                changed[place:place] = changed[place : place + length] * int(rng.integers(1, 9))
            case 7:
                other = int(rng.integers(size - length + 1))
                changed[place : place + length] = changed[other : other + length]
    return bytes(changed)


def damage_value(value: Any, rng: Rng) -> Any:
    """Return a tree of plain values with one of them replaced, removed, renamed or doubled."""
    is_inner = isinstance(value, dict | list) and value and rng.random() < 0.9
    if not is_inner:
        return HOSTILE_VALUES[int(rng.integers(len(HOSTILE_VALUES)))]
    copy = dict(value) if isinstance(value, dict) else list(value)
    keys = list(copy) if isinstance(copy, dict) else list(range(len(copy)))
    key = keys[int(rng.integers(len(keys)))]
    match int(rng.integers(10)):
        case 0:
            del copy[key]
        case 1 if isinstance(copy, dict):
            copy[f'{key}_'] = copy.pop(key)
        case 1 | 2:
            other = keys[int(rng.integers(len(keys)))]
            copy[key], copy[other] = copy[other], copy[key]
        case 3 if isinstance(copy, list):
            copy += [copy[key]] * int(rng.integers(1, 40))
        case _:
            copy[key] = damage_value(copy[key], rng)
    return copy


def damage_array(array: np.ndarray, rng: Rng) -> Any:
    """Return an array of another type or shape, or with numbers that it should not hold."""
    array = np.array(array)
    match int(rng.integers(12)):
        case 0:
            return array.reshape(-1)
        case 1:
            return array[..., np.newaxis]
        case 2:
            return array[:0] if array.ndim else np.zeros((0,), array.dtype)
        case 3:
            return array[: max(1, len(array) // 2)] if array.ndim else array.reshape(1)
        case 4:
            return array.T
        case 5:
            return array.ravel()[0] if array.size else np.float64(0)
        case 6:
            kinds = ('u1', 'i2', 'u4', 'i8', 'u8', 'f2', 'f4', 'f8', 'c8', 'c16', '?', 'S3', '>f4')
            if array.dtype.kind not in 'biufc':
                return np.zeros(array.shape)
            kind = kinds[int(rng.integers(len(kinds)))]
            with np.errstate(all='ignore'):
                return (array if kind.startswith('c') else array.real).astype(kind)
        case 7:
            return np.concatenate([array, array]) if array.ndim else np.stack([array, array])
        case 8:
            return np.array([b'text', b'more'])
        case 9:
            return np.zeros(array.shape, [('a', 'f4'), ('b', 'i8')])
        case _:
            return _with_hostile_numbers(array, rng)


def _with_hostile_numbers(array: np.ndarray, rng: Rng) -> np.ndarray:
    number = HOSTILE_NUMBERS[int(rng.integers(len(HOSTILE_NUMBERS)))]
    if array.dtype.kind in 'iu':
        limits = np.iinfo(array.dtype)
        number = limits.max if not np.isfinite(number) else min(max(number, limits.min), limits.max)
    if not array.size or array.dtype.kind not in 'biufc':
        return array
    array = array.copy()
    # One number, some of them, or all.
    share = rng.choice([0.0, 0.3, 1.0])
    chosen = rng.random(array.size) < share
    chosen[rng.integers(array.size)] = True
    with np.errstate(all='ignore'):
        array[chosen.reshape(array.shape)] = number
    return array


def damage_npy(data: bytes, rng: Rng) -> bytes:
    """Return an NPY file with another array, or an array of objects."""
    array = np.load(io.BytesIO(data), allow_pickle=False)
    buffer = io.BytesIO()
    if rng.random() < 0.05:
        np.save(buffer, np.array([None, {}], dtype=object), allow_pickle=True)
    else:
        np.save(buffer, damage_array(array, rng))
    return buffer.getvalue()


def damage_json(data: bytes, rng: Rng) -> bytes:
    """Return JSON with another value in it, as Python writes it: NaN and all."""
    return json.dumps(damage_value(json.loads(data), rng)).encode()


def damage_toml(data: bytes, rng: Rng) -> bytes:
    """Return TOML with another value in it; what TOML cannot hold becomes damaged text."""
    with suppress(TypeError, ValueError, AttributeError):
        return tomli_w.dumps(damage_value(tomllib.loads(data.decode()), rng)).encode()
    return damage_bytes(data, rng)


def damage_hdf5(data: bytes, rng: Rng) -> bytes:
    """Return an HDF5 file with another dataset, attribute or link in it."""
    buffer = io.BytesIO(data)
    with h5py.File(buffer, 'r+') as file:
        paths: list[str] = ['/']
        file.visit(paths.append)
        path = paths[int(rng.integers(len(paths)))]
        item = file[path]
        if item.attrs and rng.random() < 0.4:
            _damage_attribute(item.attrs, rng)
        elif isinstance(item, h5py.Dataset):
            _damage_dataset(file, path, rng)
        elif path != '/' and rng.random() < 0.5:
            del file[path]
        else:
            _add_link(file, path, rng)
    return buffer.getvalue()


def _damage_attribute(attributes: Any, rng: Rng) -> None:
    names = list(attributes)
    name = names[int(rng.integers(len(names)))]
    if rng.random() < 0.2:
        del attributes[name]
        return
    value = damage_value(0, rng)
    # What HDF5 cannot hold stays as it was.
    with suppress(TypeError, ValueError, OverflowError, OSError):
        attributes[name] = h5py.Empty('f4') if value is None else value


def _damage_dataset(file: Any, path: str, rng: Rng) -> None:
    before = file[path]
    array, attributes = before[()], dict(before.attrs)
    del file[path]
    match int(rng.integers(9)):
        case 0:
            return
        case 1:
            # A link to itself, and one to a file of the machine.
            file[path] = h5py.SoftLink(f'/{path.strip("/")}')
            return
        case 2:
            file[path] = h5py.ExternalLink('/etc/hostname', '/data')
            return
        case 3:
            file.create_group(path)
        case 4:
            file[path] = h5py.Empty('f4')
        case 5:
            # A shape whose chunks were never written takes no place in the file.
            shape = tuple(int(n) for n in 10 ** rng.integers(0, 6, max(1, np.ndim(array))))
            file.create_dataset(path, shape, 'f4', chunks=tuple(min(n, 8) for n in shape))
        case _:
            changed = damage_array(array, rng)
            # HDF5 has no type for some of them.
            with suppress(TypeError, ValueError):
                file[path] = changed
    if path in file:
        file[path].attrs.update(attributes)


def _add_link(file: Any, path: str, rng: Rng) -> None:
    names = list(file[path])
    if not names:
        return
    name = names[int(rng.integers(len(names)))]
    target = f'{path}/{name}'
    del file[target]
    if rng.random() < 0.5:
        # A group that holds itself.
        file[target] = file[path]
    else:
        file[target] = h5py.ExternalLink('missing.h5', '/')


def damage_zip(data: bytes, rng: Rng) -> bytes:
    """Return a zip with one member damaged, left out, doubled or renamed.

    The checksums of zip are right, and where there is a manifest with hashes, so are those.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    names = list(members)
    name = names[int(rng.integers(len(names)))]
    chance = rng.random()
    if chance < 0.05:
        del members[name]
    elif chance < 0.1:
        members[f'{name}{rng.choice(["_", "/x", ".npy"])}'] = members.pop(name)
    else:
        members[name] = damage_content(members[name], rng)
    if 'manifest.json' in members and rng.random() < 0.95:
        _correct_hashes(members)
    buffer = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if rng.random() < 0.5 else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, 'w', method) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return buffer.getvalue()


def _correct_hashes(members: dict[str, bytes]) -> None:
    try:
        manifest = json.loads(members['manifest.json'])
        for name in manifest['sha256']:
            if name in members:
                manifest['sha256'][name] = hashlib.sha256(members[name]).hexdigest()
    except (ValueError, TypeError, KeyError):
        # The manifest itself is what was damaged.
        return
    members['manifest.json'] = json.dumps(manifest).encode()


def damage_content(data: bytes, rng: Rng) -> bytes:
    """Return a file with what it holds changed, or, one time of four, with other bytes."""
    if rng.random() < 0.25:
        return damage_bytes(data, rng)
    return _damager(data)(data, rng)


def _damager(data: bytes) -> Callable[[bytes, Rng], bytes]:
    if data.startswith(b'PK'):
        return damage_zip
    # MATLAB 7.3 puts 512 bytes of its own before HDF5.
    if b'\x89HDF' in (data[:4], data[512:516]):
        return damage_hdf5
    if data.startswith(b'\x93NUMPY'):
        return damage_npy
    if data.startswith((b'{', b'[')):
        with suppress(ValueError):
            json.loads(data)
            return damage_json
    with suppress(ValueError):
        tomllib.loads(data.decode())
        return damage_toml
    return damage_bytes
