"""Simulated scans: what they promise about objects, probes, paths and counts."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ptychopinn_plugin.data.simulation import (
    SimulationConfig,
    make_object,
    make_path,
    make_probe,
    simulate,
    thin_scan,
)
from ptychopinn_plugin.errors import ConfigError, DataError
from ptychopinn_plugin.physics import predict_patterns, split_positions

KINDS = ['dead-leaves', 'lines', 'siemens', 'letters']


def small(**changes: object) -> SimulationConfig:
    return SimulationConfig(**{'size': 32, 'n_positions': 36, 'photons': 1e4, **changes})


def test_default_probe_is_the_described_one() -> None:
    intensity = np.abs(make_probe(SimulationConfig())[0]) ** 2
    row = intensity[32]
    half = intensity.max() / 2
    inside = np.flatnonzero(row >= half)
    first, last = inside[0], inside[-1]
    width = (
        last
        - first
        + (row[first] - half) / (row[first] - row[first - 1])
        + (row[last] - half) / (row[last] - row[last + 1])
    )
    assert width == pytest.approx(16.5, abs=0.2)
    y, x = np.indices(intensity.shape) - 32
    assert intensity[np.hypot(y, x) <= 16].sum() == pytest.approx(0.95, abs=0.01)
    # A round probe in the middle: it is its own mirror image about pixel 32.
    np.testing.assert_allclose(intensity[1:, 1:], intensity[:0:-1, :0:-1], atol=1e-12)


def test_zone_plate_has_a_dark_middle_in_its_pupil() -> None:
    config = SimulationConfig(probe_kind='zone-plate')
    pupil = np.abs(np.fft.fft2(np.fft.ifftshift(make_probe(config)[0])))
    assert pupil[0, 0] < 0.3 * pupil.max()


def test_modes_are_orthogonal_with_the_set_shares() -> None:
    modes = make_probe(SimulationConfig(n_modes=4, mode_decay=0.4)).reshape(4, -1)
    gram = modes.conj() @ modes.T
    power = 0.4 ** np.arange(4)
    np.testing.assert_allclose(gram, np.diag(power / power.sum()), atol=1e-12)
    single = make_probe(SimulationConfig()).ravel()
    assert abs(np.vdot(single, modes[0])) ** 2 == pytest.approx(gram[0, 0].real)


@pytest.mark.parametrize('photons', [1e3, 1e5])
@pytest.mark.parametrize('n_modes', [1, 3])
def test_mean_counts_are_the_photons(photons: float, n_modes: int) -> None:
    scan = simulate(small(photons=photons, n_modes=n_modes))
    assert scan.mean_counts() == pytest.approx(photons, rel=0.01)


def test_patterns_follow_from_what_the_scan_holds() -> None:
    scan = simulate(small(poisson_noise=False, n_modes=2))
    assert scan.object_ is not None
    expected = predict_patterns(
        scan.object_.astype(np.complex128),
        np.zeros(2, dtype=np.int64),
        scan.positions_px,
        scan.probe.astype(np.complex128),
    )
    assert scan.patterns.dtype == np.float32
    np.testing.assert_allclose(scan.patterns, expected, rtol=1e-5)


def test_counts_scatter_as_photons_do() -> None:
    noisy, clean = simulate(small()), simulate(small(poisson_noise=False))
    bright = clean.patterns > 5
    deviations = (noisy.patterns[bright] - clean.patterns[bright]) / np.sqrt(clean.patterns[bright])
    assert deviations.mean() == pytest.approx(0, abs=0.05)
    assert deviations.std() == pytest.approx(1, abs=0.05)


def test_integer_type_holds_the_counts() -> None:
    assert simulate(small()).patterns.dtype == np.uint16
    bright = simulate(small(photons=1e8, n_positions=4))
    assert bright.patterns.dtype == np.uint32
    assert bright.patterns.max() > 65535


def test_same_seed_same_scan() -> None:
    first, again, other = simulate(small()), simulate(small()), simulate(small(seed=5))
    np.testing.assert_array_equal(first.patterns, again.patterns)
    np.testing.assert_array_equal(first.object_, again.object_)
    assert not np.array_equal(first.positions_px, other.positions_px)
    assert not np.array_equal(first.object_, other.object_)


@pytest.mark.parametrize(
    'change',
    [{'photons': 1e3}, {'dead_pixels': 9}, {'n_modes': 2}, {'position_noise_px': 1.0}],
)
def test_other_settings_leave_object_and_positions(change: dict[str, float]) -> None:
    first, second = simulate(small()), simulate(small(**change))
    np.testing.assert_array_equal(first.object_, second.object_)
    np.testing.assert_array_equal(first.positions_px, second.positions_px)
    assert not np.array_equal(first.patterns, second.patterns)


@pytest.mark.parametrize('path_kind', ['raster', 'jittered', 'fermat'])
@pytest.mark.parametrize('position_noise_px', [0.0, 2.0])
def test_every_patch_lies_inside(path_kind: str, position_noise_px: float) -> None:
    config = small(path_kind=path_kind, position_noise_px=position_noise_px, jitter_px=7.0)
    scan = simulate(config)
    assert scan.object_ is not None
    whole, _ = split_positions(scan.positions_px)
    assert (whole - 16 >= 0).all()
    assert (whole + 16 <= scan.object_.shape).all()


def test_position_noise_moves_the_true_positions_alone() -> None:
    path = make_path(SimulationConfig(position_noise_px=0.5))
    deviation = path.true_px - path.reported_px
    assert deviation.std() == pytest.approx(0.5, rel=0.05)
    assert np.abs(deviation).max() <= 1.5


@pytest.mark.parametrize('kind', ['raster', 'jittered'])
def test_raster_of_unequal_sides(kind: str) -> None:
    positions = make_path(
        SimulationConfig(path_kind=kind, rows=4, columns=7, step_px=10, jitter_px=1)
    ).reported_px
    assert positions.shape == (28, 2)
    limit = 0.0 if kind == 'raster' else 1.0
    y, x = positions.reshape(4, 7, 2).transpose(2, 0, 1)
    assert np.abs(y - (np.arange(4)[:, None] * 10 - 15)).max() <= limit
    assert np.abs(x - (np.arange(7) * 10 - 30)).max() <= limit


def test_number_of_positions_that_is_no_square() -> None:
    assert len(make_path(SimulationConfig(n_positions=11)).reported_px) == 11


def test_spiral_has_the_density_of_its_step() -> None:
    config = SimulationConfig(path_kind='fermat', n_positions=2000, step_px=4.0)
    positions = make_path(config).reported_px
    radius = np.hypot(*positions.T).max()
    assert np.pi * radius**2 / 2000 == pytest.approx(16, rel=0.03)
    distances = np.hypot(*(positions[:, None] - positions[None, :]).transpose(2, 0, 1))
    np.fill_diagonal(distances, np.inf)
    assert distances.min(axis=1).mean() == pytest.approx(4.0, rel=0.15)


@pytest.mark.parametrize(('every', 'left'), [(1, 1024), (3, 121), (4, 64), (5, 49)])
def test_thinned_scan(every: int, left: int) -> None:
    scan = simulate(small(size=16, n_positions=1024, path_kind='raster', step_px=2.0))
    thinned = thin_scan(scan, every, 32)
    assert len(thinned) == left
    side = int(np.sqrt(left))
    steps = np.diff(thinned.positions_px[:side, 1])
    np.testing.assert_allclose(steps, 2.0 * every)
    np.testing.assert_array_equal(thinned.patterns[side], scan.patterns[every * 32])


def test_thinning_needs_whole_rows() -> None:
    scan = simulate(small())
    with pytest.raises(DataError, match='5 columns cannot hold 36 positions'):
        thin_scan(scan, 2, 5)
    with pytest.raises(DataError, match='every must be at least 1'):
        thin_scan(scan, 0, 6)


def test_dead_pixels_are_zero_and_marked() -> None:
    scan = simulate(small(dead_pixels=25))
    assert scan.bad_pixels is not None
    assert scan.bad_pixels.sum() == 25
    assert not scan.patterns[:, scan.bad_pixels].any()


@pytest.mark.parametrize('kind', KINDS)
def test_objects_have_the_described_range(kind: str) -> None:
    object_ = make_object(SimulationConfig(object_kind=kind), (180, 200))
    assert object_.shape == (180, 200)
    amplitude, phase = np.abs(object_), np.angle(object_)
    assert amplitude.min() >= 0.5 - 1e-12
    assert amplitude.max() <= 1 + 1e-12
    assert np.ptp(amplitude) > 0.3
    assert np.abs(phase).max() <= 1 + 1e-12
    assert np.ptp(phase) > 0.5


def test_dead_leaves_have_amplitude_and_phase_partly_in_common() -> None:
    object_ = make_object(SimulationConfig(seed=3), (300, 300))
    common = np.corrcoef(np.abs(object_).ravel(), np.angle(object_).ravel())[0, 1]
    assert 0.2 < common < 0.7


def test_letters_are_not_symmetric() -> None:
    amplitude = np.abs(make_object(SimulationConfig(object_kind='letters'), (160, 160)))
    for other in (amplitude[::-1], amplitude[:, ::-1], amplitude.T, amplitude[::-1, ::-1]):
        assert np.corrcoef(amplitude.ravel(), other.ravel())[0, 1] < 0.5


def test_picture_as_object(tmp_path: Path) -> None:
    picture = np.zeros((40, 80), dtype=np.uint8)
    picture[:20] = 255
    Image.fromarray(picture).save(tmp_path / 'picture.png')
    config = small(object_kind='image', object_file=str(tmp_path / 'picture.png'))
    object_ = make_object(config, (60, 60))
    np.testing.assert_allclose(object_[5], np.exp(-1j), atol=1e-6)
    np.testing.assert_allclose(object_[-5], 0.5 * np.exp(1j), atol=1e-6)


@pytest.mark.parametrize(
    ('name', 'kind', 'greatest'),
    [
        ('p.png', np.uint16, 65535),
        ('p.png', np.uint16, 4095),
        ('p.tif', np.uint16, 65535),
        ('p.tif', np.int32, 100_000),
        ('p.tif', np.float32, 0.3),
    ],
)
def test_a_picture_of_many_bits_is_as_one_of_eight(
    tmp_path: Path, name: str, kind: type, greatest: float
) -> None:
    ramp = np.linspace(0, 1, 60 * 60).reshape(60, 60)
    objects = []
    for path, values in (
        (tmp_path / name, (ramp * greatest).astype(kind)),
        (tmp_path / '8.png', np.rint(ramp * 255).astype(np.uint8)),
    ):
        Image.fromarray(values).save(path)
        config = small(object_kind='image', object_file=str(path))
        objects.append(make_object(config, (50, 70)))
    # Two steps of 8 bits, over which the phase changes by 2 rad.
    np.testing.assert_allclose(objects[0], objects[1], atol=2 * 2 / 255)


def test_a_picture_with_nan_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), np.nan, dtype=np.float32)).save(tmp_path / 'p.tif')
    with pytest.raises(DataError, match=r'p.tif must hold finite numbers'):
        simulate(small(object_kind='image', object_file=str(tmp_path / 'p.tif')))


def test_npz_as_object(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stored = rng.normal(size=(120, 130)) + 1j * rng.normal(size=(120, 130))
    np.savez(tmp_path / 'object.npz', objectGuess=stored)
    scan = simulate(small(object_kind='image', object_file=str(tmp_path / 'object.npz')))
    np.testing.assert_allclose(scan.object_, stored.astype(np.complex64))
    np.testing.assert_allclose(scan.positions_px.mean(axis=0), [59.5, 64.5], atol=1.0)


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('bad.npz', b'no archive', 'is no complete NPZ file'),
        ('empty.npz', b'', 'is no complete NPZ file'),
        ('bad.png', b'no picture', 'cannot be read as a picture'),
        ('missing.png', None, 'cannot be read as a picture'),
        ('missing.npz', None, 'cannot be read: No such file'),
    ],
)
def test_unreadable_object_file(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        simulate(small(object_kind='image', object_file=str(tmp_path / name)))


def test_npz_without_object(tmp_path: Path) -> None:
    np.savez(tmp_path / 'other.npz', picture=np.ones((4, 4)))
    with pytest.raises(DataError, match='must hold objectGuess or object; it holds picture'):
        simulate(small(object_kind='image', object_file=str(tmp_path / 'other.npz')))


def test_an_array_under_the_name_of_an_npz(tmp_path: Path) -> None:
    with (tmp_path / 'object.npz').open('wb') as file:
        np.save(file, np.ones((40, 40)))
    with pytest.raises(DataError, match='is no complete NPZ file'):
        simulate(small(object_kind='image', object_file=str(tmp_path / 'object.npz')))


def test_an_object_of_words(tmp_path: Path) -> None:
    np.savez(tmp_path / 'object.npz', object=np.array([['a', 'b']]))
    with pytest.raises(DataError, match='object must hold numbers; its type is <U1'):
        simulate(small(object_kind='image', object_file=str(tmp_path / 'object.npz')))


def test_own_object_and_probe() -> None:
    object_ = np.full((100, 110), 0.8 + 0.1j)
    probe = np.zeros((32, 32), dtype=complex)
    probe[14:19, 14:19] = 1
    scan = simulate(small(n_modes=2), object_=object_, probe=probe)
    assert scan.probe.shape == (2, 32, 32)
    assert scan.mean_counts() == pytest.approx(1e4, rel=0.01)
    given = simulate(small(), object_=object_, probe=np.stack([probe, np.roll(probe, 5, axis=0)]))
    power = (np.abs(given.probe) ** 2).sum(axis=(1, 2))
    assert power[0] == pytest.approx(power[1])


def test_objects_and_probes_that_do_not_fit() -> None:
    with pytest.raises(DataError, match='at least 74 x 74 pixels'):
        simulate(small(), object_=np.ones((40, 200), dtype=complex))
    with pytest.raises(DataError, match='must be finite'):
        simulate(small(), object_=np.full((200, 200), np.nan, dtype=complex))
    with pytest.raises(DataError, match=r'probe must have shape \(32, 32\)'):
        simulate(small(), probe=np.ones((16, 16), dtype=complex))
    with pytest.raises(DataError, match='not zero everywhere'):
        simulate(small(), probe=np.zeros((32, 32), dtype=complex))


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match='rows and columns together'):
        SimulationConfig(rows=3)
    with pytest.raises(ConfigError, match='needs object_file'):
        SimulationConfig(object_kind='image')
    with pytest.raises(ConfigError, match='dead_pixels must be fewer'):
        SimulationConfig(size=16, dead_pixels=256)
    with pytest.raises(ConfigError, match='object_kind must be one of dead-leaves'):
        SimulationConfig(object_kind='cat')  # type: ignore[arg-type]
