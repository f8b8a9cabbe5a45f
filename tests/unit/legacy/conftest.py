"""Files as PtychoPINN writes them, made here: with torch and Keras left out."""

import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptychopinn_plugin.cli import main

Arrays = dict[str, np.ndarray]


@pytest.fixture
def legacy_data(real_data: Path) -> Path:
    """Return the folder of model files that PtychoPINN itself wrote."""
    folder = real_data / 'legacy'
    if not folder.is_dir():
        pytest.skip('No model files of PtychoPINN here; set PTYCHOPINN_TEST_DATA to their folder.')
    return folder


@pytest.fixture
def write_zip() -> Callable[[Path, Mapping[str, bytes]], Path]:
    """Return a function that writes a zip of members."""

    def write(path: Path, members: Mapping[str, bytes]) -> Path:
        with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return path

    return write


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
        self.kernels[name] = rng.normal(size=(3, 3, *shape)).astype(np.float32) / 10
        config = {'kernel_size': [3, 3], 'strides': [1, 1], 'padding': 'same', 'use_bias': True}
        return self.put('Conv2D', name, source, filters=shape[1], **config)


def _decoder(graph: KerasGraph, name: str, code: str, first: int, group: int, rng: Any) -> str:
    """Add a decoder whose convolutions are numbered from `first` as Keras numbers them."""
    inner, outer = f'conv2d_{first}', f'conv2d_{first + 1}'
    source, before = code, 128
    for block, filters in enumerate((64, 32)):
        for half in range(2):
            number = first + 2 + 2 * block + half
            source = graph.conv(f'conv2d_{number}', source, (before, filters), rng)
            before = filters
        source = graph.put('UpSampling2D', f'up_{name}_{block}', source)
    rest = graph.put('GetItem', f'rest_{name}', source)
    border = graph.conv(f'conv2d_{first + 6}', rest, (4, 32), rng)
    border = graph.conv(f'conv2d_{first + 7}', border, (32, 32), rng)
    border = graph.put('UpSampling2D', f'up_{name}_border', border)
    border = graph.conv(outer, border, (32, group), rng)
    border = graph.put('Silu', f'silu_{name}', border)
    mask = graph.put('CenterMaskLayer', f'mask_{name}', border)
    border = graph.put('Multiply', f'multiply_{name}', border, mask)
    centre = graph.put('GetItem', f'centre_{name}', source)
    centre = graph.conv(inner, centre, (28, group), rng)
    how = ('sigmoid', 1.0) if name == 'amp' else ('tanh', np.pi)
    centre = graph.put('ActivationLayer', name, centre, activation_name=how[0], scale=how[1])
    centre = graph.put('ZeroPadding2D', f'{name}_padded', centre)
    return graph.put('Add', f'add_{name}', centre, border)


def keras_graph(gridsize: int = 1) -> KerasGraph:
    """Return the graph of PtychoPINN's network for patterns of 64 pixels."""
    rng, group, graph = np.random.default_rng(0), gridsize**2, KerasGraph()
    source = graph.put('InputLayer', 'input', batch_shape=[None, 64, 64, group])
    source = graph.put('IntensityScaler', 'intensity_scaler', source)
    before = group
    for block, filters in enumerate((32, 64, 128)):
        for half in range(2):
            number = 2 * block + half
            name = 'conv2d' if number == 0 else f'conv2d_{number}'
            source = graph.conv(name, source, (before, filters), rng)
            before = filters
        source = graph.put('MaxPooling2D', f'max_{block}', source)
    amplitude = _decoder(graph, 'amp', source, 6, group, rng)
    phase = _decoder(graph, 'phi', source, 14, group, rng)
    merged = graph.put('CombineComplexLayer', 'obj', amplitude, phase)
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


@pytest.fixture
def tensorflow_members() -> Callable[..., dict[str, bytes]]:
    """Return a function that makes the members of a TensorFlow archive."""

    def make(
        *,
        gridsize: int = 1,
        graph: KerasGraph | None = None,
        mutate: Callable[[h5py.File], None] | None = None,
        **settings: Any,
    ) -> dict[str, bytes]:
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

    return make


@pytest.fixture
def tensorflow_file(tmp_path: Path, tensorflow_members: Any, write_zip: Any) -> Callable[..., Path]:
    """Return a function that writes a TensorFlow archive."""

    def make(**changes: Any) -> Path:
        return Path(write_zip(tmp_path / 'wts.h5.zip', tensorflow_members(**changes)))

    return make


@pytest.fixture
def graph() -> Callable[..., KerasGraph]:
    """Return the function that makes a graph, to change it."""
    return keras_graph


@pytest.fixture
def run_apart() -> Callable[[str], None]:
    """Return a function that runs Python code in a process of its own."""

    def call(code: str) -> None:
        done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    return call


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs a command and returns what it printed."""

    def call(*arguments: object, code: int = 0) -> str:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        assert ended.value.code == code, captured.err
        return captured.out if code == 0 else captured.err

    return call
