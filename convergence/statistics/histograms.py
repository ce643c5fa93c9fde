"""Histograms of every unit's values over buckets of the float32 bit pattern.

The exponent and the upper eight bits of the mantissa of a float32 identify its bucket. Buckets are 0.2–0.4 % wide, take
one shift to compute and are the same on every machine. Magnitudes below 2⁻²⁰ share the lowest bucket of their sign,
those from 2²⁰ the highest. Exact zeros, frequent after a ReLU, and non-finite values are counted separately. All counts
are integers, so neither the order nor the division of the samples changes a result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from convergence.kernels.jit import njit

MANTISSA_BITS = 8
PATTERN_SHIFT = 23 - MANTISSA_BITS
FIRST_BUCKET = (127 - 20) << MANTISSA_BITS
N_BUCKETS = 40 << MANTISSA_BITS
"""Buckets of one sign."""
_CHUNK = 1024
"""Samples counted at a time."""
Counts = npt.NDArray[np.int64]


class BucketCounts:
    """Counts per unit and bucket in 16 bits, with the overflows of the few large counts in a sparse list.

    Attributes
    ----------
    low : (n_units, N_BUCKETS) uint16, counts modulo 65,536
    places : (n,) int64 ascending, unit · N_BUCKETS + bucket of the counts that reached 65,536
    times : (n,) int64, multiples of 65,536 to add to those counts
    """

    def __init__(self, n_units: int) -> None:
        self.low = np.zeros((n_units, N_BUCKETS), np.uint16)
        self.places = np.zeros(0, np.int64)
        self.times = np.zeros(0, np.int64)

    def carry(self, places: Counts, times: Counts) -> None:
        """Record that the counts at ``places`` overflowed ``times`` times; places may repeat."""
        if len(places):
            self.places, of = np.unique(np.concatenate([self.places, places]), return_inverse=True)
            all_times, self.times = np.concatenate([self.times, times]), np.zeros(len(self.places), np.int64)
            np.add.at(self.times, of, all_times)

    def add(self, counts: npt.NDArray[Any], first: int = 0) -> None:
        """Add counts (n_units, …) of any integer type, for the buckets that start at ``first``."""
        places = _add_counts(np.ascontiguousarray(counts), first, self.low)
        self.carry(places[:, 0], places[:, 1])

    def merge(self, other: BucketCounts) -> None:
        """Add the counts of another object with the same units."""
        self.add(other.low)
        self.carry(other.places, other.times)

    def dense(self) -> Counts:
        """(n_units, N_BUCKETS) int64; 80 kB a unit."""
        counts = self.low.astype(np.int64)
        counts.reshape(-1)[self.places] += self.times << 16
        return counts

    def of_unit(self, unit: int) -> Counts:
        """(N_BUCKETS,) int64 counts of one unit."""
        counts = self.low[unit].astype(np.int64)
        own = slice(*np.searchsorted(self.places, [unit * N_BUCKETS, (unit + 1) * N_BUCKETS]))
        counts[self.places[own] - unit * N_BUCKETS] += self.times[own] << 16
        return counts

    def occupied(self) -> tuple[npt.NDArray[Any], int]:
        """Counts over the range of occupied buckets, in the smallest integer type, and the range's first bucket."""
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
        """Bytes of the arrays; the system allocates no pages for buckets that no unit reaches."""
        return self.low.nbytes + self.places.nbytes + self.times.nbytes


def bucket_lower_edges() -> npt.NDArray[np.float32]:
    """(N_BUCKETS,) lower edges of the positive buckets; the negative buckets mirror them."""
    return ((np.arange(N_BUCKETS, dtype=np.int32) + FIRST_BUCKET) << PATTERN_SHIFT).view(np.float32)


