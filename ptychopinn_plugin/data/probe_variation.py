r"""A probe that varies from pattern to pattern, as orthogonal probe relaxation describes it.

The first mode of the probe at pattern :math:`j` is a weighted sum of one image for all patterns and
of a few eigenmodes, coherent with it [1]_; further modes are the same at every pattern:

.. math:: P_{j0} = \omega_{j0} P_0 + \sum_\nu \omega_{j\nu} E_\nu, \qquad
    P_{jm} = P_m \quad (m \geq 1).

Weights are real. Ptychodus and Pty-Chi keep probes in the same way.

References
----------
.. [1] M. Odstrčil et al., Opt. Express 24 (2016) 8360, doi:10.1364/OE.24.008360.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, FloatArray, IntArray
from ptychopinn_plugin.errors import DataError


@dataclass(frozen=True)
class ProbeVariation:
    """How the first mode of a probe varies from pattern to pattern.

    Attributes
    ----------
    eigenmodes : ndarray of complex64, shape (n_eigenmodes, height, width)
        On the scale of the probe that they belong to. There may be none: weights then scale the
        probe's first mode alone.
    weights : ndarray of float64, shape (n_positions, 1 + n_eigenmodes)
        Of the probe's first mode, near 1, and of each eigenmode.
    """

    eigenmodes: ComplexArray
    weights: FloatArray

    def __post_init__(self) -> None:
        eigenmodes = np.ascontiguousarray(self.eigenmodes, dtype=np.complex64)
        object.__setattr__(self, 'eigenmodes', eigenmodes)
        object.__setattr__(self, 'weights', np.asarray(self.weights, dtype=np.float64))

    @property
    def n_eigenmodes(self) -> int:
        """Return the number of eigenmodes."""
        return len(self.eigenmodes)

    def check(self, n_positions: int, pattern_shape: tuple[int, int]) -> None:
        """Check that it belongs to a scan.

        Parameters
        ----------
        n_positions : int
        pattern_shape : (int, int)
            Height and width in pixels.

        Raises
        ------
        DataError
            If there is another number of weights, eigenmodes have another size, or some are not
            finite.
        """
        if self.eigenmodes.ndim != 3 or self.eigenmodes.shape[1:] != pattern_shape:
            raise DataError(
                f'probe_eigenmodes must have shape (n_eigenmodes, {pattern_shape[0]}, '
                f'{pattern_shape[1]}) as the patterns have; got {self.eigenmodes.shape}. Resample '
                'them with the probe, or leave them and opr_weights out.'
            )
        expected = (n_positions, 1 + self.n_eigenmodes)
        if self.weights.shape != expected:
            raise DataError(
                f'opr_weights must have shape {expected}, for each pattern one of the probe and '
                f'one of each eigenmode; got {self.weights.shape}. Write them for these patterns, '
                'or leave them and probe_eigenmodes out.'
            )
        if not (np.isfinite(self.eigenmodes).all() and np.isfinite(self.weights).all()):
            raise DataError(
                'opr_weights and probe_eigenmodes must be finite; they hold NaN or infinity. '
                'Leave them out, or write them again.'
            )
        if not self.weights.any():
            raise DataError(
                'opr_weights are zero at every pattern, so that no light is left. Leave them out, '
                'or write them again.'
            )

    def subset(self, indices: IntArray) -> 'ProbeVariation':
        """Return what belongs to these positions alone, in this order."""
        return dataclasses.replace(self, weights=self.weights[indices])

    def strongest(self, count: int) -> 'ProbeVariation':
        """Return it with the first eigenmodes alone, at most this number."""
        return ProbeVariation(self.eigenmodes[:count], self.weights[:, : 1 + count])

    def times(self, factor: float | ComplexArray) -> 'ProbeVariation':
        """Return it for a probe that is multiplied by a number, or an image (height, width)."""
        return dataclasses.replace(self, eigenmodes=self.eigenmodes * factor)

    def with_eigenmodes_like(self, other: 'ProbeVariation') -> 'ProbeVariation':
        """Return it with those eigenmodes of another one that it lacks, which have no weight."""
        missing = other.eigenmodes[self.n_eigenmodes :]
        weights = np.pad(self.weights, ((0, 0), (0, len(missing))))
        return ProbeVariation(np.concatenate([self.eigenmodes, missing]), weights)

    def probes(self, probe: ComplexArray) -> ComplexArray:
        """Return the probe at each pattern, shape (n_positions, n_modes, height, width).

        Parameters
        ----------
        probe : ndarray of complex, shape (n_modes, height, width)
        """
        basis = np.concatenate([probe[:1], self.eigenmodes])
        varied = np.repeat(probe[np.newaxis], len(self.weights), axis=0)
        varied[:, 0] = np.tensordot(self.weights, basis, axes=1)
        return varied

    def rms(self, probe: ComplexArray) -> float:
        """Return how far patterns' probes are from their mean, as a share of its amplitude.

        Parameters
        ----------
        probe : ndarray of complex, shape (n_modes, height, width)
        """
        # The mean probe need not be the first image: weights may have a mean of their own.
        mean = self.weights.mean(axis=0)
        around = dataclasses.replace(self, weights=self.weights - mean)
        of_mean = dataclasses.replace(self, weights=mean[np.newaxis]).energies(probe)[0]
        return float(np.sqrt(around.first_mode_energies(probe).mean() / of_mean))

    def energies(self, probe: ComplexArray) -> FloatArray:
        r"""Return the energy of each pattern's probe, :math:`\sum_m \sum_r |P_{jm}(r)|^2`.

        Parameters
        ----------
        probe : ndarray of complex, shape (n_modes, height, width)
        """
        others = float((np.abs(probe[1:].astype(np.complex128)) ** 2).sum())
        return self.first_mode_energies(probe) + others

    def first_mode_energies(self, probe: ComplexArray) -> FloatArray:
        """Return the energy of the first mode of each pattern's probe, shape (n_positions,)."""
        basis = np.concatenate([probe[:1], self.eigenmodes]).astype(np.complex128)
        basis = basis.reshape(len(basis), -1)
        # Weights are real: of the products of images only the real part counts.
        products = (basis @ basis.conj().T).real
        found = np.einsum('jk,kl,jl->j', self.weights, products, self.weights)
        return np.asarray(np.maximum(found, 0.0))


