"""Model files: those of this package (`model_archive`) and PtychoPINN's."""

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, RealArray
from ptychopinn_plugin.errors import ArchiveError
from ptychopinn_plugin.legacy.models import legacy_kind, model_from_archive, refuse_bare_pickle
from ptychopinn_plugin.model import Model
from ptychopinn_plugin.model_archive import BUILT_IN_PATH, read_archive, write_model
from ptychopinn_plugin.model_contents import TrainingState
from ptychopinn_plugin.storage.atomic import predecessor_path
from ptychopinn_plugin.storage.untrusted import open_zip, zip_names

__all__ = [
    'BUILT_IN_PATH',
    'Model',
    'TrainingState',
    'describe_model',
    'is_intact',
    'is_model_file',
    'read_model',
    'write_model',
]


def read_model(path: Path, *, with_training_state: bool = True) -> Model:
    """Read a model file, of this package or of PtychoPINN; nothing in it is executed.

    Parameters
    ----------
    path : Path
    with_training_state : bool
        False leaves out what resuming needs, which is most of the file.

    Raises
    ------
    ArchiveError
        If it is not a model file, damaged, or of a newer format.

    Warns
    -----
    UserWarning
        If it is a damaged checkpoint, in whose place the one before it is read.
    """
    path = Path(path)
    older = predecessor_path(path)
    try:
        return _read(path, with_training_state)
    except ArchiveError as error:
        if not older.is_file():
            raise
        try:
            model = _read(older, with_training_state)
        except ArchiveError:
            # Neither can be read; the user named this one.
            raise error from None
        warnings.warn(
            f'{error} In its place the checkpoint before it is read: {older}.', stacklevel=2
        )
        return model


def is_intact(path: Path) -> bool:
    """Return whether a model file can be read, to its last byte."""
    try:
        _read(path, with_training_state=True)
    except ArchiveError:
        return False
    return True


def _read(path: Path, with_training_state: bool) -> Model:
    if not path.exists():
        raise ArchiveError(f'There is no model file {path}. Train one with: ptychopinn train.')
    if path.is_dir():
        found = ', '.join(map(str, sorted(path.glob('*.zip')))) or 'it holds no *.zip'
        raise ArchiveError(f'{path} is a folder; name the model file in it: {found}.')
    refuse_bare_pickle(path)
    what = 'model file (a zip with manifest.json)'
    with open_zip(path, str(path), what=what) as archive:
        if legacy_kind(archive.names()) is not None:
            model = model_from_archive(archive, path)
        else:
            model = Model.of(read_archive(archive, with_training_state=with_training_state))
    _check_finite(model, path)
    return model


def _check_finite(model: Model, path: Path) -> None:
    """Raise ArchiveError where a number is NaN or infinite, as would be all that it predicts."""
    arrays: dict[str, RealArray | ComplexArray] = {**model.weights, 'probe': model.probe}
    for number, pair in enumerate(model.corrected_probes):
        arrays |= {f'corrected probe {number}': pair.after, f'probe {number}': pair.before}
    arrays['intensity_scale'] = np.asarray(model.intensity_scale)
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ArchiveError(
                f'{path}: {name} must hold finite numbers; it holds NaN or infinity. Train the '
                'model again, or use an earlier file.'
            )


def describe_model(model: Model) -> dict[str, Any]:
    """Return plain facts for `ptychopinn inspect`."""
    return {
        'kind': 'model',
        'backend': model.backend,
        'architecture': model.network.architecture,
        'weights': int(sum(np.prod(s) for s in model.network.weight_shapes().values())),
        'pattern_size_px': model.config.model.pattern_size,
        'window_px': model.network.window_px,
        'passes': model.network.passes,
        'is_prior': model.is_prior,
        'iterations_before': model.network.iterations_before,
        'iterations_between': model.network.iterations_between,
        'network_layers': dict(Counter(layer.kind for layer in model.network.layers)),
        'gridsize': model.config.model.gridsize,
        'probe_modes': len(model.probe),
        'photons_per_pattern': model.photons,
        'intensity_scale': model.intensity_scale,
        'can_resume': model.training_state is not None,
        'data': dict(model.data_summary),
        'provenance': dict(model.provenance),
        'config': model.config.to_dict(),
    }


def is_model_file(path: Path) -> bool:
    """Return whether a file is a zip that holds a manifest.json, or a model of PtychoPINN."""
    names = zip_names(path)
    return 'manifest.json' in names or legacy_kind(names) is not None
