"""Objects: complex transmissions with amplitudes of 0.5 to 1 and phases of -1 to 1 rad."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter

from ptychopinn_plugin.array_types import ComplexArray, FloatArray, IntArray
from ptychopinn_plugin.data.readers.npz import read_numbers
from ptychopinn_plugin.data.readers.npz_archive import open_npz
from ptychopinn_plugin.data.simulation.configuration import SimulationConfig
from ptychopinn_plugin.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

AMPLITUDE_RANGE = (0.5, 1.0)
PHASE_RANGE_RAD = (-1.0, 1.0)

_TEXTURE = 0.5
"""The 1/f texture has this share of the standard deviation of the leaves."""

_EDGE_PX = 0.6
"""The leaves' edges are blurred by this, as a pixel averages over its area."""

_LETTERS = 'FGJLPQRabefghjkpqrty2345679'  # none of them is its own mirror image
_OBJECT_KEYS = ('objectGuess', 'object')


def make_object(config: SimulationConfig, shape: tuple[int, int]) -> ComplexArray:
    """Make the object that `config` describes.

    Parameters
    ----------
    config : SimulationConfig
    shape : (height, width)

    Returns
    -------
    ndarray of complex128, shape `shape`
        A complex object out of a file keeps its own shape and values.

    Raises
    ------
    DataError
        If the object file cannot be read.
    """
    stream = config.random_streams()['object']
    if config.object_kind == 'image':
        return _from_file(Path(str(config.object_file)), shape)
    makers = {
        'dead-leaves': _dead_leaves,
        'lines': _lines,
        'siemens': _siemens,
        'letters': _letters,
    }
    amplitude, phase = makers[config.object_kind](shape, stream)
    return _transmission(amplitude, phase)


def _transmission(amplitude: FloatArray, phase: FloatArray) -> ComplexArray:
    """Map two images with values between 0 and 1 to amplitude and phase."""
    low, high = AMPLITUDE_RANGE
    first, last = PHASE_RANGE_RAD
    transmission: ComplexArray = (low + (high - low) * np.clip(amplitude, 0, 1)) * np.exp(
        1j * (first + (last - first) * np.clip(phase, 0, 1))
    )
    return transmission


def _dead_leaves(
    shape: tuple[int, int], stream: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    r"""Draw discs that occlude each other, with radii :math:`\propto r^{-3}`, and 1/f texture.

    Like natural images, it has edges and detail at every scale [1]_. Half of the variance of the
    leaves is common to amplitude and phase.

    References
    ----------
    .. [1] A. B. Lee, D. Mumford, J. Huang, Int. J. Comput. Vis. 41 (2001) 35.
    """
    leaves = _occluding_discs(shape, stream)
    common, *own = stream.standard_normal((3, leaves.max() + 1))
    images = []
    for values in own:
        image = (common + values)[leaves]
        image = image / image.std() + _TEXTURE * _one_over_f(shape, stream)
        images.append(_stretch(gaussian_filter(image, _EDGE_PX)))
    return images[0], images[1]


def _occluding_discs(
    shape: tuple[int, int],
    stream: np.random.Generator,
    smallest_px: float = 4.0,
    largest_px: float = 40.0,
) -> IntArray:
    """Return the number of the disc that is seen at each pixel; the first disc lies on top."""
    height, width = shape
    seen = np.full(shape, -1, dtype=np.int64)
    number = 0
    # They are drawn from the top down until nothing shows through: what is covered is left out.
    while (seen < 0).any():
        ratio = (smallest_px / largest_px) ** 2
        # This inverts the cumulative distribution of radii that fall with the third power.
        radii = smallest_px / np.sqrt(1 - stream.uniform(size=512) * (1 - ratio))
        # Discs from beyond the border reach in, so that it is as full as the middle.
        y = stream.uniform(-largest_px, height + largest_px, size=512)
        x = stream.uniform(-largest_px, width + largest_px, size=512)
        for row, column, radius in zip(y, x, radii, strict=True):
            box = (
                slice(max(int(row - radius), 0), max(int(row + radius) + 2, 0)),
                slice(max(int(column - radius), 0), max(int(column + radius) + 2, 0)),
            )
            below = seen[box]
            if below.size == 0:
                continue
            rows = np.arange(box[0].start, box[0].start + below.shape[0])[:, None]
            columns = np.arange(box[1].start, box[1].start + below.shape[1])[None, :]
            inside = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
            below[inside & (below < 0)] = number
            number += 1
    return seen


def _one_over_f(shape: tuple[int, int], stream: np.random.Generator) -> FloatArray:
    """Return noise with an amplitude spectrum of 1/f, mean 0 and standard deviation 1."""
    spectrum = np.fft.rfft2(stream.standard_normal(shape))
    k = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :])
    # The mean has no frequency to divide by and is left out.
    k[0, 0] = np.inf
    texture: FloatArray = np.fft.irfft2(spectrum / k, s=shape)
    texture /= texture.std()
    return texture