def coherent_modes(
    probe: ComplexArray, variation: ProbeVariation | None, intensities: FloatArray | None
) -> tuple[ComplexArray, FloatArray | None]:
    """Return a probe and its weights as Ptychodus keeps them.

    Parameters
    ----------
    probe : ndarray of complex, shape (n_modes, height, width)
    variation : ProbeVariation, optional
    intensities : ndarray of float64, shape (n_positions,), optional
        Of the beam at each pattern. Ptychodus weights the first mode alone, so that they count for
        a probe of one mode.

    Returns
    -------
    stored : ndarray of complex, shape (1 + n_eigenmodes, n_modes, height, width)
        The eigenmodes are in its first mode; in the others only the probe is.
    weights : ndarray of float64, shape (n_positions, 1 + n_eigenmodes), or None
        None where the probe does not vary.
    """
    probe = np.asarray(probe)
    if intensities is not None and len(probe) == 1:
        roots = np.sqrt(np.asarray(intensities, dtype=np.float64))[:, np.newaxis]
        weights = roots if variation is None else variation.weights * roots
    elif variation is not None:
        weights = variation.weights
    else:
        return probe[np.newaxis], None
    # Both have shapes with an axis of modes; what varies is the first mode alone.
    eigenmodes = probe[:0] if variation is None else variation.eigenmodes
    stored = np.zeros((1 + len(eigenmodes), *probe.shape), dtype=probe.dtype)
    stored[0], stored[1:, 0] = probe, eigenmodes
    return stored, weights
