"""PtychoPINN's workflow in one call: train, reconstruct, amplitude and phase."""

from pathlib import Path
from typing import Any

import numpy as np

from ptychopinn_plugin import api
from ptychopinn_plugin.array_types import FloatArray
from ptychopinn_plugin.backends.protocol import Observer, ignore_progress
from ptychopinn_plugin.config import Config, RefinementConfig
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.errors import ConfigError
from ptychopinn_plugin.legacy.configuration import LegacySettings, from_legacy
from ptychopinn_plugin.opening import AnyScan, as_scan


def run_cdi_example(
    train_data: AnyScan | None,
    test_data: AnyScan | None,
    config: object,
    *,
    iterations: int | None = None,
    observer: Observer = ignore_progress,
) -> tuple[FloatArray | None, FloatArray | None, dict[str, Any]]:
    """Train on one scan and reconstruct another.

    Parameters
    ----------
    train_data, test_data : Scan, RawData or path, optional
        Where not given, those that `config` names. Without test data the model is only trained.
    config : object
        A `TrainingConfig` of PtychoPINN, or what else `from_legacy` takes, or a `Config` of ours.
    iterations : int, optional
        The iterations of refinement after the network; with 0 the network alone counts, as in
        PtychoPINN.
    observer : callable, optional
        Called with a `Progress` after each step; where it returns True, the run stops with the
        best it has.

    Returns
    -------
    amplitude, phase : ndarray of float32, shape (height, width), or None
        Those of the stitched object; amplitudes have no unit, phases are in radians.
    results : dict
        'backend' (which one made it), 'model', 'history', 'stopped', 'config', and with test data
        'reconstruction', 'object' (complex64), 'origin_px' (y, x), 'probe', 'amplitude_residual'.

    Raises
    ------
    ConfigError
        If there is nothing to train on, or a setting cannot be honoured.
    """
    settings = config if isinstance(config, LegacySettings) else _settings(config)
    source = settings.train_data if train_data is None else train_data
    target = settings.test_data if test_data is None else test_data
    if source is None:
        raise ConfigError(
            'There is no scan to train on: train_data is None, and train_data_file is not set. '
            'Give one of them.'
        )
    trained = api.train(source, settings.config, backend=settings.backend, observer=observer)
    results: dict[str, Any] = {
        'backend': trained.model.backend,
        'model': trained.model,
        'history': list(trained.history),
        'stopped': trained.stopped,
        'config': trained.model.config,
    }
    if target is None:
        return None, None, results
    refinement = settings.config.refinement
    reconstruction = api.reconstruct(
        trained.model,
        subsample_scan(as_scan(target), settings),
        refinement=refinement if iterations is None else RefinementConfig(iterations=iterations),
        backend=settings.backend,
        observer=observer,
    )
    results |= {
        'backend': reconstruction.backend,
        'reconstruction': reconstruction,
        'object': reconstruction.object_,
        'origin_px': reconstruction.origin_px,
        'probe': reconstruction.probe,
        'amplitude_residual': reconstruction.amplitude_residual,
    }
    object_ = reconstruction.object_
    return np.abs(object_), np.angle(object_), results


def subsample_scan(scan: Scan, settings: LegacySettings) -> Scan:
    """Return a scan of `n_subsample` positions drawn at random; the same scan without that setting.

    Parameters
    ----------
    scan : Scan
    settings : LegacySettings
    """
    wanted = settings.n_subsample
    if wanted is None or wanted >= len(scan):
        return scan
    rng = np.random.default_rng(settings.subsample_seed)
    return scan.subset(np.sort(rng.permutation(len(scan))[:wanted]))


def find_model(path: Path) -> Path:
    """Return the model file that a path means: PtychoPINN names the folder that holds it."""
    inside = path / 'wts.h5.zip'
    return inside if path.is_dir() and inside.is_file() else path


def _settings(config: object) -> LegacySettings:
    return LegacySettings(config) if isinstance(config, Config) else from_legacy(config)
