"""What Ptychodus' own readers can read."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ptychopinn_plugin.data import Reconstruction, Scan, load_scan, reader_names, write_product
from ptychopinn_plugin.data.readers import ptychodus_plugins
from ptychopinn_plugin.errors import DataError

MakeScan = Callable[..., Scan]
Residual = Callable[[Scan], float]


@pytest.fixture
def registry() -> None:
    """Skip where Ptychodus is missing."""
    pytest.importorskip('ptychodus')


def _write_product(path: Path, scan: Scan) -> Path:
    assert scan.object_ is not None
    shape = scan.object_.shape
    write_product(
        path,
        Reconstruction(
            scan.object_,
            np.zeros(2),
            np.ones(shape, np.float32),
            scan.probe,
            scan.positions_px,
            'pytorch',
            geometry=scan.geometry,
        ),
    )
    return path


# Ptychodus' own plugins import what Python has deprecated.
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@pytest.mark.usefixtures('registry')
class TestWithPtychodus:
    """Readers that Ptychodus brings."""

    def test_patterns_by_name_and_our_product(
        self, make_scan: MakeScan, residual: Residual, tmp_path: Path
    ) -> None:
        scan = make_scan()
        np.save(tmp_path / 'patterns.npy', scan.patterns)
        product = _write_product(tmp_path / 'product.h5', scan)
        loaded = load_scan(tmp_path / 'patterns.npy', reader='npy', product=product)
        np.testing.assert_allclose(loaded.positions_px, scan.positions_px, atol=1e-6)
        assert residual(loaded) < 1e-9
        assert loaded.name == 'patterns'

    def test_the_training_data_of_ptychodus(
        self, make_scan: MakeScan, residual: Residual, tmp_path: Path
    ) -> None:
        from ptychodus.api import io, reconstruct

        scan = make_scan()
        product = io.load_product(_write_product(tmp_path / 'product.h5', scan))
        parameters = reconstruct.ReconstructInput(
            scan.patterns, np.zeros((16, 16), dtype=bool), product
        )
        path = tmp_path / 'train.h5'
        io.save_training_data(path, parameters)
        with pytest.raises(DataError, match="reader='Ptychodus_Training_Data'"):
            load_scan(path)
        loaded = load_scan(path, reader='Ptychodus_Training_Data')
        np.testing.assert_allclose(loaded.positions_px, scan.positions_px, atol=1e-6)
        assert residual(loaded) < 1e-9

    def test_frames_are_cut_to_the_probe(
        self, make_scan: MakeScan, residual: Residual, tmp_path: Path
    ) -> None:
        scan = make_scan()
        frames = np.full((len(scan), 24, 20), 1e3)
        frames[:, 4:20, 2:18] = scan.patterns
        np.save(tmp_path / 'patterns.npy', frames)
        product = _write_product(tmp_path / 'product.h5', scan)
        loaded = load_scan(tmp_path / 'patterns.npy', reader='NPY', product=product)
        assert residual(loaded) < 1e-9
        assert any('cut to 16 x 16 around (row, column) (12, 10)' in n for n in loaded.notes)

    def test_frames_smaller_than_the_probe(self, make_scan: MakeScan, tmp_path: Path) -> None:
        scan = make_scan()
        np.save(tmp_path / 'patterns.npy', scan.patterns[:, :10])
        product = _write_product(tmp_path / 'product.h5', scan)
        with pytest.raises(DataError, match='cannot be cut to the 16 x 16'):
            load_scan(tmp_path / 'patterns.npy', reader='NPY', product=product)

    def test_a_table_of_positions_needs_geometry(self, make_scan: MakeScan, tmp_path: Path) -> None:
        scan = make_scan()
        np.save(tmp_path / 'patterns.npy', scan.patterns)
        np.savetxt(tmp_path / 'positions.csv', scan.positions_px * 2e-9, delimiter=',')
        np.savez(tmp_path / 'probe.npz', probe=scan.probe)
        with pytest.raises(DataError, match='height of an object pixel is needed'):
            load_scan(
                tmp_path / 'patterns.npy',
                reader='NPY',
                positions=tmp_path / 'positions.csv',
                probe_from=tmp_path / 'probe.npz',
            )

    def test_an_unknown_name_lists_the_names(self, tmp_path: Path) -> None:
        np.save(tmp_path / 'patterns.npy', np.ones((2, 4, 4)))
        with pytest.raises(DataError, match=r"no reader 'none' of patterns. It has: .*CXI.*NPY"):
            load_scan(tmp_path / 'patterns.npy', reader='none')
        assert 'NPY' in reader_names()

    def test_patterns_alone(self, tmp_path: Path) -> None:
        np.save(tmp_path / 'patterns.npy', np.ones((2, 8, 8)))
        with pytest.raises(DataError, match=r'gives patterns alone.* --single-shot'):
            load_scan(tmp_path / 'patterns.npy', reader='NPY')
        alone = load_scan(tmp_path / 'patterns.npy', reader='NPY', single_shot=True)
        assert alone.is_single_shot
        assert len(alone) == 2

    def test_a_file_of_another_kind(self, tmp_path: Path) -> None:
        (tmp_path / 'patterns.npy').write_text('text')
        with pytest.raises(DataError, match="reader 'NPY' cannot read") as caught:
            load_scan(tmp_path / 'patterns.npy', reader='NPY')
        assert '\n' not in str(caught.value)

    def test_a_missing_product(self, tmp_path: Path) -> None:
        np.save(tmp_path / 'patterns.npy', np.ones((2, 4, 4)))
        with pytest.raises(DataError, match='There is no file'):
            load_scan(tmp_path / 'patterns.npy', reader='NPY', product=tmp_path / 'none.h5')

    def test_qt_is_never_imported(self) -> None:
        # In a process of its own: pytest-qt imports it into this one.
        code = (
            'import sys; from ptychopinn_plugin.data import reader_names; reader_names(); '
            "sys.exit(any(name.startswith(('PyQt', 'PySide')) for name in sys.modules))"
        )
        child = subprocess.run([sys.executable, '-c', code], check=False, timeout=120)
        assert child.returncode == 0


def test_without_ptychodus_the_command_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ptychodus_plugins._registry.cache_clear()
    monkeypatch.setattr(ptychodus_plugins, 'is_importable', lambda _: False)
    np.save(tmp_path / 'patterns.npy', np.ones((2, 4, 4)))
    with pytest.raises(DataError, match='Run: pip install ptychodus'):
        load_scan(tmp_path / 'patterns.npy', reader='NPY')