@dataclass
class UnitHistograms:
    """Counts of every unit's values by bucket.

    Attributes
    ----------
    zero : (n_units,) exact zeros
    n_nonfinite : (n_units,) NaN and infinite values, which are in no bucket
    positive : counts of the positive values
    negative : counts of the negative values by magnitude; None until the first negative value
    """

    zero: Counts
    n_nonfinite: Counts
    positive: BucketCounts
    negative: BucketCounts | None = None

    @classmethod
    def zeros(cls, n_units: int) -> UnitHistograms:
        """Histograms without samples; 20 kB per unit, 40 kB once any value is negative."""
        return cls(np.zeros(n_units, np.int64), np.zeros(n_units, np.int64), BucketCounts(n_units))

    def update(self, samples: npt.NDArray[np.float32]) -> None:
        """Count samples (n_units, n_samples) float32."""
        patterns = np.ascontiguousarray(samples, dtype=np.float32).view(np.int32)
        positive, any_negative = _count(patterns, np.int32(0), self.positive.low, self.zero, self.n_nonfinite)
        self.positive.carry(positive, np.ones_like(positive))
        if any_negative:
            ignored = np.zeros_like(self.zero)  # the first call counted zeros and non-finite values
            counts = self._need_negative()
            negative, _ = _count(patterns, np.int32(-(2**31)), counts.low, ignored, ignored)
            counts.carry(negative, np.ones_like(negative))

    def add_buckets(self, counts: npt.NDArray[Any], negative: bool) -> None:
        """Add counts (n_units, N_BUCKETS) of positive values, or of the magnitudes of negative values."""
        (self._need_negative() if negative else self.positive).add(counts)

    def merge(self, other: UnitHistograms) -> None:
        """Add the histograms of other samples of the same units."""
        self.zero += other.zero
        self.n_nonfinite += other.n_nonfinite
        self.positive.merge(other.positive)
        if other.negative is not None:
            self._need_negative().merge(other.negative)

    def _need_negative(self) -> BucketCounts:
        if self.negative is None:
            self.negative = BucketCounts(len(self.zero))
        return self.negative

    def zero_fraction(self) -> npt.NDArray[np.float64]:
        """(n_units,) share of exact zeros among the finite values; 0 for a unit without finite values."""
        total = self.zero + self.positive.total()
        if self.negative is not None:
            total = total + self.negative.total()
        return np.asarray(self.zero / np.maximum(total, 1))

    def percentiles(
        self, percents: Sequence[float], units: npt.NDArray[np.integer] | None = None
    ) -> npt.NDArray[np.float64]:
        """(n_units, n_percents) percentiles of the finite values of all units, or of some; 0 without finite values.

        A percentile is the middle of its bucket. It is within 0.2 % of the sample percentile (``inverted_cdf``) for
        magnitudes from 2⁻²⁰ to 2²⁰, and exactly 0 where the sample percentile is 0.
        """
        edges = bucket_lower_edges().astype(np.float64)
        middles = np.append((edges[:-1] + edges[1:]) / 2, edges[-1])
        values = np.concatenate([-middles[::-1], [0.0], middles])
        chosen = np.arange(len(self.zero)) if units is None else units
        out = np.zeros((len(chosen), len(percents)))
        for row, unit in enumerate(chosen):
            below = np.zeros(N_BUCKETS, np.int64) if self.negative is None else self.negative.of_unit(unit)[::-1]
            total = np.cumsum(np.concatenate([below, self.zero[unit : unit + 1], self.positive.of_unit(unit)]))
            if total[-1]:
                ranks = np.ceil(np.asarray(percents) / 100 * total[-1]).clip(1)
                out[row] = values[np.searchsorted(total, ranks)]
        return out

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Plain arrays over the occupied buckets; ``positive`` starts at bucket ``positive_first``."""
        arrays: dict[str, Any] = {"zero": self.zero, "nonfinite": self.n_nonfinite}
        for name, counts in (("positive", self.positive), ("negative", self.negative)):
            kept, first = counts.occupied() if counts else (np.zeros((len(self.zero), 0), np.uint8), 0)
            arrays[name], arrays[f"{name}_first"] = kept, np.int64(first)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> UnitHistograms:
        """The inverse of :meth:`to_arrays`."""
        histograms = cls.zeros(len(arrays["zero"]))
        histograms.add_arrays(arrays)
        return histograms

    def add_arrays(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Add histograms given as the arrays of :meth:`to_arrays`."""
        self.zero += arrays["zero"]
        self.n_nonfinite += arrays["nonfinite"]
        self.positive.add(arrays["positive"], int(arrays["positive_first"]))
        if arrays["negative"].shape[1]:
            self._need_negative().add(arrays["negative"], int(arrays["negative_first"]))


@njit(nogil=True, boundscheck=False)
def _add_counts(counts, first, low):  # type: ignore[no-untyped-def]
    """Add counts to the buckets that start at ``first``; return (n, 2) places and their numbers of overflows."""
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


@njit(nogil=True, boundscheck=False)
def _count(patterns, flip, low, zero, nonfinite):  # type: ignore[no-untyped-def]
    """Count values that are positive after flipping the bits ``flip``, zeros, and non-finite values.

    Returns the places that overflowed 16 bits, and whether any value has the other sign. There is no branch per value:
    the zeros of a rectified unit are unpredictable, and mispredicted branches would cost more than counting. Buckets
    are appended to a list whose end advances only for values that count.
    """
    overflown = [0 for _ in range(0)]
    bucket_of = np.empty(_CHUNK, np.uint16)
    buckets = np.empty(_CHUNK, np.uint16)
    any_other = False
    for unit in range(patterns.shape[0]):
        counts = low[unit]
        for start in range(0, patterns.shape[1], _CHUNK):
            chunk = patterns[unit, start : start + _CHUNK]
            n_zero, n_nonfinite = 0, 0
            for s in range(len(chunk)):
                magnitude = chunk[s] & np.int32(0x7FFFFFFF)
                n_zero += magnitude == np.int32(0)
                n_nonfinite += magnitude >= np.int32(0x7F800000)
                bits = chunk[s] ^ flip
                bucket = min(
                    max((bits >> np.int32(PATTERN_SHIFT)) - np.int32(FIRST_BUCKET), np.int32(0)),
                    np.int32(N_BUCKETS - 1),
                )
                counts_here = (bits > np.int32(0)) & (bits < np.int32(0x7F800000))
                bucket_of[s] = bucket if counts_here else np.int32(N_BUCKETS)
            n = np.uint64(0)
            for s in range(len(chunk)):
                buckets[n] = bucket_of[s]
                n += np.uint64(bucket_of[s] != N_BUCKETS)
            for i in range(n):
                bucket = buckets[i]
                count = np.uint16(counts[bucket] + np.uint16(1))
                counts[bucket] = count
                if count == 0:
                    overflown.append(unit * N_BUCKETS + int(bucket))
            zero[unit] += n_zero
            nonfinite[unit] += n_nonfinite
            any_other |= int(n) + n_zero + n_nonfinite < len(chunk)
    return np.array(overflown, dtype=np.int64), any_other
