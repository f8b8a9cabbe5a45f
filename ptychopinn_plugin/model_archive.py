"""The model file `wts.h5.zip`: a manifest, weights in HDF5, and nothing that runs.

Members
-------
manifest.json
    Format, versions, backend, network description, configuration, normalization, data summary,
    provenance, and the SHA-256 of every other member.
weights.h5
    One float32 (or float16) dataset for each weight under its layer's name (``fine/1/weight``),
    kernels as (out, in, height, width); `probe` (n_modes, h, w) complex64; where training
    corrected probes, also those of each scan, `corrected_probes/0/before` and
    `corrected_probes/0/after`.
training_state.h5
    Optional: arrays under their names, for `train --resume`.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ptychopinn_plugin._version import __version__
from ptychopinn_plugin.array_types import ComplexArray, RealArray
from ptychopinn_plugin.config import Config
from ptychopinn_plugin.errors import ArchiveError
from ptychopinn_plugin.former_settings import with_current_names
from ptychopinn_plugin.model_contents import CorrectedProbe, ModelContents, TrainingState
from ptychopinn_plugin.network import NetworkDescription
from ptychopinn_plugin.schemas import manifest_schema, state_schema, validate
from ptychopinn_plugin.storage.atomic import atomic_path
from ptychopinn_plugin.storage.untrusted import (
    MAX_TEXT_BYTES,
    SafeZip,
    parse_json,
    read_datasets,
)

FORMAT = 'ptychopinn-plugin model'
FORMAT_VERSION = 2
"""Version 1 held some settings under the former names in `RENAMED_SETTINGS`."""

CORRECTED = 'corrected_probes'
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)

# Building a model from an incomplete or contradictory manifest raises one of these.
_INCOMPLETE = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    OSError,
    ArithmeticError,
    RuntimeError,
)


def write_model(path: Path, model: ModelContents, *, inference_only: bool = False) -> None:
    """Write a model file; an older one at `path` stays until the new one is complete.

    Parameters
    ----------
    path : Path
    model : ModelContents
    inference_only : bool
        Whether the training state is left out.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    members = {'weights.h5': _weights_bytes(model)}
    if model.training_state is not None and not inference_only:
        members['training_state.h5'] = _state_bytes(model.training_state)
    manifest = {
        'format': FORMAT,
        'format_version': FORMAT_VERSION,
        'package_version': __version__,
        'backend': model.backend,
        'network': model.network.to_dict(),
        'config': model.config.to_dict(),
        'normalisation': {'photons': model.photons, 'intensity_scale': model.intensity_scale},
        'data_summary': dict(model.data_summary),
        'provenance': dict(model.provenance),
        'sha256': {name: hashlib.sha256(data).hexdigest() for name, data in members.items()},
    }
    # NaN is no JSON: Python would read it, others would not.
    text = json.dumps(manifest, indent=2, allow_nan=False)
    with atomic_path(path) as partial, zipfile.ZipFile(partial, 'w') as archive:
        for name, data in {'manifest.json': text.encode(), **members}.items():
            # The date is fixed, so that the same model gives the same bytes.
            archive.writestr(zipfile.ZipInfo(name, _ZIP_DATE), data, zipfile.ZIP_DEFLATED)


def read_archive(archive: SafeZip, *, with_training_state: bool = True) -> ModelContents:
    """Read what an opened model file holds.

    Parameters
    ----------
    archive : SafeZip
    with_training_state : bool
        False leaves out what resuming needs, which is most of the file.

    Raises
    ------
    ArchiveError
        If it is not a model file of this package, damaged, or of a newer format.
    """
    manifest = _read_manifest(archive)
    weights_data = _read_member(archive, manifest, 'weights.h5')
    state_data = None
    if with_training_state and 'training_state.h5' in manifest['sha256']:
        state_data = _read_member(archive, manifest, 'training_state.h5')
    try:
        return _build_model(manifest, weights_data, state_data)
    except _INCOMPLETE as error:
        reason = ' '.join(str(error).split())
        raise ArchiveError(
            f'{archive.source} does not hold a complete model: {reason}. Copy the file again, or '
            'train the model again.'
        ) from error


BUILT_IN_PATH = Path(str(resources.files('ptychopinn_plugin') / 'weights' / 'prior.h5.zip'))
"""The model that comes with the package is in this file."""


def _read_manifest(archive: SafeZip) -> dict[str, Any]:
    path, names = archive.source, archive.names()
    if 'manifest.json' not in names:
        raise ArchiveError(
            f'{path} holds no manifest.json, so it is not a model of this package; it holds '
            f'{", ".join(names[:4]) or "nothing"}.'
        )
    try:
        manifest = parse_json(archive.read('manifest.json', largest=MAX_TEXT_BYTES))
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f'{path}: manifest.json is not readable: {error}.') from error
    if not isinstance(manifest, dict) or manifest.get('format') != FORMAT:
        raise ArchiveError(
            f'{path}: manifest.json must have the format {FORMAT!r}; it has another.'
        )
    version = manifest.get('format_version')
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ArchiveError(
            f'{path} has format version {version}; this package reads up to {FORMAT_VERSION}. '
            'Run: pip install --upgrade ptychopinn-plugin.'
        )
    schema = manifest_schema()
    if version < FORMAT_VERSION and isinstance(manifest.get('config'), dict):
        # Its settings have former names; `Config` checks them under those of today.
        schema['properties']['config'] = {'type': 'object'}
    validate(manifest, schema, f'{path}: manifest.json')
    return manifest


