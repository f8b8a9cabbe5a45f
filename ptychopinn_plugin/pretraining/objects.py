"""Objects of all kinds: what is drawn, its edges and its scale, and how it meets light."""

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter, zoom
from scipy.spatial import cKDTree

from ptychopinn_plugin.array_types import ComplexArray, FloatArray
from ptychopinn_plugin.data.simulation import SimulationConfig, make_object
from ptychopinn_plugin.data.simulation.objects import AMPLITUDE_RANGE, PHASE_RANGE_RAD

Shape = tuple[int, int]
Images = tuple[FloatArray, FloatArray]
"""Amplitude and phase are made from two images with values between 0 and 1."""

N_SEEDS = 1 << 31


def draw_object(rng: np.random.Generator, shape: Shape) -> ComplexArray:
    """Draw an object.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : (height, width)

    Returns
    -------
    ndarray of complex128, shape `shape`
        Amplitudes between 0 and 1.
    """
    names = list(OBJECT_KINDS)
    shares = np.array([share for share, _ in OBJECT_KINDS.values()])
    name = names[rng.choice(len(names), p=shares / shares.sum())]
    first, second = OBJECT_KINDS[name][1](rng, shape)
    blur = rng.choice([0.0, 0.0, rng.uniform(0.3, 1.0), rng.uniform(1.0, 3.0)])
    if blur > 0:
        first, second = gaussian_filter(first, blur), gaussian_filter(second, blur)
    return _meet_light(rng, spread(first), spread(second))


def draw_lines(rng: np.random.Generator, shape: Shape) -> ComplexArray:
    """Draw absorbing lines of random direction, width and value without any phase.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : (height, width)

    Returns
    -------
    ndarray of complex128, shape `shape`
        Real, between 0 and 1.
    """
    image = _line_image(rng, shape, rng.uniform(0.02, 0.15))
    if rng.random() < 0.5:
        image = gaussian_filter(image, rng.uniform(0.4, 1.2))
    low = rng.uniform(0.0, 0.5)
    return (low + (1 - low) * spread(image)).astype(np.complex128)


def _meet_light(rng: np.random.Generator, first: FloatArray, second: FloatArray) -> ComplexArray:
    """Make a transmission out of two images: weak, strong, of one material or of two."""
    depth, phase_range = 0.0, 0.0
    match rng.choice(5, p=[0.42, 0.22, 0.1, 0.12, 0.14]):
        case 0:  # both, of middling strength
            depth, phase_range = rng.uniform(0.2, 0.7), rng.uniform(0.5, 3.0)
        case 1:  # pure phase, up to a whole wave
            phase_range = 10 ** rng.uniform(-1.0, 0.8)
        case 2:  # pure amplitude, down to zero
            depth = rng.uniform(0.3, 1.0)
        case 3:  # weak
            depth, phase_range = rng.uniform(0, 0.1), 10 ** rng.uniform(-1.3, -0.3)
        case 4:  # opaque parts, and phase
            depth, phase_range = 1.0, rng.uniform(0.2, 3.0)
    if first.mean() > 0.6:
        # Objects that are dark almost everywhere are rare, and would be all that is learnt from.
        first = 1 - first
    # In one material phase follows absorption; in two it need not.
    common = rng.choice([0.0, 0.5, 1.0])
    second = common * first + (1 - common) * second
    sign = rng.choice([-1, 1])
    transmission = (1 - depth * first) * np.exp(1j * sign * phase_range * (second - 0.5))
    return np.asarray(transmission, dtype=np.complex128)


def spread(image: FloatArray) -> FloatArray:
    """Return an image whose values go from 0 to 1; a flat one becomes 0."""
    low, high = float(image.min()), float(image.max())
    return (image - low) / (high - low) if high > low else np.zeros_like(image)


def _of_simulation(kind: str) -> Callable[[np.random.Generator, Shape], Images]:
    """Return a kind of `ptychopinn simulate`, at another scale."""

    def draw(rng: np.random.Generator, shape: Shape) -> Images:
        scale = rng.choice([1.0, 1.0, rng.uniform(0.5, 1.0), rng.uniform(1.0, 2.5)])
        height, width = (max(24, int(np.ceil(side / scale)) + 2) for side in shape)
        config = SimulationConfig(object_kind=kind, seed=int(rng.integers(N_SEEDS)))  # type: ignore[arg-type]
        object_ = make_object(config, (height, width))
        low, high = AMPLITUDE_RANGE
        amplitude = (np.abs(object_) - low) / (high - low)
        low, high = PHASE_RANGE_RAD
        phase = (np.angle(object_) - low) / (high - low)
        if scale != 1:
            amplitude, phase = (zoom(image, scale, order=1) for image in (amplitude, phase))
        top, left = (
            int(rng.integers(0, max(1, have - want + 1)))
            for have, want in zip(amplitude.shape, shape, strict=True)
        )
        box = (slice(top, top + shape[0]), slice(left, left + shape[1]))
        return _fit(amplitude[box], shape), _fit(phase[box], shape)

    return draw


def _fit(image: FloatArray, shape: Shape) -> FloatArray:
    """Repeat the edge where rounding has left an image a pixel short."""
    missing = [(0, max(0, want - have)) for have, want in zip(image.shape, shape, strict=True)]
    return np.pad(image, missing, mode='edge')


