"""Fine bins from a pilot, which are joined to bins of equal mass once all images have been read.

Values are binned while images are read, and bins of equal mass are known afterwards. A pilot of some images therefore
divides each unit's values into up to 255 fine bins, dense where the pilot expects an edge. Bin numbers of fine bins are
stored. The histograms of all images then give the exact mass of every fine bin, and neighbouring fine bins are joined.

All edges are bucket boundaries (:mod:`convergence.statistics.histograms`), so a table of buckets gives the bin number
of a value. The edge above the zeros of a rectified unit is fixed.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from convergence.kernels.jit import njit
from convergence.statistics.bin_edges import LOWER_EDGES, BinEdges, bin_masses, equal_mass_bins, unit_masses
from convergence.statistics.histograms import FIRST_BUCKET, MANTISSA_BITS, N_BUCKETS, PATTERN_SHIFT, UnitHistograms

Float32 = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]
FINE_EDGES = 254
"""Edges between fine bins; the number of the last fine bin fits eight bits."""
NEVER = 255
"""Threshold that no number of a fine bin reaches."""
DEVIATIONS = 3.5
"""Distance from an expected edge, in its standard deviations, within which fine bins are dense. Each image counts as
one sample, because positions of an image are dependent."""
DENSE = 0.8
"""Share of the fine bins in these ranges; the others have equal mass in the pilot."""
MARGIN = 2 << MANTISSA_BITS
"""Buckets below and above the pilot's values, two octaves, that have fine bins."""
LEAST_SAMPLES = 16
"""Weight of evenly spaced fine bins, in samples, beside a sixteenth of the pilot's samples."""
CONTINUOUS = 0.01
"""A unit is continuous if its bins could have equal mass within this relative difference, which is a sample or more."""
FEW = 1024
"""Samples of a unit at a time from which on a table of all buckets is faster than a search."""
_CHUNK = 1024


def fine_edges(histograms: UnitHistograms, n_bins: int, n_images: int) -> Float32:
    """Edges (n_units, FINE_EDGES) of fine bins, ascending, from the histograms of ``n_images`` images of a pilot.

    They prepare ``n_bins`` bins of equal mass. Entries are +inf where a unit has fewer edges.
    """
    edges = np.full((len(histograms.zero), FINE_EDGES), np.inf, np.float32)
    mass = np.zeros(2 * N_BUCKETS + 1, np.int64)
    for unit in range(len(edges)):
        signed = unit_masses(histograms, unit, mass)
        _fine_edges(mass, signed, n_bins, float(n_images), edges[unit])
    return edges


def join_bins(histograms: UnitHistograms, fine: Float32, n_bins: int) -> BinEdges:
    """Bins of nearly equal mass of the values of all images, whose edges are among those of fine bins."""
    return equal_mass_bins(histograms, n_bins, fine)


def encode_fine(samples: Float32, edges: Float32) -> Codes:
    """Numbers of fine bins (n_units, n_samples): edges at or below a value; 0 for NaN."""
    codes = np.empty(samples.shape, np.uint8)
    patterns = np.ascontiguousarray(samples, np.float32).view(np.int32)
    if samples.shape[1] < FEW:
        _search(np.ascontiguousarray(samples), edges, codes)
    else:
        _look_up(patterns, edges, codes)
    return codes


def thresholds(fine: Float32, edges: Float32) -> Codes:
    """(n_units, n_bins − 1) numbers of the first fine bin of bins 1, 2, …; NEVER for bins that a unit does not have."""
    found = np.full(edges.shape, NEVER, np.uint8)
    for k in range(edges.shape[1]):
        first = (fine < edges[:, k, None]).sum(axis=1) + 1
        found[:, k] = np.where(np.isfinite(edges[:, k]), first, NEVER)
    return found


def join_codes(codes: Codes, first: Codes) -> Codes:
    """Bins (n_units, n_samples) of numbers of fine bins, for the thresholds of these units."""
    joined = np.zeros_like(codes)
    _join_codes(codes, first, joined)
    return joined


def bin_error(histograms: UnitHistograms, bins: BinEdges) -> float:
    """Largest relative difference of a bin's mass from equal masses, of units with continuous values.

    Zeros of a rectified unit are in bin 0, which is left out. NaN without such a unit.
    """
    n_bins = bins.edges.shape[1] + 1
    best = equal_mass_bins(histograms, n_bins)
    least, mass = _errors(histograms, best)
    continuous = np.isfinite(best.edges[:, -1]) & (least <= CONTINUOUS) & (mass * CONTINUOUS >= 1)
    return float(_errors(histograms, bins)[0][continuous].max()) if continuous.any() else math.nan


