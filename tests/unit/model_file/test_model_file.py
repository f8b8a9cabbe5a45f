"""The model file: what goes in comes out, and damage is distinguished from a model."""

import builtins
import dataclasses
import io
import json
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from unit.model_file.members import change_manifest, change_weights, members_of, write_members

from ptychopinn_plugin.errors import ArchiveError, OutputError
from ptychopinn_plugin.model_archive import FORMAT_VERSION
from ptychopinn_plugin.model_contents import CorrectedProbe
from ptychopinn_plugin.model_file import (
    Model,
    describe_model,
    is_model_file,
    read_model,
    write_model,
)
from ptychopinn_plugin.network import describe_network


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
    before = int(time.time())
    write_model(again, read_model(path))
    assert again.read_bytes() == path.read_bytes()
    # Two files of one second would be equal with their time in them, too: HDF5 writes it in whole
    # seconds, as a number of 32 bits.
    seconds = range(before, int(time.time()) + 1)
    for name, data in members_of(again).items():
        assert not any(second.to_bytes(4, 'little') in data for second in seconds), name
    with zipfile.ZipFile(path) as archive:
        # An archive's seconds come in pairs, so that its bytes alone would not show it.
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


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


def test_a_folder_is_not_a_model(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r'is a folder; name the model file .*wts\.h5\.zip'):
        read_model(path.parent)
    empty = tmp_path / 'empty'
    empty.mkdir()
    with pytest.raises(ArchiveError, match=r'it holds no \*\.zip'):
        read_model(empty)


def test_truncated_anywhere(path: Path) -> None:
    data = path.read_bytes()
    for share in (0.1, 0.5, 0.9, 0.999):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(ArchiveError, match='not a readable model file'):
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


@pytest.mark.parametrize('number', ['NaN', '-Infinity', '1e400'])
def test_numbers_that_json_does_not_have(path: Path, number: str) -> None:
    members = members_of(path)
    manifest = members['manifest.json'].replace(b'"seconds": 1.5', b'"seconds": ' + number.encode())
    assert manifest != members['manifest.json']
    write_members(path, {**members, 'manifest.json': manifest})
    with pytest.raises(ArchiveError, match=rf'manifest\.json is not readable: {number} is no num'):
        read_model(path)


def test_a_window_larger_than_the_patterns(path: Path) -> None:
    change_manifest(path, lambda manifest: manifest['network'].update(window_px=64))
    with pytest.raises(ArchiveError, match=r'window_px must be at most .*, 32; .* has 64'):
        read_model(path)


def test_a_window_may_be_as_large_as_the_patterns(tmp_path: Path, model: Model) -> None:
    network = describe_network(model.config.model, 32)
    weights = {name: np.zeros(shape, np.float32) for name, shape in network.weight_shapes().items()}
    whole = dataclasses.replace(model, network=network, weights=weights, training_state=None)
    write_model(tmp_path / 'whole.h5.zip', whole)
    assert read_model(tmp_path / 'whole.h5.zip').network == network


def test_what_else_a_file_holds(tmp_path: Path, model: Model) -> None:
    """Weights of half precision stay so in the file, and corrected probes have their order."""
    halves = {name: weight.astype(np.float16) for name, weight in model.weights.items()}
    corrected = tuple(
        CorrectedProbe(factor * model.probe, 1j * factor * model.probe) for factor in (2, 3)
    )
    path = tmp_path / 'half.h5.zip'
    write_model(path, dataclasses.replace(model, weights=halves, corrected_probes=corrected))
    again = read_model(path)
    with h5py.File(io.BytesIO(members_of(path)['weights.h5']), 'r') as file:
        assert file['fine/2/bias'].dtype == np.float16
        assert file['corrected_probes/1/after'].dtype == np.complex64
    assert again.weights['fine/2/bias'].dtype == np.float32
    np.testing.assert_array_equal(again.weights['fine/2/bias'], halves['fine/2/bias'])
    assert len(again.corrected_probes) == 2
    for found, given in zip(again.corrected_probes, corrected, strict=True):
        np.testing.assert_array_equal(found.before, given.before)
        np.testing.assert_array_equal(found.after, given.after)


def test_numbers_that_json_does_not_have_are_not_written(tmp_path: Path, model: Model) -> None:
    wrong = dataclasses.replace(model, provenance={'seconds': float('nan')})
    with pytest.raises(ValueError, match='JSON'):
        write_model(tmp_path / 'nan.h5.zip', wrong)
    assert list(tmp_path.iterdir()) == []


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


def test_a_newer_format_says_how_to_upgrade(path: Path) -> None:
    change_manifest(path, lambda manifest: manifest.update(format_version=FORMAT_VERSION + 1))
    with pytest.raises(ArchiveError, match=r'format version \d+.*pip install --upgrade'):
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
        lambda m: m['network']['layers'][2].update(out_channels='x'),
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
    with pytest.raises(ArchiveError, match=r"Weight 'fine/2/bias'.*\(8,\).*\(5,\)"):
        read_model(path)


def test_a_weight_that_is_not_there_is_named(path: Path) -> None:
    change_weights(path, lambda file: file.__delitem__('correction/folded/weight'))
    with pytest.raises(ArchiveError, match=r"Weight 'correction/folded/weight'.*nothing"):
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
        file['fine/2/bias'] = np.array([b'a'] * 8)

    change_weights(path, change)
    with pytest.raises(ArchiveError, match='fine/2/bias'):
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
