"""Values of the `_metadata` of NPZ files."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def number_of(value: object) -> float | None:
    """Return a finite number; None for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value):
        return float(value)
    return None


def photons_of(metadata: Mapping[str, Any]) -> float | None:
    """Return the mean number of photons in a pattern, if metadata hold it."""
    sources = [metadata, *(part for part in metadata.values() if isinstance(part, Mapping))]
    numbers = [number_of(source.get('nphotons')) for source in sources]
    return next((number for number in numbers if number is not None and number > 0), None)
