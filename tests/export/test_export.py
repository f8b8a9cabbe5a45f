"""Exported networks compute, in other programs, what they compute here."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip('torch')

from ptychopinn_plugin.backends.pytorch.network import Network
from ptychopinn_plugin.cli import main
from ptychopinn_plugin.config import Config, ModelConfig
from ptychopinn_plugin.errors import BackendUnavailableError, ConfigError, OutputError
from ptychopinn_plugin.export import EXPORTERS, export_model
from ptychopinn_plugin.model_file import Model, write_model
from ptychopinn_plugin.network import CnnVariant, describe_cnn, describe_network

TOLERANCE = 1e-4

Outputs = list[np.ndarray]


def cnn(**changes: Any) -> ModelConfig:
    values = {'architecture': 'cnn', 'pattern_size': 64, 'filters_scale': 0.5, **changes}
    return ModelConfig.from_dict(values)


CONFIGS = {
    'sweepnet': ModelConfig(filters_scale=0.5),
    'cnn': cnn(),
    'cnn gridsize 2': cnn(gridsize=2, amplitude_activation='softplus'),
    'cnn whole': cnn(pad_object=False, amplitude_activation='relu'),
    'cnn without border': cnn(border_decoder=False, amplitude_activation='swish'),
    'cnn 128': cnn(pattern_size=128, overlap_constraint=False),
    'cnn attention': cnn(gridsize=2),
}


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> Model:
    """Return a model whose weights are random, all of them."""
    config = CONFIGS[request.param]
    network = describe_network(config, 16)
    if 'attention' in request.param:
        network = describe_cnn(config, CnnVariant(attention=True, border_channels=1))
    torch.manual_seed(0)
    weights = Network(network).numpy_weights()
    rng = np.random.default_rng(0)
    weights = {
        name: (w + 0.02 * rng.normal(size=w.shape)).astype(np.float32)
        for name, w in weights.items()
    }
    config = config.replace(pattern_size=config.pattern_size or 32)
    probe = np.ones((1, 32, 32), np.complex64)
    return Model('pytorch', network, Config(model=config), 1e4, weights, probe)


def images_of(model: Model, count: int) -> np.ndarray:
    channels, size = model.network.layers[0].out_channels, model.network.window_px
    values = np.random.default_rng(1).normal(size=(count, channels, size, size))
    return np.asarray(values, dtype=np.float32)


def expected(model: Model, images: np.ndarray) -> Outputs:
    network = Network(model.network).eval()
    network.load_weights(model.weights)
    with torch.no_grad():
        return [part.numpy() for part in network(torch.from_numpy(images))]


def run_onnx(path: Path, images: np.ndarray) -> Outputs:
    runtime = pytest.importorskip('onnxruntime')
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    return list(session.run(None, {'images': images}))


def run_torchscript(path: Path, images: np.ndarray) -> Outputs:
    return [part.numpy() for part in torch.jit.load(str(path))(torch.from_numpy(images))]


def run_torch_export(path: Path, images: np.ndarray) -> Outputs:
    program = torch.export.load(str(path))
    return [part.numpy() for part in program.module()(torch.from_numpy(images))]


def run_keras(path: Path, images: np.ndarray) -> Outputs:
    keras = pytest.importorskip('ptychopinn_plugin.backends.tensorflow.framework').tf.keras
    made = keras.models.load_model(path, compile=False)
    found = made.predict_on_batch(images.transpose(0, 2, 3, 1))
    return [part.transpose(0, 3, 1, 2) for part in (found if isinstance(found, list) else [found])]


RUNNERS: dict[str, Callable[[Path, np.ndarray], Outputs]] = {
    'onnx': run_onnx,
    'torchscript': run_torchscript,
    'torch-export': run_torch_export,
    'keras': run_keras,
}


@pytest.mark.parametrize('name', RUNNERS)
@pytest.mark.filterwarnings('ignore:.torch.jit.load. is deprecated')
# Of Keras on NumPy 2, whenever it reads a variable.
@pytest.mark.filterwarnings('ignore:__array__ implementation:DeprecationWarning')
def test_the_same_numbers(model: Model, name: str, tmp_path: Path) -> None:
    pytest.importorskip(EXPORTERS[name].needs)
    path = tmp_path / f'network{EXPORTERS[name].suffix}'
    export_model(model, path, name)
    for count in (1, 5):
        images = images_of(model, count)
        found, wanted = RUNNERS[name](path, images), expected(model, images)
        assert len(found) == len(wanted)
        for ours, theirs in zip(found, wanted, strict=True):
            assert ours.shape == theirs.shape
            assert np.abs(ours - theirs).max() < TOLERANCE * np.abs(theirs).max()


def test_onnx_says_what_its_numbers_mean(model: Model, tmp_path: Path) -> None:
    onnx = pytest.importorskip('onnx')
    export_model(model, tmp_path / 'x.onnx', 'onnx')
    made = onnx.load(tmp_path / 'x.onnx')
    properties = {item.key: item.value for item in made.metadata_props}
    assert float(properties['photons']) == 1e4
    assert properties['architecture'] == model.network.architecture
    names = [value.name for value in made.graph.output]
    assert names == (['amplitude', 'phase'] if len(names) == 2 else ['correction'])


@pytest.fixture
def simple() -> Model:
    network = describe_network(CONFIGS['cnn'], 64)
    weights = {n: np.zeros(s, np.float32) for n, s in network.weight_shapes().items()}
    probe = np.ones((1, 64, 64), np.complex64)
    return Model('pytorch', network, Config(model=CONFIGS['cnn']), 1e4, weights, probe)


def test_refused(simple: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match='one of onnx, torchscript, torch-export, keras, legacy-tf'
    ):
        export_model(simple, tmp_path / 'x', 'word')
    with pytest.raises(OutputError, match='there is no folder'):
        export_model(simple, tmp_path / 'none' / 'x.pt', 'torchscript')
    with pytest.raises(ConfigError, match="'legacy-tf' needs a template"):
        export_model(simple, tmp_path / 'x.zip', 'legacy-tf')
    with pytest.raises(ConfigError, match='takes no template'):
        export_model(simple, tmp_path / 'x.pt', 'torchscript', template=tmp_path / 'x')
    monkeypatch.setitem(sys.modules, 'onnx', None)
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(BackendUnavailableError, match=r'needs onnx.*pip install .*export'):
        export_model(simple, tmp_path / 'x.onnx', 'onnx')
    assert list(tmp_path.iterdir()) == []


def test_command(simple: Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_model(tmp_path / 'wts.h5.zip', simple)

    def run(*arguments: object) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(['export', str(tmp_path / 'wts.h5.zip'), *map(str, arguments)])
        captured = capfd.readouterr()
        return ended.value.code, captured.out, captured.err

    code, out, _ = run('--format', 'torchscript')
    assert code == 0
    assert 'images (batch, 1, 64, 64)' in out
    assert (tmp_path / 'wts.pt').is_file()
    _, out, _ = run('--format', 'torch-export', '-o', tmp_path / 'a.pt2', '--json')
    assert json.loads(out)['input'] == ['batch', 1, 64, 64]
    code, _, err = run('--format', 'word')
    assert code == 2
    assert 'must be one of onnx' in err
