"""AdamW, with the arithmetic of PyTorch's, and the scale of float16's gradients."""

from collections.abc import Container, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.backends.tensorflow.framework import Tensor, compiled, tf
from ptychopinn_plugin.backends.tensorflow.network import from_stored, to_stored

FIRST_DECAY, SECOND_DECAY, EPSILON = 0.9, 0.999, 1e-8

Tensors = dict[str, Tensor]


class AdamW:
    r"""Adam with decoupled weight decay [1]_.

    With :math:`m` and :math:`v` the running means of a gradient and its square,

    .. math::
        \theta \leftarrow (1 - \eta \lambda)\, \theta
            - \frac{\eta}{1 - \beta_1^t} \frac{m}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}.

    A parameter without a gradient stays as it is, and its time :math:`t` with it.

    Parameters
    ----------
    names : iterable of str
        Of all parameters that may move.
    weight_decay : mapping of str to float
        Of those whose decay is not 0.

    References
    ----------
    .. [1] I. Loshchilov, F. Hutter, ICLR (2019), arXiv:1711.05101.
    """

    def __init__(self, names: Iterable[str], weight_decay: Mapping[str, float]) -> None:
        self.names = tuple(names)
        self.weight_decay = weight_decay
        self.times: dict[str, int] = {}
        self.means: Tensors = {}
        self.squares: Tensors = {}

    def step(self, parameters: Tensors, gradients: Tensors, rate: float) -> Tensors:
        """Return the parameters that have gradients, moved."""
        for name, gradient in gradients.items():
            self.times[name] = self.times.get(name, 0) + 1
            if name not in self.means:
                self.means[name] = tf.zeros_like(gradient)
                self.squares[name] = tf.zeros_like(gradient)
        # In double precision here: 1 - 0.999**t loses digits in float32 while t is small.
        factors = np.array(
            [
                [
                    1 - rate * self.weight_decay.get(name, 0.0),
                    rate / (1 - FIRST_DECAY ** self.times[name]),
                    (1 - SECOND_DECAY ** self.times[name]) ** 0.5,
                ]
                for name in sorted(gradients)
            ],
            dtype=np.float32,
        )
        moved, means, squares = _move(
            {name: parameters[name] for name in gradients},
            gradients,
            {name: self.means[name] for name in gradients},
            {name: self.squares[name] for name in gradients},
            factors,
        )
        self.means |= means
        self.squares |= squares
        return dict(moved)

    def arrays(self, kernels: Container[str]) -> dict[str, RealArray]:
        """Return copies of the state under a parameter's number and PyTorch's names.

        Parameters
        ----------
        kernels : container of str
            Parameters that are stored in the order of a model file.
        """
        result: dict[str, RealArray] = {}
        for number, name in enumerate(self.names):
            if name in self.times:
                result[f'{number}/step'] = np.array(self.times[name], dtype=np.float32)
                # Model files hold one layout, whichever backend has written them.
                convert = to_stored if name in kernels else np.array
                result[f'{number}/exp_avg'] = convert(self.means[name].numpy())
                result[f'{number}/exp_avg_sq'] = convert(self.squares[name].numpy())
        return result

    def load_state_dict(self, arrays: Mapping[str, RealArray], kernels: Container[str]) -> None:
        """Put back what `arrays` took."""
        for number, name in enumerate(self.names):
            if f'{number}/step' in arrays:
                convert = from_stored if name in kernels else np.array
                self.times[name] = int(arrays[f'{number}/step'])
                self.means[name] = tf.constant(convert(arrays[f'{number}/exp_avg']))
                self.squares[name] = tf.constant(convert(arrays[f'{number}/exp_avg_sq']))


@partial(compiled, fixed=range(5))
def _move(
    parameters: Tensors, gradients: Tensors, means: Tensors, squares: Tensors, factors: Tensor
) -> tuple[Tensors, Tensors, Tensors]:
    r"""Return parameters, means and squares after one step of `AdamW`.

    Parameters
    ----------
    parameters, gradients, means, squares : dict of str to Tensor
        Of the same names.
    factors : Tensor, shape (n_gradients, 3)
        In the order of the sorted names: :math:`1 - \eta \lambda`,
        :math:`\eta / (1 - \beta_1^t)` and :math:`\sqrt{1 - \beta_2^t}`. As numbers of a tensor
        they change without another compilation.
    """
    moved: Tensors = {}
    new_means: Tensors = {}
    new_squares: Tensors = {}
    for number, name in enumerate(sorted(gradients)):
        gradient, (keep, step, root) = gradients[name], tf.unstack(factors[number], 3)
        # PyTorch's order of operations, so that both backends round alike over many steps.
        mean = means[name] + (1 - FIRST_DECAY) * (gradient - means[name])
        square = SECOND_DECAY * squares[name] + (1 - SECOND_DECAY) * gradient * gradient
        move = step * mean / (tf.sqrt(square) / root + EPSILON)
        moved[name] = keep * parameters[name] - move
        new_means[name], new_squares[name] = mean, square
    return moved, new_means, new_squares


@partial(compiled, fixed=(0,))
def clipped(gradients: Tensors, largest: Tensor) -> Tensors:
    """Scale gradients so that their norm, taken together, is no larger than `largest`."""
    norm = tf.sqrt(tf.add_n([tf.reduce_sum(g * g) for g in gradients.values()]))
    # The summand is PyTorch's too.
    factor = tf.minimum(1.0, largest / (norm + 1e-6))
    return {name: gradient * factor for name, gradient in gradients.items()}


@partial(compiled, fixed=(0,))
def all_finite(gradients: Tensors) -> Tensor:
    """Return whether every gradient is a number."""
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in gradients.values()])


class GradientScale:
    """A factor that keeps float16's gradients from vanishing; 1 where precision is higher.

    It halves where a gradient overflows, and that step is left out; after 2000 good steps in a row
    it doubles.
    """

    FIRST, GROWTH, BACKOFF, INTERVAL = 65536.0, 2.0, 0.5, 2000

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self.scale = self.FIRST if enabled else 1.0
        self.good_steps = 0

    def update(self, finite: bool) -> None:
        """Take note of a step."""
        if not self.enabled:
            return
        if not finite:
            self.scale, self.good_steps = self.scale * self.BACKOFF, 0
            return
        self.good_steps += 1
        if self.good_steps == self.INTERVAL:
            self.scale, self.good_steps = self.scale * self.GROWTH, 0

    def state(self) -> dict[str, Any]:
        """Return plain values; none where the scale is not in use."""
        if not self.enabled:
            return {}
        return {'scale': self.scale, '_growth_tracker': self.good_steps}

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Put back what `state` took."""
        self.scale, self.good_steps = float(values['scale']), int(values['_growth_tracker'])
