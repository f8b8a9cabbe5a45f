"""Scans with the faults that people report, and the results that they must still give."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ptychopinn_plugin import api
from ptychopinn_plugin.data import Reconstruction, Scan, load_scan, write_product
from ptychopinn_plugin.evaluation import evaluate, in_coordinates_of

WriteCase = Callable[[str], Path]


@pytest.fixture(autouse=True)
def chosen(monkeypatch: pytest.MonkeyPatch, backend_name: str) -> None:
    """Let the backend under test be the one that is chosen."""
    monkeypatch.setenv('PTYCHOPINN_BACKEND', backend_name)


def similarity(result: Reconstruction, folder: Path) -> tuple[float, float]:
    """Return how alike amplitude and phase are to those of the simulated object."""
    truth = load_scan(folder.parent / 'base.npz')
    found = evaluate(in_coordinates_of(result, truth), truth)
    return found.amplitude.ssim, found.phase.ssim


def refined(scan: Scan) -> Reconstruction:
    return api.refine(scan, device='cpu')


@pytest.mark.parametrize(
    'scan',
    [
        'saturated/gap_uint16.npz',
        'saturated/gap_uint32.cxi',
        'saturated/gap_uint32',
        'saturated/gap_nan.npz',
        'negative/minus_one.npz',
        'negative/minus_one.cxi',
    ],
)
def test_marks_in_place_of_counts_are_masked(write_case: WriteCase, scan: str) -> None:
    folder, _, name = scan.partition('/')
    read = load_scan(write_case(folder) / name)
    assert any('marked as bad' in note for note in read.notes)
    assert similarity(refined(read), write_case(folder)) == pytest.approx((0.87, 0.94), abs=0.02)


@pytest.mark.parametrize('fault', ['inverted', 'swapped', 'shuffled', 'transposed'])
def test_a_wrong_geometry_is_told_of_amplitudes(
    write_case: WriteCase, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    result = refined(load_scan(write_case('axes') / f'{fault}_amplitudes.npz'))
    assert 'Likely causes: positions' in caplog.text
    assert 'ptychopinn check' in caplog.text
    assert result.misfit is not None
    assert result.misfit.over_noise is not None
    assert result.misfit.over_noise > 10


@pytest.mark.parametrize('kind', ['counts', 'amplitudes'])
def test_a_right_geometry_is_not_warned_of(
    write_case: WriteCase, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_case('axes')
    result = refined(load_scan(folder / f'right_{kind}.npz'))
    assert not caplog.records
    assert result.misfit is not None
    assert result.misfit.over_noise == pytest.approx(0.95, abs=0.05)
    assert similarity(result, folder) == pytest.approx((0.89, 0.95), abs=0.02)


def test_noise_of_a_subtracted_dark_field(write_case: WriteCase) -> None:
    folder = write_case('negative')
    read = load_scan(folder / 'dark_subtracted.npz')
    assert any('subtracted dark field' in note for note in read.notes)
    assert similarity(refined(read), folder) > (0.7, 0.8)


@pytest.mark.filterwarnings('ignore:.*left out 3 of 100 patterns')
@pytest.mark.parametrize('name', ['empty', 'dropped'])
def test_a_product_fits_its_own_patterns_again(
    write_case: WriteCase, tmp_path: Path, name: str
) -> None:
    folder = write_case('indexes')
    first = refined(load_scan(folder / name))
    assert similarity(first, folder) == pytest.approx((0.89, 0.94), abs=0.02)
    write_product(tmp_path / 'product.h5', first)
    again = refined(load_scan(folder / name, product=tmp_path / 'product.h5'))
    assert similarity(again, folder) == pytest.approx((0.89, 0.94), abs=0.02)
