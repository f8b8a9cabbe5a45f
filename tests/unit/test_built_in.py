"""The model that comes with the package, without any framework."""

import numpy as np

from ptychopinn_plugin import api
from ptychopinn_plugin.model import Model
from ptychopinn_plugin.model_file import describe_model
from ptychopinn_plugin.physics.prior_features import PRIOR_FEATURES


def test_it_is_a_learned_prior_with_all_its_weights() -> None:
    model = Model.built_in()
    assert model.is_prior
    assert model.backend == 'auto'
    assert model.network.layers[0].out_channels == PRIOR_FEATURES
    for name, shape in model.network.weight_shapes().items():
        assert model.weights[name].shape == shape
        assert np.isfinite(model.weights[name]).all()
    assert api.open_model('built-in') is model


def test_it_tells_how_it_was_made() -> None:
    values = describe_model(Model.built_in())
    assert values['provenance']['made by'] == 'python -m ptychopinn_plugin.pretraining'
    assert values['provenance']['simulated scans'] > 1000
    assert values['is_prior']
