"""The forces that move positions: those of each backend, and of both."""

import dataclasses

import numpy as np
from parity.frameworks import Framework
from parity.helpers import Forward, canvas_object

from ptychopinn_plugin.backends.common.iteration_schedule import IterationSchedule
from ptychopinn_plugin.data import Scan


def test_forces_on_positions_are_the_derivatives(fw: Framework, forward: Forward) -> None:
    """Of the amplitudes that the moved patch would give, with the object's central differences."""
    object_ = canvas_object(forward)
    floor = 0.5
    forces, stiffnesses = fw.positions.position_forces(forward, fw.tensor(object_), floor)
    everywhere = fw.indices(np.arange(len(forward)))
    probes, measured = fw.array(forward.probes(everywhere)), fw.array(forward.measured(everywhere))
    valid = 1.0 if forward.valid_mask is None else fw.array(forward.valid_mask)

    def spectra(canvas: np.ndarray) -> np.ndarray:
        patches = fw.array(forward.extract_patches(fw.tensor(canvas), everywhere))
        return np.fft.fft2(probes * patches[:, None], norm='ortho')

    waves = spectra(object_)
    expected = (np.abs(waves) ** 2).sum(axis=1)
    amplitude = np.sqrt(expected + floor)
    jacobian = []
    for axis in (0, 1):
        slope = (np.roll(object_, -1, axis) - np.roll(object_, 1, axis)) / 2
        change = (waves.conj() * spectra(slope)).real.sum(axis=1)
        jacobian.append(valid * change / amplitude)
    missing = (measured**2 - expected) / (2 * amplitude)
    for axis in (0, 1):
        wanted = (jacobian[axis] * missing).sum(axis=(1, 2))
        np.testing.assert_allclose(forces[:, axis], wanted, atol=1e-4 * np.abs(wanted).max())
        wanted = (jacobian[axis] * jacobian[0]).sum(axis=(1, 2))
        largest = np.abs(stiffnesses).max()
        np.testing.assert_allclose(stiffnesses[:, axis, 0], wanted, atol=1e-4 * largest)


def test_moved_positions_are_those_of_a_scan_that_has_them(fw: Framework, scan: Scan) -> None:
    moves = np.random.default_rng(2).uniform(-2, 2, scan.positions_px.shape)
    moved = fw.build_forward(dataclasses.replace(scan, positions_px=scan.positions_px + moves))
    forward = fw.build_forward(scan)
    forward.set_moves(moves)
    apart = forward.origin_px - moved.origin_px
    np.testing.assert_allclose(forward.patch_origins_px + apart, moved.patch_origins_px, atol=1e-5)


def test_both_backends_move_positions_alike(both: tuple[Framework, Framework], scan: Scan) -> None:
    errors = np.random.default_rng(3).normal(scale=1.0, size=scan.positions_px.shape)
    wrong = dataclasses.replace(scan, positions_px=scan.positions_px + errors)
    moves = []
    for fw in both:
        forward = fw.build_forward(wrong, reach_px=5)
        fw.iterate(forward, forward.flat_object(), IterationSchedule(8), refine_positions=True)
        moves.append(forward.moves_px)
    assert np.abs(moves[0]).max() > 0.5
    np.testing.assert_allclose(moves[1], moves[0], atol=0.02)
