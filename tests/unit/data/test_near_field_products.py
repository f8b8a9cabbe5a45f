"""Products of Ptychodus in the near field: its own simulation fits our model."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptychopinn_plugin.data import Scan, load_scan


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
