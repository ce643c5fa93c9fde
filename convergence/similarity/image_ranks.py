"""Rank correlation over pairs of images, for replicates that leave out images.

A replicate leaves out some images of the same similarity matrix, so the pairs are sorted once and each replicate takes
its pairs from the sorted ones, instead of sorting them again.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from convergence.kernels.jit import njit
from convergence.linalg import Matrix

Bools = npt.NDArray[np.bool_]
Array = Any  # a numpy array here, numba's array type in compiled code
DECIMALS = 12
"""Similarities that are equal to so many decimals are tied."""
RANKS_BYTES = 12_000_000
"""Memory of the ranks of one order in replicates: 23 replicates of 512 images."""


class PairOrder:
    """The sorted pairs of images of one similarity matrix (n, n), and their ranks in replicates."""

    def __init__(self, similarity: Matrix) -> None:
        self._n = len(similarity)
        values = similarity[np.triu_indices(self._n, 1)].round(DECIMALS)
        self._order = np.argsort(values).astype(np.int32)
        ordered = values[self._order]
        self._tied = np.r_[False, ordered[1:] == ordered[:-1]] if len(ordered) else np.zeros(0, bool)
        self._ranks: dict[bytes, tuple[Array, float]] = {}

    def centred_ranks(self, kept: Bools | None = None) -> tuple[npt.NDArray[np.int32], float]:
        """Twice the ranks of the pairs of images that are both ``kept``, minus their mean, and the norm of these.

        The ranks are in the order of the pairs. Tied pairs have their mean rank, pairs that are left out 0. Those of
        other layers' replicates use them again, so they are kept up to :data:`RANKS_BYTES`.
        """
        key = b"" if kept is None else kept.tobytes()
        found = self._ranks.get(key)
        if found is None:
            rows, columns = _pairs(self._n)
            ranks = np.zeros(len(self._order), dtype=np.int32)
            every = np.ones(self._n, bool) if kept is None else kept
            norm = float(np.sqrt(_centred_ranks(self._order, self._tied, rows, columns, every, ranks)))
            found = ranks, norm
            if (len(self._ranks) + 1) * ranks.nbytes <= RANKS_BYTES:
                self._ranks[key] = found
        return found


def rank_correlation(x: PairOrder, y: PairOrder, kept: Bools | None = None) -> float:
    """Spearman correlation over the pairs of images that are both ``kept``; 0 if all pairs of a layer are tied."""
    (a, norm_a), (b, norm_b) = x.centred_ranks(kept), y.centred_ranks(kept)
    scale = norm_a * norm_b
    return float(_product(a, b) / scale) if scale > 0 else 0.0


@njit(nogil=True)
def _product(a: Array, b: Array) -> float:
    """Sum of the products of integers, exact in blocks of 64 products of 28-bit integers."""
    total = 0.0
    for start in range(0, len(a), 64):
        block = np.int64(0)
        for k in range(start, min(start + 64, len(a))):
            block += np.int64(a[k]) * np.int64(b[k])
        total += np.float64(block)
    return total


@njit(nogil=True)
def _centred_ranks(order: Array, tied: Array, rows: Array, columns: Array, kept: Array, out: Array) -> float:
    """Write twice the centred ranks; return the sum of their squares."""
    n_kept = 0
    for image in range(len(kept)):
        n_kept += kept[image]
    twice_mean = n_kept * (n_kept - 1) // 2 + 1
    before, start, squares = 0, 0, 0.0
    while start < len(order):
        stop, counted = start, 0
        while stop == start or (stop < len(order) and tied[stop]):
            pair = order[stop]
            counted += kept[rows[pair]] and kept[columns[pair]]
            stop += 1
        for place in range(start, stop):
            pair = order[place]
            if kept[rows[pair]] and kept[columns[pair]]:
                out[pair] = 2 * before + counted + 1 - twice_mean
        squares += counted * float(2 * before + counted + 1 - twice_mean) ** 2
        before += counted
        start = stop
    return squares


@functools.lru_cache(maxsize=2)
def _pairs(n: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Rows and columns of the pairs of n images."""
    rows, columns = np.triu_indices(n, 1)
    return rows.astype(np.int32), columns.astype(np.int32)
