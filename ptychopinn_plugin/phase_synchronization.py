r"""Bring the free global phases of patches into agreement.

Far-field intensities do not determine the phase of a patch :math:`\hat O_j` as a whole. Where two
patches overlap, with the probe's intensities :math:`w` as weights, their correlation

.. math:: C_{jl} = \sum_r w_j \hat O_j\, (w_l \hat O_l)^*

has the difference of their phases. The phases that fit all pairs best are those of the leading
eigenvector of the Hermitian matrix

.. math:: \frac{C_{jl}}{\sqrt{R_j R_l}}, \qquad R_j = \sum_l |C_{jl}|,

which is the relaxation of an angular synchronization [1]_: the phase factors of modulus 1 that
maximize :math:`\mathrm{Re} \sum C_{jl} e^{i(\varphi_j - \varphi_l)}` are replaced by one complex
number for each patch, whose moduli are dropped afterwards.

Patches whose first pixels lie in the same cell of a coarse grid are of one place, as repeated
exposures are. They are brought into phase with each other and added up before places are compared:
so neighbours are other places, however often each was measured, and noise is averaged before it is
correlated.

References
----------
.. [1] A. Singer, Appl. Comput. Harmon. Anal. 30 (2011) 20, doi:10.1016/j.acha.2010.02.001.
.. [2] N. Boumal, SIAM J. Optim. 26 (2016) 2355, doi:10.1137/16M105808X.
"""

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import ArpackNoConvergence, eigsh
from scipy.spatial import cKDTree

from ptychopinn_plugin.array_types import ComplexArray, FloatArray, IntArray

CELL_PX = 4
"""Patches are compared by sums over cells of this size, on one grid for all: sixteen times fewer
products, while phases hardly change within a cell."""

POWER_STEPS = 300
"""Where the solver finds no eigenvector, this number of power iterations takes its place."""

MAX_RESTARTS = 100
"""The solver begins anew at most this number of times, each with twenty products."""

MERGING_ROUNDS = 6
"""Patches of one place are brought into phase with the sum of the others, which they change, this
many times."""

FINAL_ROUNDS = 3
"""At the end each patch is brought into phase with the sum of all others this many times."""

MIN_AGREEMENT = 1e-4
"""A correlation below this share of a patch's own energy is rounding, and decides no phase."""

PAIRS_TOGETHER = 4096
"""This number of overlaps is compared at a time."""

NEIGHBOURS = 24
"""A place is compared with this number of others. Pairs with farther ones keep errors from adding
up along the way."""

MAX_MODULUS = 1e12
"""Patches of a network that has not diverged are far below; their sums of squares fit float32."""


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


def synchronize_patches(cells: ComplexArray, patch_origins: IntArray, window: int) -> ComplexArray:
    r"""Find the factor :math:`e^{i \varphi_j}` for each patch that brings all into agreement.

    Parameters
    ----------
    cells : ndarray of complex64, shape (n_patches, side, side)
        Weighted patches :math:`w_j \hat O_j`, summed over the cells of one grid of `CELL_PX`; the
        first cell of each holds its first pixel.
    patch_origins : ndarray of int64, shape (n_patches, 2)
        (y, x) of the first pixel of each, from an origin of the grid.
    window : int
        Side of a patch in pixels.

    Returns
    -------
    ndarray of complex64, shape (n_patches,)
        Factors of modulus 1.
    """
    # A network that diverged must not end in an error of the solver: its patches keep their phases.
    # Squares of what is larger overflow; a comparison with NaN is false.
    if not np.abs(np.ascontiguousarray(cells).view(np.float32)).max(initial=0) < MAX_MODULUS:
        return np.ones(len(cells), dtype=np.complex64)
    cell_origins = patch_origins // CELL_PX
    lowest = cell_origins.min(axis=0)
    keys = (cell_origins - lowest) @ [np.ptp(cell_origins[:, 1]) + 1, 1]
    _, first, place_of = np.unique(keys, return_index=True, return_inverse=True)
    n_places = len(first)
    within, sums = _merged(cells, place_of, n_places)
    count = np.bincount(place_of, minlength=n_places)
    mean_origins = np.stack(
        [np.bincount(place_of, axis) / count for axis in patch_origins.T], axis=1
    )
    # Patches whose origins are a window apart do not touch.
    pairs = neighbour_pairs(mean_origins, float(window))
    # Patches of one place begin in the same cell, so that the first one stands for all.
    correlations = _correlate(sums, cell_origins[first], pairs)
    between = synchronize_phases(n_places, pairs, correlations)
    # The eigenvector has compared the nearest places alone; the last rounds take in every overlap.
    return _in_phase_with_all(cells, cell_origins - lowest, within * between[place_of])


