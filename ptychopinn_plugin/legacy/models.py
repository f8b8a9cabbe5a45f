"""Model files of PtychoPINN: recognized, read without executing anything, and described."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ptychopinn_plugin._version import __version__
from ptychopinn_plugin.array_types import ComplexArray
from ptychopinn_plugin.config import Config
from ptychopinn_plugin.errors import ArchiveError, ConfigError
from ptychopinn_plugin.legacy.budget import Budget
from ptychopinn_plugin.legacy.configuration import translate_known
from ptychopinn_plugin.legacy.fitting import OldWeight, fit_weights
from ptychopinn_plugin.legacy.keras_models import KerasNetwork, read_keras_network
from ptychopinn_plugin.legacy.normalization import intensity_scale_of, normalize_as_legacy
from ptychopinn_plugin.legacy.pickle_names import (
    SUFFIXES,
    bare_pickle_name,
    check_pickle_member,
)
from ptychopinn_plugin.legacy.pickles import DAMAGE, MAX_PICKLE_BYTES, read_pickle
from ptychopinn_plugin.legacy.torch_files import is_torch_file, read_torch_archive, read_torch_file
from ptychopinn_plugin.legacy.torch_models import TorchNetwork, map_torch_weights
from ptychopinn_plugin.legacy.torch_settings import (
    TorchSections,
    find_sections,
    flat_settings,
    structure_of,
    torch_activation,
)
from ptychopinn_plugin.model import Model
from ptychopinn_plugin.network import NetworkDescription, describe_cnn
from ptychopinn_plugin.storage.untrusted import MAX_TEXT_BYTES, SafeZip, open_zip

FileKind = Literal['tensorflow', 'torch', 'lightning']

KINDS: dict[FileKind, str] = {
    'tensorflow': "PtychoPINN's TensorFlow archive (wts.h5.zip, version 1.0)",
    'torch': "PtychoPINN's torch archive (wts.h5.zip, version 2.0-pytorch)",
    'lightning': "a Lightning checkpoint (.ckpt) of PtychoPINN's torch network",
}

BACKEND = 'auto'
"""An imported model belongs to no backend: whichever is chosen can run it."""

PROBE_SCALE = 4.0
"""This is PtychoPINN's default, for files without it; see `normalization.normalize_as_legacy`."""

FALLBACK_INTENSITY_SCALE = 1.25
"""A probe of about 0.4 of the pattern's width has this scale, which files without a probe get."""

_WHAT = 'model file of PtychoPINN (a zip with manifest.dill, or a checkpoint of Lightning)'
_MEMBER = 'diffraction_to_obj'
_METADATA = 'torch_scaling_metadata.pt'
_READ_MEMBERS = ('manifest.dill', f'{_MEMBER}/params.dill', f'{_MEMBER}/model.pth', _METADATA)
"""The pickles of these members are read, and so checked more strictly."""

_TENSORFLOW_MEMBERS = ('model.keras', 'saved_model.pb', 'custom_objects.dill')


@dataclass(frozen=True)
class LegacyFile:
    """What a file of PtychoPINN holds.

    Attributes
    ----------
    kind : str
    settings : mapping
        Its flat dictionary.
    config : Config
        Those of `settings` that have a counterpart here.
    network : NetworkDescription
    weights : mapping of str to OldWeight
        By our names.
    probe : ndarray of complex64, shape (1, height, width), optional
        As PtychoPINN normalized it.
    """

    kind: FileKind
    settings: Mapping[str, Any]
    config: Config
    network: NetworkDescription
    weights: Mapping[str, OldWeight]
    probe: ComplexArray | None = None


def legacy_kind(names: Sequence[str]) -> FileKind | None:
    """Return which kind of PtychoPINN's model files has these members.

    Parameters
    ----------
    names : sequence of str
        The members of a zip.

    Returns
    -------
    str, optional
        A key of `KINDS`; None for any other file.
    """
    if f'{_MEMBER}/model.pth' in names:
        return 'torch'
    if 'manifest.dill' in names:
        is_keras = any(f'{_MEMBER}/{name}' in names for name in _TENSORFLOW_MEMBERS)
        return 'tensorflow' if is_keras else 'torch'
    return 'lightning' if is_torch_file(names) else None