def _lines(rng: np.random.Generator, shape: Shape) -> Images:
    density = rng.uniform(0.01, 0.15)
    return _line_image(rng, shape, density), _line_image(rng, shape, density)


def _line_image(rng: np.random.Generator, shape: Shape, density: float) -> FloatArray:
    """Draw lines on top of each other; `density` is their number for each pixel of the diagonal."""
    y, x = np.indices(shape).astype(np.float64)
    image = np.full(shape, rng.uniform())
    widest, adds = rng.uniform(2.0, 10.0), rng.random() < 0.3
    for _ in range(max(3, int(density * 2 * np.hypot(*shape)))):
        angle, width = rng.uniform(0, np.pi), rng.uniform(1.0, widest)
        row, column = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        distance = np.abs((y - row) * np.cos(angle) - (x - column) * np.sin(angle))
        # The edge is a ramp of one pixel, without the steps of a drawn line.
        cover = np.clip(width / 2 + 0.5 - distance, 0, 1)
        value = rng.uniform()
        image += cover * (value if adds else value - image)
    return image


def _periodic(rng: np.random.Generator, shape: Shape) -> Images:
    """Draw gratings and lattices, of waves or of bars and dots, perhaps with a defect."""
    y, x = np.indices(shape).astype(np.float64)
    images = []
    period, angle = np.exp(rng.uniform(np.log(3.0), np.log(30.0))), rng.uniform(0, np.pi)
    sharp, crossed = rng.random() < 0.5, rng.random() < 0.6
    for _ in range(2):
        crossing_angle = angle + np.pi / rng.choice([2, 3])
        wave = np.cos(2 * np.pi / period * (y * np.cos(angle) + x * np.sin(angle)))
        if crossed:
            along = y * np.cos(crossing_angle) + x * np.sin(crossing_angle)
            wave = wave + np.cos(2 * np.pi / period * along)
        if sharp:
            wave = np.clip(0.5 + period / 4 * (wave - rng.uniform(-0.5, 0.5)), 0, 1)
        images.append(wave * (1 + rng.uniform(0, 0.5) * _texture(rng, shape, 2.0)))
    return images[0], images[1]


def _textures(rng: np.random.Generator, shape: Shape) -> Images:
    """Draw noise of 1/f^b, as it is or cut into two values: clouds and porous matter."""
    exponent, sharp = rng.uniform(0.7, 3.0), rng.random() < 0.4
    images = []
    for _ in range(2):
        image = _texture(rng, shape, exponent)
        if sharp:
            image = np.clip(0.5 + 4 * (image - rng.uniform(-0.7, 0.7)), 0, 1)
        images.append(np.clip(image, -3, 3))
    return images[0], images[1]


def _texture(rng: np.random.Generator, shape: Shape, exponent: float) -> FloatArray:
    spectrum = np.fft.rfft2(rng.standard_normal(shape))
    k = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :])
    # The mean is taken out; it would be divided by zero.
    k[0, 0] = np.inf
    image = np.fft.irfft2(spectrum / k**exponent, s=shape)
    return np.asarray(image / image.std())


def _cells(rng: np.random.Generator, shape: Shape) -> Images:
    """Draw grains: each pixel has the value of its nearest seed."""
    size = np.exp(rng.uniform(np.log(5.0), np.log(30.0)))
    count = max(4, int(shape[0] * shape[1] / size**2))
    seeds = rng.uniform(size=(count, 2)) * np.array(shape)
    _, nearest = cKDTree(seeds).query(np.moveaxis(np.indices(shape), 0, -1).reshape(-1, 2))
    levels = int(rng.choice([2, 4, count]))
    values = rng.uniform(size=(2, levels))[:, rng.integers(levels, size=count)]
    first, second = values[:, nearest.reshape(shape)]
    return first, second


def _spheres(rng: np.random.Generator, shape: Shape) -> Images:
    """Draw the projected thickness of balls on an empty ground."""
    y, x = np.indices(shape).astype(np.float64)
    image = np.zeros(shape)
    mean = rng.uniform(2.5, 12.0)
    for _ in range(max(3, int(rng.uniform(0.2, 1.0) * shape[0] * shape[1] / (4 * mean**2)))):
        radius = mean * rng.uniform(0.5, 1.5)
        row, column = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        image += np.sqrt(np.clip(radius**2 - (y - row) ** 2 - (x - column) ** 2, 0, None)) / mean
    return image, image + rng.uniform(0, 0.3) * _texture(rng, shape, 1.5)


OBJECT_KINDS: dict[str, tuple[float, Callable[[np.random.Generator, Shape], Images]]] = {
    'dead-leaves': (0.30, _of_simulation('dead-leaves')),
    'lines': (0.15, _lines),
    'letters': (0.10, _of_simulation('letters')),
    'siemens': (0.05, _of_simulation('siemens')),
    'periodic': (0.10, _periodic),
    'textures': (0.12, _textures),
    'cells': (0.10, _cells),
    'spheres': (0.08, _spheres),
}
"""How often each kind is drawn, and what draws its two images."""
