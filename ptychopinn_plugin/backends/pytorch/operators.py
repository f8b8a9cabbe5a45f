"""The physics on tensors: interaction, propagation, measurement, and placing of patches."""

import numpy as np
import torch
from torch import Tensor

from ptychopinn_plugin.array_types import ComplexArray
from ptychopinn_plugin.backends.common.canvas import place_one_by_one
from ptychopinn_plugin.physics.projection import RATIO_EPSILON


def place_patches(patches: Tensor, rows: Tensor, columns: Tensor, shape: tuple[int, int]) -> Tensor:
    """Add patches (n, height, width) to an empty canvas of this shape.

    Parameters
    ----------
    patches : Tensor of float32 or complex64
    rows, columns : Tensor of int64, shape (n,)
        The first pixel of each patch.
    shape : tuple of int
    """
    # A kind of tensor of its own may have no values: those that only stand for a card's.
    if type(patches) is Tensor and patches.device.type == 'cpu' and not patches.requires_grad:
        # NumPy has no conjugate or negative that is yet to be computed.
        values = patches.resolve_conj().resolve_neg().numpy()
        return torch.from_numpy(place_one_by_one(values, rows.tolist(), columns.tolist(), shape))
    height, width = patches.shape[-2:]
    stride = shape[1]
    inside = (
        torch.arange(height, device=patches.device)[:, None] * stride
        + torch.arange(width, device=patches.device)[None, :]
    )
    pixels = ((rows * stride + columns)[:, None, None] + inside).reshape(-1)
    if patches.is_complex():
        # scatter_add has no complex kernel that is fast on a CPU.
        return torch.complex(
            _scatter(patches.real, pixels, shape), _scatter(patches.imag, pixels, shape)
        )
    return _scatter(patches, pixels, shape)


def _scatter(values: Tensor, pixels: Tensor, shape: tuple[int, int]) -> Tensor:
    canvas = values.new_zeros(shape[0] * shape[1])
    return canvas.scatter_add(0, pixels, values.reshape(-1)).view(shape)


def intensity(waves: Tensor) -> Tensor:
    """Sum the modes' intensities: (n, n_modes, height, width) complex to (n, height, width)."""
    real, imaginary = waves.real, waves.imag
    return sum_over_modes(torch.addcmul(real * real, imaginary, imaginary))


def sum_over_modes(images: Tensor) -> Tensor:
    """Sum (n, n_modes, height, width) over the modes; one mode alone needs no copy."""
    return images.sum(dim=1) if images.shape[1] > 1 else images[:, 0]


def to_detector(waves: Tensor, transfer: Tensor | None) -> Tensor:
    """Return waves (n, n_modes, h, w) on the detector, as `physics.propagation.to_detector`.

    The transfer function, (h, w) or (n, 1, h, w), is that of free space; without it the detector
    is in the far field, and zero frequency in the corner.
    """
    if transfer is None:
        return _fft2(waves, 'ortho')
    return _ifft2(_fft2(waves) * transfer)


def transfer_at(transfer: Tensor, subpixel_shifts_px: Tensor) -> Tensor:
    """Return the transfer function of each position, as `propagation.at_subpixel_shifts`."""
    return transfer * _ramp(subpixel_shifts_px, transfer).conj()


def from_detector(waves: Tensor, transfer: Tensor | None) -> Tensor:
    """Return waves (n, n_modes, h, w) behind the sample: `to_detector` undone, its adjoint."""
    if transfer is None:
        return _ifft2(waves, 'ortho')
    return _ifft2(_fft2(waves) * transfer.conj())


def predict_intensity(probes: Tensor, patches: Tensor, transfer: Tensor | None) -> Tensor:
    r"""Compute :math:`I = \sum_m |\mathcal{F}[P_m O]|^2`, shape (n, height, width), in photons.

    Probes are (n, n_modes, height, width) and patches (n, height, width); pixels lie as those of
    `to_detector`.
    """
    return intensity(to_detector(probes * patches[:, None], transfer))


