"""Files of torch, made by hand: what tensors may claim, and how often a storage is read."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from ptychopinn_plugin.errors import ArchiveError
from ptychopinn_plugin.legacy import torch_files
from ptychopinn_plugin.legacy.torch_files import read_torch_file
from ptychopinn_plugin.storage.untrusted import SafeZip

FLOATS = np.arange(6, dtype=np.float32)


def short(text: str) -> bytes:
    return b'\x8c' + bytes([len(text)]) + text.encode()


def tensor(kind: str, shape: bytes, strides: bytes) -> bytes:
    storage = b'(' + short('storage') + f'ctorch\n{kind}\n'.encode() + short('0') + short('cpu')
    view = b'K\0' + shape + strides + b'\x89Nt'
    return b'ctorch._utils\n_rebuild_tensor_v2\n(' + storage + b'K\6tQ' + view + b'R'


ROW = tensor('FloatStorage', b'K\6\x85', b'K\1\x85')
TRANSPOSED = tensor('FloatStorage', b'K\3K\2\x86', b'K\1K\3\x86')


def write(path: Path, tensors: list[bytes], data: bytes = FLOATS.tobytes()) -> Path:
    items = b''.join(short(f'w{index}') + each for index, each in enumerate(tensors))
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/data.pkl', b'\x80\2}(' + items + b'u.')
        archive.writestr('archive/data/0', data)
    return path


def test_tensors(tmp_path: Path) -> None:
    found = read_torch_file(write(tmp_path / 'x.pt', [ROW, TRANSPOSED]), 'here')
    assert np.array_equal(found['w0'], FLOATS)
    assert np.array_equal(found['w1'], FLOATS.reshape(2, 3).T)
    assert found['w0'].flags.writeable


@pytest.mark.parametrize('shape', [b')', b'K\2K\3\x86'])
def test_bfloat16(tmp_path: Path, shape: bytes) -> None:
    strides = b')' if shape == b')' else b'K\1K\2\x86'
    halves = (FLOATS.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    path = write(tmp_path / 'x.pt', [tensor('BFloat16Storage', shape, strides)], halves)
    found = read_torch_file(path, 'here')['w0']
    assert found.dtype == np.float32
    assert np.array_equal(found, FLOATS[0] if shape == b')' else FLOATS.reshape(3, 2).T)


def test_a_shared_storage_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    original = SafeZip.read

    def watch(self: SafeZip, name: str) -> bytes:
        names.append(name)
        return original(self, name)

    monkeypatch.setattr(SafeZip, 'read', watch)
    read_torch_file(write(tmp_path / 'x.pt', [ROW, TRANSPOSED] * 5), 'here')
    assert names.count('archive/data/0') == 1


def test_what_shares_a_storage_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / 'x.pt', [ROW] * 5)
    monkeypatch.setattr(torch_files, 'MAX_TENSORS_BYTES', 100)
    with pytest.raises(ArchiveError, match='5 tensors of 120 bytes together; at most 100'):
        read_torch_file(path, 'here')
