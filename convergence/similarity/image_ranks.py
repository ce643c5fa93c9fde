"""Ranks of the pairs of images by their similarity, for replicates that leave out images.

A replicate leaves out some images of the same similarity matrix, so the pairs are sorted once and each replicate takes
its pairs from the sorted ones, instead of sorting them again.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from convergence.linalg import Matrix

Bools = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]
DECIMALS = 12
"""Similarities that are equal to so many decimals are tied."""
RECENT = 4
"""Orders that are kept: of both layers of a pair, by two measures."""


class PairOrder:
    """The sorted pairs of images of one similarity matrix (n, n)."""

    def __init__(self, similarity: Matrix) -> None:
        values = similarity[_pairs(len(similarity))].round(DECIMALS)
        self._order = np.argsort(values).astype(np.int32)
        ordered = values[self._order]
        self._tie = np.cumsum(np.r_[False, ordered[1:] != ordered[:-1]], dtype=np.int32)

    def ranks(self, counted: Bools | None) -> Matrix:
        """Ranks from 1 of the ``counted`` pairs (all for None) among each other, in the order of the pairs.

        Tied pairs have their mean rank.
        """
        order, tie = self._order, self._tie
        if counted is not None:
            chosen = counted[order]
            order, tie = order[chosen], tie[chosen]
        start = np.flatnonzero(np.r_[True, tie[1:] != tie[:-1]]) if len(tie) else np.zeros(0, np.intp)
        n_tied = np.diff(start, append=len(tie))
        out = np.zeros(len(self._order))
        out[order] = np.repeat(start + (n_tied + 1) / 2, n_tied)
        return out if counted is None else out[counted]


def counted_pairs(kept: Bools | None) -> Bools | None:
    """The pairs of images that are both kept; None for all."""
    if kept is None:
        return None
    i, j = _pairs(len(kept))
    return np.asarray(kept[i] & kept[j])


class RecentOrders:
    """The last orders by the samples that they are of; samples must not be changed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: list[tuple[weakref.ref[Matrix], str, PairOrder]] = []

    def of(self, samples: Matrix, kind: str, similarity: Callable[[], Matrix]) -> PairOrder:
        """The order of samples by a kind of similarity, which is computed where it is not known."""
        with self._lock:
            for reference, of_kind, order in self._found:
                if reference() is samples and of_kind == kind:
                    return order
        order = PairOrder(similarity())
        with self._lock:
            alive = [entry for entry in self._found if entry[0]() is not None]
            self._found = [*alive[1 - RECENT :], (weakref.ref(samples), kind, order)]
        return order


@functools.lru_cache(maxsize=2)
def _pairs(n: int) -> tuple[Indices, Indices]:
    """Rows and columns of the pairs of n images."""
    return np.triu_indices(n, 1)
