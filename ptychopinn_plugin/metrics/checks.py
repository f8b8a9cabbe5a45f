"""What all comparisons require of their images."""

import numpy as np

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.errors import DataError


def check_pair(first: RealArray, second: RealArray) -> None:
    """Make sure that both are finite images of one shape.

    Raises
    ------
    DataError
        If they are not.
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise DataError(
            'Images to compare must be two-dimensional and of one shape; '
            f'got {first.shape} and {second.shape}. Crop them to what they share.'
        )
    for array in (first, second):
        if not np.isfinite(array).all():
            raise DataError('Images to compare must be finite; got NaN or infinity. Crop them off.')
