"""Two simulated scans to try Ptychodus with: `python -m ptychopinn_plugin.host.example_scans DIR`.

``known`` is for training and ``unseen`` for inference. Each is a folder for batch mode, and beside
it lie its patterns in a form that Ptychodus' window opens.
"""

import io
import sys
from pathlib import Path

import h5py
import numpy as np

from ptychopinn_plugin.array_types import BoolArray
from ptychopinn_plugin.data import Geometry, Reconstruction, Scan, write_product
from ptychopinn_plugin.data.geometry import wavelength_m
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.storage.atomic import atomic_path

ENERGY_EV, DISTANCE_M, DETECTOR_PIXEL_M = 8000.0, 1.0, 75e-6

SETTINGS = """\
[Processing]
Algorithm = ptychopinn-plugin_PINN

[PtychoPINNPlugin]
TrainingMaxMinutes = 3
"""

SCANS = {
    'known': SimulationConfig(rows=32, columns=32, seed=3),
    'unseen': SimulationConfig(rows=32, columns=32, seed=8, object_kind='letters'),
}

WINDOW_STEPS = (
    'Diffraction, Insert, Open File...: choose the file type Ptychodus NumPy Zipped Archive, and '
    '{folder}/known-patterns.npz. Click Next until Finish.',
    'Products, Insert, Open File...: choose Ptychodus Product Files, and '
    '{folder}/known/product.h5. Bind it to the patterns in the dialog that follows.',
    'Do the same with {folder}/unseen-patterns.npz and {folder}/unseen/product.h5.',
    'Processing: choose ptychopinn-plugin_pinn and the product unseen, and click Infer.',
    'Choose the product known. Type 3 into Max minutes.',
    'Click Train. The dialog opens in {folder}/known, where the product came from: click Choose.',
    'When the training has ended, choose the product unseen and click Infer.',
)
"""These steps in the window follow, in the words of docs/ptychodus.md."""

NEXT_STEPS = """
Next, in the window that this opens: ptychodus
{steps}
Or without a window: ptychodus -b train -i {folder}/known -o {folder}/trained
"""


def write_example_scans(folder: Path) -> list[Path]:
    """Simulate both scans and write them.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    list of Path
        The folders of the scans.
    """
    written = []
    for name, config in SCANS.items():
        scan = simulate(config)
        scan_folder = folder / name
        scan_folder.mkdir(parents=True, exist_ok=True)
        _write_patterns(scan_folder / 'diffraction.h5', scan)
        write_product(scan_folder / 'product.h5', _start(scan, name))
        with atomic_path(scan_folder / 'settings.ini') as temporary:
            temporary.write_text(SETTINGS, encoding='utf-8')
        with atomic_path(folder / f'{name}-patterns.npz') as temporary:
            np.savez_compressed(
                temporary,
                patterns=scan.patterns,
                indexes=np.arange(len(scan)),
                bad_pixels=_bad_pixels(scan),
            )
        written.append(scan_folder)
    return written


def _write_patterns(path: Path, scan: Scan) -> None:
    content = io.BytesIO()
    with h5py.File(content, 'w') as file:
        file['indexes'] = np.arange(len(scan))
        file['patterns'] = scan.patterns
        file['patterns'].attrs['detector_pixel_width_m'] = DETECTOR_PIXEL_M
        file['patterns'].attrs['detector_pixel_height_m'] = DETECTOR_PIXEL_M
        file['bad_pixels'] = _bad_pixels(scan)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def _bad_pixels(scan: Scan) -> BoolArray:
    none = np.zeros(scan.pattern_shape, dtype=np.bool_)
    return none if scan.bad_pixels is None else scan.bad_pixels


def _start(scan: Scan, name: str) -> Reconstruction:
    """Return the product before a reconstruction: known probe and positions, a flat object."""
    height, width = scan.pattern_shape
    pixel_m = wavelength_m(ENERGY_EV) * DISTANCE_M / (np.array([height, width]) * DETECTOR_PIXEL_M)
    assert scan.object_ is not None
    shape = scan.object_.shape
    return Reconstruction(
        object_=np.ones(shape, np.complex64),
        origin_px=np.zeros(2),
        coverage=np.ones(shape, np.float32),
        probe=scan.probe,
        positions_px=scan.positions_px,
        backend='none',
        geometry=Geometry(
            float(pixel_m[0]),
            float(pixel_m[1]),
            ENERGY_EV,
            DISTANCE_M,
            DETECTOR_PIXEL_M,
            DETECTOR_PIXEL_M,
        ),
        name=name,
    )


def main() -> int:
    """Write the scans into the folder that the command line names."""
    if len(sys.argv) != 2 or sys.argv[1].startswith('-'):
        sys.stderr.write('usage: python -m ptychopinn_plugin.host.example_scans FOLDER\n')
        return 2
    folder = Path(sys.argv[1])
    for scan_folder in write_example_scans(folder):
        sys.stdout.write(f'{scan_folder}\n')
    steps = '\n'.join(f'  {number}. {step}' for number, step in enumerate(WINDOW_STEPS, 1))
    sys.stdout.write(NEXT_STEPS.format(steps=steps.format(folder=folder), folder=folder))
    return 0


if __name__ == '__main__':
    sys.exit(main())
