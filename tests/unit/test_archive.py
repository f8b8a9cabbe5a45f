"""The model file: what goes in comes out, and damage is told from a model."""

import builtins
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptychopinn_plugin import containers
from ptychopinn_plugin.archive import (
    Model,
    TrainingState,
    describe_model,
    is_model_file,
    read_model,
    write_model,
)
from ptychopinn_plugin.config import Config, ModelConfig, TrainingConfig
from ptychopinn_plugin.errors import ArchiveError, OutputError
from ptychopinn_plugin.network import describe_network

Members = dict[str, bytes]


@pytest.fixture
def model() -> Model:
    rng = np.random.default_rng(0)
    config = Config(
        model=ModelConfig(pattern_size=32, filters_scale=0.25, passes=2, gridsize=2),
        training=TrainingConfig(seed=7, max_minutes=3.5, probe_trainable=True),
    )
    network = describe_network(config.model, 16)
    weights = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in network.weight_shapes().items()
    }
    state = TrainingState(
        arrays={
            'last/fine/1/weight': rng.normal(size=(4, 6, 3, 3)).astype(np.float32),
            'optimizer/0/step': np.float32(17),
        },
        values={'epoch': 3, 'history': [{'loss': 0.1}, {'loss': 1 / 3}], 'best_loss': 0.25},
    )
    return Model(
        backend='pytorch',
        network=network,
        config=config,
        photons=12345.678901234,
        weights=weights,
        probe=(rng.normal(size=(2, 32, 32)) + 1j * rng.normal(size=(2, 32, 32))).astype(
            np.complex64
        ),
        intensity_scale=1.1 / 3,
        data_summary={'scans': ['alpha', 'b'], 'patterns': 12},
        provenance={'created': 'today', 'seconds': 1.5},
        training_state=state,
    )


@pytest.fixture
def path(tmp_path: Path, model: Model) -> Path:
    target = tmp_path / 'wts.h5.zip'
    write_model(target, model)
    return target


def members_of(path: Path) -> Members:
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def write_members(path: Path, members: Members) -> None:
    with zipfile.ZipFile(path, 'w') as file:
        for name, data in members.items():
            file.writestr(name, data)


def change_manifest(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    members = members_of(path)
    manifest = json.loads(members['manifest.json'])
    change(manifest)
    write_members(path, {**members, 'manifest.json': json.dumps(manifest).encode()})


def change_weights(path: Path, change: Callable[[h5py.File], object]) -> None:
    """Change weights.h5, and its SHA-256 with it."""
    members = members_of(path)
    buffer = io.BytesIO(members['weights.h5'])
    with h5py.File(buffer, 'r+') as file:
        change(file)
    manifest = json.loads(members['manifest.json'])
    manifest['sha256']['weights.h5'] = hashlib.sha256(buffer.getvalue()).hexdigest()
    members |= {'weights.h5': buffer.getvalue(), 'manifest.json': json.dumps(manifest).encode()}
    write_members(path, members)


def test_round_trip(path: Path, model: Model) -> None:
    again = read_model(path)
    for name in ('backend', 'network', 'config', 'photons', 'intensity_scale'):
        assert getattr(again, name) == getattr(model, name), name
    assert again.data_summary == model.data_summary
    assert again.provenance == model.provenance
    assert list(again.weights) == list(model.weights)
    for name, weight in model.weights.items():
        assert again.weights[name].dtype == np.float32
        np.testing.assert_array_equal(again.weights[name], weight)
    assert again.probe.dtype == np.complex64
    np.testing.assert_array_equal(again.probe, model.probe)
    assert again.training_state is not None
    assert model.training_state is not None
    assert again.training_state.values == model.training_state.values
    assert set(again.training_state.arrays) == set(model.training_state.arrays)
    for name, array in model.training_state.arrays.items():
        np.testing.assert_array_equal(again.training_state.arrays[name], array)


def test_inference_only_leaves_the_state_out(tmp_path: Path, model: Model, path: Path) -> None:
    small = tmp_path / 'small.h5.zip'
    write_model(small, model, inference_only=True)
    assert list(members_of(small)) == ['manifest.json', 'weights.h5']
    assert read_model(small).training_state is None
    assert small.stat().st_size < path.stat().st_size
    np.testing.assert_array_equal(read_model(small).probe, model.probe)


def test_the_same_model_gives_the_same_bytes(tmp_path: Path, model: Model, path: Path) -> None:
    again = tmp_path / 'again.h5.zip'
    write_model(again, read_model(path))
    assert again.read_bytes() == path.read_bytes()


def test_the_file_holds_no_pickle(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = members_of(path)
    assert list(members) == ['manifest.json', 'weights.h5', 'training_state.h5']
    json.loads(members['manifest.json'])
    for name in ('weights.h5', 'training_state.h5'):
        assert members[name].startswith(b'\x89HDF\r\n')
        with h5py.File(io.BytesIO(members[name]), 'r') as file:
            kinds: list[str] = []
            file.visititems(
                lambda _, item, kinds=kinds: (
                    kinds.append(item.dtype.kind) if isinstance(item, h5py.Dataset) else None
                )
            )
        # Numbers, neither objects nor opaque bytes.
        assert set(kinds) <= {'f', 'c', 'i'}
    original = builtins.__import__

    def guarded(name: str, *arguments: Any, **options: Any) -> Any:
        assert name not in ('pickle', '_pickle', 'dill', 'marshal')
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, '__import__', guarded)
    read_model(path)


def test_describe_model(model: Model) -> None:
    facts = describe_model(model)
    assert facts['weights'] == sum(weight.size for weight in model.weights.values())
    assert facts['can_resume'] is True
    assert facts['probe_modes'] == 2
    json.dumps(facts, allow_nan=False)


def test_is_model_file(path: Path, tmp_path: Path) -> None:
    assert is_model_file(path)
    other = tmp_path / 'scan.npz'
    np.savez(other, a=np.ones(3))
    assert not is_model_file(other)
    other.write_bytes(b'')
    assert not is_model_file(other)
    assert not is_model_file(tmp_path / 'missing')
    assert not is_model_file(tmp_path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r'There is no model file .*ptychopinn train'):
        read_model(tmp_path / 'missing.h5.zip')


@pytest.mark.parametrize('data', [b'', b'no zip at all', b'PK\x03\x04' + bytes(100)])
def test_not_a_zip(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / 'wts.h5.zip'
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match='not a readable model file'):
        read_model(path)


def test_a_folder_is_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match='not a readable model file'):
        read_model(tmp_path)


