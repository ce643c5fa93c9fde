"""Histograms of every unit's values over buckets of the float32 pattern (:mod:`convergence.statistics.buckets`).

Exact zeros, which a ReLU makes many of, have a count of their own, as have values that are not finite. Counts are
integers: they add in any order and any division of the samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

from convergence.statistics.bin_edges import BinEdges, equal_mass_edges
from convergence.statistics.buckets import (
    FIRST_BUCKET,
    N_BUCKETS,
    PATTERN_SHIFT,
    BucketCounts,
    Counts,
    bucket_lower_edges,
)

_CHUNK = 1024
"""Samples that are counted at a time."""


@dataclass
class UnitHistograms:
    """Counts per unit and bucket; integers, so that neither order nor partition of the samples matters.

    Attributes
    ----------
    zero : (n_units,) exact zeros
    n_nonfinite : (n_units,) NaN and infinite values, which are in no bucket
    positive : counts of the positive values; negative : the same by magnitude, None until a negative value is seen
    """

    zero: Counts
    n_nonfinite: Counts
    positive: BucketCounts
    negative: BucketCounts | None = None

    @classmethod
    def zeros(cls, n_units: int) -> UnitHistograms:
        """No samples yet; 20 kB a unit, 40 kB where any is negative."""
        return cls(np.zeros(n_units, np.int64), np.zeros(n_units, np.int64), BucketCounts(n_units))

    def update(self, samples: npt.NDArray[np.float32]) -> None:
        """Count samples (n_units, n_samples) float32."""
        patterns = np.ascontiguousarray(samples, dtype=np.float32).view(np.int32)
        positive, any_negative = _count(patterns, np.int32(0), self.positive.low, self.zero, self.n_nonfinite)
        self.positive.carry(positive, np.ones_like(positive))
        if any_negative:
            ignored = np.zeros_like(self.zero)  # zeros and non-finite values are counted already
            counts = self._need_negative()
            negative, _ = _count(patterns, np.int32(-(2**31)), counts.low, ignored, ignored)
            counts.carry(negative, np.ones_like(negative))

    def add_buckets(self, counts: npt.NDArray[Any], negative: bool) -> None:
        """Add counts (n_units, N_BUCKETS) of positive values, or of negative ones by magnitude."""
        (self._need_negative() if negative else self.positive).add(counts)

    def merge(self, other: UnitHistograms) -> None:
        """Add another's counts, of the same units."""
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
        """(n_units,) share of exact zeros among the finite values; 0 for a unit without any."""
        total = self.zero + self.positive.total()
        if self.negative is not None:
            total = total + self.negative.total()
        return np.asarray(self.zero / np.maximum(total, 1))

    def percentiles(self, percents: Sequence[float]) -> npt.NDArray[np.float64]:
        """(n_units, n_percents) values that so many percent of a unit's finite values do not exceed; 0 without any.

        A percentile is the middle of its bucket: within 0.2 % of the sample percentile (``inverted_cdf``), exactly 0
        where that is 0, for magnitudes from 2⁻²⁰ to 2²⁰.
        """
        edges = bucket_lower_edges().astype(np.float64)
        middles = np.append((edges[:-1] + edges[1:]) / 2, edges[-1])
        values = np.concatenate([-middles[::-1], [0.0], middles])
        out = np.zeros((len(self.zero), len(percents)))
        for unit in range(len(self.zero)):
            below = np.zeros(N_BUCKETS, np.int64) if self.negative is None else self.negative.of_unit(unit)[::-1]
            total = np.cumsum(np.concatenate([below, self.zero[unit : unit + 1], self.positive.of_unit(unit)]))
            if total[-1]:
                ranks = np.ceil(np.asarray(percents) / 100 * total[-1]).clip(1)
                out[unit] = values[np.searchsorted(total, ranks)]
        return out

    def edges(self, n_bins: int) -> BinEdges:
        """Bins for mutual information (Li et al. 2016: bin 0 for the zeros of the ReLU, the others of equal mass).

        A unit that is never negative has its exact zeros in bin 0 and ``n_bins − 1`` bins of nearly equal mass over its
        positive values. One with negative values has ``n_bins`` bins of nearly equal mass over all of them. Where
        a unit has too few different values, bins that would be empty are left out: nothing breaks on units that are
        zero in more than 99.9 % of the samples, or always.
        """
        return equal_mass_edges(self.zero, self.positive, self.negative, n_bins)

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Plain arrays of the occupied range of buckets: ``positive`` starts at bucket ``positive_first``."""
        arrays: dict[str, Any] = {"zero": self.zero, "nonfinite": self.n_nonfinite}
        for name, counts in (("positive", self.positive), ("negative", self.negative)):
            kept, first = counts.occupied() if counts else (np.zeros((len(self.zero), 0), np.uint8), 0)
            arrays[name], arrays[f"{name}_first"] = kept, np.int64(first)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray[Any]]) -> UnitHistograms:
        """The histograms that :meth:`to_arrays` came from."""
        histograms = cls.zeros(len(arrays["zero"]))
        histograms.add_arrays(arrays)
        return histograms

    def add_arrays(self, arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Add the counts of what :meth:`to_arrays` gave, without making histograms of them first."""
        self.zero += arrays["zero"]
        self.n_nonfinite += arrays["nonfinite"]
        self.positive.add(arrays["positive"], int(arrays["positive_first"]))
        if arrays["negative"].shape[1]:
            self._need_negative().add(arrays["negative"], int(arrays["negative_first"]))


@nb.njit(cache=True, nogil=True, boundscheck=False)
def _count(patterns, flip, low, zero, nonfinite):  # type: ignore[no-untyped-def]
    """Count the values that are positive once the bits ``flip`` are turned over, and zeros, and non-finite ones.

    Gives the places that went past 16 bits, and whether there are values of the other sign. Nothing asks for every
    value what it is: a rectified unit's zeros come at random, and a processor that guesses wrong loses more than the
    counting takes. Buckets are written to a list whose end moves on only past those that count.
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