def is_bare_pickle(path: Path) -> bool:
    """Return whether a file is a pickle outside a zip; torch before 1.6 wrote such files, too."""
    if not path.is_file():
        return False
    with path.open('rb') as file:
        first = file.read(2)
    if first in (b'\x80\2', b'\x80\3', b'\x80\4', b'\x80\5'):
        return True
    # Protocols 0 and 1 have no beginning of their own; only the suffix marks them as a model.
    return path.suffix in SUFFIXES and first[:1] in (b'(', b'c', b'}', b']')


def refuse_bare_pickle(path: Path) -> None:
    """Refuse a pickle outside a zip, with what it names; it is never executed.

    Raises
    ------
    ArchiveError
        If the file is a bare pickle.
    """
    if not is_bare_pickle(path):
        return
    with path.open('rb') as file:
        name = bare_pickle_name(file.read(MAX_PICKLE_BYTES))
    names = f' that names {name}, which opening it would import' if name else ''
    raise ArchiveError(
        f'{path} is a bare pickle{names}. Such files, also those of torch before 1.6, are never '
        'executed. Load it where it was made, if you trust it, and save it again with torch >= 1.6.'
    )


def read_legacy_model(path: Path, *, probe: ComplexArray | None = None) -> Model:
    """Read a model file of PtychoPINN.

    Parameters
    ----------
    path : Path
    probe : ndarray of complex, shape (n_modes, height, width), optional
        The probe it was trained with, of any scale: the intensity scale follows from it, and
        torch's files hold no probe.

    Returns
    -------
    Model
        Of architecture 'cnn' and backend 'auto'; it predicts what PtychoPINN predicts.

    Raises
    ------
    ArchiveError
        If it is no such file, is damaged, holds a network that is not read, or names something
        that could run code.
    """
    refuse_bare_pickle(path)
    with open_zip(path, str(path), what=_WHAT) as archive:
        return model_from_archive(archive, path, probe=probe)


def model_from_archive(archive: SafeZip, path: Path, *, probe: ComplexArray | None = None) -> Model:
    """Read a model file of PtychoPINN that is open already; see `read_legacy_model`.

    Raises
    ------
    ArchiveError
        If the probe has another size than the patterns, or a part is missing or not readable.
    """
    file = read_legacy_file(archive)
    weights = fit_weights(file.network, file.weights, str(path))
    size = file.network.window_px
    if probe is not None:
        file_probe: ComplexArray | None = normalize_as_legacy(probe, _probe_scale(file.settings))
    else:
        file_probe = file.probe
    if file_probe is not None and file_probe.shape[1:] != (size, size):
        raise ArchiveError(
            f'{path}: the probe must have {size} x {size} pixels as the patterns have; it has '
            f'{file_probe.shape[1]} x {file_probe.shape[2]}.'
        )
    # PtychoPINN's amplitudes are relative to its own scale of the probe, which our intensity scale
    # takes over; without a probe a common value has to do, and the provenance has a line on it.
    scale = FALLBACK_INTENSITY_SCALE if file_probe is None else intensity_scale_of(file_probe)
    return Model(
        backend=BACKEND,
        network=file.network,
        config=_as_imported(file.config),
        photons=_photons(file.settings),
        intensity_scale=scale,
        weights=weights,
        probe=np.zeros((0, size, size), np.complex64) if file_probe is None else file_probe,
        data_summary=_data_summary(file.settings),
        provenance={
            'imported_from': KINDS[file.kind],
            'file': path.name,
            'sha256': _digest(path),
            'package': f'ptychopinn-plugin {__version__}',
            'intensity_scale_from': 'an assumed probe' if file_probe is None else 'the probe',
        },
    )


