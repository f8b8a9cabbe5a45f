"""Pictures: they come out for every input, and the scale bar is right."""

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage, imread

from ptychopinn_plugin import plots
from ptychopinn_plugin.data import Geometry, Reconstruction
from ptychopinn_plugin.data.pattern_fit import Outlier, PatternFit
from ptychopinn_plugin.errors import OutputError
from ptychopinn_plugin.metrics import frc

PNG = b'\x89PNG'


@pytest.fixture
def reconstruction() -> Reconstruction:
    rng = np.random.default_rng(0)
    object_ = (1 + 0.1 * rng.random((60, 90))) * np.exp(1j * rng.random((60, 90)))
    coverage = np.zeros((60, 90), dtype=np.float32)
    coverage[10:50, 15:80] = 1
    coverage[20:25, 30:35] = 0
    return Reconstruction(
        object_=object_.astype(np.complex64),
        origin_px=np.array([-3.0, 4.0]),
        coverage=coverage,
        probe=np.ones((1, 16, 16), np.complex64),
        positions_px=np.zeros((5, 2)),
        backend='none',
    )


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Return a list that gets every figure in place of a file."""
    drawn: list[Figure] = []
    monkeypatch.setattr(plots, '_save', lambda figure, path: drawn.append(figure))
    return drawn


def images_of(figure: Figure) -> dict[str, AxesImage]:
    return {axes.get_title(): axes.images[0] for axes in figure.axes if axes.images}


@pytest.mark.parametrize('columns', [1, 2, 3])
def test_amplitudes_side_by_side_fill_their_picture(columns: int, tmp_path: Path) -> None:
    images = {f'start {n}, 1.3 s\nSSIM 0.88': np.eye(60) for n in range(columns)}
    plots.plot_amplitudes(images, tmp_path / 'a.png')
    ink = (imread(tmp_path / 'a.png')[..., :3] < 0.9).any(axis=2)
    edges = [ink[0], ink[-1], ink[:, 0], ink[:, -1]]
    assert not any(edge.any() for edge in edges), 'titles are not cut off'
    rows = np.flatnonzero(ink.any(axis=1))
    assert rows[0] < 30, 'no blank strip above'
    assert len(ink) - rows[-1] < 30, 'no blank strip below'


def test_the_columns_of_a_training_have_names(figures: list[Figure], tmp_path: Path) -> None:
    rows = [{'epoch': 1.0, 'loss': 2.0, 'poisson': 1.5, 'teacher': 0.5, 'learning_rate': 1e-3}]
    plots.plot_training(rows, tmp_path / 'a.png')
    names = [line.get_label() for line in figures[0].axes[0].lines]
    assert names == ['loss', 'Poisson likelihood', 'distance to the target']


def test_legends_are_no_wider_than_their_curves(figures: list[Figure], tmp_path: Path) -> None:
    columns = ('loss', 'poisson', 'teacher', 'validation_loss')
    rows = [
        {'epoch': n, 'learning_rate': 1e-3, **{name: k / n for k, name in enumerate(columns, 1)}}
        for n in (1, 2, 3)
    ]
    plots.plot_training(rows, tmp_path / 'a.png')
    image = np.random.default_rng(0).random((64, 64)) + 0j
    titles = ('built-in model, no training', 'network alone', 'network + 30 iterations')
    curves = {title: frc(image, image) for title in (*titles, 'flat start + 30 iterations')}
    plots.plot_ring_correlations(curves, tmp_path / 'b.png')
    assert len(figures) == 2
    for figure in figures:
        FigureCanvasAgg(figure).draw()
        legend = figure.axes[0].get_legend()
        assert legend is not None
        assert len(legend.get_texts()) == 5
        assert legend.get_window_extent().x1 <= figure.axes[0].get_window_extent().x1


def test_uncovered_areas_are_masked(
    reconstruction: Reconstruction, figures: list[Figure], tmp_path: Path
) -> None:
    plots.plot_reconstruction(reconstruction, tmp_path / 'a.png')
    images = images_of(figures[0])
    assert list(images) == ['amplitude', 'phase (rad)', 'coverage']
    for image in images.values():
        values = image.get_array()
        assert values.shape == (40, 65)
        assert np.ma.getmaskarray(values).sum() == 25
        assert to_hex(image.cmap.get_bad()) == '#dddddd'


def test_titles_count_in_words(
    reconstruction: Reconstruction, figures: list[Figure], tmp_path: Path
) -> None:
    single = dataclasses.replace(
        reconstruction, positions_px=np.zeros((1, 2)), likelihoods=(2.0, 1.0)
    )
    plots.plot_reconstruction(single, tmp_path / 'a.png')
    assert figures[0].get_suptitle() == 'scan: 1 pattern, none, 1 iteration'


def test_global_phase_does_not_matter(
    reconstruction: Reconstruction, figures: list[Figure], tmp_path: Path
) -> None:
    shifted = dataclasses.replace(reconstruction, object_=reconstruction.object_ * np.exp(2.5j))
    truth = np.pad(reconstruction.object_[3:], ((0, 3), (4, 0))) * np.exp(-2j)
    for shown in (reconstruction, shifted):
        plots.plot_reconstruction(shown, tmp_path / 'a.png')
        plots.plot_reconstruction(shown, tmp_path / 'a.png', truth=truth)
    alone, beside, alone_shifted, beside_shifted = (images_of(figure) for figure in figures)
    mean = np.angle(np.exp(1j * alone['phase (rad)'].get_array()).mean())
    assert mean == pytest.approx(0, abs=0.01)
    for first, second in ((alone, alone_shifted), (beside, beside_shifted)):
        expected, values = (images['phase (rad)'].get_array() for images in (first, second))
        np.testing.assert_allclose(values, expected, atol=1e-5)
    # The truth lies 3 px lower and 4 px to the left; where it lies right, nothing is between.
    assert np.abs(beside['phase error (rad)'].get_array()).max() < 1e-5


def test_comparison_takes_its_limits_from_the_truth(
    reconstruction: Reconstruction, figures: list[Figure], tmp_path: Path
) -> None:
    truth = reconstruction.object_
    plots.plot_comparison(truth, {'brighter': 3 * truth}, tmp_path / 'a.png')
    images = [axes.images[0] for axes in figures[0].axes if axes.images]
    assert len(images) == 4
    for first, second in (images[:2], images[2:]):
        assert first.get_clim() == second.get_clim()
    assert images[0].get_clim()[1] < 1.2


@pytest.mark.parametrize('with_truth', [True, False])
@pytest.mark.parametrize('pixel_m', [None, 6.3e-9])
def test_reconstruction(
    reconstruction: Reconstruction, tmp_path: Path, with_truth: bool, pixel_m: float | None
) -> None:
    geometry = Geometry(pixel_height_m=pixel_m, pixel_width_m=pixel_m)
    shown = dataclasses.replace(reconstruction, geometry=geometry)
    # Smaller than the covered box: the rest of it is unknown.
    truth = np.ones((40, 70), np.complex64) if with_truth else None
    plots.plot_reconstruction(shown, tmp_path / 'a.png', truth=truth)
    assert (tmp_path / 'a.png').read_bytes().startswith(PNG)


def test_phase_all_the_way_round(reconstruction: Reconstruction, tmp_path: Path) -> None:
    angles = np.linspace(-math.pi, math.pi, 60 * 90).reshape(60, 90)
    winding = dataclasses.replace(reconstruction, object_=np.exp(1j * angles).astype(np.complex64))
    plots.plot_reconstruction(winding, tmp_path / 'a.png')
    assert (tmp_path / 'a.png').is_file()


@pytest.mark.parametrize(
    'history',
    [
        [],
        [{'epoch': 1.0, 'loss': 1.0, 'learning_rate': 1e-3}],
        [
            {'epoch': 1.0, 'loss': 1.0, 'validation_loss': -2.0, 'learning_rate': 1e-3},
            {'epoch': 2.0, 'loss': float('nan'), 'validation_loss': -3.0, 'learning_rate': 1e-4},
        ],
    ],
)
def test_training(history: list[dict[str, float]], tmp_path: Path) -> None:
    plots.plot_training(history, tmp_path / 'a.png')
    assert (tmp_path / 'a.png').read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ('validation', 'curves'), [(0.7, ['loss', 'validation loss']), (1.0, ['loss'])]
)
def test_the_training_loss_is_not_drawn_as_a_validation_loss(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, validation: float, curves: list[str]
) -> None:
    saved: list[Figure] = []
    monkeypatch.setattr(plots, '_save', lambda figure, _: saved.append(figure))
    history = [{'epoch': 1.0, 'loss': 1.0, 'validation_loss': validation, 'learning_rate': 1e-3}]
    plots.plot_training(history, tmp_path / 'a.png')
    labels = saved[0].axes[0].get_legend_handles_labels()[1]
    assert labels == [*curves, 'best: epoch 1']


def test_comparison_and_ring_correlations(reconstruction: Reconstruction, tmp_path: Path) -> None:
    truth = reconstruction.object_[10:50, 20:60]
    plots.plot_comparison(truth, {'one': truth, 'other': 0.9 * truth}, tmp_path / 'a.png')
    plots.plot_ring_correlations({'one': frc(truth, truth)}, tmp_path / 'b.png')
    assert (tmp_path / 'a.png').read_bytes().startswith(PNG)
    assert (tmp_path / 'b.png').read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ('width_px', 'pixel_m', 'length_px', 'label'),
    [
        (100, None, 20, '20 px'),
        (8, None, 2, '2 px'),
        (100, 10e-9, 20, '200 nm'),
        (400, 25e-9, 80, '2 µm'),
        (100, 1e-12, 20, '20 pm'),
    ],
)
def test_scale_bar(width_px: int, pixel_m: float | None, length_px: float, label: str) -> None:
    length, text = plots.scale_bar_length(width_px, pixel_m)
    assert length == pytest.approx(length_px)
    assert text == label


def test_folder_that_is_not_there(reconstruction: Reconstruction, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match='there is no folder'):
        plots.plot_reconstruction(reconstruction, tmp_path / 'none' / 'a.png')


def test_no_pyplot() -> None:
    # In a process of its own: other libraries may import it here.
    code = "import sys, ptychopinn_plugin.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0


def test_patterns_that_do_not_fit_are_marked(
    reconstruction: Reconstruction, figures: list[Figure], tmp_path: Path
) -> None:
    kept = Outlier(3, y_px=9.0, x_px=24.0, deviance=9.0, dose=1.0, reason='shape')
    gone = Outlier(4, y_px=10.0, x_px=29.0, deviance=1.0, dose=2.0, reason='dose')
    marked = dataclasses.replace(
        reconstruction, pattern_fit=PatternFit(np.ones(5), np.ones(5), (kept,)), dropped=(gone,)
    )
    for shown in (reconstruction, marked):
        plots.plot_reconstruction(shown, tmp_path / 'a.png')
    plain, axes = (
        next(axes for axes in figure.axes if axes.get_title() == 'coverage') for figure in figures
    )
    assert not plain.lines
    # The box begins at pixel (10, 15), which lies at (7, 19).
    points = {line.get_marker(): line.get_xydata().tolist() for line in axes.lines}
    assert points == {'o': [[5.0, 2.0]], 'x': [[10.0, 3.0]]}
    assert axes.get_xlim() == plain.get_xlim()
    assert '1 pattern not fitting (o), 1 pattern dropped (x)' in [t.get_text() for t in axes.texts]
