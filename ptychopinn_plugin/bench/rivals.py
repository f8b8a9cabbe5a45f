"""Run Pty-Chi on one of our scans: what a user would pick instead.

Needs ``pip install 'ptychopinn-plugin[bench]'``. Flat start; probe,
positions, intensities and eigenmodes are fixed unless they are to be refined, the last two with
'lsqml' alone.
"""

import importlib
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from ptychopinn_plugin.data import Reconstruction, Scan
from ptychopinn_plugin.physics import normalize_probe


@dataclass(frozen=True)
class Rival:
    """One run: seconds of the epochs alone, and the object."""

    seconds: float
    patterns_per_second: float
    reconstruction: Reconstruction


def run_ptychi(
    scan: Scan,
    engine: str,
    epochs: int,
    batch_size: int = 64,
    *,
    refine_positions: bool = False,
    refine_probe: bool = False,
    refine_intensities: bool = False,
    opr_modes: int = 0,
) -> Rival:
    """Reconstruct with Pty-Chi's 'rpie' or 'lsqml' from a flat object.

    Raises
    ------
    ImportError
        If Pty-Chi is not installed.
    """
    # It is no dependency, and brings PyTorch with it: both come where they are used.
    api: Any = importlib.import_module('ptychi.api')
    make_task: Any = importlib.import_module('ptychi.api.task').PtychographyTask
    options = {'rpie': api.RPIEOptions, 'lsqml': api.LSQMLOptions}[engine]()
    options.data_options.data = np.asarray(scan.patterns, dtype=np.float32)
    height, width = scan.pattern_shape
    middle = (scan.positions_px.max(axis=0) + scan.positions_px.min(axis=0)) / 2
    positions = scan.positions_px - middle
    extent = np.ptp(scan.positions_px, axis=0)
    room = 40 if refine_positions else 10
    shape = [int(np.ceil(e)) + side + room for e, side in zip(extent, (height, width), strict=True)]
    options.object_options.initial_guess = np.ones((1, *shape), dtype=np.complex64)
    options.object_options.optimizable = True
    probe = normalize_probe(scan.probe, scan.mean_counts())
    # Its transform is not unitary.
    options.probe_options.initial_guess = probe[np.newaxis] / np.sqrt(height * width)
    options.probe_options.optimizable = refine_probe
    options.probe_position_options.position_y_px = positions[:, 0]
    options.probe_position_options.position_x_px = positions[:, 1]
    options.probe_position_options.optimizable = refine_positions
    if refine_intensities:
        weights = options.opr_mode_weight_options
        weights.optimizable = weights.optimize_intensity_variation = True
        weights.optimize_eigenmode_weights = False
        weights.initial_weights = np.ones((len(scan), 1), dtype=np.float32)
    if opr_modes:
        # As its own manual begins: random eigenmodes, and weights near 0.
        utils: Any = importlib.import_module('ptychi.utils')
        torch: Any = importlib.import_module('torch')
        torch.manual_seed(0)
        guess = torch.from_numpy(options.probe_options.initial_guess.astype(np.complex64))
        guess = utils.add_additional_opr_probe_modes_to_probe(guess, opr_modes)
        options.probe_options.initial_guess = guess.numpy()
        weights = options.opr_mode_weight_options
        weights.optimizable = weights.optimize_eigenmode_weights = True
        weights.initial_weights = utils.generate_initial_opr_mode_weights(
            len(scan), 1 + opr_modes, probe=guess
        ).numpy()
    options.reconstructor_options.num_epochs = epochs
    options.reconstructor_options.batch_size = batch_size
    options.reconstructor_options.default_device = api.Devices.CPU
    with make_task(options) as task:
        task.run(1)
        begun = time.perf_counter()
        task.run(epochs - 1)
        seconds = time.perf_counter() - begun
        along_y = np.asarray(task.get_probe_positions_y(as_numpy=True), dtype=np.float64)
        along_x = np.asarray(task.get_probe_positions_x(as_numpy=True), dtype=np.float64)
        intensities = None
        if refine_intensities:
            roots = np.asarray(task.get_data_to_cpu('opr_mode_weights', as_numpy=True))[:, 0]
            intensities = roots.astype(np.float64) ** 2 / float((roots**2).mean())
        if refine_probe:
            modes = np.asarray(task.get_data_to_cpu('probe', as_numpy=True))[0]
            probe = (modes * np.sqrt(height * width)).astype(np.complex64)
        object_ = np.asarray(task.get_data_to_cpu('object', as_numpy=True))[0]
    rate = len(scan) * (epochs - 1) / seconds
    # Position 0 of Pty-Chi lies in the middle of its object.
    origin = middle - np.round(np.array(object_.shape) / 2)
    reconstruction = Reconstruction(
        object_=object_.astype(np.complex64),
        origin_px=origin,
        coverage=np.ones(object_.shape, dtype=np.float32),
        probe=probe,
        positions_px=np.stack([along_y, along_x], axis=1) + middle,
        intensities=intensities,
        backend=f'ptychi {engine}',
    )
    return Rival(seconds * epochs / (epochs - 1), rate, reconstruction)
