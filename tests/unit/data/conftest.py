"""A small scan that a transposed, mirrored or shifted reading does not fit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin.data import Geometry, Scan
from ptychopinn_plugin.physics import amplitude_residual, normalize_probe, predict_patterns

MakeScan = Callable[..., Scan]


def _smooth(rng: np.random.Generator, shape: tuple[int, int], width: float) -> np.ndarray:
    noise = rng.normal(size=shape)
    y, x = np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])
    image = np.fft.ifft2(np.fft.fft2(noise) * np.exp(-2 * (np.pi * width) ** 2 * (y**2 + x**2)))
    return np.asarray(image.real / np.abs(image.real).max())


def _probe(shape: tuple[int, int], modes: int) -> np.ndarray:
    y = (np.arange(shape[0]) - shape[0] // 2)[:, None] / shape[0]
    x = (np.arange(shape[1]) - shape[1] // 2) / shape[1]
    beam = np.exp(-110 * (y**2 + 0.7 * x**2 + 0.5 * y * x)) * np.exp(9j * (y**2 - 3 * x * y + x**2))
    # A lopsided second mode.
    return np.stack([beam, 0.4 * beam * (y + 0.3 * x) * 8])[:modes]


@pytest.fixture
def make_scan() -> MakeScan:
    """Return a function that simulates a scan without noise."""

    def make(
        shape: tuple[int, int] = (16, 16), modes: int = 1, count: int = 11, width: float = 1.0
    ) -> Scan:
        rng = np.random.default_rng(7)
        size = (shape[0] + 13, shape[1] + 21)
        object_ = (0.75 + 0.25 * _smooth(rng, size, width)) * np.exp(
            1j * _smooth(rng, size, width * 1.3)
        )
        reach = np.array(size) - shape
        positions = rng.uniform(0.5, 1, (count, 2)) * (reach - 1) * [0.9, 1]
        positions += np.array([shape[0] // 2, shape[1] // 2])
        probe = normalize_probe(_probe(shape, modes), 1e5)
        patterns = predict_patterns(object_, np.zeros(2, np.int64), positions, probe)
        return Scan(
            patterns=patterns,
            positions_px=positions,
            probe=probe,
            object_=object_.astype(np.complex64),
            nominal_positions_px=positions + 0.25,
            geometry=Geometry(2e-9, 2e-9, 8000.0, 2.0, 75e-6, 75e-6),
            name='lopsided',
        )

    return make


@pytest.fixture
def residual() -> Callable[[Scan], float]:
    """Return a function that measures how far a scan's patterns are from its own object."""

    def measure(scan: Scan) -> float:
        assert scan.object_ is not None
        assert scan.bad_pixels is not None
        object_, probe = scan.object_.astype(complex), scan.probe.astype(complex)
        expected = predict_patterns(
            *(object_, np.zeros(2, np.int64), scan.positions_px, probe),
            scan.transfer_function(),
        )
        scale = scan.patterns.sum(dtype=float) / expected.sum()
        return amplitude_residual(expected * scale, scan.patterns, ~scan.bad_pixels)

    return measure


@pytest.fixture
def save_npz(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a scan in PtychoPINN's contract, with changes to its keys."""

    def save(scan: Scan, *, leave_out: tuple[str, ...] = (), **changes: Any) -> Path:
        arrays: dict[str, Any] = {
            'diff3d': np.sqrt(scan.patterns).astype(np.float32),
            'xcoords': scan.positions_px[:, 1],
            'ycoords': scan.positions_px[:, 0],
            'probeGuess': scan.probe[0],
            'objectGuess': scan.object_,
            'scan_index': np.arange(len(scan)),
        }
        arrays |= changes
        path = tmp_path / 'scan.npz'
        np.savez(path, **{key: arrays[key] for key in arrays if key not in leave_out})
        return path

    return save


@pytest.fixture
def ptychodus() -> Any:
    """Return the parts of Ptychodus that the tests use."""
    pytest.importorskip('ptychodus')
    from types import SimpleNamespace

    from ptychodus.api import geometry, io, object, probe, probe_positions, product
    from ptychodus.api.simulate import diffraction

    return SimpleNamespace(
        geometry=geometry,
        io=io,
        object=object,
        probe=probe,
        positions=probe_positions,
        product=product,
        simulate=diffraction,
    )


@pytest.fixture
def make_product(ptychodus: Any) -> Callable[..., Any]:
    """Return a function that makes a scan a product of Ptychodus, by Ptychodus' own mapping."""

    def make(scan: Scan, pixel_m: tuple[float, float], energy_eV: float, distance_m: float) -> Any:
        pixel = ptychodus.geometry.PixelGeometry(width_m=pixel_m[1], height_m=pixel_m[0])
        centre = ptychodus.object.ObjectCenter(x_m=7e-6, y_m=-4e-6)
        host_object = ptychodus.object.Object(scan.object_, pixel, centre)
        height, width = scan.pattern_shape
        points = []
        for index, (y, x) in enumerate(scan.positions_px):
            # Where Ptychodus cuts a patch: (n - 1) / 2 after its first pixel.
            first_y, first_x = y - height // 2, x - width // 2
            position = ptychodus.object.ObjectPosition(
                index, first_x + (width - 1) / 2, first_y + (height - 1) / 2
            )
            points.append(host_object.get_geometry().map_coordinates_object_to_probe(position))
        return ptychodus.product.Product(
            metadata=ptychodus.product.ProductMetadata(
                name='lopsided',
                comments='',
                detector_distance_m=distance_m,
                photon_energy_eV=energy_eV,
                probe_photon_count=1e5,
                exposure_time_s=0.0,
                mass_attenuation_m2_per_kg=0.0,
                tomography_angle_deg=0.0,
            ),
            probe_positions=ptychodus.positions.ProbePositionSequence(points),
            probes=ptychodus.probe.ProbeSequence(scan.probe, None, pixel),
            object_=host_object,
            losses=[],
        )

    return make
