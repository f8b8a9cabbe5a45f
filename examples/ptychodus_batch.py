"""Train and reconstruct inside Ptychodus, without its window: `ptychodus -b`.

    python examples/ptychodus_batch.py --output result

This writes the three files that batch mode reads, for a simulated scan; Ptychodus starts twice.
"""

import argparse
import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np

import ptychopinn_plugin as pp
from ptychopinn_plugin.data import Geometry

parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
parser.add_argument('--output', type=Path, default=Path('example-output'), help='folder')
parser.add_argument('--epochs', type=int, default=40, help='of training')
parser.add_argument('--side', type=int, default=16, help='rows and columns of the scan')
options = parser.parse_args()

SETTINGS = f"""\
[Processing]
Algorithm = ptychopinn-plugin_PINN
[PtychoPINNPlugin]
TrainingEpochs = {options.epochs}
"""
ENERGY_EV, DISTANCE_M, DETECTOR_PIXEL_M = 8000.0, 1.0, 75e-6

scan = pp.simulate(pp.SimulationConfig(rows=options.side, columns=options.side, seed=3))
pixel_m = 1.239841984e-6 / ENERGY_EV * DISTANCE_M / (scan.pattern_shape[0] * DETECTOR_PIXEL_M)

# The input folder of Ptychodus: the patterns, ...
source, trained, done = (options.output / name for name in ('in', 'trained', 'out'))
source.mkdir(parents=True, exist_ok=True)
with h5py.File(source / 'diffraction.h5', 'w') as file:
    file['patterns'], file['indexes'] = scan.patterns, np.arange(len(scan))
    file['bad_pixels'] = np.zeros(scan.pattern_shape, dtype=bool)
    file['patterns'].attrs['detector_pixel_height_m'] = DETECTOR_PIXEL_M
    file['patterns'].attrs['detector_pixel_width_m'] = DETECTOR_PIXEL_M
# ... the product, which holds the probe, the positions, and an object that is still flat, ...
flat, origin_px = np.ones(scan.object_.shape, np.complex64), np.zeros(2)
geometry = Geometry(pixel_m, pixel_m, ENERGY_EV, DISTANCE_M, DETECTOR_PIXEL_M, DETECTOR_PIXEL_M)
start = pp.Reconstruction(flat, origin_px, flat.real, scan.probe, scan.positions_px, 'none')
pp.write_product(source / 'product.h5', dataclasses.replace(start, geometry=geometry))
# ... and the settings, which name the algorithm and what differs from the defaults.
(source / 'settings.ini').write_text(SETTINGS, encoding='utf-8')

ptychodus = [sys.executable, '-m', 'ptychodus', '-b']
subprocess.run([*ptychodus, 'train', '-i', source, '-o', trained], check=True)
shutil.copy(trained / 'model.zip', source)
subprocess.run([*ptychodus, 'reconstruct', '-i', source, '-o', done], check=True)
# Batch mode writes a product for each picture on the way; the last one is the result.
product = max(done.glob('product.*.h5'))
print(f'{product}: an object of {pp.read_reconstruction(product).object_.shape} pixels')
