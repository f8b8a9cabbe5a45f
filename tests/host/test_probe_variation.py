"""Probes that vary from pattern to pattern: Ptychodus' products in, and out again."""

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest
from ptychodus.api.io import load_product, save_product
from ptychodus.api.probe import ProbeSequence
from ptychodus.api.product import Product
from ptychodus.api.reconstruct import ReconstructInput
from ptychodus.plugins.npz_product_file import NPZProductFileIO

from ptychopinn_plugin.config import InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Scan, load_scan, read_reconstruction, write_scan
from ptychopinn_plugin.data.probe_variation import ProbeVariation
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.host.translation import to_product, to_scan
from ptychopinn_plugin.host.worker.arrays import ResultArrays, ScanArrays
from ptychopinn_plugin.host.worker.client import Worker
from ptychopinn_plugin.host.worker.messages import ReconstructJob
from ptychopinn_plugin.model_file import BUILT_IN_PATH

from .conftest import needs, write_batch_folder

N_EIGENMODES = 2


@pytest.fixture(params=[1, 2], ids=['one mode', 'two modes'])
def product(request: pytest.FixtureRequest, small_scan: Scan, tmp_path: Path) -> Product:
    """Return a product with two eigenmodes, in a folder with its patterns."""
    write_batch_folder(tmp_path, small_scan)
    steady = load_product(tmp_path / 'product.h5')
    rng = np.random.default_rng(3)
    modes = np.concatenate([small_scan.probe] * request.param)
    noise = rng.standard_normal((N_EIGENMODES, *modes.shape, 2)) @ [1, 1j]
    array = np.concatenate([modes[np.newaxis], noise * np.abs(modes).max() / 10])
    weights = rng.normal(0, 0.2, (len(small_scan), 1 + N_EIGENMODES)) + np.eye(3)[0]
    pixel = steady.probes.get_pixel_geometry()
    probes = ProbeSequence(array.astype(np.complex64), weights, pixel)
    product = dataclasses.replace(steady, probes=probes)
    save_product(tmp_path / 'product.h5', product)
    return product


def own_probes(scan: Scan) -> np.ndarray:
    assert scan.probe_variation is not None
    return scan.probe_variation.probes(scan.probe)


def hosts_probes(product: Product) -> np.ndarray:
    return np.stack([product.probes[index].get_array() for index in range(len(product.probes))])


@pytest.mark.filterwarnings('ignore:.xdrlib. is deprecated:DeprecationWarning')
def test_each_pattern_has_the_probe_that_ptychodus_gives_it(
    product: Product, small_scan: Scan, tmp_path: Path
) -> None:
    """In the application, from its HDF5 product and from its NPZ product."""
    expected = hosts_probes(product)
    NPZProductFileIO().write(tmp_path / 'product.npz', product)
    np.save(tmp_path / 'patterns.npy', small_scan.patterns)
    inside = ReconstructInput(small_scan.patterns, small_scan.bad_pixels, product)
    for scan in (
        to_scan(inside),
        load_scan(tmp_path),
        load_scan(tmp_path / 'patterns.npy', reader='NPY', product=tmp_path / 'product.npz'),
    ):
        np.testing.assert_allclose(own_probes(scan), expected, atol=1e-5 * np.abs(expected).max())
        assert any('(OPR)' in note for note in scan.notes)
    scan = load_scan(tmp_path)
    write_scan(tmp_path / 'scan.npz', scan)
    np.testing.assert_array_equal(own_probes(load_scan(tmp_path / 'scan.npz')), own_probes(scan))


def test_patterns_left_out_take_their_weights_along(product: Product, tmp_path: Path) -> None:
    with h5py.File(tmp_path / 'diffraction.h5', 'r+') as file:
        kept = np.array([5, 2, 9])
        patterns, indexes = file['patterns'][()][np.sort(kept)], file['indexes'][()][np.sort(kept)]
        del file['patterns'], file['indexes']
        file['patterns'], file['indexes'] = patterns, indexes
    scan = load_scan(tmp_path)
    np.testing.assert_allclose(own_probes(scan), hosts_probes(product)[[2, 5, 9]], rtol=1e-4)


