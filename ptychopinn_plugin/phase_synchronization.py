r"""Bring the free global phases of patches into agreement.

Far-field intensities leave the phase of each patch free. Where patches overlap their relative
phase can be read off, :math:`z_{jk} = \sum w_j R_j\, (w_k R_k)^*`. The phases that fit all pairs
best are those of the leading eigenvector of the graph's normalised Hermitian matrix [1]_.

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
"""Patches are compared by sums over cells of this size, on one grid for all."""

MAX_EXACT_PATCHES = 2048
"""Larger graphs have eigenvalues so close that a solver takes minutes to tell them apart. A fixed
number of power iterations brings neighbours together in time linear in the patterns."""

POWER_STEPS = 300
NEIGHBOURS = 24
"""Pairs with farther neighbours keep errors from adding up along the way."""


def neighbour_pairs(positions_px: FloatArray, reach_px: float) -> IntArray:
    """Return each pair of positions that may overlap, once, among the nearest neighbours.

    Parameters
    ----------
    positions_px : ndarray, shape (n_positions, 2)
    reach_px : float
        Patches farther apart than this do not overlap.

    Returns
    -------
    ndarray of int64, shape (n_pairs, 2)
    """
    n_positions = len(positions_px)
    count = min(NEIGHBOURS + 1, n_positions)
    distances, neighbours = cKDTree(positions_px).query(positions_px, k=count)
    if count == 1:
        return np.empty((0, 2), dtype=np.int64)
    first = np.repeat(np.arange(n_positions), count).reshape(neighbours.shape)
    near = (distances <= reach_px) & (neighbours != first)
    lower = np.minimum(first[near], neighbours[near])
    upper = np.maximum(first[near], neighbours[near])
    # Numbers are sorted much faster than rows.
    return np.stack(np.divmod(np.unique(lower * n_positions + upper), n_positions), axis=1)


def synchronize_phases(n_patches: int, pairs: IntArray, correlations: ComplexArray) -> ComplexArray:
    """Find the factor for each patch that brings all into agreement.

    Parameters
    ----------
    n_patches : int
    pairs : ndarray of int, shape (n_pairs, 2)
    correlations : ndarray of complex, shape (n_pairs,)
        Sum of the first patch times the conjugate of the second over their overlap, weighted.

    Returns
    -------
    ndarray of complex64, shape (n_patches,)
        Of modulus 1; patches that touch no other keep their phase, and all do where a correlation
        is not finite.
    """
    factors = np.ones(n_patches, dtype=np.complex64)
    if len(pairs) == 0 or not np.isfinite(correlations).all():
        return factors
    graph = sparse.csr_matrix(
        (correlations.astype(np.complex128), (pairs[:, 0], pairs[:, 1])), (n_patches, n_patches)
    )
    graph = graph + graph.conj().T
    degree = np.asarray(abs(graph).sum(axis=1)).ravel()
    n_parts, labels = sparse.csgraph.connected_components(abs(graph), directed=False)
    for part in range(n_parts):
        members = np.flatnonzero(labels == part)
        if len(members) > 1:
            factors[members] = _leading_phases(graph[members][:, members], degree[members])
    return factors


def _leading_phases(graph: sparse.csr_matrix, degree: FloatArray) -> ComplexArray:
    scale = sparse.diags((1 / np.sqrt(degree)).astype(np.complex128))
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
    phases = np.exp(-1j * np.angle(vector))
    # The common phase is free: keep the mean where it was.
    mean = phases.sum()
    return np.asarray(phases * np.conj(mean) / (abs(mean) + 1e-12), dtype=np.complex64)


def _power_iteration(matrix: sparse.csr_matrix) -> ComplexArray:
    vector = np.ones(matrix.shape[0], dtype=np.complex128)
    for _ in range(POWER_STEPS):
        vector = matrix @ vector
        vector /= np.linalg.norm(vector)
    return vector