def project_amplitudes(
    probes: Tensor,
    patches: Tensor,
    measured: Tensor,
    valid_mask: Tensor | None,
    transfer: Tensor | None,
) -> tuple[Tensor, Tensor]:
    r"""Project exit waves onto the measured amplitudes, as `physics.project_amplitudes`.

    Returns
    -------
    update : Tensor of complex64, shape (n, height, width)
        :math:`\sum_m P_m^* (\psi'_m - \psi_m)`.
    changes : Tensor of complex64, shape (n, n_modes, height, width)
        :math:`\psi'_m - \psi_m`.
    """
    waves = to_detector(probes * patches[:, None], transfer)  # (n, modes, h, w)
    # In place, as most of the time would go into memory for what is needed once.
    ratio = measured.square().add_(RATIO_EPSILON)
    factor = ratio.div_(intensity(waves).add_(RATIO_EPSILON)).sqrt_().sub_(1)
    if valid_mask is not None:
        factor.mul_(valid_mask)
    changes = from_detector(waves.mul_(factor[:, None]), transfer)
    return sum_over_modes(probes.conj().resolve_conj().mul_(changes)), changes


def probe_update(changes: Tensor, patches: Tensor, subpixel_shifts_px: Tensor) -> Tensor:
    r"""Return :math:`\sum_j O_j^* (\psi'_{jm} - \psi_{jm})`, shifted back: (n_modes, h, w)."""
    here = changes * patches.conj()[:, None]
    return shift_probe_back(here, subpixel_shifts_px).sum(dim=0)


def poisson_terms(expected: Tensor, counts: Tensor, floor: float) -> Tensor:
    r"""Compute :math:`I - k + (k + \epsilon) \log \frac{k + \epsilon}{I + \epsilon}` of each pixel.

    The Poisson negative log-likelihood of counts :math:`k` up to terms in :math:`k` alone. It is
    least, and 0, where the expected counts :math:`I` equal :math:`k`. The `floor`
    :math:`\epsilon` keeps it and its gradient finite in the dark.
    """
    counted = counts + floor
    return torch.log(counted / (expected + floor)) * counted + (expected - counts)


def shift_probe(probe: Tensor, subpixel_shifts_px: Tensor) -> Tensor:
    """Shift a probe (n_modes, h, w) by (n, 2) parts of pixels, as `physics.shift_probe`."""
    return _ifft2(torch.fft.fft2(probe) * _ramp(subpixel_shifts_px, probe))


def shift_probe_back(probes: Tensor, subpixel_shifts_px: Tensor) -> Tensor:
    """Undo `shift_probe` on (n, n_modes, h, w): its adjoint."""
    return _ifft2(_fft2(probes) * _ramp(subpixel_shifts_px, probes).conj())


def _fft2(waves: Tensor, norm: str | None = None) -> Tensor:
    """Transform waves (n, n_modes, h, w); none at all, as a rank may have, are left as they are."""
    transformed: Tensor = torch.fft.fft2(waves, norm=norm) if len(waves) else waves
    return transformed


def _ifft2(spectra: Tensor, norm: str | None = None) -> Tensor:
    """Undo `_fft2`."""
    transformed: Tensor = torch.fft.ifft2(spectra, norm=norm) if len(spectra) else spectra
    return transformed


def _ramp(subpixel_shifts_px: Tensor, probe: Tensor) -> Tensor:
    r"""Return :math:`e^{-2 \pi i q \cdot \delta}` of shifts, shape (n, 1, height, width)."""
    height, width = probe.shape[-2:]
    cycles_y = torch.fft.fftfreq(height, device=probe.device) * subpixel_shifts_px[:, 0:1]
    cycles_x = torch.fft.fftfreq(width, device=probe.device) * subpixel_shifts_px[:, 1:2]
    y = torch.polar(torch.ones_like(cycles_y), -2 * torch.pi * cycles_y)
    x = torch.polar(torch.ones_like(cycles_x), -2 * torch.pi * cycles_x)
    return y[:, None, :, None] * x[:, None, None, :]


def times(tensor: Tensor, array: ComplexArray) -> Tensor:
    """Multiply a tensor by an array that its device does not have yet."""
    return tensor * torch.from_numpy(array).to(tensor.device)


def to_numpy(tensor: Tensor) -> ComplexArray:
    """Return a tensor's values."""
    return np.asarray(tensor.cpu().numpy())