def test_a_probe_that_does_not_vary_is_one_probe(product: Product, tmp_path: Path) -> None:
    array, weights = product.probes.get_array(), product.probes.get_opr_weights()
    same = np.repeat(weights[:1], len(weights), axis=0)
    pixel = product.probes.get_pixel_geometry()
    steady = dataclasses.replace(product, probes=ProbeSequence(array, same, pixel))
    save_product(tmp_path / 'product.h5', steady)
    scan = load_scan(tmp_path)
    assert scan.probe_variation is None
    np.testing.assert_allclose(scan.probe, steady.probes[0].get_array(), rtol=1e-4)


def test_another_probe_is_used_without_these_weights(product: Product, tmp_path: Path) -> None:
    write_scan(tmp_path / 'scan.npz', load_scan(tmp_path))
    for path in (tmp_path, tmp_path / 'scan.npz'):
        scan = load_scan(path, probe_from=tmp_path / 'product.h5')
        assert scan.probe_variation is None
        assert any('belong to its own probe' in note for note in scan.notes)
    assert product.probes.num_coherent_modes == 1 + N_EIGENMODES


@pytest.mark.usefixtures('product')
def test_weights_of_other_positions_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / 'product.h5', 'r+') as file:
        weights = file['opr_weights'][()][:-1]
        del file['opr_weights']
        file['opr_weights'] = weights
    with pytest.raises(DataError, match=r'opr_weights must have shape \(80, 3\).*\(79, 3\)'):
        load_scan(tmp_path)


def test_the_host_gets_the_same_probes_back(product: Product, small_scan: Scan) -> None:
    scan = to_scan(ReconstructInput(small_scan.patterns, small_scan.bad_pixels, product))
    object_ = np.ones((40, 53), np.complex64)
    expected = hosts_probes(product)
    shown = to_product(product, scan, object_, np.zeros(2))
    np.testing.assert_allclose(hosts_probes(shown), expected, rtol=1e-4)
    beams = np.linspace(0.5, 1.5, len(scan))
    written = to_product(
        product,
        scan,
        object_,
        np.zeros(2),
        probe=scan.probe,
        variation=scan.probe_variation,
        intensities=beams,
    )
    if len(scan.probe) == 1:
        expected = expected * np.sqrt(beams)[:, None, None, None]
    np.testing.assert_allclose(hosts_probes(written), expected, rtol=1e-4)


@needs('torch')
def test_a_worker_uses_and_returns_the_variation(product: Product, small_scan: Scan) -> None:
    patterns = small_scan.patterns.copy()
    patterns[7] = 0
    scan = to_scan(ReconstructInput(patterns, small_scan.bad_pixels, product))
    settings = RefinementConfig(iterations=3)
    job = ReconstructJob('pytorch', BUILT_IN_PATH, InferenceConfig(device='cpu'), settings)
    worker, last = Worker(), None
    with worker.run(job, ScanArrays.of(scan)) as run:
        for event in run.events():
            last = event or last
    worker.close()
    assert last is not None
    assert isinstance(last.arrays, ResultArrays)
    found = last.arrays.probe_variation
    assert isinstance(found, ProbeVariation)
    probes, expected = found.probes(last.arrays.probe), own_probes(scan)
    # A pattern without light has the probe of all.
    np.testing.assert_array_equal(found.weights[7], [1, 0, 0])
    lit = np.arange(len(scan)) != 7
    scale = np.linalg.norm(probes[lit]) / np.linalg.norm(expected[lit])
    np.testing.assert_allclose(probes[lit], scale * expected[lit], atol=1e-4 * np.abs(probes).max())


def test_a_reconstruction_reads_a_product_that_varies(product: Product, tmp_path: Path) -> None:
    found = read_reconstruction(tmp_path / 'product.h5')
    assert found.probe_variation is not None
    probes = found.probe_variation.probes(found.probe)
    np.testing.assert_allclose(probes, hosts_probes(product), rtol=1e-4)
