r"""Bring the free global phases of patches into agreement.

Far-field intensities do not determine the phase of a patch :math:`\hat O_j` as a whole. Where two
patches overlap, with the probe's intensities :math:`w` as weights, their correlation

.. math:: C_{jl} = \sum_r w_j \hat O_j\, (w_l \hat O_l)^*

has the difference of their phases. The phases that fit all pairs best are those of the leading
eigenvector of the Hermitian matrix

.. math:: \frac{C_{jl}}{\sqrt{D_j D_l}}, \qquad D_j = \sum_l |C_{jl}|,

which is the relaxation of an angular synchronization [1]_: the phase factors of modulus 1 that
maximise :math:`\mathrm{Re} \sum C_{jl} e^{i(\varphi_j - \varphi_l)}` are replaced by one complex
number for each patch, whose moduli are dropped afterwards.

References
----------
.. [1] A. Singer, Appl. Comput. Harmon. Anal. 30 (2011) 20, doi:10.1016/j.acha.2010.02.001.
"""

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import ArpackNoConvergence, eigsh
from scipy.spatial import cKDTree

from ptychopinn_plugin.array_types import ComplexArray, FloatArray, IntArray

CELL_PX = 4
"""Patches are compared by sums over cells of this size, on one grid for all: sixteen times fewer
products, while phases hardly change within a cell."""

MAX_EXACT_PATCHES = 2048
"""Larger graphs have eigenvalues so close that a solver takes minutes to tell them apart. A fixed
number of power iterations brings neighbours together in time linear in the patterns."""

POWER_STEPS = 300
"""Larger graphs take this number of power iterations."""

NEIGHBOURS = 24
"""A patch is compared with this number of neighbours. Pairs with farther ones keep errors from
adding up along the way."""


def neighbour_pairs(positions_px: FloatArray, reach_px: float) -> IntArray:
    """Return each pair of positions that may overlap, once, among the nearest neighbours.

    Parameters
    ----------
    positions_px : ndarray, shape (n_positions, 2)
        (y, x) of the patches' centres or of their origins; only differences matter.
    reach_px : float
        Patches farther apart than this do not overlap.

    Returns
    -------
    ndarray of int64, shape (n_pairs, 2)
        The lower number of each pair first.
    """
    n_positions = len(positions_px)
    # A position is its own nearest neighbour, which is not counted.
    count = min(NEIGHBOURS + 1, n_positions)
    distances, neighbours = cKDTree(positions_px).query(positions_px, k=count)
    if count == 1:
        return np.empty((0, 2), dtype=np.int64)
    first = np.repeat(np.arange(n_positions), count).reshape(neighbours.shape)
    near = (distances <= reach_px) & (neighbours != first)
    lower = np.minimum(first[near], neighbours[near])
    upper = np.maximum(first[near], neighbours[near])
    # A pair is one number, because numbers are sorted much faster than rows.
    return np.stack(np.divmod(np.unique(lower * n_positions + upper), n_positions), axis=1)


def synchronize_phases(n_patches: int, pairs: IntArray, correlations: ComplexArray) -> ComplexArray:
    r"""Find the factor :math:`e^{i \varphi_j}` for each patch that brings all into agreement.

    The equations are those of this module's head.

    Parameters
    ----------
    n_patches : int
    pairs : ndarray of int, shape (n_pairs, 2)
        As `neighbour_pairs` returns them.
    correlations : ndarray of complex, shape (n_pairs,)
        :math:`C_{jl}`: the weighted sum of the first patch times the conjugate of the second over
        their overlap.

    Returns
    -------
    ndarray of complex64, shape (n_patches,)
        Factors of modulus 1. Patches that touch no other keep their phase, and all do where a
        correlation is not finite.
    """
    factors = np.ones(n_patches, dtype=np.complex64)
    if len(pairs) == 0 or not np.isfinite(correlations).all():
        return factors
    graph = sparse.csr_matrix(
        (correlations.astype(np.complex128), (pairs[:, 0], pairs[:, 1])), (n_patches, n_patches)
    )
    graph = graph + graph.conj().T  # Hermitian, (n_patches, n_patches)
    degree = np.asarray(abs(graph).sum(axis=1)).ravel()
    n_parts, labels = sparse.csgraph.connected_components(abs(graph), directed=False)
    # Parts of the field that nothing connects have no phase in common.
    for part in range(n_parts):
        members = np.flatnonzero(labels == part)
        if len(members) > 1:
            factors[members] = _leading_phases(graph[members][:, members], degree[members])
    return factors


def _leading_phases(graph: sparse.csr_matrix, degree: FloatArray) -> ComplexArray:
    """Return the factors of a connected graph, whose rows have the sums `degree` of moduli."""
    scale = sparse.diags((1 / np.sqrt(degree)).astype(np.complex128))
    # The identity lifts the eigenvalues, -1 to 1, so that the largest has the largest modulus.
    normalised = scale @ graph @ scale + sparse.identity(len(degree), dtype=np.complex128)
    if len(degree) <= 16:
        vector = np.linalg.eigh(normalised.toarray())[1][:, -1]
    elif len(degree) <= MAX_EXACT_PATCHES:
        start = np.ones(len(degree), dtype=np.complex128)
        try:
            vector = eigsh(normalised, k=1, which='LA', tol=1e-4, v0=start)[1][:, 0]
        except ArpackNoConvergence:
            vector = _power_iteration(normalised)
    else:
        vector = _power_iteration(normalised)
    # The eigenvector has the phases that the patches have; their conjugates take them out.
    phases = np.exp(-1j * np.angle(vector))
    # The common phase is free: keep the mean where it was.
    mean = phases.sum()
    return np.asarray(phases * np.conj(mean) / (abs(mean) + 1e-12), dtype=np.complex64)


def _power_iteration(matrix: sparse.csr_matrix) -> ComplexArray:
    """Return about the leading eigenvector of a matrix that has no negative eigenvalue."""
    vector = np.ones(matrix.shape[0], dtype=np.complex128)
    for _ in range(POWER_STEPS):
        vector = matrix @ vector
        vector /= np.linalg.norm(vector)
    return vector
