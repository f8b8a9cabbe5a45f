"""A training run with PyTorch."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ptychopinn_plugin.array_types import ComplexArray
from ptychopinn_plugin.backends.common.sampling import MakeSubScan, SubScan, TrainingScan
from ptychopinn_plugin.backends.common.training_run import IterationObserver, TrainingRun
from ptychopinn_plugin.backends.pytorch.forward import ForwardModel
from ptychopinn_plugin.backends.pytorch.network import Network
from ptychopinn_plugin.backends.pytorch.refinement import iterate_object
from ptychopinn_plugin.backends.pytorch.training import TrainableProbes, Trainer
from ptychopinn_plugin.data import Scan


class PyTorchRun(TrainingRun[torch.device]):
    """One call of `train`; see `backends.common.training_run.TrainingRun`."""

    backend = 'pytorch'

    def _build_forward(self, scan: Scan, probe: ComplexArray) -> ForwardModel:
        return ForwardModel(scan, torch.from_numpy(probe), self.device)

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
        canvas = torch.from_numpy(object_).to(model.device)
        valid_mask = 1.0 if model.valid_mask is None else model.valid_mask
        expected = measured = 0.0
        for indices in torch.arange(len(model), device=model.device).split(128):
            counts = model.predict_intensity(model.extract_patches(canvas, indices), indices)
            expected += float((valid_mask * counts).sum())
            measured += float((valid_mask * model.measured(indices) ** 2).sum())
        return canvas * float(np.sqrt(measured / expected))

    def _build_trainer(
        self, scans: Sequence[TrainingScan], held_out: Callable[[MakeSubScan], list[SubScan]]
    ) -> Trainer:
        network = Network(self.description, self.config.training.precision)
        if self.base_model is not None:
            network.load_weights(self.base_model.weights)
        trainable_probes = TrainableProbes(
            [model.probe / self.scale for model in self.models], self.scale, self.config.training
        )
        return Trainer(
            network.to(self.device),
            scans,
            trainable_probes.to(self.device),
            self.config,
            held_out,
            self.started,
            self.observer,
        )

    def _framework(self) -> str:
        return f'torch {torch.__version__}'
