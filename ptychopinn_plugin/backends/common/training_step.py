"""What a framework supplies to training: gradients, steps, and the state of both."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, RealArray
from ptychopinn_plugin.backends.common.sampling import Batch, TrainingScan
from ptychopinn_plugin.config import Config

PROBE_RMS = 5.0
"""The pixels of a probe have this root mean square as the optimizer sees them.

It is about that of 1e5 photons on 64 x 64 pixels.
"""

Arrays = Mapping[str, RealArray]


class TrainingStep(Protocol):
    """One network and one optimizer; `TrainingLoop` decides when they do what."""

    def zero_grad(self) -> None:
        """Drop the gradients gathered so far."""
        ...

    def accumulate_gradients(self, batch: Batch) -> dict[str, float]:
        """Add a batch's gradients, as a share of a step; return its terms and 'loss'."""
        ...

    def step(self, learning_rate: float) -> None:
        """Let the optimizer use the gradients, and clear them."""
        ...

    def validation_loss(self, batch: Batch) -> float:
        """Return the mean loss of a batch of held-out groups."""
        ...

    def use_probes(self) -> None:
        """Let the scans' forward models use the probes as training has left them.

        Those of scans that are only validated on get the probe and the scale that inference with
        the model would take.
        """
        ...

    def state_dict(self) -> dict[str, RealArray]:
        """Return copies of all weights, of network and probes, under PyTorch's names."""
        ...

    def load_state_dict(self, weights: Arrays) -> None:
        """Put back what `state_dict` took."""
        ...

    def optimizer_state(self) -> dict[str, RealArray]:
        """Return copies of the optimizer's state, and of the gradients that wait for a step.

        A name is the number of a parameter and the name of a slot, '0/exp_avg', '0/gradient'.
        """
        ...

    def optimized_shapes(self) -> list[tuple[int, ...]]:
        """Return the shape of each parameter that the optimizer moves, in a file's order of axes.

        The number of a parameter in `optimizer_state` is its place in this list.
        """
        ...

    def load_optimizer_state(self, arrays: Arrays) -> None:
        """Put back what `optimizer_state` took."""
        ...

    def scaler_state(self) -> dict[str, Any]:
        """Return the state of the gradient scaler, as plain values."""
        ...

    def load_scaler_state(self, values: Mapping[str, Any]) -> None:
        """Put back what `scaler_state` took."""
        ...

    def network_weights(self) -> dict[str, RealArray]:
        """Return the network's weights as a model file holds them."""
        ...

    def probes(self) -> tuple[list[ComplexArray], float]:
        """Return the probe of each scan, without the intensity scale, and that scale."""
        ...


class HasWeights(Protocol):
    """What the shared code needs of a framework's network."""

    def numpy_weights(self) -> dict[str, RealArray]:
        """Return the weights as a model file holds them."""
        ...


class Probes(Protocol):
    """What training may correct of the probes; tensors are the framework's."""

    trainable: bool

    @property
    def intensity_scale(self) -> float:
        """The factor on every probe."""
        ...

    def probe(self, index: int) -> Any:
        """Return the probe of a scan, shape (n_modes, height, width)."""
        ...


SomeNetwork = TypeVar('SomeNetwork', bound=HasWeights)
SomeProbes = TypeVar('SomeProbes', bound=Probes)


class NetworkStep(TrainingStep, Generic[SomeNetwork, SomeProbes]):
    """What the steps of both frameworks share: which probe each scan gets.

    Parameters
    ----------
    network : Network
    scans : sequence of TrainingScan
        Whose forward models get the probes, in the order of `trainable_probes`.
    trainable_probes : Probes
    config : Config
    validation : sequence of TrainingScan
        Scans that are only validated on.
    """

    def __init__(
        self,
        network: SomeNetwork,
        scans: Sequence[TrainingScan],
        trainable_probes: SomeProbes,
        config: Config,
        validation: Sequence[TrainingScan] = (),
    ) -> None:
        self.network = network
        self.scans = scans
        self.first_scale = trainable_probes.intensity_scale
        # Each epoch gives these scans another probe, always made from the one of the start: made
        # from that of the epoch before, changes of the scale would pile up.
        self.validation = [(scan, scan.forward.probe) for scan in validation]
        # Eigenmodes are as bright as the probe that they belong to, and follow its scale.
        self._eigenmodes = [scan.forward.eigenmodes for scan in (*scans, *validation)]
        self.config = config
        self.trainable_probes = trainable_probes

    @abstractmethod
    def scaled_probe(self, probe: Any, factor: float, energy_of: Any | None = None) -> Any:
        """Return a probe times a factor, after it got the energy of another one that is given."""

    def use_probes(self) -> None:
        """Let the scans' forward models use the probes as training has left them."""
        # `set_probe` shifts a probe to every position and adds up the coverage again, which would
        # be in vain after each part of an epoch where probes stay as they are.
        if self.trainable_probes.trainable:
            probes = [self.trainable_probes.probe(index) for index in range(len(self.scans))]
            probes += [self._validation_probe(scan, start) for scan, start in self.validation]
            scans = [*self.scans, *(scan for scan, _ in self.validation)]
            change = np.float32(self.trainable_probes.intensity_scale / self.first_scale)
            for scan, probe, eigenmodes in zip(scans, probes, self._eigenmodes, strict=True):
                scan.forward.set_variation(change * eigenmodes, scan.forward.opr_weights)
                scan.forward.set_probe(probe)

    def _validation_probe(self, scan: TrainingScan, start: Any) -> Any:
        """Return a probe of the energy of `start`, times the change of the scale."""
        # `start` holds the first scale already.
        change = self.trainable_probes.intensity_scale / self.first_scale
        if scan.probe_of is None:
            # No scan of the training has this probe: inference would find no corrected one either.
            return self.scaled_probe(start, change)
        probe = self.trainable_probes.probe(scan.probe_of)
        return self.scaled_probe(probe, change, energy_of=start)

    def network_weights(self) -> dict[str, RealArray]:
        """Return the network's weights as a model file holds them."""
        return self.network.numpy_weights()
