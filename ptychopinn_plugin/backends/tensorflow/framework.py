"""TensorFlow itself: imported here alone, quietly and with memory on demand."""

import importlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypeAlias, TypeVar

import numpy as np

from ptychopinn_plugin.backends.common.memory import explaining_full_memory

Function = TypeVar('Function', bound=Callable[..., Any])

# This hides what is information only, and that there is no CUDA driver, which
# `ptychopinn doctor` reports in words.
_NOISE = re.compile(rb'I0000 |WARNING: All log messages before absl|E0000 .* call to cuInit')


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what TensorFlow's libraries print while they load; anything else is passed on.

    They write to the file descriptor, and no variable of the environment stops them.
    """
    # What Python still holds back was written before, and appears before.
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as buffer:
        os.dup2(buffer.fileno(), 2)
        try:
            yield
        finally:
            # An import that fails is the time when its messages are needed.
            os.dup2(kept, 2)
            os.close(kept)
            buffer.seek(0)
            for line in buffer.read().splitlines(keepends=True):
                if not _NOISE.match(line):
                    os.write(2, line)


# A keras.json or a variable of the user may name another backend, which TensorFlow cannot use.
os.environ['KERAS_BACKEND'] = 'tensorflow'
# Errors alone are shown, unless the user has chosen otherwise.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
# TensorFlow would take all memory of a card at once, with none left for other processes.
os.environ.setdefault('TF_FORCE_GPU_ALLOW_GROWTH', 'true')

# CUDA builds of PyTorch bring Triton. Its compiler and TensorFlow's end the process where Triton's
# is loaded second, which PyTorch's optimizers do; where it is loaded first they get along.
if 'tensorflow' not in sys.modules:
    with suppress(ImportError):
        importlib.import_module('triton._C.libtriton')

with _quiet():
    import tensorflow as tf

    # The first operation starts the devices, which print messages as well.
    tf.zeros(())

Tensor: TypeAlias = tf.Tensor


_MEMORY_ERRORS = (tf.errors.ResourceExhaustedError, tf.errors.InternalError)
# Each thread has its own: one run does not move the graphs of another.
_device: ContextVar[str] = ContextVar('device', default='')


@contextmanager
def on_device(name: str) -> Iterator[str]:
    """Let a device compute: what is made, and the graphs that are called."""
    before = _device.set(name)
    try:
        with tf.device(name), explaining_full_memory(name.strip('/'), *_MEMORY_ERRORS):
            yield name
    finally:
        _device.reset(before)


def is_on_cpu(tensor: Tensor) -> bool:
    """Return whether NumPy can work on a tensor where it lies."""
    return bool(tf.executing_eagerly() and tensor.device.endswith('CPU:0'))


Key = tuple[int, str | None, Any, tuple[int | None, ...] | None]
"""It holds an argument's position, a name in it, a tensor's type or plain value, and its sides."""


def compiled(function: Function, *, fixed: Container[int] = ()) -> Function:
    """Turn a function of tensors into graphs that serve for any number of patterns.

    There is one graph for each set of types, ranks and plain values. The first side of a tensor may
    differ from call to call, as may both sides of a canvas. TensorFlow would make a graph for the
    first sizes that it sees, and another one when it sees more.

    Parameters
    ----------
    function : callable
        Of tensors, dictionaries of tensors, None and plain values, by position.
    fixed : container of int
        Positions of arguments whose sides are always the same: weights.
    """
    graphs: dict[Any, Callable[..., Any]] = {}

    def call(*arguments: Any) -> Any:
        # Inside of a graph the function becomes a part of that graph.
        if not tf.executing_eagerly():
            return function(*arguments)
        leaves: list[Tensor] = []
        key: list[Key] = []
        for position, argument in enumerate(arguments):
            for name, leaf in _leaves(argument):
                # Plain values are part of the key, which an array cannot be.
                if isinstance(leaf, np.ndarray):
                    leaf = tf.convert_to_tensor(leaf)
                if isinstance(leaf, tf.Tensor):
                    leaves.append(leaf)
                    key.append((position, name, leaf.dtype, _sides(leaf, position in fixed)))
                else:
                    key.append((position, name, leaf, None))
        # A graph computes where it was made.
        which = (_device.get(), *key)
        if which not in graphs:
            graphs[which] = _graph(function, len(arguments), key)
        return graphs[which](*leaves)

    made: Function = call  # type: ignore[assignment]
    return made


def _leaves(argument: Any) -> Iterable[tuple[str | None, Any]]:
    return argument.items() if isinstance(argument, dict) else [(None, argument)]


def _sides(tensor: Tensor, fixed: bool) -> tuple[int | None, ...]:
    sides = tuple(tensor.shape)
    # Weights always have the same shapes, which a graph may be compiled for.
    if fixed:
        return sides
    # Two sides are a canvas; in a stack of patterns the first alone changes.
    return (None,) * len(sides) if len(sides) < 3 else (None, *sides[1:])


def _graph(function: Callable[..., Any], count: int, key: Sequence[Key]) -> Callable[..., Any]:
    """Return a function of all tensors in a row."""

    def of_leaves(*leaves: Tensor) -> Any:
        arguments: list[Any] = [{} for _ in range(count)]
        tensors = iter(leaves)
        for position, name, value, sides in key:
            leaf = value if sides is None else next(tensors)
            if name is None:
                arguments[position] = leaf
            else:
                arguments[position][name] = leaf
        return function(*arguments)

    signature = [tf.TensorSpec(sides, kind) for *_, kind, sides in key if sides is not None]
    # No loop or condition is over tensors, so that nothing is to be rewritten (autograph).
    made: Callable[..., Any] = tf.function(of_leaves, autograph=False).get_concrete_function(
        *signature
    )
    return made


__all__ = ['Tensor', 'compiled', 'on_device', 'tf']
