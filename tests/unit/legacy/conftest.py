"""Files as PtychoPINN writes them, made here: with torch and Keras left out."""

import functools
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from unit.legacy import model_files

from ptychopinn_plugin.cli import main


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


@pytest.fixture
def tensorflow_members() -> Callable[..., dict[str, bytes]]:
    """Return the function that makes the members of a TensorFlow archive."""
    return model_files.tensorflow_members


@pytest.fixture
def tensorflow_file(tmp_path: Path, write_zip: Any) -> Callable[..., Path]:
    """Return a function that writes a TensorFlow archive."""

    def make(**changes: Any) -> Path:
        return Path(write_zip(tmp_path / 'wts.h5.zip', model_files.tensorflow_members(**changes)))

    return make


@pytest.fixture
def graph() -> Callable[..., model_files.KerasGraph]:
    """Return the function that makes a graph, to change it."""
    return model_files.keras_graph


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


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a Lightning checkpoint with torch itself."""
    pytest.importorskip('torch')
    return functools.partial(model_files.write_checkpoint, tmp_path / 'last.ckpt')
