"""Histograms of every unit's values over buckets of the float32 pattern, and the bin edges that follow from them.

The sign, the exponent and the top eight bits of the mantissa of a float32 name its bucket: buckets are 0.2–0.4 % wide,
cost one shift to find, are the same everywhere, and add. Exact zeros, which a ReLU makes many of, have a bucket of
their own. Magnitudes below 2⁻²⁰ share the lowest bucket of their sign, those from 2²⁰ on the highest. Bin edges are
bucket boundaries, so the mass of every bin is known exactly, with no second look at the values.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

MANTISSA_BITS = 8
PATTERN_SHIFT = 23 - MANTISSA_BITS
FIRST_BUCKET = (127 - 20) << MANTISSA_BITS
N_BUCKETS = 40 << MANTISSA_BITS
"""Buckets of one sign."""
_CHUNK = 1024
"""Samples that are counted at a time."""
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

    def edges(self, n_bins: int) -> BinEdges:
        """Bins for mutual information (Li et al. 2016: bin 0 for the zeros of the ReLU, the others of equal mass).

        A unit that is never negative has its exact zeros in bin 0 and ``n_bins − 1`` bins of nearly equal mass over its
        positive values. One with negative values has ``n_bins`` bins of nearly equal mass over all of them. Where
        a unit has too few different values, bins that would be empty are left out: nothing breaks on units that are
        zero in more than 99.9 % of the samples, or always.
        """
        edges = np.full((len(self.zero), n_bins - 1), np.inf, np.float32)
        effective = np.zeros(len(self.zero), np.int64)
        positive, negative = self.positive, self.negative or BucketCounts(0)
        _edges(
            self.zero, positive.low, positive.places, positive.times, negative.low, negative.places, negative.times,
            _lower_edges(), edges, effective,
        )  # fmt: skip
        return BinEdges(edges, effective)

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


def encode(samples: npt.NDArray[np.float32], edges: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Bins (n_units, n_samples) uint8 of samples (n_units, n_samples), for edges (n_units, n_bins − 1).

    NaN is in bin 0; units that have any are left out of results.
    """
    codes = np.empty(samples.shape, np.uint8)
    _encode(np.ascontiguousarray(samples), np.ascontiguousarray(edges), codes)
    return codes


def bucket_lower_edges() -> npt.NDArray[np.float32]:
    """(N_BUCKETS,) lower edges of the positive buckets; those of the negative ones mirror them."""
    return ((np.arange(N_BUCKETS, dtype=np.int32) + FIRST_BUCKET) << PATTERN_SHIFT).view(np.float32)


def _lower_edges() -> npt.NDArray[np.float32]:
    """Smallest float32 of every bucket in order of value: negative by falling magnitude, zero, positive."""
    positive = bucket_lower_edges()
    positive[0] = _TINY
    above = np.append(bucket_lower_edges()[1:], np.float32(np.inf))
    negative = np.nextafter(-above[::-1], np.float32(np.inf))
    negative[0] = -np.inf
    return np.concatenate([negative, np.zeros(1, np.float32), positive])


def equal_mass_plain(mass: Counts, n_bins: int) -> Counts:
    """The definition: buckets at which bins 1, 2, … start, none of them empty.

    A bin can start at any occupied bucket but the first. Of the two that are nearest to each quantile, from below and
    from above, those are taken that together make the bins most even: the sum of squared differences of their masses
    from the mean is least. (Each edge at the nearer one leaves bins half as uneven again, because a bin's two edges may
    both err to its outside.)
    """
    below = np.cumsum(mass) - mass
    starts = np.flatnonzero(mass)[1:]
    if not len(starts):
        return np.zeros(0, np.int64)
    targets = np.arange(1, n_bins) * int(mass.sum()) / n_bins
    right = np.clip(np.searchsorted(below[starts], targets), 0, len(starts) - 1)
    left = np.maximum(right - 1, 0)
    choices = [np.array(c) for c in itertools.product(*np.stack([left, right], axis=1)) if (np.diff(c) >= 0).all()]
    return np.unique(starts[min(choices, key=lambda chosen: unevenness(mass, starts[chosen]))])


def unevenness(mass: Counts, starts: Counts) -> float:
    """Sum of squares of the bins' masses less their mean, times the number of bins; bins start at ``starts``."""
    inner = (np.cumsum(mass) - mass)[starts]
    scaled = np.diff(inner, prepend=0, append=mass.sum()) * (len(starts) + 1) - mass.sum()  # integers: ties are exact
    return float((scaled.astype(np.float64) ** 2).sum())


