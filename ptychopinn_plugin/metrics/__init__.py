r"""How near a complex object is to another: registration, SSIM, PSNR, MAE, ring correlation.

A far-field pattern does not depend on the object's global phase, so one constant phase is always
free, and removed. A linear phase ramp is *not* free where the probe and the middle of the patterns
are known: it would shift every pattern on the detector. It is a slow error of the reconstruction
like any other, so by default it stays in and counts.
"""

from ptychopinn_plugin.metrics.registration import Alignment, align, find_shift, shift_image
from ptychopinn_plugin.metrics.ring_correlation import RingCorrelation, frc
from ptychopinn_plugin.metrics.similarity import mae, psnr, ssim, wrapped_phase

__all__ = [
    'Alignment',
    'RingCorrelation',
    'align',
    'find_shift',
    'frc',
    'mae',
    'psnr',
    'shift_image',
    'ssim',
    'wrapped_phase',
]
