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
