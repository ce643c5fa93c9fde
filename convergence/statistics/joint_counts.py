"""Exact joint counts of all pairs of binned units, by positional popcount.

For every unit y, K − 1 bits of a sample state whether its bin is at least 1, 2, … (thermometer code); the bits of all
units form the sample's row. For every unit x, samples are listed by x's bin, without bin 0, and the rows of each list
are added column by column. Rows consist of vectors of 512 columns. Full adders add sixteen rows at a time to bit-sliced
counters, so a few instructions count 512 columns at once. Differences along the thermometer code give the joint counts.
One additional list, of all samples, gives the marginals and with them the row and column of bin 0. All arithmetic is
integer, so the counts are exact.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

from convergence.kernels.jit import njit
from convergence.kernels.simd import WORDS, add_bits, aligned_zeros, any_bit, load, store, zeros

BLOCK = 8192
"""Samples per block: one vector of each takes half a megabyte, which fits in a second-level cache."""
LOCAL_PLANES = 14
"""Bits of a counter within a block: BLOCK < 2¹⁴."""
PLANES = 40
"""Bits of a counter over all blocks."""
_CHUNK = 256
"""Samples whose thermometer code is assembled at a time, within the first-level cache."""
Codes = npt.NDArray[np.uint8]


class JointCounts:
    """Joint counts of n_x units with n_y units; :func:`tile_bytes` gives the memory.

    Bins are numbered 0 … K − 1; K = ``n_bins`` is 3 to 16.
    """

    def __init__(self, n_x: int, n_y: int, n_bins: int) -> None:
        self.n_x, self.n_y, self.n_bins = n_x, n_y, n_bins
        self.n_samples = 0
        vectors, n_lists = _vectors(n_y, n_bins), n_x + 1  # the last list contains all samples
        self._planes = aligned_zeros((vectors, n_lists, n_bins - 1, PLANES, WORDS))
        self._rows = aligned_zeros((vectors, BLOCK + 1, WORDS))
        self._lists = np.empty((n_lists, BLOCK + 16 * n_bins), np.uint16)
        self._starts = np.empty((n_lists, n_bins), np.int64)
        self._marginals = np.zeros((n_x, n_bins), np.int64)

    def update(self, codes_x: Codes, codes_y: Codes) -> None:
        """Add samples: codes (n_x, n_samples) and (n_y, n_samples) uint8, each below ``n_bins``."""
        for start in range(0, codes_x.shape[1], BLOCK):
            block = slice(start, start + BLOCK)
            _fill_rows(np.ascontiguousarray(codes_y[:, block]), self.n_bins, self._rows)
            _fill_lists(
                np.ascontiguousarray(codes_x[:, block]), self.n_bins, self._lists, self._starts, self._marginals
            )
            _add_block(self._rows, self._lists, self._starts, self._planes)
        self.n_samples += codes_x.shape[1]

    def counts(self, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """(n_x, n_y, K, K) numbers of samples with bin k of x (third axis) and bin l of y (fourth axis).

        Fills ``out`` if it is given, of any integer type that can hold the number of samples; otherwise returns a new
        int64 array.
        """
        if out is None:
            out = np.empty((self.n_x, self.n_y, self.n_bins, self.n_bins), np.int64)
        _expand(self._planes, self.n_samples, self._marginals, out)
        return out


def tile_bytes(n_x: int, n_y: int, n_bins: int) -> int:
    """Bytes of a :class:`JointCounts` of ``n_x`` units with ``n_y`` units, including its result."""
    vectors = _vectors(n_y, n_bins)
    planes = (n_x + 1) * (n_bins - 1) * vectors * PLANES * WORDS * 8
    lists = (n_x + 1) * (BLOCK + 16 * n_bins) * 2
    return planes + vectors * (BLOCK + 1) * WORDS * 8 + lists + n_x * n_y * n_bins**2 * 8 + 65536


def _vectors(n_units: int, n_bins: int) -> int:
    """Vectors per sample row: K − 1 bits of each unit, units in groups of 64."""
    words = (n_units + 63) // 64 * (n_bins - 1)
    return (words + WORDS - 1) // WORDS


def joint_counts_plain(codes_x: Codes, codes_y: Codes, n_bins: int) -> npt.NDArray[np.int64]:
    """The definition: (K, K) counts of two units' codes, each (n_samples,)."""
    pairs = codes_x.astype(np.int64) * n_bins + codes_y
    return np.bincount(pairs, minlength=n_bins**2).reshape(n_bins, n_bins)


