"""What the network is worth: the benchmark's thinned scans in small, and patterns alone."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, FloatArray, IntArray
from ptychopinn_plugin.backends.protocol import Backend
from ptychopinn_plugin.config import InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Reconstruction, Scan, one_by_one
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate, thin_scan
from ptychopinn_plugin.evaluation import evaluate
from ptychopinn_plugin.metrics import ssim
from ptychopinn_plugin.model import Model
from ptychopinn_plugin.pretraining.objects import draw_lines
from ptychopinn_plugin.pretraining.probes import curved_probe

SEED = 1_000_016
"""The held-out objects have this seed; training draws its own with other streams."""

SINGLE_SHOTS = 36
SINGLE_SHOT_SIZE = 64
MOSAIC_PX = 20
"""The central part of each pattern's patch is compared; its side has this many pixels."""


@dataclass(frozen=True)
class HeldOut:
    """A scan with a known object, and how a reconstruction of it is judged."""

    name: str
    scan: Scan

    def score(self, found: Reconstruction) -> tuple[float, float]:
        """Return phase and amplitude SSIM; of patterns alone the amplitude's alone."""
        if self.scan.is_single_shot:
            return float('nan'), mosaic_ssim(found, self.scan)
        result = evaluate(found, self.scan)
        return result.phase.ssim, result.amplitude.ssim


def held_out_scans() -> list[HeldOut]:
    """Simulate the benchmark's rows with an object of their own; the dense one has 256 patterns."""
    dense = simulate(SimulationConfig(seed=SEED, n_positions=1024))
    index = np.arange(1024).reshape(32, 32)
    scans = [HeldOut('5.5 px', dense.subset(index[:16, :16].ravel()))]
    scans += [HeldOut(f'{5.5 * n} px', thin_scan(dense, n, 32)) for n in (3, 4, 5)]
    faint = simulate(SimulationConfig(seed=SEED, n_positions=1024, photons=1e4))
    scans.append(HeldOut('16.5 px faint', thin_scan(faint, 3, 32)))
    return [
        *scans,
        HeldOut('alone curved', lines_alone(curvature=0.6)),
        HeldOut('alone flat', lines_alone(curvature=0.0)),
    ]


def lines_alone(
    curvature: float, photons: float = 1e9, count: int = SINGLE_SHOTS, seed: int = SEED
) -> Scan:
    """Simulate patterns of lines without phase that share nothing.

    Parameters
    ----------
    curvature : float
        Of the beam, see `probes.curved_probe`; 0 is flat. It holds about 90 % of its energy within
        23 of 64 pixels.
    photons : float
        Mean counts in a pattern.
    count : int
        A square number of patterns.
    seed : int
    """
    side = int(np.sqrt(count))
    size = SINGLE_SHOT_SIZE
    config = SimulationConfig(
        size=size,
        path_kind='raster',
        rows=side,
        columns=side,
        step_px=float(size),
        photons=photons,
        seed=seed,
    )
    rng = np.random.default_rng(seed)
    object_ = draw_lines(rng, ((side + 1) * size + 16, (side + 1) * size + 16))
    probe = curved_probe(size, width_px=26.0, edge=0.15, curvature=curvature)
    return one_by_one(simulate(config, object_=object_, probe=probe))


def mosaic_ssim(
    found: Reconstruction, scan: Scan, tile_centres_px: FloatArray | None = None
) -> float:
    """Return the amplitude SSIM of the middles of all patches, set side by side.

    One factor brings the mosaic to the truth's brightness. `tile_centres_px` is that of `middles`.
    """
    truth = middles(scan, tile_centres_px=tile_centres_px)
    return ssim(middles(found, scan, tile_centres_px=tile_centres_px), truth)


def middles(
    of: Reconstruction | Scan,
    scan: Scan | None = None,
    *,
    tile_centres_px: FloatArray | None = None,
) -> FloatArray:
    """Return the amplitudes of the middles of all patches, set side by side.

    Parameters
    ----------
    of : Reconstruction or Scan
        What the patches are cut from; of a scan, its object.
    scan : Scan
        The truth of a reconstruction, to whose brightness it is brought.
    tile_centres_px : ndarray of float64, shape (n², 2), optional
        What lies in the middle, (y, x) in the scan's coordinates, in place of its positions.

    Returns
    -------
    ndarray of float64, shape (20 n, 20 n)
        For n² patterns.
    """
    if isinstance(of, Scan):
        assert of.object_ is not None, 'only simulated scans are judged so'
        return _mosaic(
            of.object_,
            _tile_origins(of.positions_px if tile_centres_px is None else tile_centres_px),
        )
    assert scan is not None
    truth = middles(scan, tile_centres_px=tile_centres_px)
    tile_origins = _tile_origins(scan.positions_px if tile_centres_px is None else tile_centres_px)
    # Whole pixels are found once, in the scan's coordinates: half of a pixel, rounded in two
    # coordinate systems, could set truth and image a pixel apart.
    image = _mosaic(of.object_, tile_origins - np.rint(of.origin_px).astype(int))
    return np.asarray(image * ((image * truth).sum() / (image**2).sum()))


def _tile_origins(tile_centres_px: FloatArray) -> IntArray:
    """Return the first pixel of each tile, in the coordinates of the centres."""
    return np.asarray(np.floor(tile_centres_px + 0.5), dtype=np.int64) - MOSAIC_PX // 2


def _mosaic(object_: ComplexArray, tile_origins: IntArray) -> FloatArray:
    side = int(np.sqrt(len(tile_origins)))
    tiles = [np.abs(object_[y : y + MOSAIC_PX, x : x + MOSAIC_PX]) for y, x in tile_origins]
    rows = [np.hstack(tiles[start : start + side]) for start in range(0, side * side, side)]
    return np.asarray(np.vstack(rows), dtype=np.float64)


def score_all(scans: list[HeldOut], backend: Backend, model: Model) -> dict[str, float]:
    """Return 'NAME phase' and 'NAME amplitude' of every scan, of the passes alone."""
    backend.model = model
    scores: dict[str, float] = {}
    for held in scans:
        found = backend.reconstruct(
            held.scan,
            InferenceConfig(device='cpu'),
            RefinementConfig(iterations=0, total_variation=0.0),
        )
        phase, amplitude = held.score(found)
        if not held.scan.is_single_shot:
            scores[f'{held.name} phase'] = phase
        scores[f'{held.name} amplitude'] = amplitude
    return scores


def append_row(path: Path, row: Mapping[str, float | str]) -> None:
    """Add a row to a CSV file, which gets its header with the first one."""
    is_new = not path.exists()
    with path.open('a', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, list(row))
        if is_new:
            writer.writeheader()
        writer.writerow(
            {
                name: round(value, 4) if isinstance(value, float) else value
                for name, value in row.items()
            }
        )
