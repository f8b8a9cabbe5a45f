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

from ptychopinn_plugin.array_types import ComplexArray, FloatArray
from ptychopinn_plugin.data import Geometry, Reconstruction, Scan
from ptychopinn_plugin.data.geometry import wavelength_m
from ptychopinn_plugin.physics import normalize_probe


@dataclass(frozen=True)
class Rival:
    """One run: seconds of the epochs alone, and the object."""

    seconds: float
    patterns_per_second: float
    reconstruction: Reconstruction


def _set_near_field(options: Any, geometry: Geometry) -> None:
    """Set free space in place of the Fourier transform."""
    assert geometry.detector_distance_m is not None
    assert geometry.photon_energy_eV is not None
    data = options.data_options
    data.free_space_propagation_distance_m = geometry.detector_distance_m / geometry.magnification()
    data.wavelength_m = wavelength_m(geometry.photon_energy_eV)
    data.fft_shift = False
    options.object_options.pixel_size_m = geometry.pixel_width_m


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
    probe = normalize_probe(scan.probe, scan.mean_counts())
    _give_scan(options, scan, probe, room_px=40 if refine_positions else 10)
    options.probe_options.optimizable = refine_probe
    options.probe_position_options.optimizable = refine_positions
    if refine_intensities:
        weights = options.opr_mode_weight_options
        weights.optimizable = weights.optimize_intensity_variation = True
        weights.optimize_eigenmode_weights = False
        weights.initial_weights = np.ones((len(scan), 1), dtype=np.float32)
    if opr_modes:
        _relax_probe(options, len(scan), opr_modes)
    options.reconstructor_options.num_epochs = epochs
    options.reconstructor_options.batch_size = batch_size
    options.reconstructor_options.default_device = api.Devices.CPU
    with make_task(options) as task:
        task.run(1)
        begun = time.perf_counter()
        task.run(epochs - 1)
        seconds = time.perf_counter() - begun
        intensities = None
        if refine_intensities:
            roots = np.asarray(task.get_data_to_cpu('opr_mode_weights', as_numpy=True))[:, 0]
            intensities = roots.astype(np.float64) ** 2 / float((roots**2).mean())
        if refine_probe:
            modes = np.asarray(task.get_data_to_cpu('probe', as_numpy=True))[0]
            probe = (modes * _transform_norm(scan)).astype(np.complex64)
        found = _reconstruction(task, scan, probe, intensities, f'ptychi {engine}')
    rate = len(scan) * (epochs - 1) / seconds
    return Rival(seconds * epochs / (epochs - 1), rate, found)


def _middle_px(scan: Scan) -> FloatArray:
    """Return the position that lies in the middle of Pty-Chi's object, (y, x)."""
    middle: FloatArray = (scan.positions_px.max(axis=0) + scan.positions_px.min(axis=0)) / 2
    return middle


def _transform_norm(scan: Scan) -> np.float64:
    """Return by what a probe is divided, as Pty-Chi's transform is not unitary."""
    if scan.geometry.is_near_field:
        # Its free space is unitary.
        return np.float64(1.0)
    height, width = scan.pattern_shape
    return np.float64(np.sqrt(height * width))


def _give_scan(options: Any, scan: Scan, probe: ComplexArray, *, room_px: int) -> None:
    """Give Pty-Chi a scan and a flat object that has some room around it."""
    options.data_options.data = np.asarray(scan.patterns, dtype=np.float32)
    extent = np.ptp(scan.positions_px, axis=0)
    sides = zip(extent, scan.pattern_shape, strict=True)
    shape = [int(np.ceil(length)) + side + room_px for length, side in sides]
    options.object_options.initial_guess = np.ones((1, *shape), dtype=np.complex64)
    options.object_options.optimizable = True
    options.probe_options.initial_guess = probe[np.newaxis] / _transform_norm(scan)
    if scan.geometry.is_near_field:
        _set_near_field(options, scan.geometry)
    positions = scan.positions_px - _middle_px(scan)
    options.probe_position_options.position_y_px = positions[:, 0]
    options.probe_position_options.position_x_px = positions[:, 1]


def _relax_probe(options: Any, n_patterns: int, opr_modes: int) -> None:
    """Let the probe vary, as Pty-Chi's manual begins: random eigenmodes, and weights near 0."""
    utils: Any = importlib.import_module('ptychi.utils')
    torch: Any = importlib.import_module('torch')
    torch.manual_seed(0)
    guess = torch.from_numpy(options.probe_options.initial_guess.astype(np.complex64))
    guess = utils.add_additional_opr_probe_modes_to_probe(guess, opr_modes)
    options.probe_options.initial_guess = guess.numpy()
    weights = options.opr_mode_weight_options
    weights.optimizable = weights.optimize_eigenmode_weights = True
    weights.initial_weights = utils.generate_initial_opr_mode_weights(
        n_patterns, 1 + opr_modes, probe=guess
    ).numpy()


def _reconstruction(
    task: Any, scan: Scan, probe: ComplexArray, intensities: FloatArray | None, backend: str
) -> Reconstruction:
    """Return what a task of Pty-Chi has found, in the coordinates of the scan."""
    along_y = np.asarray(task.get_probe_positions_y(as_numpy=True), dtype=np.float64)
    along_x = np.asarray(task.get_probe_positions_x(as_numpy=True), dtype=np.float64)
    object_ = np.asarray(task.get_data_to_cpu('object', as_numpy=True))[0]
    return Reconstruction(
        object_=object_.astype(np.complex64),
        # Position 0 of Pty-Chi lies in the middle of its object.
        origin_px=_middle_px(scan) - np.round(np.array(object_.shape) / 2),
        coverage=np.ones(object_.shape, dtype=np.float32),
        probe=probe,
        positions_px=np.stack([along_y, along_x], axis=1) + _middle_px(scan),
        intensities=intensities,
        backend=backend,
    )
