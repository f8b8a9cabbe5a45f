"""Reconstruct a scan that is in NumPy arrays, from files of your own.

    python examples/own_scan.py --output result

Replace `measure` by what reads your files. No network is needed here: the scan is refined from a
flat object. `examples/train_and_reconstruct.py` shows how a scan is trained on.
"""

import argparse
from pathlib import Path

import numpy as np

import ptychopinn_plugin as pp
from ptychopinn_plugin.plots import plot_reconstruction

parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
parser.add_argument('--output', type=Path, default=Path('example-output'), help='folder')
parser.add_argument('--backend', help='pytorch or tensorflow; else what is installed')
parser.add_argument('--side', type=int, default=12, help='rows and columns of the scan')
options = parser.parse_args()


def measure(side: int, size: int = 64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return counts (n, size, size), positions (n, 2) in metres, and the probe (size, size)."""
    axis = np.arange(size) - size // 2
    probe = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * 6.0**2)) * (1 + 0j)
    steps_px = np.stack(np.meshgrid(*2 * [5 * np.arange(side)], indexing='ij'), -1).reshape(-1, 2)
    jitter_px = np.random.default_rng(1).integers(0, 3, steps_px.shape)
    patch_origins_px = steps_px + jitter_px
    y, x = np.mgrid[: 5 * side + size, : 5 * side + size]
    thickness = np.cos(y / 5.0) * np.sin(x / 7.0)
    sample = (1 - 0.1 * thickness**2) * np.exp(0.5j * thickness)
    patches = [sample[top : top + size, left : left + size] for top, left in patch_origins_px]
    waves = np.fft.fftshift(np.fft.fft2(probe * np.array(patches), norm='ortho'), axes=(1, 2))
    # A hundred thousand photons fall on each pattern.
    photons = 1e5 * np.abs(waves) ** 2 / np.sum(np.abs(probe) ** 2)
    return (
        np.random.default_rng(2).poisson(photons),
        (patch_origins_px + size // 2) * PIXEL_M,
        probe,
    )


# An object pixel is the wavelength times the distance, over the width of the detector.
PIXEL_M = 1.55e-10 * 1.0 / (64 * 75e-6)

counts, positions_m, probe = measure(options.side)
scan = pp.Scan(
    patterns=counts,  # the zero frequency lies at [height // 2, width // 2]
    positions_px=positions_m / PIXEL_M,  # (y, x) of the middles of the patches
    probe=probe[np.newaxis].astype(np.complex64),  # one mode; its scale does not matter
    name='mine',
)
result = pp.refine(scan, backend=options.backend)
options.output.mkdir(parents=True, exist_ok=True)
plot_reconstruction(result, options.output / 'object.png')
pp.write_reconstruction(options.output / 'reconstruction.npz', result)
print(f'residual of the amplitudes: {result.amplitude_residual:.5f}')
