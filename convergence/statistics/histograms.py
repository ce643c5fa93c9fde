"""Histograms of every unit's values over buckets of the float32 pattern, and the bin edges that follow from them.

The sign, the exponent and the top eight bits of the mantissa of a float32 name its bucket: buckets are 0.2–0.4 % wide,
cost one shift to find, are the same everywhere, and add. Exact zeros, which a ReLU makes many of, have a bucket of
their own. Magnitudes below 2⁻²⁰ share the lowest bucket of their sign, those from 2²⁰ on the highest. Bin edges are
bucket boundaries, so the mass of every bin is known exactly, with no second look at the values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

MANTISSA_BITS = 8
_SHIFT = 23 - MANTISSA_BITS
_LOWEST = (127 - 20) << MANTISSA_BITS
N_BUCKETS = 40 << MANTISSA_BITS
"""Buckets of one sign."""
_TINY = np.float32(np.nextafter(np.float32(0), np.float32(1)))
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class BinEdges:
    """Bins of every unit: the bin of a value is the number of edges at or below it.

    Attributes
    ----------
    edges : (n_units, n_bins − 1) float32, ascending, +inf where a unit has fewer bins
    n_effective_bins : (n_units,) bins that hold any sample
    """

    edges: npt.NDArray[np.float32]
    n_effective_bins: Counts


@dataclass
class UnitHistograms:
    """Counts per unit and bucket; integers, so that neither order nor partition of the samples matters.

    Attributes
    ----------
    zero : (n_units,) exact zeros
    n_nonfinite : (n_units,) NaN and infinite values, which are in no bucket
    positive : (n_units, N_BUCKETS); negative : the same by magnitude, (n_units, 0) until a negative value is seen
    """

    zero: Counts
    n_nonfinite: Counts
    positive: Counts
    negative: Counts

    @classmethod
    def zeros(cls, n_units: int) -> UnitHistograms:
        """No samples yet; 80 kB a unit."""
        count = np.zeros(n_units, np.int64)
        return cls(count, count.copy(), np.zeros((n_units, N_BUCKETS), np.int64), np.zeros((n_units, 0), np.int64))

    def update(self, samples: npt.NDArray[np.float32]) -> None:
        """Count samples (n_units, n_samples) float32."""
        patterns = np.ascontiguousarray(samples, dtype=np.float32).view(np.int32)
        if _count(patterns, self.zero, self.n_nonfinite, self.positive):
            self._need_negative()
            _count_negative(patterns, self.negative)

    def merge(self, other: UnitHistograms) -> None:
        """Add another's counts, of the same units."""
        self.zero += other.zero
        self.n_nonfinite += other.n_nonfinite
        self.positive += other.positive
        if other.negative.size:
            self._need_negative()
            self.negative += other.negative

    def _need_negative(self) -> None:
        if not self.negative.size:
            self.negative = np.zeros_like(self.positive)

    def zero_fraction(self) -> npt.NDArray[np.float64]:
        """(n_units,) share of exact zeros among the finite values; 0 for a unit without any."""
        total = self.zero + self.positive.sum(axis=1) + self.negative.sum(axis=1)
        return np.asarray(self.zero / np.maximum(total, 1))

    def edges(self, n_bins: int) -> BinEdges:
        """Bins for mutual information (Li et al. 2016: bin 0 for the zeros of the ReLU, the others of equal mass).

        A unit that is never negative has its exact zeros in bin 0 and ``n_bins − 1`` bins of nearly equal mass over its
        positive values. One with negative values has ``n_bins`` bins of nearly equal mass over all of them. Where
        a unit has too few different values, bins that would be empty are left out: nothing breaks on units that are
        zero in more than 99.9 % of the samples, or always.
        """
        edges = np.full((len(self.zero), n_bins - 1), np.inf, np.float32)
        effective = np.zeros(len(self.zero), np.int64)
        lower = _lower_edges()
        for unit in range(len(self.zero)):
            has_negative = bool(self.negative.size and self.negative[unit].any())
            if has_negative:
                mass = np.concatenate([self.negative[unit, ::-1], self.zero[unit : unit + 1], self.positive[unit]])
                chosen = _equal_mass(mass, n_bins)
                edges[unit, : len(chosen)] = lower[chosen]
                effective[unit] = len(chosen) + 1 if mass.any() else 0
            elif self.positive[unit].any():
                chosen = _equal_mass(self.positive[unit], n_bins - 1)
                edges[unit, 0] = _TINY
                edges[unit, 1 : 1 + len(chosen)] = lower[N_BUCKETS + 1 + chosen]
                effective[unit] = len(chosen) + 1 + (self.zero[unit] > 0)
            else:
                effective[unit] = self.zero[unit] > 0
        return BinEdges(edges, effective)

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Plain arrays of the occupied range of buckets: ``positive`` starts at bucket ``positive_first``."""
        arrays: dict[str, Any] = {"zero": self.zero, "nonfinite": self.n_nonfinite}
        for name, counts in (("positive", self.positive), ("negative", self.negative)):
            occupied = np.flatnonzero(counts.any(axis=0))
            first, last = (occupied[0], occupied[-1] + 1) if len(occupied) else (0, 0)
            kept = counts[:, first:last]
            arrays[name] = kept.astype(np.min_scalar_type(kept.max(initial=0)))
            arrays[f"{name}_first"] = np.int64(first)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray[Any]]) -> UnitHistograms:
        """The histograms that :meth:`to_arrays` came from."""
        histograms = cls.zeros(len(arrays["zero"]))
        histograms.zero += arrays["zero"]
        histograms.n_nonfinite += arrays["nonfinite"]
        for name in ("positive", "negative"):
            counts, first = arrays[name], int(arrays[f"{name}_first"])
            if counts.shape[1]:
                if name == "negative":
                    histograms._need_negative()
                getattr(histograms, name)[:, first : first + counts.shape[1]] += counts
        return histograms


def encode(samples: npt.NDArray[np.float32], edges: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Bins (n_units, n_samples) uint8 of samples (n_units, n_samples), for edges (n_units, n_bins − 1).

    NaN is in bin 0; units that have any are left out of results.
    """
    codes = np.empty(samples.shape, np.uint8)
    _encode(np.ascontiguousarray(samples), np.ascontiguousarray(edges), codes)
    return codes