def _stretch(image: FloatArray) -> FloatArray:
    """Map to 0 to 1, by mean and standard deviation: the same contrast for every seed and size."""
    stretched: FloatArray = np.clip(0.5 + (image - image.mean()) / (8 * image.std()), 0, 1)
    return stretched


def _lines(shape: tuple[int, int], stream: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Draw straight lines of random width across the field, each with its own values."""
    y, x = np.indices(shape).astype(np.float64)
    amplitude, phase = np.ones(shape), np.full(shape, 0.5)
    diagonal = float(np.hypot(*shape))
    for _ in range(int(diagonal / 8)):
        angle, width = stream.uniform(0, np.pi), stream.uniform(1.5, 6.0)
        # It goes through a random point, not at a random distance, so that corners get their share.
        row, column = stream.uniform(0, shape[0]), stream.uniform(0, shape[1])
        distance = np.abs((y - row) * np.cos(angle) - (x - column) * np.sin(angle))
        cover = np.clip(width / 2 + 0.5 - distance, 0, 1)
        amplitude += cover * (stream.uniform(0, 0.8) - amplitude)
        phase += cover * (stream.uniform() - phase)
    return amplitude, phase


def _siemens(shape: tuple[int, int], stream: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Draw a Siemens star of 36 spokes; no random part but its turn."""
    y, x = np.indices(shape).astype(np.float64)
    y, x = y - (shape[0] - 1) / 2, x - (shape[1] - 1) / 2
    radius, angle = np.hypot(y, x), np.arctan2(y, x) + stream.uniform(0, 2 * np.pi)
    n_spokes, outer, inner = 36, 0.42 * min(shape), 4.0
    # This is the distance to the nearest edge of a spoke in pixels: edges are one pixel soft.
    edge = radius / n_spokes * np.arcsin(np.sin(n_spokes * angle))
    star = np.clip(edge + 0.5, 0, 1)
    star *= np.clip(outer - radius + 0.5, 0, 1) * np.clip(radius - inner + 0.5, 0, 1)
    return 1 - 0.9 * star, 0.25 + 0.75 * star


def _letters(shape: tuple[int, int], stream: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Set rows of letters, none of which looks the same in a mirror, each with its own values."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    font = Path(matplotlib.get_data_path()) / 'fonts' / 'ttf' / 'DejaVuSans-Bold.ttf'
    amplitude, phase = np.ones(shape), np.full(shape, 0.4)
    row = 2
    while row < shape[0]:
        height = int(stream.integers(18, 42))
        column = int(stream.integers(-8, 8))
        while column < shape[1]:
            letter = str(stream.choice(list(_LETTERS)))
            face = ImageFont.truetype(str(font), height)
            picture = Image.new('L', (shape[1], height + 12))
            ImageDraw.Draw(picture).text((column, 0), letter, fill=255, font=face)
            cover = np.asarray(picture, dtype=np.float64)[: shape[0] - row] / 255
            band = slice(row, row + len(cover))
            amplitude[band] += cover * (stream.uniform(0, 0.7) - amplitude[band])
            phase[band] += cover * (stream.uniform(0.5, 1) - phase[band])
            column += int(face.getlength(letter)) + 3
        row += height + 4
    return amplitude, phase


def _from_file(path: Path, shape: tuple[int, int]) -> ComplexArray:
    if path.suffix == '.npz':
        return _object_in_npz(path)
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            fitted = ImageOps.fit(_in_grey(picture, path), (shape[1], shape[0]))
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(
            f'{path} cannot be read as a picture ({type(error).__name__}). '
            'Give a PNG, TIFF or JPEG, or an .npz with objectGuess.'
        ) from error
    brightness = np.asarray(fitted, dtype=np.float64) / 255
    # What absorbs more delays more, as in a specimen of varying thickness.
    return _transmission(brightness, 1 - brightness)


def _in_grey(picture: 'Image', path: Path) -> 'Image':
    """Return brightness from 0 to 255; of more than 8 bits, from the least to the greatest value.

    Pillow would cut these off at 255.
    """
    if picture.mode[0] not in 'IF':
        return picture.convert('L')
    from PIL.Image import fromarray

    values = np.asarray(picture, dtype=np.float64)
    low, span = values.min(), np.ptp(values)
    if not np.isfinite(span):
        raise DataError(f'{path} must hold finite numbers; it holds NaN or infinity. Replace them.')
    return fromarray(((values - low) * (255 / (span or 1))).astype(np.float32))


def _object_in_npz(path: Path) -> ComplexArray:
    with open_npz(path) as archive:
        key = next((name for name in _OBJECT_KEYS if name in archive), None)
        if key is None:
            raise DataError(
                f'{path} must hold objectGuess or object; it holds {", ".join(archive)}. '
                'Rename the array.'
            )
        object_ = read_numbers(archive, key, 'buifc')
    # An object in slices along the beam: the first is what a single slice can show.
    object_ = object_[0] if object_.ndim == 3 else object_
    return np.asarray(object_, dtype=np.complex128)
