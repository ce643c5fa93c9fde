"""Bins of nearly equal mass, computed from unit histograms, and the bin number of every value.

Bin edges are bucket boundaries, so the mass of every bin is known exactly without reading the values again. Buckets of
both signs are numbered by ascending value: negative buckets, zero, positive buckets.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from convergence.kernels.jit import njit
from convergence.statistics.histograms import N_BUCKETS, BucketCounts, Counts, UnitHistograms, bucket_lower_edges

Float32 = npt.NDArray[np.float32]

_TINY = np.float32(np.nextafter(np.float32(0), np.float32(1)))


@dataclass(frozen=True)
class BinEdges:
    """Bin edges of every unit; the bin of a value is the number of edges at or below it.

    Attributes
    ----------
    edges : (n_units, n_bins − 1) float32, ascending; +inf where a unit has fewer bins
    n_effective_bins : (n_units,) number of bins with any sample
    """

    edges: Float32
    n_effective_bins: Counts


def equal_mass_bins(histograms: UnitHistograms, n_bins: int, among: Float32 | None = None) -> BinEdges:
    """Bins for mutual information: bin 0 for the zeros of a ReLU, the others of equal mass (Li et al. 2016).

    A unit that is never negative has its exact zeros in bin 0 and ``n_bins − 1`` bins of nearly equal mass over its
    positive values. A unit with negative values has ``n_bins`` bins of nearly equal mass over all of its values. Bins
    that would be empty, because a unit has too few distinct values, are dropped.

    Edges are bucket boundaries, or those of ``among`` (n_units, n_edges), ascending bucket boundaries of each unit.
    """
    zero, positive = histograms.zero, histograms.positive
    edges = np.full((len(zero), n_bins - 1), np.inf, np.float32)
    effective = np.zeros(len(zero), np.int64)
    below = histograms.negative or BucketCounts(0)
    starts = np.zeros((len(zero), 0), np.int64) if among is None else bucket_starts(among)
    _edges(
        zero, positive.low, positive.places, positive.times, below.low, below.places, below.times,
        LOWER_EDGES, starts, edges, effective,
    )  # fmt: skip
    return BinEdges(edges, effective)


def bucket_starts(edges: Float32) -> Counts:
    """Numbers (n_units, n_edges) of the buckets that begin at edges; one more than the last bucket for +inf."""
    return np.searchsorted(LOWER_EDGES, edges)


def unit_masses(histograms: UnitHistograms, unit: int, mass: Counts) -> bool:
    """Fill ``mass`` (2 · N_BUCKETS + 1,) with a unit's counts by bucket; return whether any value is negative."""
    negative = histograms.negative
    mass[:N_BUCKETS] = 0 if negative is None else negative.of_unit(unit)[::-1]
    mass[N_BUCKETS], mass[N_BUCKETS + 1 :] = histograms.zero[unit], histograms.positive.of_unit(unit)
    return bool(mass[:N_BUCKETS].any())


def bin_masses(histograms: UnitHistograms, edges: Float32) -> tuple[Counts, npt.NDArray[np.bool_]]:
    """Samples (n_units, n_bins) in each bin, and whether a unit has negative values (n_units,)."""
    n_units, starts = len(edges), bucket_starts(edges)
    mass, found = np.empty(2 * N_BUCKETS + 1, np.int64), np.empty((n_units, edges.shape[1] + 1), np.int64)
    signed = np.zeros(n_units, np.bool_)
    for unit in range(n_units):
        signed[unit] = unit_masses(histograms, unit, mass)
        below = np.concatenate([[0], np.cumsum(mass)])
        found[unit] = np.diff(below[starts[unit]], prepend=0, append=below[-1])
    return found, signed


def encode(samples: Float32, edges: Float32) -> npt.NDArray[np.uint8]:
    """Bins (n_units, n_samples) uint8 of samples (n_units, n_samples), for edges (n_units, n_bins − 1).

    NaN goes to bin 0; units with NaN are excluded from results.
    """
    codes = np.empty(samples.shape, np.uint8)
    _encode(np.ascontiguousarray(samples), np.ascontiguousarray(edges), codes)
    return codes