def read_legacy_file(archive: SafeZip) -> LegacyFile:
    """Read what an open file of PtychoPINN holds.

    Raises
    ------
    ArchiveError
        As in `read_legacy_model`.
    """
    source = archive.source
    kind = legacy_kind(archive.names())
    if kind is None:
        raise ArchiveError(
            f'{source} is no model file of PtychoPINN: a zip with manifest.dill, or a checkpoint '
            f'of Lightning, is needed. See what it is: ptychopinn inspect {source}.'
        )
    try:
        if kind == 'lightning':
            return _read_lightning(archive)
        _check_other_members(archive)
        version = _read_version(archive)
        return (
            _read_tensorflow(archive, version)
            if kind == 'tensorflow'
            else _read_torch(archive, version)
        )
    except ConfigError as error:
        raise ArchiveError(f'{source}: {error}') from error
    except DAMAGE as error:
        reason = ' '.join(str(error).split())
        raise ArchiveError(
            f'{source} does not hold a complete model: {reason}. Copy the file again.'
        ) from error


def _digest(path: Path) -> str:
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def _check_other_members(archive: SafeZip) -> None:
    """Refuse a file that holds something to run in a member that is not read."""
    budget = Budget(archive.source)
    for name in archive.names():
        if name.lower().endswith(SUFFIXES) and name not in _READ_MEMBERS:
            check_pickle_member(archive.read(name), f'{archive.source}: {name}', budget)


def _read_version(archive: SafeZip) -> str:
    name, manifest = _read_values(archive, 'manifest')
    source = f'{archive.source}: {name}'
    if not isinstance(manifest, dict) or _MEMBER not in (manifest.get('models') or ()):
        raise ArchiveError(f'{source} lists no model {_MEMBER!r}.')
    version = manifest.get('version')
    if not isinstance(version, str):
        raise ArchiveError(f'{source} holds no version.')
    return version


def _read_values(archive: SafeZip, name: str) -> tuple[str, Any]:
    """Read a member that is JSON, or a pickle in older files; return its name as well."""
    if f'{name}.json' not in archive:
        name = f'{name}.dill'
        return name, read_pickle(archive.read(name), f'{archive.source}: {name}')
    name = f'{name}.json'
    data = archive.read(name, largest=MAX_TEXT_BYTES)
    try:
        return name, json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f'{archive.source}: {name} is not readable: {error}.') from error


def _read_settings(archive: SafeZip) -> dict[str, Any]:
    name, settings = _read_values(archive, f'{_MEMBER}/params')
    if not isinstance(settings, dict) or 'N' not in settings:
        raise ArchiveError(
            f'{archive.source}: {name} holds no settings with N, the size of the patterns.'
        )
    return settings


def _read_tensorflow(archive: SafeZip, version: str) -> LegacyFile:
    if version != '1.0':
        raise ArchiveError(
            f'{archive.source}: version 1.0 of the TensorFlow archive is read; this is {version}.'
        )
    if f'{_MEMBER}/model.keras' not in archive:
        raise ArchiveError(
            f'{archive.source} holds a SavedModel of Keras 2, which is a program and not read. '
            'Open it with the PtychoPINN that wrote it, and save it with a newer one.'
        )
    settings = _read_settings(archive)
    source = f'{archive.source}: {_MEMBER}/model.keras'
    found = read_keras_network(archive.read(f'{_MEMBER}/model.keras'), source)
    settings = {**settings, 'amp_activation': found.amplitude_activation}
    config, network = _describe(settings, found, source)
    return LegacyFile('tensorflow', settings, config, network, found.weights, _probe(settings))


def _read_torch(archive: SafeZip, version: str) -> LegacyFile:
    if version != '2.0-pytorch':
        raise ArchiveError(
            f'{archive.source}: version 2.0-pytorch of the torch archive is read; this is '
            f'{version}.'
        )
    settings, sections = _read_settings(archive), None
    if _METADATA in archive:
        metadata = read_torch_file(archive.read(_METADATA), f'{archive.source}: {_METADATA}')
        sections = find_sections(metadata)
    source = f'{archive.source}: {_MEMBER}/model.pth'
    state = read_torch_file(archive.read(f'{_MEMBER}/model.pth'), source)
    return _from_state('torch', settings, sections, state, source)


