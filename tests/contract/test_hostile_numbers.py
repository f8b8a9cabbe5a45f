"""Counts and positions at the ends of what there is: the right object, or an error that helps."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin import api
from ptychopinn_plugin.cli import main
from ptychopinn_plugin.config import InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Scan, load_scan
from ptychopinn_plugin.data.readers.finishing import bright_pixel_notes
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.model_file import write_model

Save = Callable[..., Path]
Change = Callable[[dict[str, Any]], None]

ITERATIONS = 12


@pytest.fixture
def scan(tiny: Callable[..., Scan]) -> Scan:
    return tiny(photons=1e5)


@pytest.fixture
def save(tmp_path: Path, scan: Scan) -> Save:
    """Return a function that writes the scan with changes of its arrays."""

    def write(change: Change) -> Path:
        arrays: dict[str, Any] = {
            'diff3d': np.array(scan.patterns),
            'xcoords': scan.positions_px[:, 1].copy(),
            'ycoords': scan.positions_px[:, 0].copy(),
            'probeGuess': scan.probe,
            'bad_pixels': scan.bad_pixels,
            '_metadata': np.array(json.dumps({'diffraction_domain': 'counts'})),
        }
        change(arrays)
        np.savez(tmp_path / 'hostile.npz', **arrays)
        return tmp_path / 'hostile.npz'

    return write


@pytest.fixture
def command(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, backend_name: str
) -> Callable[..., tuple[int, str]]:
    """Return a function that runs a command, and returns its exit code and its last line."""
    monkeypatch.setenv('PTYCHOPINN_BACKEND', backend_name)

    def run(*arguments: object) -> tuple[int, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        return int(ended.value.code or 0), capfd.readouterr().err

    return run


def as_beyond_2_to_31(arrays: dict[str, Any]) -> None:
    arrays['diff3d'] = np.rint(arrays['diff3d'].astype(np.float64) * 2**24).astype(np.int64)
    assert arrays['diff3d'].max() > 2**34


def as_unsigned(arrays: dict[str, Any]) -> None:
    arrays['diff3d'] = np.rint(arrays['diff3d'].astype(np.float64) * 2**24).astype(np.uint64)


def with_a_saturated_pixel(arrays: dict[str, Any]) -> None:
    arrays['diff3d'] = np.rint(arrays['diff3d']).astype(np.int32)
    arrays['diff3d'][:, 3, 4] = np.iinfo(np.int32).max


@pytest.mark.parametrize('change', [as_beyond_2_to_31, as_unsigned, with_a_saturated_pixel])
def test_counts_at_the_ends_of_their_type_give_the_same_object(
    save: Save, scan: Scan, backend_name: str, change: Change
) -> None:
    settings = RefinementConfig(iterations=ITERATIONS)
    expected = api.refine(scan, settings, backend=backend_name, device='cpu')
    loaded = load_scan(save(change))
    assert loaded.bad_pixels is not None
    assert loaded.bad_pixels.sum() == (change is with_a_saturated_pixel)
    found = api.refine(loaded, settings, backend=backend_name, device='cpu')
    difference = np.abs(found.object_ - expected.object_)[
        expected.coverage > 0.1 * expected.coverage.max()
    ]
    assert np.median(difference) < 0.02


@pytest.mark.parametrize('photons', [10, 1e3, 1e9])
def test_ten_to_a_thousand_million_photons(
    tiny: Callable[..., Scan], backend_name: str, photons: float
) -> None:
    """Few photons show little; many show the object, and none overflows."""
    scan = tiny(photons=photons)
    # A total variation would leave an object of ten photons a pattern as flat as it began.
    settings = RefinementConfig(iterations=ITERATIONS, total_variation=0.0)
    found = api.refine(scan, settings, backend=backend_name, device='cpu')
    assert np.isfinite(found.object_).all()
    assert np.isfinite(found.likelihoods).all()
    assert found.likelihoods[-1] < found.likelihoods[0]
    ssim = api.evaluate(found, scan).phase.ssim
    assert ssim > (0.6 if photons > 1e4 else -1)


@pytest.mark.parametrize('number', [1, 2])
def test_one_and_two_patterns(scan: Scan, backend_name: str, number: int) -> None:
    few = scan.subset(np.arange(number))
    settings = RefinementConfig(iterations=ITERATIONS)
    found = api.refine(few, settings, backend=backend_name, device='cpu')
    assert np.isfinite(found.object_).all()
    assert found.likelihoods[-1] < found.likelihoods[0]


def test_positions_that_were_measured_twice(scan: Scan, backend_name: str) -> None:
    twice = scan.subset(np.repeat(np.arange(len(scan)), 2))
    settings = RefinementConfig(iterations=ITERATIONS)
    found = api.refine(twice, settings, backend=backend_name, device='cpu')
    assert api.evaluate(found, scan).phase.ssim > 0.6


def put_in_one_place(arrays: dict[str, Any]) -> None:
    arrays['xcoords'][:], arrays['ycoords'][:] = 20.5, 20.5


def put_in_metres(arrays: dict[str, Any]) -> None:
    arrays['xcoords'] *= 1e-8
    arrays['ycoords'] *= 1e-8


def put_in_nanometres(arrays: dict[str, Any]) -> None:
    arrays['xcoords'] *= 1e4
    arrays['ycoords'] *= 1e4


def put_beyond(arrays: dict[str, Any]) -> None:
    arrays['xcoords'] *= 1e12


@pytest.mark.parametrize('name', ['refine', 'train'])
@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (put_in_one_place, 'positions must differ; all 80 of them are [20.5, 20.5]'),
        (put_in_metres, 'Are they in metres? Divide them by the size of an object pixel'),
        (put_in_nanometres, 'and their unit: --scale-positions FACTOR'),
        (put_beyond, 'must be at most 1.1e+09 pixels of the object'),
    ],
)
def test_positions_in_another_unit_are_told_by_their_range(
    save: Save,
    command: Callable[..., tuple[int, str]],
    tmp_path: Path,
    name: str,
    change: Change,
    message: str,
) -> None:
    code, reported = command(name, save(change), '-o', tmp_path / 'out', '--device', 'cpu')
    assert code == 2
    assert message in reported
    assert 'Traceback' not in reported
    assert not (tmp_path / 'out').exists()


def test_metres_are_scaled_by_the_factor_that_the_message_names(
    save: Save, command: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    code, reported = command(
        *('refine', save(put_in_metres), '-o', tmp_path / 'out', '--device', 'cpu'),
        *('--iterations', '2', '--scale-positions', '1e8'),
    )
    assert code == 0, reported


def test_a_bright_pixel_is_named(save: Save, scan: Scan) -> None:
    """One count of a cosmic ray ruins the object, and nothing else in the file shows why."""

    def strike(arrays: dict[str, Any]) -> None:
        arrays['diff3d'] = arrays['diff3d'].astype(np.float32)
        arrays['diff3d'][7, 5, 6] = 1e9

    def warm(arrays: dict[str, Any]) -> None:
        arrays['diff3d'][:, 3, 4] = 60000

    (note,) = bright_pixel_notes(load_scan(save(strike)))
    assert 'most counts of 1 pattern and few of the others: 7 at (5, 6) (row, column)' in note
    assert note in load_scan(save(strike)).notes
    (note,) = bright_pixel_notes(load_scan(save(warm)))
    assert note.startswith('Pixel (3, 4) is far brighter than the neighbours')
    assert not bright_pixel_notes(load_scan(save(warm), mask_hot=True))
    assert not bright_pixel_notes(load_scan(save(lambda _: None)))
    # A beam without a sample is bright in one pixel of every pattern.
    focus = np.zeros_like(np.asarray(scan.patterns))
    focus[:, 16, 16] = 1000
    assert not bright_pixel_notes(dataclasses.replace(scan, patterns=focus))


@pytest.mark.parametrize('photons', [1, 10])
def test_few_photons_are_no_fault_of_a_pixel(tiny: Callable[..., Scan], photons: float) -> None:
    assert not bright_pixel_notes(tiny(photons=photons))


def test_a_pattern_of_no_numbers_is_left_out(save: Save) -> None:
    def spoil(arrays: dict[str, Any]) -> None:
        arrays['diff3d'] = arrays['diff3d'].astype(np.float32)
        arrays['diff3d'][4] = np.nan

    loaded = load_scan(save(spoil))
    assert any('number 4' in note for note in loaded.notes)
    assert not loaded.patterns[4].any()


def test_weights_that_are_finite_and_too_large(
    make_backend: Callable[[], Any], brief: Callable[..., Any], tiny_scan: Scan, tmp_path: Path
) -> None:
    trained = make_backend().train([tiny_scan], brief()).model
    huge = {name: np.full_like(array, 1e30) for name, array in trained.weights.items()}
    path = tmp_path / 'huge.h5.zip'
    write_model(path, dataclasses.replace(trained, weights=huge))
    backend = make_backend()
    backend.open_model(path)
    with pytest.raises(DataError, match='must predict finite numbers'):
        backend.reconstruct(
            tiny_scan, InferenceConfig(device='cpu'), RefinementConfig(iterations=0)
        )
