"""Bring an object to the nearest one that its constraints allow.

See `backends.common.constraints`.
"""

from ptychopinn_plugin.backends.common.constraints import (
    DUAL_STEP,
    ObjectConstraints,
    cut_bands,
    dual_momenta,
)
from ptychopinn_plugin.backends.tensorflow.framework import Tensor, compiled, tf
from ptychopinn_plugin.backends.tensorflow.operators import scaled, squared


def constrain(
    object_: Tensor,
    coverage: Tensor,
    constraints: ObjectConstraints,
    variation_weight: float,
    growth: Tensor | float,
) -> Tensor:
    """Return an object that its constraints allow.

    Parameters
    ----------
    object_ : Tensor of complex64, shape (height, width)
    coverage : Tensor of float32, shape (height, width)
        Photons in each pixel.
    constraints : ObjectConstraints
    variation_weight : float
        Of the total variation, in units of the amplitude; 0 leaves it.
    growth : Tensor or float
        The object times this is what the bounds are for, as a probe that is refined has taken it.

    Returns
    -------
    Tensor of complex64, shape (height, width)
    """
    if variation_weight > 0:
        weight = tf.constant(variation_weight, tf.float32)
        object_ = smooth_variation(object_, weight, constraints.dual_steps)
    if constraints.object_type == 'amplitude':
        object_ = _without_phase(object_, coverage)
    elif constraints.object_type == 'phase':
        object_ = _without_absorption(object_, coverage)
    if constraints.bounds is not None:
        amplitude = tf.clip_by_value(tf.abs(object_) * growth, *constraints.bounds) / growth
        object_ = _polar(amplitude, object_)
    return object_


@compiled
def _without_phase(object_: Tensor, coverage: Tensor) -> Tensor:
    mean = tf.reduce_sum(scaled(object_, coverage))
    # Only the phase of the whole is free, and no pixel may have the opposite one.
    real = tf.math.real(object_ * tf.math.conj(mean)) / tf.maximum(tf.abs(mean), 1e-30)
    return tf.complex(tf.maximum(real, 0.0), tf.zeros_like(real))


@compiled
def _without_absorption(object_: Tensor, coverage: Tensor) -> Tensor:
    level = tf.sqrt(tf.reduce_sum(squared(object_) * coverage) / tf.reduce_sum(coverage))
    return _polar(level, object_)


def _polar(amplitude: Tensor, object_: Tensor) -> Tensor:
    """Return numbers of these amplitudes with the phases of an object."""
    phase = tf.math.angle(object_)
    return tf.complex(amplitude * tf.cos(phase), amplitude * tf.sin(phase))


def smooth_variation(object_: Tensor, weight: Tensor, steps: int) -> Tensor:
    """Return the proximal step of the total variation, shape (height, width) of complex64."""
    # Each step looks at the next pixel and the one before, and so does what is made of the last.
    bands = cut_bands((object_.shape[0], object_.shape[1]), steps + 1)
    smooth = [_smooth_band(object_[band.around], weight, steps)[band.inside] for band in bands]
    return smooth[0] if len(smooth) == 1 else tf.concat(smooth, axis=0)


@compiled
def _smooth_band(object_: Tensor, weight: Tensor, steps: int) -> Tensor:
    y, x = newest = (tf.zeros_like(object_), tf.zeros_like(object_))
    for momentum in dual_momenta(steps):
        slopes = _slopes(object_ - scaled(_spread(y, x), weight))
        before = newest
        newest = _shortened(
            *(
                dual + scaled(slope, DUAL_STEP / weight)
                for dual, slope in zip((y, x), slopes, strict=True)
            )
        )
        y, x = (new + scaled(new - old, momentum) for new, old in zip(newest, before, strict=True))
    return object_ - scaled(_spread(*newest), weight)


def object_variation(object_: Tensor) -> Tensor:
    """Return the sum of the lengths of the gradients of an object, float32."""
    total = tf.constant(0.0)
    for band in cut_bands((object_.shape[0], object_.shape[1]), 1):
        total += tf.reduce_sum(_slope_lengths(object_[band.around])[band.inside])
    return total


@compiled
def _slope_lengths(image: Tensor) -> Tensor:
    y, x = _slopes(image)
    return tf.sqrt(squared(y) + squared(x))


def _slopes(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the differences to the next pixel in y and x; 0 at the ends."""
    return (
        tf.concat([image[1:] - image[:-1], tf.zeros_like(image[:1])], axis=0),
        tf.concat([image[:, 1:] - image[:, :-1], tf.zeros_like(image[:, :1])], axis=1),
    )


def _spread(y: Tensor, x: Tensor) -> Tensor:
    """Return the adjoint of `_slopes`; the last row of `y` and column of `x` are 0."""
    before_y = tf.concat([tf.zeros_like(y[:1]), y[:-1]], axis=0)
    before_x = tf.concat([tf.zeros_like(x[:, :1]), x[:, :-1]], axis=1)
    return before_y - y + before_x - x


def _shortened(y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return vectors (y, x) of each pixel with a length of at most 1."""
    length = tf.maximum(tf.sqrt(squared(y) + squared(x)), 1.0)
    return scaled(y, 1 / length), scaled(x, 1 / length)
