"""Files that would harm who opens them are refused with a reason."""

import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from unit.model_file.members import change_weights, members_of, write_members

from ptychopinn_plugin.errors import ArchiveError
from ptychopinn_plugin.model_file import is_model_file, read_model
from ptychopinn_plugin.storage import untrusted


def test_a_bottomless_manifest(path: Path) -> None:
    write_members(path, {**members_of(path), 'manifest.json': b'[' * 200_000})
    with pytest.raises(ArchiveError, match=r'manifest\.json is not readable'):
        read_model(path)


def test_links_out_of_the_file_are_not_followed(path: Path, tmp_path: Path) -> None:
    secret = tmp_path / 'secret.h5'
    with h5py.File(secret, 'w') as file:
        file['probe'] = np.ones((1, 32, 32), np.complex64)

    def change(file: h5py.File) -> None:
        del file['probe']
        file['probe'] = h5py.ExternalLink(str(secret), 'probe')

    change_weights(path, change)
    with pytest.raises(ArchiveError, match='probe'):
        read_model(path)


def test_a_member_that_claims_to_be_too_large(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(members_of(path)['weights.h5'])
    monkeypatch.setattr(untrusted, 'MAX_MEMBER_BYTES', size - 1)
    with pytest.raises(ArchiveError, match=f'weights.h5 would grow from .* to {size}'):
        read_model(path)


def test_a_dataset_that_claims_to_be_too_large(path: Path) -> None:
    """A terabyte that was never written takes no place in the file."""

    def change(file: h5py.File) -> None:
        file.create_dataset('extra', shape=(1 << 40,), dtype=np.uint8, chunks=(1 << 20,))

    change_weights(path, change)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ArchiveError, match='extra'):
        read_model(path)


def test_zeros_that_were_packed_to_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untrusted, 'RATIO_FLOOR_BYTES', 1 << 10)
    with zipfile.ZipFile(path, 'a', zipfile.ZIP_DEFLATED) as file:
        file.writestr('more', bytes(1 << 20))
    with pytest.raises(ArchiveError, match='more would grow from'):
        read_model(path)


def test_datasets_that_claim_too_much_together(path: Path) -> None:
    def change(file: h5py.File) -> None:
        for index in range(400):
            file.create_dataset(f'extra{index}', shape=(1 << 22,), dtype='u1', chunks=(1 << 20,))

    change_weights(path, change)
    with pytest.raises(ArchiveError, match=r'extra.* is refused: it claims 4194304 bytes'):
        read_model(path)


def test_a_dataset_of_nothing(path: Path) -> None:
    def change(file: h5py.File) -> None:
        file['nothing'] = h5py.Empty('f4')

    change_weights(path, change)
    with pytest.raises(ArchiveError, match='nothing is refused: it holds nothing'):
        read_model(path)


def test_a_dataset_in_tiny_chunks(path: Path) -> None:
    def change(file: h5py.File) -> None:
        file.create_dataset('many', shape=(200_000,), dtype='u1', chunks=(4,))

    change_weights(path, change)
    with pytest.raises(ArchiveError, match='many is refused: it has 50000 chunks of 4 bytes'):
        read_model(path)


def test_a_chunk_larger_than_its_dataset(path: Path) -> None:
    def change(file: h5py.File) -> None:
        file.create_dataset('one', shape=(1,), maxshape=(None,), dtype='u1', chunks=(1 << 30,))

    change_weights(path, change)
    with pytest.raises(ArchiveError, match='one is refused'):
        read_model(path)


@pytest.mark.parametrize('method', [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressions_without_a_limit(path: Path, method: int) -> None:
    members = members_of(path)
    with zipfile.ZipFile(path, 'w', method) as file:
        for name, data in members.items():
            file.writestr(name, data)
    with pytest.raises(ArchiveError, match=f'compressed with method {method}; only stored'):
        read_model(path)


def test_a_name_that_is_no_text(path: Path) -> None:
    data = path.read_bytes()
    entry = data.rindex(b'PK\x01\x02')
    changed = bytearray(data)
    changed[entry + 9] |= 8  # names are UTF-8
    changed[entry + 46] = 0xFF
    path.write_bytes(changed)
    assert not is_model_file(path)
    with pytest.raises(ArchiveError, match='not a readable model file'):
        read_model(path)


def test_a_member_that_is_longer_than_it_says(path: Path) -> None:
    """The sizes of a zip's table are lies: what is read must not grow beyond them."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        size = file.getinfo('weights.h5').file_size
    short, true = (100).to_bytes(4, 'little'), size.to_bytes(4, 'little')
    assert data.count(true) >= 2
    path.write_bytes(bytes(data).replace(true, short))
    with pytest.raises(ArchiveError, match=r'weights\.h5 is damaged'):
        read_model(path)


def test_an_encrypted_member_and_an_unknown_compression(path: Path) -> None:
    data = path.read_bytes()
    entry = data.index(b'PK\x01\x02')
    encrypted = bytearray(data)
    encrypted[entry + 8] |= 1
    path.write_bytes(encrypted)
    with pytest.raises(ArchiveError, match=r'manifest\.json is damaged: .*encrypted'):
        read_model(path)
    unknown = bytearray(data)
    unknown[entry + 10] = 99
    path.write_bytes(unknown)
    with pytest.raises(ArchiveError, match='compressed with method 99'):
        read_model(path)