@njit(nogil=True, boundscheck=False)
def _fill_rows(codes, n_bins, rows):  # type: ignore[no-untyped-def]
    """Thermometer code of every sample, level by level, 64 units per word; row ``n_samples`` is zero."""
    n_units, n_samples = codes.shape
    groups = (n_units + 63) // 64
    words = np.empty(_CHUNK, np.uint64)
    for start in range(0, n_samples, _CHUNK):
        for group in range(groups):
            for level in range(n_bins - 1):
                words[:] = 0
                for unit in range(64 * group, min(64 * group + 64, n_units)):
                    chunk = codes[unit, start : start + _CHUNK]
                    for s in range(len(chunk)):
                        words[s] |= np.uint64(chunk[s] > np.uint8(level)) << np.uint64(unit % 64)
                vector, word = divmod(level * groups + group, WORDS)
                for s in range(min(_CHUNK, n_samples - start)):
                    rows[vector, start + s, word] = words[s]
    rows[:, n_samples] = 0


@njit(nogil=True, boundscheck=False)
def _fill_lists(codes, n_bins, lists, starts, marginals):  # type: ignore[no-untyped-def]
    """Samples by bin for every x without bin 0; each bin's list is padded to a multiple of 16 with the zero row.

    The last list contains all samples, as if all were in bin 1. ``marginals`` (n_x, K) are incremented.
    """
    n_x, n_samples = codes.shape
    at = np.empty(n_bins, np.int64)
    for x in range(n_x):
        bins, samples = codes[x], lists[x]
        begin = 0
        for k in range(1, n_bins):
            size = 0
            for s in range(n_samples):
                size += bins[s] == np.uint8(k)
            marginals[x, k] += size
            starts[x, k - 1] = at[k] = begin
            end = begin + (size + 15) // 16 * 16
            for i in range(begin + size, end):
                samples[i] = n_samples
            begin = end
        starts[x, n_bins - 1] = at[0] = begin  # bin 0 is written behind the end: cheaper than a branch per sample
        for s in range(n_samples):
            k = bins[s]
            samples[at[k]] = s
            at[k] += 1
    lists[n_x, :n_samples] = np.arange(n_samples)
    lists[n_x, n_samples:] = n_samples
    starts[n_x] = (n_samples + 15) // 16 * 16
    starts[n_x, 0] = 0


# Counters are bit-sliced: bit p of all counters is one vector. Adding two rows to the ones gives a vector of carries of
# weight two; two of these are added to the twos; and so on. Each function below adds rows[at[i]], rows[at[i + 1]], …
# and returns the counters' bits and the final carry.


@nb.njit(inline="always")
def _add_two(rows, at, i, ones):  # type: ignore[no-untyped-def]
    return add_bits(ones, load(rows, at[i]), load(rows, at[i + 1]))


@nb.njit(inline="always")
def _add_four(rows, at, i, ones, twos):  # type: ignore[no-untyped-def]
    ones, a = _add_two(rows, at, i, ones)
    ones, b = _add_two(rows, at, i + 2, ones)
    twos, carry = add_bits(twos, a, b)
    return ones, twos, carry


@nb.njit(inline="always")
def _add_eight(rows, at, i, ones, twos, fours):  # type: ignore[no-untyped-def]
    ones, twos, a = _add_four(rows, at, i, ones, twos)
    ones, twos, b = _add_four(rows, at, i + 4, ones, twos)
    fours, carry = add_bits(fours, a, b)
    return ones, twos, fours, carry


@nb.njit(inline="always")
def _add_sixteen(rows, at, i, ones, twos, fours, eights):  # type: ignore[no-untyped-def]
    ones, twos, fours, a = _add_eight(rows, at, i, ones, twos, fours)
    ones, twos, fours, b = _add_eight(rows, at, i + 8, ones, twos, fours)
    eights, carry = add_bits(eights, a, b)
    return ones, twos, fours, eights, carry


