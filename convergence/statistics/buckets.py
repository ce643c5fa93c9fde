"""Buckets of float32 values by their bit pattern, and counts of them for many units.

The exponent and the top eight bits of the mantissa of a float32 name its bucket: buckets are 0.2–0.4 % wide, cost one
shift to find, are the same everywhere, and add. Magnitudes below 2⁻²⁰ share the lowest bucket of their sign, those from
2²⁰ on the highest.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

MANTISSA_BITS = 8
PATTERN_SHIFT = 23 - MANTISSA_BITS
FIRST_BUCKET = (127 - 20) << MANTISSA_BITS
N_BUCKETS = 40 << MANTISSA_BITS
"""Buckets of one sign."""
Counts = npt.NDArray[np.int64]


class BucketCounts:
    """Counts per unit and bucket in 16 bits; how often a bucket went past them is kept apart, for the few that did.

    Attributes
    ----------
    low : (n_units, N_BUCKETS) uint16, counts modulo 65,536
    places : (n,) int64 ascending, unit · N_BUCKETS + bucket of those that reached 65,536
    times : (n,) int64, how many times 65,536 is missing there
    """

    def __init__(self, n_units: int) -> None:
        self.low = np.zeros((n_units, N_BUCKETS), np.uint16)
        self.places = np.zeros(0, np.int64)
        self.times = np.zeros(0, np.int64)

    def carry(self, places: Counts, times: Counts) -> None:
        """Take up that ``places`` went past 16 bits, ``times`` times; places may repeat."""
        if len(places):
            self.places, of = np.unique(np.concatenate([self.places, places]), return_inverse=True)
            all_times, self.times = np.concatenate([self.times, times]), np.zeros(len(self.places), np.int64)
            np.add.at(self.times, of, all_times)

    def add(self, counts: npt.NDArray[Any], first: int = 0) -> None:
        """Add counts (n_units, …) of any integer type, of the buckets from ``first`` on."""
        places = _add_counts(np.ascontiguousarray(counts), first, self.low)
        self.carry(places[:, 0], places[:, 1])

    def merge(self, other: BucketCounts) -> None:
        """Add another's counts."""
        self.add(other.low)
        self.carry(other.places, other.times)

    def dense(self) -> Counts:
        """(n_units, N_BUCKETS) int64; 80 kB a unit."""
        counts = self.low.astype(np.int64)
        counts.reshape(-1)[self.places] += self.times << 16
        return counts

    def of_unit(self, unit: int) -> Counts:
        """(N_BUCKETS,) int64 of one unit."""
        counts = self.low[unit].astype(np.int64)
        mine = slice(*np.searchsorted(self.places, [unit * N_BUCKETS, (unit + 1) * N_BUCKETS]))
        counts[self.places[mine] - unit * N_BUCKETS] += self.times[mine] << 16
        return counts

    def occupied(self) -> tuple[npt.NDArray[Any], int]:
        """Counts of the range of buckets that any unit has, in the smallest type that holds them, and its first."""
        has_any = np.asarray(self.low.any(axis=0))
        has_any[self.places % N_BUCKETS] = True
        buckets = np.flatnonzero(has_any)
        first, last = (int(buckets[0]), int(buckets[-1]) + 1) if len(buckets) else (0, 0)
        kept: npt.NDArray[Any] = self.low[:, first:last]
        if len(self.places):
            kept = kept.astype(np.int64)
            kept[self.places // N_BUCKETS, self.places % N_BUCKETS - first] += self.times << 16
        return kept.astype(np.min_scalar_type(kept.max(initial=0))), first

    def total(self) -> Counts:
        """(n_units,) sums over buckets."""
        sums = self.low.sum(axis=1, dtype=np.int64)
        np.add.at(sums, self.places // N_BUCKETS, self.times << 16)
        return sums

    @property
    def nbytes(self) -> int:
        """Memory of the counts; pages of buckets that no unit reaches are never touched."""
        return self.low.nbytes + self.places.nbytes + self.times.nbytes


def bucket_lower_edges() -> npt.NDArray[np.float32]:
    """(N_BUCKETS,) lower edges of the positive buckets; those of the negative ones mirror them."""
    return ((np.arange(N_BUCKETS, dtype=np.int32) + FIRST_BUCKET) << PATTERN_SHIFT).view(np.float32)


@nb.njit(cache=True, nogil=True, boundscheck=False)
def _add_counts(counts, first, low):  # type: ignore[no-untyped-def]
    """Add counts to those from bucket ``first`` on; gives places, and how many times they went past 16 bits, (n, 2)."""
    overflown = [(0, 0) for _ in range(0)]
    for unit in range(counts.shape[0]):
        for i in range(counts.shape[1]):
            if counts[unit, i]:
                total = np.int64(low[unit, first + i]) + np.int64(counts[unit, i])
                low[unit, first + i] = total & 0xFFFF
                if total >> 16:
                    overflown.append((unit * N_BUCKETS + first + i, int(total >> 16)))
    places = np.empty((len(overflown), 2), np.int64)
    for i in range(len(overflown)):
        places[i, 0], places[i, 1] = overflown[i]
    return places