def test_truncated_anywhere(path: Path) -> None:
    data = path.read_bytes()
    for share in (0.1, 0.5, 0.9, 0.999):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(ArchiveError):
            read_model(path)


def test_a_changed_byte_anywhere_is_told(path: Path, model: Model) -> None:
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(data), size=200):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        try:
            again = read_model(path)
        except ArchiveError:
            continue
        # Where the change is one that a zip does not look at, nothing may be different.
        for name, weight in model.weights.items():
            np.testing.assert_array_equal(again.weights[name], weight)


@pytest.mark.parametrize('name', ['weights.h5', 'training_state.h5'])
def test_a_member_that_was_changed(path: Path, name: str) -> None:
    members = members_of(path)
    write_members(path, {**members, name: members[name][:-1] + b'\x07'})
    with pytest.raises(ArchiveError, match=rf'{name} is damaged \(SHA-256 differs\)'):
        read_model(path)


@pytest.mark.parametrize('name', ['weights.h5', 'training_state.h5'])
def test_a_missing_member(path: Path, name: str) -> None:
    members = members_of(path)
    del members[name]
    write_members(path, members)
    with pytest.raises(ArchiveError, match=f'lacks {name}'):
        read_model(path)


def test_another_zip(tmp_path: Path) -> None:
    path = tmp_path / 'scan.npz'
    np.savez(path, diff3d=np.ones(3))
    with pytest.raises(ArchiveError, match=r'holds no manifest.json.*it holds diff3d.npy'):
        read_model(path)


@pytest.mark.parametrize('manifest', [b'{', b'\xff\xfe', b'[]', b'{}', b'{"format": "other"}'])
def test_another_manifest(path: Path, manifest: bytes) -> None:
    write_members(path, {**members_of(path), 'manifest.json': manifest})
    with pytest.raises(ArchiveError, match=r'manifest\.json'):
        read_model(path)


def test_a_bottomless_manifest(path: Path) -> None:
    write_members(path, {**members_of(path), 'manifest.json': b'[' * 200_000})
    with pytest.raises(ArchiveError, match=r'manifest\.json is not readable'):
        read_model(path)


