"""The state of a pretraining run as a model file: small, exact, and without pickle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn_plugin.array_types import FloatArray, NamedArrays, RealArray
from ptychopinn_plugin.config import Config
from ptychopinn_plugin.errors import ArchiveError
from ptychopinn_plugin.model import Model
from ptychopinn_plugin.model_contents import TrainingState
from ptychopinn_plugin.model_file import read_model, write_model
from ptychopinn_plugin.network import NetworkDescription


def to_bfloat16(values: RealArray) -> NDArray[np.uint16]:
    """Round float32 to the upper half of its bits: eight of precision, and the whole range.

    Second moments of gradients are as small as 1e-12, where float16 has nothing left.
    """
    bits = np.asarray(values, dtype=np.float32).view(np.uint32).astype(np.uint64)
    # To the nearest, and halves to even numbers; cutting off would make moments smaller each time.
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bfloat16(halves: RealArray) -> FloatArray:
    """Undo `to_bfloat16`."""
    return (np.asarray(halves).astype(np.uint32) << 16).view(np.float32)


def to_model(
    network: NetworkDescription,
    average: NamedArrays,
    provenance: Mapping[str, Any],
    training_state: TrainingState | None = None,
) -> Model:
    """Make a model of averaged weights that takes scans of any pattern size.

    Parameters
    ----------
    network : NetworkDescription
    average : mapping of str to ndarray
        Weights by name; float16 in the file.
    provenance : mapping
        Plain values for people.
    training_state : TrainingState, optional
    """
    return Model(
        backend='auto',
        network=network,
        config=Config(),
        # No scan is at the exposure of no photons: each is judged by its own.
        photons=0.0,
        weights={name: weight.astype(np.float16) for name, weight in average.items()},
        probe=np.ones((1, 16, 16), dtype=np.complex64),
        data_summary={'scans': ['simulated corpus']},
        provenance=provenance,
        training_state=training_state,
    )


def write_state(
    path: Path,
    network: NetworkDescription,
    average: NamedArrays,
    newest: NamedArrays,
    moments: NamedArrays,
    values: Mapping[str, Any],
) -> None:
    """Write all that a run needs to go on, in one go or not at all.

    Parameters
    ----------
    path : Path
    network : NetworkDescription
    average, newest : mapping of str to ndarray
        Weights by name; the first in float16, the second in float32.
    moments : mapping of str to ndarray
        The optimizer's, in the upper halves of float32.
    values : mapping
        Plain values: recipe, round, step.
    """
    arrays: dict[str, RealArray] = {f'newest/{name}': value for name, value in newest.items()}
    arrays |= {f'moments/{name}': to_bfloat16(value) for name, value in moments.items()}
    state = TrainingState(arrays, values)
    write_model(path, to_model(network, average, {'made by': 'pretraining'}, state))


def read_state(path: Path) -> tuple[Model, dict[str, RealArray], dict[str, RealArray]]:
    """Read what `write_state` wrote: the model, the newest weights and the moments.

    Raises
    ------
    ArchiveError
        If the file is no state of a pretraining run.
    """
    model = read_model(path)
    if model.training_state is None or 'round' not in model.training_state.values:
        raise ArchiveError(
            f'{path} must hold the state of a pretraining run; it is a model without one. '
            'To begin anew, give --state a path where no file is.'
        )
    arrays = model.training_state.arrays
    newest = {
        name.removeprefix('newest/'): np.asarray(value)
        for name, value in arrays.items()
        if name.startswith('newest/')
    }
    moments = {
        name.removeprefix('moments/'): from_bfloat16(value)
        for name, value in arrays.items()
        if name.startswith('moments/')
    }
    return model, newest, moments