@njit(nogil=True, boundscheck=False)
def _add_block(rows, lists, starts, planes):  # type: ignore[no-untyped-def]
    """Add the rows of every list to its counters, one vector of columns after the other.

    Sixteen rows at a time are added to the bits of weight 1 to 8. Their carries are collected and added likewise,
    sixteen at a time, to the bits of weight 16 to 128. Further carries propagate bit by bit.
    """
    local = np.empty((LOCAL_PLANES, WORDS), np.uint64)
    sixteens = np.empty((BLOCK // 16 + 16, WORDS), np.uint64)
    in_turn = np.arange(len(sixteens)).astype(np.uint16)
    for vector in range(len(rows)):
        for x in range(len(lists)):
            for k in range(planes.shape[2]):
                begin, end = starts[x, k], starts[x, k + 1]
                if begin == end:
                    continue
                ones = twos = fours = eights = zeros()
                n = 0
                for i in range(begin, end, 16):
                    ones, twos, fours, eights, carry = _add_sixteen(
                        rows[vector], lists[x], i, ones, twos, fours, eights
                    )
                    store(sixteens, n, carry)
                    n += 1
                _store_four(local, 0, ones, twos, fours, eights)
                while n % 16:
                    store(sixteens, n, zeros())
                    n += 1

                local[8:] = 0
                ones = twos = fours = eights = zeros()
                for i in range(0, n, 16):
                    ones, twos, fours, eights, carry = _add_sixteen(sixteens, in_turn, i, ones, twos, fours, eights)
                    for p in range(8, LOCAL_PLANES):
                        bit, carry = add_bits(load(local, p), carry, zeros())
                        store(local, p, bit)
                _store_four(local, 4, ones, twos, fours, eights)
                _add_counters(planes[vector, x, k], local)


@nb.njit(inline="always")
def _store_four(table, row, a, b, c, d):  # type: ignore[no-untyped-def]
    store(table, row, a)
    store(table, row + 1, b)
    store(table, row + 2, c)
    store(table, row + 3, d)


@njit(nogil=True, boundscheck=False)
def _add_counters(total, local):  # type: ignore[no-untyped-def]
    """Add a block's counters bit by bit until no carry remains."""
    carry = zeros()
    for p in range(LOCAL_PLANES):
        bit, carry = add_bits(load(total, p), load(local, p), carry)
        store(total, p, bit)
    p = LOCAL_PLANES
    while p < PLANES and any_bit(carry):
        bit, carry = add_bits(load(total, p), carry, zeros())
        store(total, p, bit)
        p += 1


@njit(nogil=True, boundscheck=False)
def _read_counters(planes, n_samples, columns):  # type: ignore[no-untyped-def]
    """Fill ``columns`` with the counts in counters (vectors, PLANES, WORDS) of at most ``n_samples`` samples."""
    columns[:] = 0
    for vector in range(len(planes)):
        for word in range(WORDS):
            begin = (vector * WORDS + word) * 64
            counts = columns[begin : begin + 64]
            p = 0
            while n_samples >> p:
                bits = planes[vector, p, word]
                for column in range(64):
                    counts[column] += np.int64((bits >> np.uint64(column)) & np.uint64(1)) << p
                p += 1


@njit(nogil=True, boundscheck=False)
def _expand(planes, n_samples, marginals_x, counts):  # type: ignore[no-untyped-def]
    """Counts of all bins from the counters: differences along the thermometer code; bin 0 from the marginals."""
    n_x, n_units, n_bins, _ = counts.shape
    columns = np.empty(len(planes) * WORDS * 64, np.int64)
    per_level = (n_units + 63) // 64 * 64
    marginals = np.empty((n_units, n_bins), np.int64)
    _read_counters(planes[:, n_x, 0], n_samples, columns)
    for y in range(n_units):
        marginals[y, 0] = n_samples
        for l in range(1, n_bins):
            at_least = columns[(l - 1) * per_level + y]
            marginals[y, l - 1] -= at_least
            marginals[y, l] = at_least
    for x in range(n_x):
        counts[x, :, 0] = marginals
        for k in range(1, n_bins):
            _read_counters(planes[:, x, k - 1], n_samples, columns)
            for y in range(n_units):
                of_y = counts[x, y]
                of_y[k, 0] = marginals_x[x, k]
                for l in range(1, n_bins):
                    at_least = columns[(l - 1) * per_level + y]
                    of_y[k, l - 1] -= at_least
                    of_y[k, l] = at_least
                for l in range(n_bins):
                    of_y[0, l] -= of_y[k, l]