@nb.njit(cache=True, nogil=True, boundscheck=False)
def _equal_mass(mass, n_bins, chosen):  # type: ignore[no-untyped-def]
    """The same in one walk over the buckets and one over the edges, into ``chosen``; gives how many there are."""
    starts = np.empty((n_bins, 2), np.int64)  # the buckets on either side of every quantile
    inner = np.zeros((n_bins, 2))  # the mass below them
    total, below, k = mass.sum(), 0, 1
    quantile = total / n_bins
    last, last_below = -1, 0  # the last bucket at which a bin can start, and the one before it
    before, before_below = -1, 0
    for bucket in range(len(mass)):
        if mass[bucket] == 0:
            continue
        if below > 0:
            while k < n_bins and below >= quantile:
                starts[k, 0], inner[k, 0] = (bucket, below) if last < 0 else (last, last_below)
                starts[k, 1], inner[k, 1] = bucket, below
                k += 1
                quantile = k * total / n_bins
            before, before_below = last, last_below
            last, last_below = bucket, below
        below += mass[bucket]
    if last < 0:
        return 0
    for j in range(k, n_bins):  # quantiles within the last bucket
        starts[j, 0], inner[j, 0] = (last, last_below) if before < 0 else (before, before_below)
        starts[j, 1], inner[j, 1] = last, last_below

    # Least unevenness of the bins so far, given the side of the last edge; and the side of the one before that.
    least = np.array([0.0, np.inf])
    side_before = np.zeros((n_bins + 1, 2), np.int64)
    for k in range(1, n_bins + 1):
        following = np.full(2, np.inf)
        for side in range(2):
            edge = inner[k, side] if k < n_bins else float(total)
            for other in range(2):
                bin_mass = edge - inner[k - 1, other]
                uneven = least[other] + (bin_mass * n_bins - total) ** 2
                if bin_mass >= 0 and uneven < following[side]:
                    following[side] = uneven
                    side_before[k, side] = other
        least = following
    side = side_before[n_bins, 0]
    for k in range(n_bins - 1, 0, -1):
        chosen[k - 1] = starts[k, side]
        side = side_before[k, side]
    n = 1
    for k in range(1, n_bins - 1):
        if chosen[k] != chosen[n - 1]:
            chosen[n] = chosen[k]
            n += 1
    return n


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


@nb.njit(cache=True, nogil=True, boundscheck=False)
def _unit_counts(unit, low, places, times, out):  # type: ignore[no-untyped-def]
    """Counts of one unit; gives whether there are any."""
    out[:] = low[unit]
    for i in range(np.searchsorted(places, unit * N_BUCKETS), np.searchsorted(places, (unit + 1) * N_BUCKETS)):
        out[places[i] - unit * N_BUCKETS] += times[i] << 16
    return out.any()


@nb.njit(cache=True, nogil=True, boundscheck=False)
def _edges(  # type: ignore[no-untyped-def]
    zero, positive, positive_places, positive_times, negative, negative_places, negative_times, lower, edges, effective
):
    """Fill edges (n_units, n_bins − 1) and the number of bins that hold anything."""
    n_bins = edges.shape[1] + 1
    mass = np.zeros(2 * N_BUCKETS + 1, np.int64)  # in order of value: negative by falling magnitude, zero, positive
    below, above = mass[:N_BUCKETS][::-1], mass[N_BUCKETS + 1 :]
    chosen = np.empty(n_bins, np.int64)
    for unit in range(len(zero)):
        mass[N_BUCKETS] = zero[unit]
        any_positive = _unit_counts(unit, positive, positive_places, positive_times, above)
        if len(negative) and _unit_counts(unit, negative, negative_places, negative_times, below):
            n = _equal_mass(mass, n_bins, chosen)
            for i in range(n):
                edges[unit, i] = lower[chosen[i]]
            effective[unit] = n + 1
        elif any_positive:
            n = _equal_mass(above, n_bins - 1, chosen)
            edges[unit, 0] = _TINY
            for i in range(n):
                edges[unit, i + 1] = lower[N_BUCKETS + 1 + chosen[i]]
            effective[unit] = n + 1 + (zero[unit] > 0)
        else:
            effective[unit] = zero[unit] > 0


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
