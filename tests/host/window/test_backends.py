"""Both frameworks in one window, one after the other."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from ptychopinn_plugin.model_file import read_model

from .test_inference import object_of
from .test_panel import backend_row
from .user import PATIENCE_MS, Window

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec('tensorflow') is None, reason='tensorflow is not installed.'
)


def test_tensorflow_trains_and_both_infer(window: Window, tmp_path: Path) -> None:
    folder = tmp_path / 'data'
    box, note = backend_row(window)
    window.choose(box, 'tensorflow')
    assert note.text() == 'In force: tensorflow (chosen here).'
    window.set(TrainingEpochs=2)

    window.train(folder)
    # Graphs are made in the first epoch.
    window.wait_for_end(3 * PATIENCE_MS)
    assert '2 epochs; with tensorflow (chosen by the setting Backend).' in window.log
    assert read_model(folder / 'model.zip').backend == 'tensorflow'
    window.choose(box, 'auto')
    assert note.text() == (
        'In force: tensorflow (it made the loaded model). Training from scratch uses pytorch.'
    )

    objects = []
    for name in ('tensorflow', 'pytorch'):
        window.choose(box, name)
        window.wait(lambda: not window.reconstructor.loaded.is_built_in)
        number = window.infer()
        window.wait_for_end(3 * PATIENCE_MS)
        assert f'with {name} (chosen by the setting Backend)' in window.log
        objects.append(object_of(window, number))
    assert 'ERROR' not in window.log
    first, second = objects
    assert np.abs(first - 1).max() > 0.1
    np.testing.assert_allclose(second, first, rtol=1e-3, atol=1e-3)
