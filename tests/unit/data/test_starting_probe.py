"""A probe made of patterns, and the modes of one that iterations are to correct."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ptychopinn_plugin.data import Scan, load_scan, write_scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.data.starting_probe import (
    Pupil,
    far_amplitude,
    root_mean_square_radius,
    starting_probe,
)
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.physics import diffract, normalize_probe, orthogonal_modes, with_modes

SaveNpz = Callable[..., Path]


@pytest.fixture(scope='module')
def scan() -> Scan:
    values = {'size': 32, 'rows': 6, 'columns': 6, 'step_px': 4.0, 'pupil_radius': 0.12}
    return simulate(SimulationConfig.from_dict({**values, 'defocus': 150.0}))


@pytest.mark.parametrize('radius', [4.0, 6.0])
def test_a_pupil_is_defocused_to_a_radius(scan: Scan, radius: float) -> None:
    amplitude = far_amplitude(scan.probe)
    pupil = Pupil(amplitude)
    probe = pupil.probe(pupil.defocus_of(radius))
    assert root_mean_square_radius(probe) == pytest.approx(radius, rel=0.02)
    np.testing.assert_allclose(far_amplitude(probe), amplitude, atol=1e-4 * amplitude.max())
    other = pupil.probe(-pupil.defocus_of(radius))
    assert root_mean_square_radius(other) == pytest.approx(radius, rel=0.02)
    assert np.abs(np.vdot(probe, other)) < 0.7 * np.linalg.norm(probe) * np.linalg.norm(other)
    assert pupil.defocus_of(0.5 * pupil.focus_radius_px) == 0


def test_the_simulated_probe_is_a_defocused_pupil(scan: Scan) -> None:
    """The right radius gives the true probe back: the pupil's phase is that of a lens."""
    pupil = Pupil(far_amplitude(scan.probe))
    found = pupil.probe(pupil.defocus_of(root_mean_square_radius(scan.probe)))
    norms = np.linalg.norm(found) * np.linalg.norm(scan.probe)
    assert np.abs(np.vdot(found, scan.probe)) > 0.99 * norms


def test_patterns_tell_about_the_size(scan: Scan) -> None:
    bad = np.zeros((32, 32), bool)
    bad[16, 15:19] = True
    probe = starting_probe(np.where(bad, 1e6, scan.patterns), bad)
    radius = root_mean_square_radius(scan.probe)
    assert 0.6 * radius < root_mean_square_radius(probe) < 1.3 * radius
    far, truth = far_amplitude(probe), far_amplitude(scan.probe)
    assert np.corrcoef(far.ravel(), truth.ravel())[0, 1] > 0.97


def test_a_file_without_a_probe_is_read(scan: Scan, save_npz: SaveNpz) -> None:
    path = save_npz(scan, leave_out=('probeGuess',))
    found = load_scan(path)
    assert (found.probe_origin, found.probe.shape) == ('patterns', (1, 32, 32))
    assert any('holds no probe' in note for note in found.notes)
    more = load_scan(path, probe_modes=2)
    assert (more.probe_origin, len(more.probe)) == ('patterns', 2)
    given = load_scan(save_npz(scan), probe_modes=3)
    assert (given.probe_origin, len(given.probe)) == ('extended', 3)
    assert any('2 more' in note for note in given.notes)
    assert load_scan(save_npz(scan), probe_modes=1).probe_origin == 'given'


def test_the_probe_of_a_file_can_be_left_out(scan: Scan, save_npz: SaveNpz) -> None:
    found = load_scan(save_npz(scan), probe_from_patterns=True)
    without = load_scan(save_npz(scan, leave_out=('probeGuess',)))
    assert found.probe_origin == 'patterns'
    np.testing.assert_array_equal(found.probe, without.probe)
    assert any('given probe is left out' in note for note in found.notes)
    for made in (found, without):
        assert any('positions that are inverted in y and x' in note for note in made.notes)
    with pytest.raises(DataError, match='got both'):
        load_scan(save_npz(scan), probe_from=save_npz(scan), probe_from_patterns=True)


def test_hot_pixels_are_no_light(scan: Scan, save_npz: SaveNpz) -> None:
    patterns = scan.patterns.astype(np.float32)
    patterns[:, 3, 5] = 1e4
    counts = np.sqrt(patterns)
    path = save_npz(scan, leave_out=('probeGuess',), diff3d=counts)
    far = far_amplitude(load_scan(path, mask_hot=True).probe)
    assert far[3, 5] < 0.05 * far.max()


def test_a_scan_that_is_written_is_known_to_have_no_probe(
    scan: Scan, save_npz: SaveNpz, tmp_path: Path
) -> None:
    found = load_scan(save_npz(scan, leave_out=('probeGuess',)))
    write_scan(tmp_path / 'again.npz', found)
    assert load_scan(tmp_path / 'again.npz').probe_origin == 'patterns'


def test_orthogonal_modes_make_the_same_patterns() -> None:
    rng = np.random.default_rng(1)
    modes = rng.normal(size=(3, 8, 8)) + 1j * rng.normal(size=(3, 8, 8))
    object_ = np.exp(1j * rng.normal(size=(8, 8)))
    found = orthogonal_modes(modes)
    patterns = diffract((modes * object_)[np.newaxis])
    np.testing.assert_allclose(diffract((found * object_)[np.newaxis]), patterns, rtol=1e-4)
    rows = found.reshape(3, -1)
    products = np.abs(rows @ rows.conj().T)
    np.testing.assert_allclose(products - np.diag(np.diag(products)), 0, atol=1e-3)
    assert (np.diff(np.diag(products)) < 0).all()


def test_added_modes_are_weak_and_keep_the_energy(scan: Scan) -> None:
    probe = normalize_probe(scan.probe, 1e4)
    modes = with_modes(probe, 3)
    energies = (np.abs(modes) ** 2).sum(axis=(1, 2))
    assert energies.sum() == pytest.approx(1e4, rel=1e-4)
    np.testing.assert_allclose(energies[1:] / energies.sum(), 0.05 / 1.10, rtol=0.01)
    assert np.abs(np.vdot(modes[0], probe)) > 0.95 * 1e4
    fewer = with_modes(np.stack([0.3 * probe[0].T, probe[0]]), 1)
    assert np.abs(np.vdot(fewer[0], probe[0])) > 0.9 * 1e4
