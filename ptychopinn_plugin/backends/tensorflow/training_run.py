"""A training run with TensorFlow."""

from collections.abc import Callable, Sequence

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray
from ptychopinn_plugin.backends.common.sampling import MakeSubScan, SubScan, TrainingScan
from ptychopinn_plugin.backends.common.training_run import IterationObserver, TrainingRun
from ptychopinn_plugin.backends.tensorflow.forward import ForwardModel
from ptychopinn_plugin.backends.tensorflow.framework import Tensor, tf
from ptychopinn_plugin.backends.tensorflow.network import Network
from ptychopinn_plugin.backends.tensorflow.operators import scaled
from ptychopinn_plugin.backends.tensorflow.refinement import iterate_object
from ptychopinn_plugin.backends.tensorflow.training import TrainableProbes, Trainer
from ptychopinn_plugin.data import Scan


class TensorFlowRun(TrainingRun[str]):
    """One call of `train`; see `backends.common.training_run.TrainingRun`."""

    backend = 'tensorflow'

    def _build_forward(self, scan: Scan, probe: ComplexArray) -> ForwardModel:
        return ForwardModel(scan, probe)

    def _iterate(
        self, model: ForwardModel, iterations: int, observer: IterationObserver
    ) -> tuple[Tensor, list[float]]:
        return iterate_object(
            model,
            model.flat_object(),
            iterations,
            seed=self.config.training.seed,
            refine_probe=self.config.training.probe_trainable,
            observer=observer,
        )

    def _scaled_to_counts(self, object_: ComplexArray, model: ForwardModel) -> Tensor:
        canvas = tf.constant(object_)
        valid_mask = 1.0 if model.valid_mask is None else model.valid_mask
        expected = measured = 0.0
        for indices in model.batches(128):
            counts = model.predict_intensity(model.extract_patches(canvas, indices), indices)
            expected += float(tf.reduce_sum(valid_mask * counts))
            measured += float(tf.reduce_sum(valid_mask * model.measured(indices) ** 2))
        return scaled(canvas, np.sqrt(measured / expected))

    def _build_trainer(
        self, scans: Sequence[TrainingScan], held_out: Callable[[MakeSubScan], list[SubScan]]
    ) -> Trainer:
        settings = self.config.training
        network = Network(self.description, settings.precision, settings.seed)
        if self.base_model is not None:
            network.load_weights(self.base_model.weights)
        probes = [scaled(model.probe, 1 / self.scale) for model in self.models]
        trainable_probes = TrainableProbes(probes, self.scale, settings)
        return Trainer(
            network,
            scans,
            trainable_probes,
            self.config,
            held_out,
            self.started,
            self.observer,
        )

    def _framework(self) -> str:
        return f'tensorflow {tf.__version__}'