def test_a_newer_format_says_how_to_upgrade(path: Path) -> None:
    change_manifest(path, lambda manifest: manifest.update(format_version=2))
    with pytest.raises(ArchiveError, match=r'format version 2.*pip install --upgrade'):
        read_model(path)


@pytest.mark.parametrize(
    'change',
    [
        lambda m: m.pop('network'),
        lambda m: m.pop('normalisation'),
        lambda m: m.pop('provenance'),
        lambda m: m.pop('backend'),
        lambda m: m.update(format_version='1'),
        lambda m: m.update(sha256=None),
        lambda m: m.update(network=[]),
        lambda m: m.update(config=[]),
        lambda m: m.update(config={'model': 3}),
        lambda m: m['normalisation'].update(photons='many'),
        lambda m: m['normalisation'].update(photons=None),
        lambda m: m['config']['model'].update(passes=0),
        lambda m: m['config']['model'].update(colour='red'),
        lambda m: m['network']['layers'][1].update(out_channels='x'),
    ],
)
def test_a_manifest_that_does_not_hold_what_it_must(
    path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    change_manifest(path, change)
    with pytest.raises(ArchiveError):
        read_model(path)


def test_a_weight_of_another_shape_is_named(path: Path) -> None:
    def change(file: h5py.File) -> None:
        del file['fine/2/bias']
        file['fine/2/bias'] = np.zeros(5, np.float32)

    change_weights(path, change)
    with pytest.raises(ArchiveError, match=r"Weight 'fine/2/bias'.*\(4,\).*\(5,\)"):
        read_model(path)


def test_a_weight_that_is_not_there_is_named(path: Path) -> None:
    change_weights(path, lambda file: file.__delitem__('correction/weight'))
    with pytest.raises(ArchiveError, match=r"Weight 'correction/weight'.*nothing"):
        read_model(path)


def test_a_probe_that_is_not_there(path: Path) -> None:
    change_weights(path, lambda file: file.__delitem__('probe'))
    with pytest.raises(ArchiveError, match='probe'):
        read_model(path)


@pytest.mark.parametrize('probe', [np.ones(3), np.ones((32, 32), complex), np.array('text', 'S4')])
def test_a_probe_that_is_none(path: Path, probe: np.ndarray) -> None:
    def change(file: h5py.File) -> None:
        del file['probe']
        file['probe'] = probe

    change_weights(path, change)
    with pytest.raises(ArchiveError, match='probe'):
        read_model(path)


def test_a_weight_that_is_no_number(path: Path) -> None:
    def change(file: h5py.File) -> None:
        del file['fine/2/bias']
        file['fine/2/bias'] = np.array([b'a', b'b', b'c', b'd'])

    change_weights(path, change)
    with pytest.raises(ArchiveError, match='fine/2/bias'):
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
    monkeypatch.setattr(containers, 'LARGEST_MEMBER_BYTES', size - 1)
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
    monkeypatch.setattr(containers, 'RATIO_FLOOR_BYTES', 1 << 10)
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
    with pytest.raises(ArchiveError):
        read_model(path)


def test_an_encrypted_member_and_an_unknown_compression(path: Path) -> None:
    data = path.read_bytes()
    entry = data.index(b'PK\x01\x02')
    encrypted = bytearray(data)
    encrypted[entry + 8] |= 1
    path.write_bytes(encrypted)
    with pytest.raises(ArchiveError):
        read_model(path)
    unknown = bytearray(data)
    unknown[entry + 10] = 99
    path.write_bytes(unknown)
    with pytest.raises(ArchiveError):
        read_model(path)


def test_a_failed_write_leaves_the_old_file(
    path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def fail(source: object, target: object) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'replace', fail)
    with pytest.raises(OutputError, match='disk is full'):
        write_model(path, model, inference_only=True)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ['wts.h5.zip']


def test_an_interrupted_write_leaves_the_old_file(
    path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()
    written: list[str] = []
    original = zipfile.ZipFile.writestr

    def interrupt(self: zipfile.ZipFile, info: zipfile.ZipInfo, *rest: Any) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(info.filename)
        original(self, info, *rest)

    monkeypatch.setattr(zipfile.ZipFile, 'writestr', interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_model(path, model)
    assert written == ['manifest.json']
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ['wts.h5.zip']


def test_no_folder_to_write_to(tmp_path: Path, model: Model) -> None:
    with pytest.raises(OutputError, match='there is no folder'):
        write_model(tmp_path / 'missing' / 'wts.h5.zip', model)
