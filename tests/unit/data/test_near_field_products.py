"""Products of Ptychodus in the near field: its own simulation fits our model."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptychopinn_plugin.config import RefinementConfig
from ptychopinn_plugin.data import Scan, load_scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.evaluation import evaluate


# Ptychodus' own plugins import what Python has deprecated.
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@pytest.mark.parametrize('focus_m', [0.0, -2e-4])
def test_images_that_ptychodus_simulates_fit_our_model(
    ptychodus: Any,
    make_product: Callable[..., Any],
    make_scan: Callable[..., Scan],
    residual: Callable[[Scan], float],
    tmp_path: Path,
    focus_m: float,
) -> None:
    """In the near field, in a parallel and in a cone beam."""
    scan = make_scan(shape=(20, 24), modes=2)
    # It leaves images moved by the part of a pixel by which it moves the probe, from the whole one
    # before, other than here.
    scan = dataclasses.replace(scan, positions_px=np.rint(scan.positions_px) + 1e-4)
    product = make_product(scan, (3e-9, 2e-9), 10e3, 1e-7 if focus_m == 0 else 1.0002e-7)
    if not hasattr(product.metadata, 'far_field'):
        pytest.skip('This Ptychodus knows no near field.')
    metadata = dataclasses.replace(
        product.metadata, far_field=False, focus_object_distance_m=focus_m
    )
    product = dataclasses.replace(product, metadata=metadata)
    data = ptychodus.simulate.generate_diffraction_data(product)
    ptychodus.io.save_product(tmp_path / 'product.h5', product)
    ptychodus.io.save_diffraction_data(tmp_path / 'diffraction.h5', data)
    loaded = load_scan(tmp_path)
    assert loaded.geometry.near_field is True
    assert loaded.geometry.focus_object_distance_m == (focus_m or None)
    assert residual(loaded) < 1e-6
    np.save(tmp_path / 'patterns.npy', loaded.patterns)
    again = load_scan(tmp_path / 'patterns.npy', reader='NPY', product=tmp_path / 'product.h5')
    assert residual(again) < 1e-6
    # The size of a pixel follows from that of the detector, too.
    with h5py.File(tmp_path / 'product.h5', 'a') as file:
        for name in ('object', 'probe'):
            for side in ('pixel_height_m', 'pixel_width_m'):
                del file[name].attrs[side]
    np.testing.assert_allclose(load_scan(tmp_path).positions_px - loaded.positions_px, 0, atol=1e-3)


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@pytest.mark.parametrize('focus_m', [0.0, -3e-3])
def test_iterations_find_the_object_whose_images_ptychodus_simulates(
    ptychodus: Any, make_product: Callable[..., Any], tmp_path: Path, focus_m: float
) -> None:
    """With shot noise, from a flat object, in a parallel and in a cone beam."""
    pytest.importorskip('torch')
    from ptychopinn_plugin.backends.pytorch.adapter import PyTorchBackend

    truth = simulate(
        SimulationConfig(
            size=32,
            rows=8,
            columns=8,
            step_px=4.0,
            photons=3e5,
            fresnel_number=0.06,
            probe_kind='diffuser',
        )
    )
    truth = dataclasses.replace(truth, positions_px=np.rint(truth.positions_px) + 1e-4)
    geometry = truth.geometry
    assert geometry.photon_energy_eV is not None
    assert geometry.detector_distance_m is not None
    assert geometry.pixel_height_m is not None
    # The cone of the same Fresnel number is longer.
    distance_m = geometry.detector_distance_m / (
        1 if focus_m == 0 else 1 + geometry.detector_distance_m / focus_m
    )
    pixel_m = (geometry.pixel_height_m,) * 2
    product = make_product(truth, pixel_m, geometry.photon_energy_eV, distance_m)
    if not hasattr(product.metadata, 'far_field'):
        pytest.skip('This Ptychodus knows no near field.')
    metadata = dataclasses.replace(
        product.metadata, far_field=False, focus_object_distance_m=focus_m
    )
    product = dataclasses.replace(product, metadata=metadata)
    data = ptychodus.simulate.generate_diffraction_data(product, np.random.default_rng(1))
    known = product.object_
    flat = ptychodus.object.Object(
        np.ones_like(known.get_array()), known.get_pixel_geometry(), known.get_center()
    )
    start = dataclasses.replace(product, object_=flat)
    ptychodus.io.save_product(tmp_path / 'product.h5', start)
    ptychodus.io.save_diffraction_data(tmp_path / 'diffraction.h5', data)
    found = PyTorchBackend().refine(
        load_scan(tmp_path), RefinementConfig(iterations=40), device='cpu'
    )
    judged = evaluate(found, truth)
    assert judged.amplitude.ssim > 0.95
    assert judged.phase.ssim > 0.95
