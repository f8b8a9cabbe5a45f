"""TensorFlow itself: imported here alone, quietly and with memory on demand."""

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

Function = TypeVar('Function', bound=Callable[..., Any])

# Information, and that there is no CUDA driver: `ptychopinn doctor` says so in words.
_NOISE = re.compile(rb'I0000 |WARNING: All log messages before absl|E0000 .* call to cuInit')


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what TensorFlow's libraries tell while they load; anything else is passed on.

    They write to the file descriptor, and no variable of the environment stops them.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as buffer:
        os.dup2(buffer.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            buffer.seek(0)
            for line in buffer.read().splitlines(keepends=True):
                if not _NOISE.match(line):
                    os.write(2, line)


# A keras.json or a variable of the user may name another backend, which TensorFlow cannot use.
os.environ['KERAS_BACKEND'] = 'tensorflow'
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
os.environ.setdefault('TF_FORCE_GPU_ALLOW_GROWTH', 'true')

with _quiet():
    import tensorflow as tf

    # The first operation starts the devices, which tell of themselves as well.
    tf.zeros(())

Tensor: TypeAlias = tf.Tensor


def compiled(function: Function) -> Function:
    """Turn a function of tensors into a graph, made once for all shapes of one rank."""
    made: Function = tf.function(function, reduce_retracing=True, autograph=False)
    return made


__all__ = ['Tensor', 'compiled', 'tf']
