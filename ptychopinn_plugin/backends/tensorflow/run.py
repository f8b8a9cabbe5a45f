"""A training run with TensorFlow."""

from collections.abc import Callable, Sequence

import numpy as np

from ptychopinn_plugin.arrays import ComplexArray
from ptychopinn_plugin.backends.lessons import Lesson, MakeLesson, TrainingScan
from ptychopinn_plugin.backends.run import SweepObserver, TrainingRun
from ptychopinn_plugin.backends.tensorflow.forward import ForwardModel
from ptychopinn_plugin.backends.tensorflow.framework import Tensor, tf
from ptychopinn_plugin.backends.tensorflow.network import Network
from ptychopinn_plugin.backends.tensorflow.refinement import sweep_object
from ptychopinn_plugin.backends.tensorflow.training import Illumination, Trainer
from ptychopinn_plugin.backends.tensorflow.waves import scaled
from ptychopinn_plugin.data import Scan


class TensorFlowRun(TrainingRun[str]):
    """One call of `train`; see `backends.run.TrainingRun`."""

    backend = 'tensorflow'

    def _build_forward(self, scan: Scan, probe: ComplexArray) -> ForwardModel:
        return ForwardModel(scan, probe)

    def _sweep(
        self, model: ForwardModel, sweeps: int, observer: SweepObserver
    ) -> tuple[Tensor, list[float]]:
        return sweep_object(
            model,
            model.flat_object(),
            sweeps,
            seed=self.config.training.seed,
            refine_probe=self.config.training.probe_trainable,
            observer=observer,
        )

    def _scaled_to_counts(self, object_: ComplexArray, model: ForwardModel) -> Tensor:
        canvas = tf.constant(object_)
        good = 1.0 if model.good is None else model.good
        expected = measured = 0.0
        for indices in model.batches(128):
            counts = model.expect(model.extract(canvas, indices), indices)
            expected += float(tf.reduce_sum(good * counts))
            measured += float(tf.reduce_sum(good * model.measured(indices) ** 2))
        return scaled(canvas, np.sqrt(measured / expected))

    def _build_trainer(
        self, scans: Sequence[TrainingScan], held_out: Callable[[MakeLesson], list[Lesson]]
    ) -> Trainer:
        settings = self.config.training
        network = Network(self.description, settings.precision, settings.seed)
        if self.base_model is not None:
            network.load_weights(self.base_model.weights)
        probes = [scaled(model.probe, 1 / self.scale) for model in self.models]
        illumination = Illumination(probes, self.scale, settings)
        return Trainer(
            network,
            scans,
            illumination,
            self.config,
            held_out,
            self.started,
            self.observer,
        )

    def _framework(self) -> str:
        return f'tensorflow {tf.__version__}'
