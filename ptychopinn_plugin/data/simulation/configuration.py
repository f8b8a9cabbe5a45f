"""Settings of a simulated scan."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ptychopinn_plugin.config import Validated, setting
from ptychopinn_plugin.errors import ConfigError

ObjectKind = Literal['dead-leaves', 'lines', 'siemens', 'letters', 'image']
ProbeKind = Literal['defocused', 'zone-plate', 'diffuser']
PathKind = Literal['raster', 'jittered', 'fermat']


@dataclass(frozen=True)
class SimulationConfig(Validated):
    """What is simulated; the defaults are the scan that the benchmarks use."""

    size: int = setting(
        64, 'side of the square patterns and of the probe', minimum=16, maximum=1024, unit='px'
    )
    object_kind: ObjectKind = setting('dead-leaves', 'what is scanned; image needs object_file')
    object_file: str | None = setting(
        None,
        'picture (of more than 8 bits: from its least to its greatest value), or .npz with '
        'objectGuess or object, for the object kind image',
    )
    probe_kind: ProbeKind = setting(
        'defocused',
        'defocused: a round pupil out of focus; zone-plate: one with a central stop; diffuser: a '
        'beam with a random phase that fills the frame, for the near field',
    )
    pupil_radius: float = setting(
        0.10, 'radius of the pupil', minimum=0.01, maximum=0.4, unit='cycles/px'
    )
    defocus: float = setting(
        400.0, 'curvature of the phase over the pupil', minimum=-1e5, maximum=1e5, unit='rad px²'
    )
    fresnel_number: float | None = setting(
        None,
        'near field: area of a pixel over wavelength and distance; the far field where not given',
        minimum=1e-4,
        maximum=1e3,
    )
    n_modes: int = setting(1, 'orthogonal modes of the probe', minimum=1, maximum=16)
    mode_decay: float = setting(
        0.3, 'power of a mode as a share of the one before it', minimum=0.001, maximum=1.0
    )
    path_kind: PathKind = setting(
        'jittered', 'raster, jittered: a raster with random offsets; fermat: a spiral'
    )
    n_positions: int = setting(2025, 'patterns, where rows and columns are not given', minimum=1)
    rows: int | None = setting(None, 'rows of the raster; give columns as well', minimum=1)
    columns: int | None = setting(None, 'columns of the raster; give rows as well', minimum=1)
    step_px: float = setting(5.5, 'distance of neighbouring positions', minimum=0.1, unit='px')
    jitter_px: float = setting(
        1.5, 'jittered: largest offset in y and x', minimum=0.0, maximum=64, unit='px'
    )
    position_noise_px: float = setting(
        0.0,
        'how far the true positions lie from the reported ones (standard deviation)',
        minimum=0.0,
        maximum=32,
        unit='px',
    )
    photons: float = setting(1e5, 'mean counts in a pattern', minimum=1.0, maximum=4e9)
    beam_drift: float = setting(
        0.0,
        'how much brighter the beam becomes from the first pattern to the last; -0.2 is a fifth '
        'dimmer',
        minimum=-0.99,
        maximum=99.0,
    )
    beam_flicker: float = setting(
        0.0,
        "standard deviation of the logarithm of the beam's intensity from pattern to pattern",
        minimum=0.0,
        maximum=2.0,
    )
    probe_wobble: float = setting(
        0.0,
        'how far the tilt and the defocus of the probe, which vary smoothly from pattern to '
        'pattern, move it from its mean: the standard deviation as a share of its amplitude',
        minimum=0.0,
        maximum=1.0,
    )
    poisson_noise: bool = setting(True, 'count photons; off: the expected counts themselves')
    dead_pixels: int = setting(0, 'pixels of the detector that read zero', minimum=0)
    seed: int = setting(1, 'of object, positions and counts, each with its own stream', minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.rows is None) != (self.columns is None):
            raise ConfigError(
                'SimulationConfig needs rows and columns together; '
                f'got rows {self.rows} and columns {self.columns}. Give both, or n_positions.'
            )
        if self.object_kind != 'image' and self.object_file is not None:
            raise ConfigError(
                'SimulationConfig.object_file belongs to object_kind image; got '
                f'{self.object_kind}. Add --object image, or leave the file out.'
            )
        if self.object_kind == 'image' and self.object_file is None:
            raise ConfigError(
                'SimulationConfig.object_kind image needs object_file, a picture or an .npz file; '
                'got None. Name one.'
            )
        if self.probe_kind == 'diffuser' and self.fresnel_number is None:
            raise ConfigError(
                'SimulationConfig.probe_kind diffuser fills the frame, which only the near field '
                'allows; fresnel_number is not given. Give it (--fresnel-number), or another probe.'
            )
        if self.dead_pixels >= self.size**2:
            raise ConfigError(
                f'SimulationConfig.dead_pixels must be fewer than the {self.size**2} pixels of a '
                f'pattern; got {self.dead_pixels}.'
            )

    def random_streams(self) -> dict[str, np.random.Generator]:
        """Return independent generators, so that one setting does not change what others draw."""
        names = (
            *('object', 'path', 'position noise', 'detector', 'counts', 'beam', 'wobble'),
            'probe',
        )
        children = np.random.SeedSequence(self.seed).spawn(len(names))
        return {
            name: np.random.default_rng(child) for name, child in zip(names, children, strict=True)
        }