def _in_phase_with_all(
    cells: ComplexArray, cell_origins: IntArray, factors: ComplexArray
) -> ComplexArray:
    r"""Bring each patch into phase with the sum of all others, in which every overlap takes part.

    These are steps of the power method on :math:`C_{jl}` with moduli of 1 [2]_; their cost is
    linear in the number of patches, however many overlap.
    """
    side = cells.shape[-1]
    energy = _energy(cells.reshape(len(cells), -1))
    for _ in range(FINAL_ROUNDS):
        canvas = np.zeros(cell_origins.max(axis=0) + side, dtype=np.complex64)
        for patch, (y, x) in zip(
            cells * factors[:, np.newaxis, np.newaxis], cell_origins.tolist(), strict=True
        ):
            canvas[y : y + side, x : x + side] += patch
        # This is a view: only the patches of one part are copied below.
        around = np.lib.stride_tricks.sliding_window_view(canvas, (side, side))
        agreement = np.empty(len(cells), dtype=np.complex64)
        for start in range(0, len(cells), PAIRS_TOGETHER):
            part = slice(start, start + PAIRS_TOGETHER)
            there = around[cell_origins[part, 0], cell_origins[part, 1]]
            agreement[part] = np.einsum('nij,nij->n', cells[part].conj(), there)
        # The canvas holds the patch itself, which agrees with itself in any phase; it is taken out.
        factors = _phase_factors(agreement - energy * factors, energy, factors)
    return np.asarray(factors, dtype=np.complex64)


def _phase_factors(
    agreement: ComplexArray, energy: FloatArray, before: ComplexArray
) -> ComplexArray:
    """Return the phase factors of correlations; those before, where there is no correlation."""
    size = np.abs(agreement)
    known = size > MIN_AGREEMENT * energy
    return np.where(known, agreement / np.where(known, size, 1), before).astype(np.complex64)


def _energy(flat: ComplexArray) -> FloatArray:
    # Parts are views, while the modulus would be another copy of all patches.
    real, imaginary = flat.real, flat.imag
    squares = np.einsum('ij,ij->i', real, real) + np.einsum('ij,ij->i', imaginary, imaginary)
    return np.asarray(squares)


def _merged(
    cells: ComplexArray, place_of: IntArray, n_places: int
) -> tuple[ComplexArray, ComplexArray]:
    """Bring the patches of each place into phase; return the factors, and the sums of places."""
    factors = np.ones(len(cells), dtype=np.complex64)
    # Without repeats, places are the patches in another order.
    if n_places == len(cells):
        sums = np.empty_like(cells)
        sums[place_of] = cells
        return factors, sums
    flat = cells.reshape(len(cells), -1)
    order = np.argsort(place_of, kind='stable')
    starts = np.searchsorted(place_of[order], np.arange(n_places))
    energy = _energy(flat)
    # At first the others are brought into phase with the brightest of each place.
    brightest = np.lexsort((energy, place_of))[np.append(starts[1:], len(cells)) - 1]
    agreement = np.einsum('ij,ij->i', flat.conj(), flat[brightest][place_of])
    for number in range(MERGING_ROUNDS + 1):
        # There is no sum before the first round, in which the brightest patch takes its place.
        if number > 0:
            agreement = np.einsum('ij,ij->i', flat.conj(), sums[place_of]) - energy * factors
        factors = _phase_factors(agreement, energy, factors)
        sums = np.add.reduceat((flat * factors[:, np.newaxis])[order], starts, axis=0)
    return factors, sums.reshape(n_places, *cells.shape[1:])


def _correlate(cells: ComplexArray, cell_origins: IntArray, pairs: IntArray) -> ComplexArray:
    r"""Return :math:`C_{jl}`, the sum of first times conjugate second over common cells.

    Pairs with the same offset between them have the same cells in common, and go together.
    """
    side = cells.shape[-1]
    offsets = cell_origins[pairs[:, 1]] - cell_origins[pairs[:, 0]]  # (n_pairs, 2)
    found = np.zeros(len(pairs), dtype=np.complex64)
    # Offsets of a side or more have nothing in common.
    touching = np.flatnonzero((np.abs(offsets) < side).all(axis=1))
    keys = (offsets[touching] + side) @ [2 * side, 1]
    for some in np.split(
        touching[order := np.argsort(keys, kind='stable')],
        np.flatnonzero(np.diff(keys[order])) + 1,
    ):
        for start in range(0, len(some), PAIRS_TOGETHER):
            part = some[start : start + PAIRS_TOGETHER]
            y, x = offsets[part[0]].tolist()
            first = cells[
                pairs[part, 0], max(0, y) : side + min(0, y), max(0, x) : side + min(0, x)
            ]
            second = cells[
                pairs[part, 1], max(0, -y) : side + min(0, -y), max(0, -x) : side + min(0, -x)
            ]
            found[part] = np.einsum('nij,nij->n', first, second.conj())
    return found


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
    normalized = scale @ graph @ scale + sparse.identity(len(degree), dtype=np.complex128)
    # The sparse solver needs a basis of about twenty vectors, which a small matrix does not have.
    if len(degree) <= 16:
        vector = np.linalg.eigh(normalized.toarray())[1][:, -1]
    else:
        # ARPACK would start at random; so the same patches always get the same phases.
        start = np.ones(len(degree), dtype=np.complex128)
        try:
            vector = eigsh(normalized, k=1, which='LA', tol=1e-4, v0=start, maxiter=MAX_RESTARTS)[
                1
            ][:, 0]
        # Parts of the field that hardly touch have nearly equal eigenvalues, which converge slowly.
        except ArpackNoConvergence:
            vector = _power_iteration(normalized)
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
