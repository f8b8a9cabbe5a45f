"""A training run with PyTorch."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ptychopinn_plugin.arrays import ComplexArray
from ptychopinn_plugin.backends.lessons import Lesson, MakeLesson, TrainingScan
from ptychopinn_plugin.backends.pytorch.forward import ForwardModel
from ptychopinn_plugin.backends.pytorch.network import Network
from ptychopinn_plugin.backends.pytorch.refinement import sweep_object
from ptychopinn_plugin.backends.pytorch.training import Illumination, Trainer
from ptychopinn_plugin.backends.run import SweepObserver, TrainingRun
from ptychopinn_plugin.data import Scan


class PyTorchRun(TrainingRun[torch.device]):
    """One call of `train`; see `backends.run.TrainingRun`."""

    backend = 'pytorch'

    def _build_forward(self, scan: Scan, probe: ComplexArray) -> ForwardModel:
        return ForwardModel(scan, torch.from_numpy(probe), self.device)

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
        canvas = torch.from_numpy(object_).to(model.device)
        good = 1.0 if model.good is None else model.good
        expected = measured = 0.0
        for indices in torch.arange(len(model), device=model.device).split(128):
            counts = model.expect(model.extract(canvas, indices), indices)
            expected += float((good * counts).sum())
            measured += float((good * model.measured(indices) ** 2).sum())
        return canvas * float(np.sqrt(measured / expected))

    def _build_trainer(
        self, scans: Sequence[TrainingScan], held_out: Callable[[MakeLesson], list[Lesson]]
    ) -> Trainer:
        network = Network(self.description, self.config.training.precision)
        if self.base_model is not None:
            network.load_weights(self.base_model.weights)
        illumination = Illumination(
            [model.probe / self.scale for model in self.models], self.scale, self.config.training
        )
        return Trainer(
            network.to(self.device),
            scans,
            illumination.to(self.device),
            self.config,
            held_out,
            self.started,
            self.observer,
        )

    def _framework(self) -> str:
        return f'torch {torch.__version__}'
