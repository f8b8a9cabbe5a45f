"""Model files of PtychoPINN, made without Keras; a checkpoint of Lightning is made with torch."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Arrays = dict[str, np.ndarray]


class KerasGraph:
    """Collects the layers of a functional Keras model as its config.json lists them."""

    def __init__(self) -> None:
        self.layers: list[dict[str, Any]] = []
        self.kernels: Arrays = {}
        self.count = 0

    def put(self, kind: str, name: str, *inputs: str, **config: Any) -> str:
        histories = [
            {'class_name': '__keras_tensor__', 'config': {'keras_history': [source, 0, 0]}}
            for source in inputs
        ]
        nodes = [{'args': histories, 'kwargs': {}}] if inputs else []
        self.layers.append(
            {
                'class_name': kind,
                'name': name,
                'config': {'name': name, **config},
                'inbound_nodes': nodes,
            }
        )
        return name

    def conv(self, name: str, source: str, shape: tuple[int, int], rng: Any) -> str:
        # So that each layer keeps the spread of the numbers that it gets.
        spread = np.sqrt(2 / 9 / shape[0])
        self.kernels[name] = (rng.normal(size=(3, 3, *shape)) * spread).astype(np.float32)
        config = {'kernel_size': [3, 3], 'strides': [1, 1], 'padding': 'same', 'use_bias': True}
        return self.put('Conv2D', name, source, filters=shape[1], **config)


ENCODER = {64: (32, 64, 128), 128: (16, 32, 64, 128), 256: (8, 16, 32, 64, 128)}
DECODER = {64: (64, 32), 128: (128, 64, 32), 256: (256, 128, 64, 32)}


def _decoder(
    graph: KerasGraph, name: str, code: str, first: int, outputs: int, size: int, how: str, rng: Any
) -> str:
    """Add a decoder whose convolutions are numbered from `first` as Keras numbers them."""
    inner, outer = f'conv2d_{first}', f'conv2d_{first + 1}'
    source, before, number, full = code, 128, first + 2, 2048 // size
    for block, filters in enumerate(DECODER[size]):
        for _ in range(2):
            source = graph.conv(f'conv2d_{number}', source, (before, filters), rng)
            before, number = filters, number + 1
        source = graph.put('UpSampling2D', f'up_{name}_{block}', source)
    activation = ('sigmoid', 1.0) if name == 'amp' else ('tanh', np.pi)
    settings = dict(zip(('activation_name', 'scale'), activation, strict=True))
    if how == 'full':
        source = graph.conv(f'conv2d_{number}', source, (before, full), rng)
        source = graph.conv(f'conv2d_{number + 1}', source, (full, full), rng)
        source = graph.put('UpSampling2D', f'up_{name}_full', source)
        source = graph.conv(outer, source, (full, outputs), rng)
        return graph.put('ActivationLayer', name, source, **settings)
    centre = graph.put('GetItem', f'centre_{name}', source)
    centre = graph.conv(inner, centre, (before - 4, outputs), rng)
    centre = graph.put('ActivationLayer', name, centre, **settings)
    centre = graph.put('ZeroPadding2D', f'{name}_padded', centre)
    if how == 'no border':
        return centre
    rest = graph.put('GetItem', f'rest_{name}', source)
    border = graph.conv(f'conv2d_{number}', rest, (4, full), rng)
    border = graph.conv(f'conv2d_{number + 1}', border, (full, full), rng)
    border = graph.put('UpSampling2D', f'up_{name}_border', border)
    border = graph.conv(outer, border, (full, outputs), rng)
    border = graph.put('Silu', f'silu_{name}', border)
    mask = graph.put('CenterMaskLayer', f'mask_{name}', border)
    border = graph.put('Multiply', f'multiply_{name}', border, mask)
    return graph.put('Add', f'add_{name}', centre, border)


def keras_graph(
    gridsize: int = 1, *, size: int = 64, how: str = 'border', amplitudes: int | None = None
) -> KerasGraph:
    """Return the graph of PtychoPINN's network.

    Parameters
    ----------
    gridsize, size : int
    how : str
        'border', 'no border', or 'full': without padding.
    amplitudes : int, optional
        Outputs of the amplitude, where the phase has others.
    """
    rng, group, graph = np.random.default_rng(0), gridsize**2, KerasGraph()
    source = graph.put('InputLayer', 'input', batch_shape=[None, size, size, group])
    source = graph.put('IntensityScaler', 'intensity_scaler', source)
    before = group
    for block, filters in enumerate(ENCODER[size]):
        for half in range(2):
            number = 2 * block + half
            name = 'conv2d' if number == 0 else f'conv2d_{number}'
            source = graph.conv(name, source, (before, filters), rng)
            before = filters
        source = graph.put('MaxPooling2D', f'max_{block}', source)
    first, count = 2 * len(ENCODER[size]), 2 * len(DECODER[size]) + 4
    amplitude = _decoder(graph, 'amp', source, first, amplitudes or group, size, how, rng)
    phase = _decoder(graph, 'phi', source, first + count, group, size, how, rng)
    merged = graph.put('CombineComplexLayer', 'obj', amplitude, phase, use_polar=True)
    graph.put('InputLayer', 'input_positions')
    graph.put('ReassemblePatchesLayer', 'padded_obj_2', merged, 'input_positions')
    return graph


def keras_weights(kernels: Arrays, *, mutate: Callable[[h5py.File], None] | None = None) -> bytes:
    """Return a model.weights.h5, whose groups are numbered against the names of the layers."""
    buffer = io.BytesIO()
    with h5py.File(buffer, 'w') as file:
        for number, name in enumerate(sorted(kernels, reverse=True)):
            variables = file.create_group(f'layers/conv2d_{number}/vars')
            variables.attrs['name'] = name
            variables['0'] = kernels[name]
            variables['1'] = np.linspace(-0.1, 0.1, kernels[name].shape[-1], dtype=np.float32)
        if mutate is not None:
            mutate(file)
    return buffer.getvalue()


def zip_bytes(members: Mapping[str, bytes]) -> bytes:
    """Return a zip in memory."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tensorflow_members(
    *,
    gridsize: int = 1,
    graph: KerasGraph | None = None,
    mutate: Callable[[h5py.File], None] | None = None,
    **settings: Any,
) -> dict[str, bytes]:
    """Return the members of a TensorFlow archive."""
    graph = graph or keras_graph(gridsize)
    config = {'class_name': 'Functional', 'config': {'layers': graph.layers}}
    params = {
        'N': 64,
        'gridsize': gridsize,
        'n_filters_scale': 1,
        'amp_activation': 'sigmoid',
        'object.big': True,
        'probe.big': True,
        'pad_object': True,
        'model_type': 'pinn',
        'nphotons': 1e5,
        'probe_scale': 4.0,
        'nepochs': 7,
        'offset': 4,
        'probe': np.ones((64, 64, 1), np.complex64),
        'intensity_scale': 9.8,
        **settings,
    }
    model = {
        'metadata.json': b'{}',
        'config.json': json.dumps(config).encode(),
        'model.weights.h5': keras_weights(graph.kernels, mutate=mutate),
    }
    manifest = {'models': ['autoencoder', 'diffraction_to_obj'], 'version': '1.0'}
    return {
        'manifest.dill': pickle.dumps(manifest, 4),
        'diffraction_to_obj/model.keras': zip_bytes(model),
        'diffraction_to_obj/params.dill': pickle.dumps(params, 4),
    }


def write_checkpoint(
    path: Path,
    state: dict[str, Any],
    *,
    gridsize: int = 1,
    size: int = 64,
    model: Mapping[str, Any] | None = None,
    **more: Any,
) -> Path:
    """Write a Lightning checkpoint with torch itself."""
    import torch

    sections = {
        'mode': 'Unsupervised',
        'architecture': 'cnn',
        'n_filters_scale': 1,
        'amp_activation': 'sigmoid',
        'object_big': True,
        'probe_big': True,
        'pad_object': True,
        'use_legacy_decoder_channel_override': False,
        **(model or {}),
    }
    sections = {name: value for name, value in sections.items() if value is not ...}
    data = {'N': size, 'grid_size': (gridsize, gridsize), 'nphotons': 1e5, 'probe_scale': 4.0}
    training = {'epochs': 3, 'batch_size': 8, 'learning_rate': 2e-3}
    values = {
        'epoch': 1,
        'state_dict': state,
        'optimizer_states': [{'state': {0: {'step': torch.tensor(3.0)}}}],
        'hyper_parameters': {
            'model_config': sections,
            'data_config': data,
            'training_config': training,
        },
        **more,
    }
    torch.save(values, path)
    return path