def _errors(histograms: UnitHistograms, bins: BinEdges) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(n_units,) largest relative differences from equal masses, and the equal masses."""
    masses, signed = bin_masses(histograms, bins.edges)
    n_bins = masses.shape[1] - 1 + signed
    of_bins = np.where(signed[:, None] | (np.arange(masses.shape[1]) > 0), masses, 0)
    equal = of_bins.sum(axis=1) / n_bins
    relative = np.abs(of_bins / np.maximum(equal, 1.0)[:, None] - 1.0)
    relative[~signed, 0] = 0.0
    return relative.max(axis=1), equal


@njit(nogil=True, boundscheck=False)
def _covered(rank, n_bins, n_images):  # type: ignore[no-untyped-def]
    """Share of the dense ranges below a rank from 0 to 1, each range counted alike."""
    total = 0.0
    for k in range(1, n_bins):
        q = k / n_bins
        half = DEVIATIONS * math.sqrt(q * (1 - q) / n_images)
        total += min(max((rank - q + half) / (2 * half), 0.0), 1.0)
    return total / (n_bins - 1)


@njit(nogil=True, boundscheck=False)
def _fine_edges(mass, signed, n_bins, n_images, edges):  # type: ignore[no-untyped-def]
    """Fill the edges of one unit from its masses by bucket."""
    n, first_bucket = 0, 0
    if not signed:
        edges[0] = LOWER_EDGES[N_BUCKETS + 1]
        n, first_bucket, n_bins = 1, N_BUCKETS + 1, n_bins - 1
    total, low, high = 0, len(mass), -1
    for bucket in range(first_bucket, len(mass)):
        if mass[bucket]:
            total += mass[bucket]
            low, high = min(low, bucket), bucket
    if total == 0:
        low, high = first_bucket, len(mass) - 1
    elif not signed:
        n_images = max(n_images * (total / (total + mass[N_BUCKETS])), 1.0)
    last = low - 1
    low, high = max(low - MARGIN, first_bucket), min(high + MARGIN, len(mass) - 1)
    even = total / 16 + LEAST_SAMPLES
    even_share = even / (total + even)
    room = len(edges) - n
    weight, of_pilot, below, target = 0.0, 0.0, 0, 1
    covered, following = _covered(0.0, n_bins, n_images), last
    for bucket in range(low, high + 1):
        if n < len(edges) and weight * (room + 1) >= target:
            edges[n] = LOWER_EDGES[bucket]
            n += 1
            target = int(weight * (room + 1)) + 1
        if bucket == following + 1:  # the weight up to the next value of the pilot is spread evenly
            following = bucket
            while following <= high and not mass[following]:
                following += 1
            of_pilot = 0.0
            if following <= high:
                now = _covered((below + mass[following]) / total, n_bins, n_images)
                of_pilot = DENSE * (now - covered) + (1 - DENSE) * mass[following] / total
                of_pilot *= (1 - even_share) / (following + 1 - bucket)
                below += mass[following]
                covered = now
        weight += even_share / (high + 1 - low) + of_pilot


@njit(nogil=True, boundscheck=False)
def _search(samples, edges, codes):  # type: ignore[no-untyped-def]
    n_edges = edges.shape[1]
    for unit in range(samples.shape[0]):
        row = edges[unit]
        for s in range(samples.shape[1]):
            value = samples[unit, s]
            low, high = 0, n_edges
            while low < high:
                middle = (low + high) >> 1
                if value >= row[middle] and row[middle] < np.inf:
                    low = middle + 1
                else:
                    high = middle
            codes[unit, s] = low


@njit(nogil=True, boundscheck=False)
def _place(pattern):  # type: ignore[no-untyped-def]
    """Number of a value's bucket by ascending value, from its bits; one more than the last bucket for NaN."""
    magnitude = pattern & np.int32(0x7FFFFFFF)
    bucket = min(
        max((magnitude >> np.int32(PATTERN_SHIFT)) - np.int32(FIRST_BUCKET), np.int32(0)), np.int32(N_BUCKETS - 1)
    )
    sign = pattern >> np.int32(31)
    place = np.int32(N_BUCKETS) + (((bucket + np.int32(1)) ^ sign) - sign) * np.int32(magnitude != np.int32(0))
    return np.int32(2 * N_BUCKETS + 1) if magnitude > np.int32(0x7F800000) else place


@njit(nogil=True, boundscheck=False)
def _look_up(patterns, edges, codes):  # type: ignore[no-untyped-def]
    bits = edges.view(np.int32)
    table = np.zeros(2 * N_BUCKETS + 2, np.uint8)
    places = np.empty(_CHUNK, np.int32)
    for unit in range(patterns.shape[0]):
        begin = 0
        for k in range(edges.shape[1] + 1):
            is_edge = k < edges.shape[1] and edges[unit, k] < np.inf
            end = int(_place(bits[unit, k])) if is_edge else 2 * N_BUCKETS + 1
            table[begin:end] = k
            begin = end
            if not is_edge:
                break
        for start in range(0, patterns.shape[1], _CHUNK):
            chunk, out = patterns[unit, start : start + _CHUNK], codes[unit, start : start + _CHUNK]
            for s in range(len(chunk)):
                places[s] = _place(chunk[s])
            for s in range(len(chunk)):
                out[s] = table[places[s]]


@njit(nogil=True, boundscheck=False)
def _join_codes(codes, first, joined):  # type: ignore[no-untyped-def]
    for unit in range(codes.shape[0]):
        of_unit, out = codes[unit], joined[unit]
        for k in range(first.shape[1]):
            threshold = first[unit, k]
            for s in range(len(of_unit)):
                out[s] += np.uint8(of_unit[s] >= threshold)
