"""The loaded model: read once without what only training needs, and saved with all of it."""

import logging
import os
from pathlib import Path

import pytest

from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.host.loaded_model import LoadedModel
from ptychopinn_plugin.model_file import read_model

MODEL = Path(__file__).parents[1] / 'fixtures' / 'model_format_1.h5.zip'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / 'model.zip'
    path.write_bytes(MODEL.read_bytes())
    return path


def test_the_window_reads_no_training_state_and_saving_keeps_it(file: Path) -> None:
    assert read_model(file).training_state is not None
    loaded = LoadedModel()
    assert loaded.load(file).training_state is None
    saved = file.with_name('saved.zip')
    loaded.save(saved, keep_training_state=True)
    assert read_model(saved).training_state is not None
    loaded.save(saved, keep_training_state=False)
    assert read_model(saved).training_state is None


def test_a_model_whose_file_is_gone_is_saved_without_training_state(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = LoadedModel()
    loaded.load(file)
    file.unlink()
    saved = file.with_name('saved.zip')
    with caplog.at_level(logging.WARNING):
        loaded.save(saved, keep_training_state=True)
    (line,) = caplog.messages
    assert 'without what resuming its training needs' in line
    assert read_model(saved).training_state is None
    with pytest.raises(DataError, match='which is gone'):
        loaded.current('Infer')


def test_a_file_that_has_changed_is_read_again(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = LoadedModel()
    before = loaded.load(file)
    assert loaded.current('Infer') == (before, file)
    os.utime(file, (1, 1))
    with caplog.at_level(logging.WARNING):
        after, _ = loaded.current('Infer')
    assert after is not before
    assert 'was read again' in caplog.text


def test_the_built_in_model_is_there_until_another_one_is_loaded(
    tmp_path: Path,
) -> None:
    loaded = LoadedModel()
    model, path = loaded.current('Infer')
    assert (loaded.is_built_in, loaded.name) == (True, 'built-in model')
    assert model.is_prior
    assert path.is_file()
    loaded.save(tmp_path / 'x.zip', keep_training_state=True)
    assert read_model(tmp_path / 'x.zip').is_prior