def _lower_edges() -> npt.NDArray[np.float32]:
    """Smallest float32 of every bucket by ascending value: negative buckets, zero, positive buckets."""
    positive = bucket_lower_edges()
    positive[0] = _TINY
    above = np.append(bucket_lower_edges()[1:], np.float32(np.inf))
    negative = np.nextafter(-above[::-1], np.float32(np.inf))
    negative[0] = -np.inf
    return np.concatenate([negative, np.zeros(1, np.float32), positive])


LOWER_EDGES = _lower_edges()
"""(2 · N_BUCKETS + 1,) smallest float32 of every bucket."""


def equal_mass_plain(mass: Counts, n_bins: int) -> Counts:
    """The definition: buckets at which bins 1, 2, … start; no bin is empty.

    A bin can start at any occupied bucket but the first. Each quantile offers two candidates, the nearest bucket below
    and above. The chosen combination minimises the sum of squared deviations of the bin masses from their mean.
    (Choosing the nearer candidate for each edge alone leaves bins 50 % more uneven, because both edges of a bin may err
    outwards.)
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
    """Sum of squared deviations of (bin mass · number of bins) from the total; bins start at ``starts``."""
    inner = (np.cumsum(mass) - mass)[starts]
    scaled = np.diff(inner, prepend=0, append=mass.sum()) * (len(starts) + 1) - mass.sum()  # integers: ties are exact
    return float((scaled.astype(np.float64) ** 2).sum())


@njit(nogil=True, boundscheck=False)
def _equal_mass(mass, n_bins, chosen):  # type: ignore[no-untyped-def]
    """:func:`equal_mass_plain` in one pass over buckets and one over edges; fill ``chosen``, return its length."""
    starts = np.empty((n_bins, 2), np.int64)  # the two candidate buckets of every quantile
    inner = np.zeros((n_bins, 2))  # the mass below the candidates
    total, below, k = mass.sum(), 0, 1
    quantile = total / n_bins
    last, last_below = -1, 0  # the last bucket at which a bin can start, and its predecessor
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

    # Dynamic programme: least unevenness of the first bins, by the candidate chosen for the last edge.
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


@njit(nogil=True, boundscheck=False)
def _unit_counts(unit, low, places, times, out):  # type: ignore[no-untyped-def]
    """Fill ``out`` with the counts of one unit; return whether any count is positive."""
    out[:] = low[unit]
    for i in range(np.searchsorted(places, unit * N_BUCKETS), np.searchsorted(places, (unit + 1) * N_BUCKETS)):
        out[places[i] - unit * N_BUCKETS] += times[i] << 16
    return out.any()


@njit(nogil=True, boundscheck=False)
def _join(mass, starts):  # type: ignore[no-untyped-def]
    """Move the mass between two starts to the first of them; what is below the first start goes to the first bucket."""
    total, start, k = 0, 0, 0
    for bucket in range(len(mass)):
        if k < len(starts) and bucket == starts[k]:
            mass[start] = total
            total, start = 0, bucket
            while k < len(starts) and bucket == starts[k]:
                k += 1
        total += mass[bucket]
        mass[bucket] = 0
    mass[start] = total


@njit(nogil=True, boundscheck=False)
def _edges(  # type: ignore[no-untyped-def]
    zero,
    positive,
    positive_places,
    positive_times,
    negative,
    negative_places,
    negative_times,
    lower,
    starts,
    edges,
    effective,
):
    """Fill edges (n_units, n_bins − 1) and the number of occupied bins of every unit."""
    n_bins = edges.shape[1] + 1
    mass = np.zeros(2 * N_BUCKETS + 1, np.int64)  # by ascending value: negative buckets, zero, positive buckets
    below, above = mass[:N_BUCKETS][::-1], mass[N_BUCKETS + 1 :]
    chosen = np.empty(n_bins, np.int64)
    for unit in range(len(zero)):
        mass[N_BUCKETS] = zero[unit]
        any_positive = _unit_counts(unit, positive, positive_places, positive_times, above)
        any_negative = len(negative) and _unit_counts(unit, negative, negative_places, negative_times, below)
        if starts.shape[1]:
            _join(mass, starts[unit])
        if any_negative:
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


@njit(nogil=True, boundscheck=False)
def _encode(samples, edges, codes):  # type: ignore[no-untyped-def]
    for unit in range(samples.shape[0]):
        codes[unit, :] = 0
        for k in range(edges.shape[1]):
            edge = edges[unit, k]
            if edge == np.inf:
                break
            for s in range(samples.shape[1]):
                codes[unit, s] += samples[unit, s] >= edge
