"""The forward model in NumPy: interaction, propagation, measurement."""

from ptychopinn_plugin.physics.features import rotated_pixels, sweepnet_features
from ptychopinn_plugin.physics.forward import (
    POISSON_EPSILON,
    amplitude_residual,
    diffract,
    extract_patches,
    place_patches,
    poisson_loss,
    predict_patterns,
    shift_probe,
    split_positions,
)
from ptychopinn_plugin.physics.noise import LIT_COUNTS, Misfit, measure_misfit, shot_noise
from ptychopinn_plugin.physics.probe import (
    cover,
    illuminated_size,
    illumination_overlap,
    is_same_probe,
    make_modes,
    normalize_probe,
    orthogonal_modes,
    twin_similarity,
    with_modes,
)
from ptychopinn_plugin.physics.projection import project_amplitudes
from ptychopinn_plugin.physics.uncertainty import (
    LIT_FRACTION,
    estimate_uncertainty,
    uncertainty_in_words,
)

__all__ = [
    'LIT_COUNTS',
    'LIT_FRACTION',
    'POISSON_EPSILON',
    'Misfit',
    'amplitude_residual',
    'cover',
    'diffract',
    'estimate_uncertainty',
    'extract_patches',
    'illuminated_size',
    'illumination_overlap',
    'is_same_probe',
    'make_modes',
    'measure_misfit',
    'normalize_probe',
    'orthogonal_modes',
    'place_patches',
    'poisson_loss',
    'predict_patterns',
    'project_amplitudes',
    'rotated_pixels',
    'shift_probe',
    'shot_noise',
    'split_positions',
    'sweepnet_features',
    'twin_similarity',
    'uncertainty_in_words',
    'with_modes',
]