def _read_member(archive: SafeZip, manifest: dict[str, Any], name: str) -> bytes:
    if name not in archive:
        raise ArchiveError(f'{archive.source} lacks {name}, which every model holds.')
    data = archive.read(name)
    if hashlib.sha256(data).hexdigest() != manifest['sha256'].get(name):
        raise ArchiveError(
            f'{archive.source}: {name} is damaged (SHA-256 differs). Copy the file again.'
        )
    return data


def _build_model(manifest: dict[str, Any], weights: bytes, state: bytes | None) -> ModelContents:
    with h5py.File(io.BytesIO(weights), 'r') as file:
        arrays = read_datasets(file, 'weights.h5', len(weights))
    network = NetworkDescription.from_dict(manifest['network'])
    # Whatever follows the layers may rely on each coming after its inputs.
    network.check_graph()
    for name, shape in network.weight_shapes().items():
        if name not in arrays or arrays[name].shape != shape or arrays[name].dtype.kind != 'f':
            found = f'{arrays[name].dtype} {arrays[name].shape}' if name in arrays else 'nothing'
            raise ArchiveError(f'Weight {name!r} must have shape {shape}; the file holds {found}.')
    config = Config.from_dict(_current_settings(manifest))
    size = config.model.pattern_size or network.window_px
    if network.architecture != 'prior' and network.window_px > size:
        raise ArchiveError(
            f'network.window_px must be at most the size of a pattern, {size}; the manifest has '
            f'{network.window_px}.'
        )
    corrected: list[CorrectedProbe] = []
    while f'{CORRECTED}/{len(corrected)}/before' in arrays:
        stem = f'{CORRECTED}/{len(corrected)}'
        corrected.append(
            CorrectedProbe(_probe(arrays, f'{stem}/before'), _probe(arrays, f'{stem}/after'))
        )
    return ModelContents(
        backend=manifest['backend'],
        network=network,
        config=config,
        photons=float(manifest['normalisation']['photons']),
        intensity_scale=float(manifest['normalisation']['intensity_scale']),
        weights={
            name: np.asarray(arrays[name], dtype=np.float32) for name in network.weight_shapes()
        },
        probe=_probe(arrays, 'probe'),
        corrected_probes=tuple(corrected),
        data_summary=manifest['data_summary'],
        provenance=manifest['provenance'],
        training_state=None if state is None else _read_state(state),
    )


def _current_settings(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a manifest under the names that they have today."""
    settings: dict[str, Any] = manifest['config']
    if manifest['format_version'] >= FORMAT_VERSION:
        return settings
    return with_current_names(settings)


def _probe(arrays: Mapping[str, Any], name: str) -> ComplexArray:
    if name not in arrays:
        raise ArchiveError(f'weights.h5 must hold {name!r}, which every model has; it does not.')
    probe: ComplexArray = arrays[name]
    if probe.ndim != 3 or probe.dtype.kind != 'c':
        raise ArchiveError(
            f'{name!r} must be complex, of shape (n_modes, height, width); the file holds '
            f'{probe.dtype} {probe.shape}.'
        )
    return probe


def _weights_bytes(model: ModelContents) -> bytes:
    arrays: dict[str, RealArray] = {
        name: np.asarray(w, dtype=np.float16 if w.dtype == np.float16 else np.float32)
        for name, w in model.weights.items()
    }
    probes = {'probe': model.probe}
    for number, corrected in enumerate(model.corrected_probes):
        probes[f'{CORRECTED}/{number}/before'] = corrected.before
        probes[f'{CORRECTED}/{number}/after'] = corrected.after
    arrays |= {name: np.asarray(probe, dtype=np.complex64) for name, probe in probes.items()}
    return _hdf5_bytes(arrays, {})


def _state_bytes(state: TrainingState) -> bytes:
    return _hdf5_bytes(state.arrays, {'values': json.dumps(dict(state.values))})


def _read_state(data: bytes) -> TrainingState:
    with h5py.File(io.BytesIO(data), 'r') as file:
        arrays = read_datasets(file, 'training_state.h5', len(data))
        values = parse_json(str(file.attrs['values']))
        if 'recipe' not in values:
            # That of a pretraining has values of its own, which its recipe checks.
            validate(values, state_schema(), 'training_state.h5: values')
        return TrainingState(arrays, values)


def _hdf5_bytes(arrays: Mapping[str, RealArray], attributes: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    # Not track_order, with which HDF5 writes the time into the file.
    with h5py.File(buffer, 'w') as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
        file.attrs.update(attributes)
    return buffer.getvalue()
