"""A model back into PtychoPINN's TensorFlow archive: new weights in a file that it wrote itself.

Its archive holds references to its own classes, which only it can write. So a file that PtychoPINN
made with the same settings is the template: everything in it is copied byte by byte, unread where
it is a pickle, and the weights are replaced.
"""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.errors import ArchiveError
from ptychopinn_plugin.legacy.fitting import fit_weights
from ptychopinn_plugin.legacy.models import read_legacy_file
from ptychopinn_plugin.model import Model
from ptychopinn_plugin.network import NetworkDescription
from ptychopinn_plugin.storage.atomic import atomic_path
from ptychopinn_plugin.storage.untrusted import SafeZip, open_zip, read_hdf5

_WEIGHTS = 'model.weights.h5'
_MODELS = ('diffraction_to_obj/model.keras', 'autoencoder/model.keras')
"""Both members hold the network; training there goes on from the second."""


def write_legacy_tensorflow(model: Model, path: Path, template: Path) -> None:
    """Write a model's weights into a copy of an archive of PtychoPINN's TensorFlow side.

    Parameters
    ----------
    model : Model
        Of architecture 'cnn'.
    path : Path
    template : Path
        A `wts.h5.zip` that PtychoPINN wrote, of the same network.

    Raises
    ------
    ArchiveError
        If the template is no such archive, or holds another network.
    OutputError
        If the file cannot be written.
    """
    with open_zip(template, str(template), what='template') as archive:
        old = read_legacy_file(archive)
        members = {name: archive.read(name) for name in archive.names()}
    if old.kind != 'tensorflow':
        raise ArchiveError(f'The template {template} must be a TensorFlow archive of PtychoPINN.')
    fit_weights(old.network, old.weights, str(template))
    if old.network != model.network:
        difference = _difference(old.network, model.network)
        raise ArchiveError(
            f'{template} holds another network than the model: {difference}. Let PtychoPINN '
            'write a template with the same N, gridsize, n_filters_scale, '
            'amp_activation, object_big and probe_big.'
        )
    kernels: dict[str, tuple[RealArray, RealArray]] = {}
    for name in model.weights:
        role, _, part = name.rpartition('/')
        if part == 'weight':
            # Keras has kernels as (height, width, in, out).
            kernel = model.weights[name].transpose(2, 3, 1, 0)
            kernels[old.weights[name].name] = (kernel, model.weights[f'{role}/bias'])
    for member in _MODELS:
        if member in members:
            members[member] = _with_weights(members[member], kernels, f'{template}: {member}')
    with atomic_path(path) as partial:
        partial.write_bytes(_zip(members, zipfile.ZIP_DEFLATED))


def _difference(old: NetworkDescription, new: NetworkDescription) -> str:
    theirs, ours = old.weight_shapes(), new.weight_shapes()
    for name in dict.fromkeys((*theirs, *ours)):
        if theirs.get(name) != ours.get(name):
            return f'{name} has shape {theirs.get(name)} there and {ours.get(name)} here'
    return 'the shapes agree, but an activation or the way they are connected does not'


def _with_weights(
    data: bytes, kernels: Mapping[str, tuple[RealArray, RealArray]], source: str
) -> bytes:
    with open_zip(data, source) as archive:
        members = {name: archive.read(name) for name in archive.names()}
        members[_WEIGHTS] = _replaced(archive, kernels)
    # Without compression, as Keras writes it.
    return _zip(members, zipfile.ZIP_STORED)


def _replaced(archive: SafeZip, kernels: Mapping[str, tuple[RealArray, RealArray]]) -> bytes:
    data, source = archive.read(_WEIGHTS), f'{archive.source}: {_WEIGHTS}'
    # This refuses what refers to other files, before anything is written to.
    _, names = read_hdf5(data, source)
    paths = {name: path for path, name in names.items()}
    missing = [name for name in kernels if name not in paths]
    if missing:
        raise ArchiveError(f'{source} has no layer {missing[0]!r}.')
    buffer = io.BytesIO(data)
    with h5py.File(buffer, 'r+') as file:
        for name, values in kernels.items():
            for number, array in enumerate(values):
                dataset = file[f'{paths[name]}/{number}']
                if dataset.shape != array.shape:
                    raise ArchiveError(
                        f'{source}: {name!r} must have shape {array.shape}; it has {dataset.shape}.'
                    )
                dataset[...] = np.asarray(array, dtype=dataset.dtype)
    return buffer.getvalue()


def _zip(members: Mapping[str, bytes], compression: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()