def _read_lightning(archive: SafeZip) -> LegacyFile:
    source, values = archive.source, read_torch_archive(archive)
    if not isinstance(values, dict) or not isinstance(values.get('state_dict'), dict):
        raise ArchiveError(f'{source} holds no state_dict, so it is no checkpoint of Lightning.')
    sections = find_sections(values.get('hyper_parameters'))
    if sections is None or 'N' not in sections.data:
        raise ArchiveError(
            f'{source} holds no hyper_parameters with data_config.N, the size of the patterns. '
            'Use the wts.h5.zip that was written beside it.'
        )
    settings = flat_settings(sections)
    return _from_state('lightning', settings, sections, values['state_dict'], source)


def _from_state(
    kind: FileKind,
    settings: dict[str, Any],
    sections: TorchSections | None,
    state: Any,
    source: str,
) -> LegacyFile:
    if not isinstance(state, dict) or not all(isinstance(v, np.ndarray) for v in state.values()):
        raise ArchiveError(f'{source} holds no weights by name.')
    structure = structure_of(settings, sections, source)
    found = map_torch_weights(state, source, structure=structure)
    activation = torch_activation(settings, sections)
    # PtychoPINN's torch network pads, whatever the setting is.
    settings = {**settings, 'amp_activation': activation, 'pad_object': True}
    config, network = _describe(settings, found, source)
    return LegacyFile(kind, settings, config, network, found.weights, _probe(settings))


def _describe(
    settings: dict[str, Any], found: KerasNetwork | TorchNetwork, source: str
) -> tuple[Config, NetworkDescription]:
    """Translate settings and describe their network; weights win where they differ."""
    # Settings of a file may be those of another training; its weights are what predicts.
    settings['probe_big'] = found.has_border
    # It is another name of object_big, which would win.
    settings.pop('object_layout', None)
    if found.group_size > 1:
        settings['object_big'] = found.outputs == found.group_size
    config = translate_known(settings)
    if config.model.gridsize**2 != found.group_size:
        raise ArchiveError(
            f'{source}: the settings have gridsize {config.model.gridsize}; the first layer takes '
            f'{found.group_size} channels.'
        )
    return config, describe_cnn(config.model, found.variant)


def _as_imported(config: Config) -> Config:
    return config.replace(
        # PtychoPINN scales each scan by its own mean.
        inference=config.inference.replace(intensity_scale='scan'),
        # Training there moves the probe by exactly zero, whatever the setting is.
        training=config.training.replace(probe_trainable=False),
    )


def _probe(settings: Mapping[str, Any]) -> ComplexArray | None:
    """Return the probe of the flat dictionary; shape (height, width, modes) there."""
    probe = settings.get('probe')
    if not isinstance(probe, np.ndarray) or probe.dtype.kind != 'c' or probe.ndim not in (2, 3):
        return None
    stacked = probe[..., np.newaxis] if probe.ndim == 2 else probe
    return np.ascontiguousarray(np.moveaxis(stacked, -1, 0), dtype=np.complex64)


def _probe_scale(settings: Mapping[str, Any]) -> float:
    value = settings.get('probe_scale')
    return float(value) if isinstance(value, int | float) and 0 < value < 1e300 else PROBE_SCALE


def _photons(settings: Mapping[str, Any]) -> float:
    value = settings.get('nphotons')
    return float(value) if isinstance(value, int | float) and 0 < value < 1e300 else 1e9


def _data_summary(settings: Mapping[str, Any]) -> dict[str, Any]:
    name = settings.get('train_data_file_path') or settings.get('train_data_file')
    return {'scans': [name]} if isinstance(name, str) and name else {}