def bucket_lower_edges() -> npt.NDArray[np.float32]:
    """(N_BUCKETS,) lower edges of the positive buckets; those of the negative ones mirror them."""
    return ((np.arange(N_BUCKETS, dtype=np.int32) + _LOWEST) << _SHIFT).view(np.float32)


def _lower_edges() -> npt.NDArray[np.float32]:
    """Smallest float32 of every bucket in order of value: negative by falling magnitude, zero, positive."""
    positive = bucket_lower_edges()
    positive[0] = _TINY
    above = np.append(bucket_lower_edges()[1:], np.float32(np.inf))
    negative = np.nextafter(-above[::-1], np.float32(np.inf))
    negative[0] = -np.inf
    return np.concatenate([negative, np.zeros(1, np.float32), positive])


def _equal_mass(mass: Counts, n_bins: int) -> Counts:
    """Buckets at which bins 1, 2, … start, so that all have nearly the same mass and none is empty."""
    below = np.concatenate([[0], np.cumsum(mass)])[:-1]
    total = int(mass.sum())
    occupied = np.flatnonzero(mass)
    starts = occupied[1:]  # a bin may start at any occupied bucket but the first
    if not len(starts):
        return np.zeros(0, np.int64)
    targets = np.arange(1, n_bins) * total / n_bins
    right = np.clip(np.searchsorted(below[starts], targets), 0, len(starts) - 1)
    left = np.maximum(right - 1, 0)
    nearer_left = targets - below[starts[left]] <= below[starts[right]] - targets
    return np.unique(starts[np.where(nearer_left, left, right)])


@nb.njit(cache=True, nogil=True, boundscheck=False)
def _count(patterns, zero, nonfinite, positive):  # type: ignore[no-untyped-def]
    n_negative = 0
    for unit in range(patterns.shape[0]):
        row = positive[unit]
        for s in range(patterns.shape[1]):
            bits = patterns[unit, s]
            magnitude = bits & 0x7FFFFFFF
            if magnitude == 0:
                zero[unit] += 1
            elif magnitude >= 0x7F800000:
                nonfinite[unit] += 1
            elif bits > 0:
                row[min(max((bits >> _SHIFT) - _LOWEST, 0), N_BUCKETS - 1)] += 1
            else:
                n_negative += 1
    return n_negative


@nb.njit(cache=True, nogil=True, boundscheck=False)
def _count_negative(patterns, negative):  # type: ignore[no-untyped-def]
    for unit in range(patterns.shape[0]):
        for s in range(patterns.shape[1]):
            magnitude = patterns[unit, s] & 0x7FFFFFFF
            if patterns[unit, s] < 0 and 0 < magnitude < 0x7F800000:
                negative[unit, min(max((magnitude >> _SHIFT) - _LOWEST, 0), N_BUCKETS - 1)] += 1


@nb.njit(cache=True, nogil=True, boundscheck=False)
def _encode(samples, edges, codes):  # type: ignore[no-untyped-def]
    for unit in range(samples.shape[0]):
        codes[unit, :] = 0
        for k in range(edges.shape[1]):
            edge = edges[unit, k]
            if edge == np.inf:
                break
            for s in range(samples.shape[1]):
                codes[unit, s] += samples[unit, s] >= edge
