"""What a framework supplies to training: gradients, steps, and the state of both."""

from collections.abc import Mapping
from typing import Any, Protocol

from ptychopinn_plugin.array_types import ComplexArray, RealArray
from ptychopinn_plugin.backends.common.sampling import Batch

PROBE_RMS = 5.0
"""Root mean square of a probe's pixels as the optimizer sees them.

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
        """Let the optimizer use the gradients, and forget them."""
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
        """Return copies of the optimizer's state.

        A name is the number of a parameter and the name of a slot, '0/exp_avg'.
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
