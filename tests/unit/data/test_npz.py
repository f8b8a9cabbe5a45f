"""NPZ scans: keys, order of axes, counts against amplitudes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptychopinn_plugin.data import Scan, load_scan, read_probe, read_reconstruction, write_scan
from ptychopinn_plugin.errors import DataError

MakeScan = Callable[..., Scan]
SaveNpz = Callable[..., Path]
Residual = Callable[[Scan], float]


def test_the_contract_of_ptychopinn(
    make_scan: MakeScan, save_npz: SaveNpz, residual: Residual
) -> None:
    scan = make_scan()
    loaded = load_scan(
        save_npz(
            scan,
            xcoords_start=scan.positions_px[:, 1] + 1,
            ycoords_start=scan.positions_px[:, 0] - 2,
        )
    )
    np.testing.assert_allclose(loaded.patterns, scan.patterns, rtol=1e-5)
    np.testing.assert_array_equal(loaded.positions_px, scan.positions_px)
    np.testing.assert_allclose(
        loaded.nominal_positions_px, scan.positions_px + np.array([-2, 1]), rtol=0, atol=1e-12
    )
    np.testing.assert_array_equal(loaded.scan_index, np.arange(len(scan)))
    assert loaded.patterns.dtype == np.float32
    assert 'taken as amplitudes' in loaded.notes[0]
    assert residual(loaded) < 1e-9


def test_the_export_of_ptychodus_counts_half_a_pixel_less(
    make_scan: MakeScan, save_npz: SaveNpz, residual: Residual
) -> None:
    scan = make_scan(modes=2)
    half_less = scan.positions_px - 0.5
    path = save_npz(
        scan,
        diff3d=scan.patterns,
        probeGuess=scan.probe,
        bad_pixels=np.zeros(scan.pattern_shape, bool),
        xcoords=half_less[:, 1],
        ycoords=half_less[:, 0],
    )
    loaded = load_scan(path)
    np.testing.assert_allclose(loaded.positions_px, scan.positions_px)
    assert loaded.probe.shape == (2, 16, 16)
    assert 'taken as counts' in loaded.notes[0]
    assert residual(loaded) < 1e-9


def test_patterns_along_the_last_axis(
    make_scan: MakeScan, save_npz: SaveNpz, residual: Residual
) -> None:
    scan = make_scan()
    path = save_npz(
        scan, leave_out=('diff3d',), diffraction=np.moveaxis(np.sqrt(scan.patterns), 0, 2)
    )
    loaded = load_scan(path)
    assert residual(loaded) < 1e-9
    assert 'has been turned' in loaded.notes[0]


@pytest.mark.parametrize('axis', [0, 2])
@pytest.mark.parametrize('beam_stop', [False, True])
def test_as_many_patterns_as_rows_are_told_by_their_brightness(
    make_scan: MakeScan, save_npz: SaveNpz, axis: int, beam_stop: bool
) -> None:
    scan = make_scan(count=16)
    amplitudes = np.sqrt(scan.patterns)
    if beam_stop:
        amplitudes[:, 6:11, 6:11] = 0
    loaded = load_scan(save_npz(scan, diff3d=np.moveaxis(amplitudes, 0, axis)))
    np.testing.assert_allclose(loaded.patterns, amplitudes**2, rtol=1e-5)
    which = 'first' if axis == 0 else 'last'
    assert f'three sides of 16: the {which} axis was taken for the positions' in loaded.notes[0]
    assert 'about equally bright' in loaded.notes[0]


def test_the_first_axis_where_nothing_tells(make_scan: MakeScan, save_npz: SaveNpz) -> None:
    scan = make_scan(count=16)
    flat = np.random.default_rng(0).uniform(1, 2, (16, 16, 16))
    loaded = load_scan(save_npz(scan, diff3d=flat))
    np.testing.assert_allclose(loaded.patterns, flat**2, rtol=1e-5)
    assert 'the first axis was taken for the positions; as in most' in loaded.notes[0]
    # Our own files and exports of Ptychodus have one order only.
    exported = load_scan(save_npz(scan, diff3d=flat, bad_pixels=np.zeros((16, 16), bool)))
    assert not any('axis was taken' in note for note in exported.notes)


@pytest.mark.parametrize('dtype', ['uint8', 'uint16', 'uint32', 'int32'])
def test_integer_amplitudes_are_squared_without_overflow(
    make_scan: MakeScan, save_npz: SaveNpz, dtype: str
) -> None:
    scan = make_scan()
    amplitudes = np.full(scan.patterns.shape, 200, dtype)
    amplitudes[0, 3, 5] = 7
    loaded = load_scan(save_npz(scan, diff3d=amplitudes), domain='amplitudes')
    assert loaded.patterns.max() == 40000
    assert loaded.patterns[0, 3, 5] == 49


@pytest.mark.parametrize('dtype', ['uint8', 'uint16', 'uint32', 'float32', 'float64'])
def test_counts_stay_in_their_type(make_scan: MakeScan, save_npz: SaveNpz, dtype: str) -> None:
    scan = make_scan()
    counts = np.random.default_rng(0).poisson(5, scan.patterns.shape).astype(dtype)
    loaded = load_scan(save_npz(scan, diff3d=counts))
    assert loaded.patterns.dtype == dtype
    np.testing.assert_array_equal(loaded.patterns, counts)
    assert 'taken as counts' in loaded.notes[0]


def _counts(scan: Scan) -> np.ndarray:
    return np.random.default_rng(0).poisson(scan.patterns)


@pytest.mark.parametrize(
    ('changes', 'domain', 'reason'),
    [
        (lambda c: {'diff3d': c.astype(np.uint16)}, 'counts', 'integers'),
        (lambda c: {'diff3d': c + 0.25, 'bad_pixels': c[0] < 0}, 'counts', 'export by Ptychodus'),
        (lambda c: {'diff3d': c.astype(np.float32)}, 'counts', 'whole numbers'),
        (lambda c: {'diff3d': np.sqrt(c).astype(np.float32)}, 'amplitudes', 'their squares'),
        (lambda c: {'diff3d': np.sqrt(c) / 3}, 'amplitudes', "PtychoPINN's files"),
    ],
    ids=['integers', 'export', 'whole', 'squares', 'contract'],
)
def test_the_domain_is_inferred_by_a_stated_rule(
    make_scan: MakeScan, save_npz: SaveNpz, changes: Any, domain: str, reason: str
) -> None:
    scan = make_scan()
    arrays = changes(_counts(scan))
    loaded = load_scan(save_npz(scan, **arrays))
    note = next(each for each in loaded.notes if 'taken as' in each)
    assert f'taken as {domain} because' in note
    assert reason in note
    expected = arrays['diff3d'] if domain == 'counts' else np.square(arrays['diff3d'])
    np.testing.assert_allclose(loaded.patterns, expected, rtol=1e-6)


def test_the_argument_wins_over_the_file_and_the_file_over_the_rule(
    make_scan: MakeScan, save_npz: SaveNpz
) -> None:
    scan = make_scan()
    values = _counts(scan).astype(np.uint16)
    metadata = np.array(json.dumps({'diffraction_domain': 'amplitudes'}))
    path = save_npz(scan, diff3d=values, _metadata=metadata)
    np.testing.assert_array_equal(load_scan(path).patterns, values.astype(np.float32) ** 2)
    assert not load_scan(path).notes
    np.testing.assert_array_equal(load_scan(path, domain='counts').patterns, values)


def test_amplitudes_of_another_unit_become_photons(make_scan: MakeScan, save_npz: SaveNpz) -> None:
    scan = make_scan()
    metadata = np.array(json.dumps({'physics_parameters': {'nphotons': 3e7}}))
    path = save_npz(scan, diff3d=np.sqrt(scan.patterns) / 50, _metadata=metadata)
    loaded = load_scan(path)
    assert loaded.mean_counts() == pytest.approx(3e7, rel=1e-4)
    assert any('scaled by' in note for note in loaded.notes)


@pytest.mark.parametrize('value', ['not JSON', '[1]', np.array({'a': 1}, dtype=object)])
def test_unreadable_metadata_are_ignored_with_a_note(
    make_scan: MakeScan, save_npz: SaveNpz, value: Any
) -> None:
    loaded = load_scan(save_npz(make_scan(), _metadata=np.array(value)))
    assert any('_metadata' in note for note in loaded.notes)


@pytest.mark.parametrize(
    ('change', 'word'),
    [
        (lambda o: np.ones_like(o), 'is flat'),
        (lambda o: o[:20], 'does not cover'),
        (lambda o: o * np.nan, 'NaN'),
    ],
)
def test_an_object_that_tells_nothing_is_left_out(
    make_scan: MakeScan, save_npz: SaveNpz, change: Any, word: str
) -> None:
    scan = make_scan()
    loaded = load_scan(save_npz(scan, objectGuess=change(scan.object_)))
    assert loaded.object_ is None
    assert word in loaded.notes[-1]


def test_without_an_object(make_scan: MakeScan, save_npz: SaveNpz) -> None:
    assert load_scan(save_npz(make_scan(), leave_out=('objectGuess',))).object_ is None


class Explosive:
    """Must not be made from a file."""

    def __reduce__(self) -> Any:
        return pytest.fail, ('The object was unpickled.',)


@pytest.mark.parametrize('value', [None, Explosive()])
def test_none_is_no_array(make_scan: MakeScan, save_npz: SaveNpz, value: Any) -> None:
    nothing = np.array(value, dtype=object)
    loaded = load_scan(save_npz(make_scan(), objectGuess=nothing, scan_index=nothing))
    assert loaded.object_ is None
    assert 'objectGuess, scan_index: an object (None?) and no array; not read.' in loaded.notes
    with pytest.raises(DataError, match=r"'probeGuess' of .* it is an object array"):
        load_scan(save_npz(make_scan(), probeGuess=nothing))


def test_nominal_positions_alone(make_scan: MakeScan, save_npz: SaveNpz) -> None:
    scan = make_scan()
    y, x = scan.positions_px.T
    path = save_npz(scan, leave_out=('xcoords', 'ycoords'), xcoords_start=x, ycoords_start=y)
    loaded = load_scan(path)
    np.testing.assert_array_equal(loaded.positions_px, scan.positions_px)
    assert 'nominal' in loaded.notes[0]


def test_a_probe_from_another_file(make_scan: MakeScan, save_npz: SaveNpz, tmp_path: Path) -> None:
    scan = make_scan(modes=2)
    other = tmp_path / 'other.npz'
    np.savez(other, probeGuess=scan.probe * 2)
    loaded = load_scan(save_npz(scan, leave_out=('probeGuess',)), probe_from=other)
    np.testing.assert_array_equal(loaded.probe, scan.probe * 2)
    np.testing.assert_array_equal(read_probe(other), scan.probe * 2)


def test_the_name_of_the_file_does_not_matter(make_scan: MakeScan, save_npz: SaveNpz) -> None:
    path = save_npz(make_scan())
    assert len(load_scan(path.rename(path.with_suffix('.h5')))) == 11


def test_compressed_files(make_scan: MakeScan, save_npz: SaveNpz, residual: Residual) -> None:
    path = save_npz(make_scan())
    with np.load(path) as members:
        np.savez_compressed(path.with_name('small.npz'), **members)
    assert residual(load_scan(path.with_name('small.npz'))) < 1e-9


def test_hot_pixels_are_masked_where_asked(make_scan: MakeScan, save_npz: SaveNpz) -> None:
    scan = make_scan()
    counts = _counts(scan)
    counts[:, 2, 13] = 9000
    path = save_npz(scan, diff3d=counts)
    assert not load_scan(path).bad_pixels.any()
    loaded = load_scan(path, mask_hot=True)
    assert np.argwhere(loaded.bad_pixels).tolist() == [[2, 13]]
    assert loaded.notes[-1] == 'Marked as bad: 1 hot pixel.'


def test_patterns_of_another_unit_become_photons(make_scan: MakeScan, save_npz: SaveNpz) -> None:
    scan = make_scan()
    counts = _counts(scan)
    path = save_npz(scan, diff3d=(counts / counts.max()).astype(np.float32))
    loaded = load_scan(path, domain='counts', photons=counts.sum(axis=(1, 2)).mean())
    np.testing.assert_allclose(loaded.patterns, counts, rtol=1e-5)
    assert 'scaled by' in loaded.notes[-1]
    for wrong in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(DataError, match='positive number'):
            load_scan(path, domain='counts', photons=wrong)


def test_normalized_patterns_get_a_hint(make_scan: MakeScan, save_npz: SaveNpz) -> None:
    scan = make_scan()
    counts = _counts(scan).astype(np.float32)
    few = np.random.default_rng(0).binomial(counts.astype(int), 0.3 / counts.mean())
    for patterns, normalized in (
        (np.sqrt(counts / counts.sum()), True),
        (np.sqrt(0.25 * counts / counts.mean()), True),
        # Photons, though few or not whole.
        (np.sqrt(few), False),
        (few.astype(np.float64), False),
        (np.sqrt(1.3 * counts), False),
    ):
        path = save_npz(scan, diff3d=patterns)
        notes = load_scan(path).notes
        assert any('--photons N' in note for note in notes) is normalized
        if normalized:
            assert not any('squares are whole' in note for note in notes)
        assert not any('--photons N' in note for note in load_scan(path, photons=1e3).notes)


def test_tiny_amplitudes_become_the_photons_of_the_metadata(
    make_scan: MakeScan, save_npz: SaveNpz
) -> None:
    scan = make_scan()
    tiny = np.sqrt(scan.patterns / scan.patterns.sum() * 1e-3).astype(np.float32)
    metadata = np.array(json.dumps({'nphotons': 3e4, 'diffraction_domain': 'amplitudes'}))
    assert load_scan(save_npz(scan, diff3d=tiny, _metadata=metadata)).mean_counts() == (
        pytest.approx(3e4, rel=1e-4)
    )


def test_hdf5_in_place_of_a_reconstruction(tmp_path: Path) -> None:
    with h5py.File(tmp_path / 'product.h5', 'w') as file:
        file['object'] = np.ones((1, 4, 4))
    with pytest.raises(DataError, match=r'must be an NPZ file here.*it is HDF5'):
        read_reconstruction(tmp_path / 'product.h5')


def test_what_we_write_comes_back(make_scan: MakeScan, tmp_path: Path, residual: Residual) -> None:
    scan = make_scan(shape=(16, 20), modes=2)
    path = tmp_path / 'scan.npz'
    write_scan(path, scan)
    loaded = load_scan(path)
    for name in ('patterns', 'positions_px', 'probe', 'object_', 'bad_pixels', 'scan_index'):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(scan, name))
    np.testing.assert_array_equal(loaded.nominal_positions_px, scan.nominal_positions_px)
    assert (loaded.geometry, loaded.name, loaded.notes) == (scan.geometry, scan.name, ())
    assert loaded.patterns.dtype == scan.patterns.dtype
    assert residual(loaded) < 1e-9


def test_real_scans(real_data: Path) -> None:
    scan = load_scan(real_data / 'xray_siemens_128.npz')
    assert scan.patterns.shape == (516, 128, 128)
    assert scan.patterns.dtype == np.uint16
    assert scan.mean_counts() == pytest.approx(462e3, rel=0.01)
    energy = (np.abs(scan.probe) ** 2).sum()
    assert energy == pytest.approx(scan.mean_counts(), rel=0.01)


class TestBadInput:
    """One line: what was expected, what came, what to do."""

    @pytest.fixture
    def refused(self) -> Callable[..., None]:
        def check(path: Path, match: str, **options: Any) -> None:
            with pytest.raises(DataError, match=match) as caught:
                load_scan(path, **options)
            assert '\n' not in str(caught.value)
            assert str(path) in str(caught.value)

        return check

    @pytest.mark.parametrize('key', ['diff3d', 'xcoords', 'ycoords'])
    def test_missing_key(
        self, make_scan: MakeScan, save_npz: SaveNpz, refused: Callable[..., None], key: str
    ) -> None:
        refused(save_npz(make_scan(), leave_out=(key,)), f"must hold '{key}'; it holds")

    @pytest.mark.parametrize(
        ('changes', 'match'),
        [
            (lambda s: {'xcoords': s.positions_px[1:, 1]}, 'same length; they have 10 and 11'),
            (lambda s: {'diff3d': s.patterns[:8]}, 'one pattern for each of the 11 positions'),
            (lambda s: {'scan_index': np.arange(3)}, 'scan_index must have 11 values'),
            (lambda s: {'scan_index': np.array(['a'] * 11)}, 'scan_index must hold real numbers'),
            (lambda s: {'scan_index': np.full(11, np.nan)}, 'scan_index must be whole numbers'),
            (lambda s: {'objectGuess': np.array([['a', 'b']])}, 'objectGuess must hold numbers'),
            (lambda s: {'probeGuess': np.full((16, 16), 'a')}, 'probeGuess must hold numbers'),
            (lambda s: {'bad_pixels': np.full((16, 16), 'a')}, 'bad_pixels must hold real numbers'),
            (
                lambda s: {'diff3d': s.patterns * 1e30, 'bad_pixels': s.bad_pixels},
                r'at most 9e\+15; pattern 0 holds',
            ),
            (
                lambda s: {'xcoords_start': np.arange(3), 'ycoords_start': np.arange(3)},
                'xcoords_start must have 11 values',
            ),
            (lambda s: {'diff3d': s.patterns[0]}, 'must have shape'),
            (lambda s: {'diff3d': s.patterns * 1j}, 'must hold real numbers'),
            (lambda s: {'diff3d': s.patterns - 1e6, 'bad_pixels': s.bad_pixels}, 'negative'),
            (lambda s: {'diff3d': 0.5 - s.patterns}, 'Counts must not be negative'),
            (lambda s: {'diff3d': s.patterns * np.nan}, 'marks every pixel'),
            (lambda s: {'diff3d': s.patterns * 0}, 'Every pattern is empty'),
            (lambda s: {'xcoords': s.positions_px[:, 1] * np.inf}, 'must be finite'),
            (lambda s: {'xcoords': np.array(['a'] * 11)}, 'must hold real numbers'),
            (lambda s: {'probeGuess': s.probe[:, :12]}, r'probe must have shape \(n_modes, 16, 16'),
            (lambda s: {'probeGuess': s.probe * 0}, 'not zero everywhere'),
            (lambda s: {'probeGuess': s.probe[0, 0]}, r'must be \(height, width\)'),
            (lambda s: {'bad_pixels': np.zeros((3, 3), bool)}, 'bad_pixels must have shape'),
            (lambda s: {'bad_pixels': np.ones((16, 16), bool)}, 'marks every pixel'),
            (lambda s: {'diff3d': np.array([None] * 11)}, 'it is an object array'),
        ],
    )
    def test_wrong_array(
        self,
        make_scan: MakeScan,
        save_npz: SaveNpz,
        refused: Callable[..., None],
        changes: Any,
        match: str,
    ) -> None:
        scan = make_scan()
        refused(save_npz(scan, **changes(scan)), match)

    def test_no_pattern(
        self, make_scan: MakeScan, save_npz: SaveNpz, refused: Callable[..., None]
    ) -> None:
        none = np.zeros(0)
        path = save_npz(make_scan(), xcoords=none, ycoords=none, diff3d=np.zeros((0, 16, 16)))
        refused(path, 'holds no pattern')

    def test_empty_file(self, tmp_path: Path, refused: Callable[..., None]) -> None:
        (tmp_path / 'scan.npz').touch()
        refused(tmp_path / 'scan.npz', 'is empty; a scan is an NPZ, a MATLAB')

    def test_empty_archive(self, tmp_path: Path, refused: Callable[..., None]) -> None:
        np.savez(tmp_path / 'scan.npz')
        refused(tmp_path / 'scan.npz', 'it holds nothing')

    def test_truncated_file(
        self, make_scan: MakeScan, save_npz: SaveNpz, refused: Callable[..., None]
    ) -> None:
        path = save_npz(make_scan())
        path.write_bytes(path.read_bytes()[:-400])
        refused(path, 'truncated or damaged')

    def test_damaged_member(
        self, make_scan: MakeScan, save_npz: SaveNpz, refused: Callable[..., None]
    ) -> None:
        path = save_npz(make_scan())
        content = bytearray(path.read_bytes())
        content[600] ^= 255
        path.write_bytes(content)
        refused(path, "'diff3d' of .* is truncated or damaged")

    def test_not_found(self, tmp_path: Path, refused: Callable[..., None]) -> None:
        refused(tmp_path / 'none.npz', 'There is no file')

    @pytest.mark.parametrize('content', [b'hello', b'\x89PNG\r\n\x1a\n' + bytes(99)])
    def test_another_kind_of_file(
        self, tmp_path: Path, refused: Callable[..., None], content: bytes
    ) -> None:
        (tmp_path / 'scan.npz').write_bytes(content)
        refused(tmp_path / 'scan.npz', 'is neither NPZ nor HDF5; a scan is an NPZ, a MATLAB')

    def test_a_single_array(self, tmp_path: Path, refused: Callable[..., None]) -> None:
        np.save(tmp_path / 'scan.npy', np.zeros(3))
        refused(tmp_path / 'scan.npy', 'a single NumPy array')

    def test_a_product_makes_no_sense(
        self, make_scan: MakeScan, save_npz: SaveNpz, refused: Callable[..., None], tmp_path: Path
    ) -> None:
        refused(save_npz(make_scan()), 'holds its own positions', product=tmp_path / 'product.h5')

    def test_an_unknown_domain(self, make_scan: MakeScan, save_npz: SaveNpz) -> None:
        with pytest.raises(DataError, match="must be 'counts' or 'amplitudes'; got 'photons'"):
            load_scan(save_npz(make_scan()), domain='photons')

    def test_positions_need_a_reader(
        self, make_scan: MakeScan, save_npz: SaveNpz, tmp_path: Path
    ) -> None:
        with pytest.raises(DataError, match='needs reader=NAME'):
            load_scan(save_npz(make_scan()), positions=tmp_path / 'positions.csv')

    def test_no_probe_in_the_other_file(
        self, make_scan: MakeScan, save_npz: SaveNpz, tmp_path: Path
    ) -> None:
        np.savez(tmp_path / 'other.npz', a=1)
        with pytest.raises(DataError, match="must hold 'probeGuess'"):
            load_scan(save_npz(make_scan()), probe_from=tmp_path / 'other.npz')
        (tmp_path / 'text.txt').write_text('x')
        with pytest.raises(DataError, match='A probe is read from'):
            load_scan(save_npz(make_scan()), probe_from=tmp_path / 'text.txt')


def test_a_name_that_is_no_utf_8_can_be_written(
    make_scan: MakeScan, save_npz: SaveNpz, tmp_path: Path
) -> None:
    path = save_npz(make_scan())
    odd = path.with_name('probe_\udce4.npz')
    try:
        path.rename(odd)
    except OSError:
        pytest.skip('this file system has no such names')
    loaded = load_scan(odd)
    assert loaded.name.encode('utf-8').startswith(b'probe_')
    write_scan(tmp_path / 'again.npz', loaded)
    assert load_scan(tmp_path / 'again.npz').name == loaded.name


def test_positions_that_are_no_numbers_are_all_named(
    make_scan: MakeScan, save_npz: SaveNpz
) -> None:
    scan = make_scan()
    y, x = scan.positions_px.T.copy()
    x[[2, 5]] = np.nan
    with pytest.raises(DataError, match=r'position 2 at .*, 5 at .*leave them and their patterns'):
        load_scan(save_npz(scan, xcoords=x, ycoords=y))
    x[[1, 3, 4]] = np.inf
    with pytest.raises(DataError, match=r'5 of 11 are not: position 1 at .*and 1 more'):
        load_scan(save_npz(scan, xcoords=x, ycoords=y))


def test_positions_far_outside_are_named(make_scan: MakeScan, save_npz: SaveNpz) -> None:
    scan = make_scan(count=30)
    y, x = scan.positions_px.T.copy()
    x[[4, 17]] += 12000
    with pytest.raises(DataError, match=r'must lie together; position 4 at .*, 17 at '):
        load_scan(save_npz(scan, xcoords=x, ycoords=y))
