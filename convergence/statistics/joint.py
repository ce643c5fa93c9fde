"""Joint counts of all pairs of binned units, exactly, by positional popcount over buckets.

For every unit y, K − 1 bits of a sample say "its bin is at least 1, 2, …" (a thermometer); the bits of all units side
by side are the sample's row. For every unit x the samples are listed by x's bin, those in bin 0 left out, and for each
list the rows are added column by column. Carry-save adders take sixteen rows at a time into bit-sliced counters, so
that one machine word counts 64 columns at once. Differences along the thermometer give the joint counts; the row and
column of bin 0 follow from the marginals. All of it is integer arithmetic: the counts are exact.
"""

from __future__ import annotations

import numba as nb
import numpy as np
import numpy.typing as npt

BLOCK = 8192
"""Samples whose rows are held at a time."""
WORDS = 16
"""Words of a tile of columns: fixed, so that the compiler unrolls over it; two cache lines."""
LOCAL_PLANES = 14
"""Bits of a counter within a block: BLOCK < 2¹⁴."""
PLANES = 40
"""Bits of a counter over all blocks."""
Codes = npt.NDArray[np.uint8]


class JointCounts:
    """Counts of the pairs of units x₀ … x₁ − 1 with all units; see :func:`tile_bytes` for the memory that it takes.

    Parameters
    ----------
    n_units : units of the joined axis
    n_bins : bins K, 3 to 16; codes are 0 … K − 1
    x0, x1 : the tile of units
    """

    def __init__(self, n_units: int, n_bins: int, x0: int, x1: int) -> None:
        self.n_units, self.n_bins, self.x0, self.x1 = n_units, n_bins, x0, x1
        self.n_samples = 0
        self._groups = (n_units + 63) // 64
        tiles = _column_tiles(n_units, n_bins)
        n_x = x1 - x0
        self._marginals = np.zeros((n_units, n_bins), np.int64)
        self._planes = np.zeros((n_x, n_bins - 1, tiles, PLANES, WORDS), np.uint64)
        self._rows = np.empty((tiles, BLOCK + 1, WORDS), np.uint64)
        self._lists = np.empty((n_x, BLOCK + 16 * n_bins), np.uint16)
        self._starts = np.empty((n_x, n_bins), np.int64)

    def update(self, codes: Codes) -> None:
        """Add samples: codes (n_units, n_samples) uint8, each below ``n_bins``."""
        for start in range(0, codes.shape[1], BLOCK):
            block = np.ascontiguousarray(codes[:, start : start + BLOCK])
            _fill_rows(block, self.n_bins, self._rows, self._marginals)
            _fill_lists(block[self.x0 : self.x1], self.n_bins, self._lists, self._starts)
            _add_block(self._rows, block.shape[1], self._lists, self._starts, self._planes)
            self.n_samples += block.shape[1]

    def counts(self) -> npt.NDArray[np.int64]:
        """(x1 − x0, n_units, K, K) samples with bin k of x (third axis) and bin l of y (fourth)."""
        n_x, k = self.x1 - self.x0, self.n_bins
        inner = np.empty((n_x, self.n_units, k, k), np.int64)
        _expand(self._planes, self._groups, inner)
        inner[:, :, 1:, 0] = self._marginals[self.x0 : self.x1, None, 1:] - inner[:, :, 1:, 1:].sum(axis=3)
        inner[:, :, 0, 1:] = self._marginals[None, :, 1:] - inner[:, :, 1:, 1:].sum(axis=2)
        inner[:, :, 0, 0] = self._marginals[self.x0 : self.x1, None, 0] - inner[:, :, 0, 1:].sum(axis=2)
        return inner


def tile_bytes(n_x: int, n_units: int, n_bins: int) -> int:
    """Memory of a :class:`JointCounts` of ``n_x`` units with ``n_units``, its result included."""
    tiles = _column_tiles(n_units, n_bins)
    planes = n_x * (n_bins - 1) * tiles * PLANES * WORDS * 8
    return planes + tiles * (BLOCK + 1) * WORDS * 8 + n_x * BLOCK * 2 + 2 * n_x * n_units * n_bins**2 * 8


def _column_tiles(n_units: int, n_bins: int) -> int:
    """Tiles of ``WORDS`` words that hold a sample's row: K − 1 bits of each unit, units in groups of 64."""
    words = (n_units + 63) // 64 * (n_bins - 1)
    return (words + WORDS - 1) // WORDS


def joint_counts_plain(codes_x: Codes, codes_y: Codes, n_bins: int) -> npt.NDArray[np.int64]:
    """The definition: (K, K) counts of two units' codes, each (n_samples,)."""
    pairs = codes_x.astype(np.int64) * n_bins + codes_y
    return np.bincount(pairs, minlength=n_bins**2).reshape(n_bins, n_bins)


@nb.njit(cache=True, nogil=True, boundscheck=False)
def _fill_rows(codes, n_bins, rows, marginals):  # type: ignore[no-untyped-def]
    """Thermometer bits of every sample, level by level, 64 units a word; row ``n_samples`` is zero."""
    n_units, n_samples = codes.shape
    groups = (n_units + 63) // 64
    rows[:, : n_samples + 1, :] = 0
    for unit in range(n_units):
        bit = np.uint64(1) << np.uint64(unit % 64)
        for s in range(n_samples):
            code = codes[unit, s]
            marginals[unit, code] += 1
            for level in range(code):
                word = level * groups + unit // 64
                rows[word // WORDS, s, word % WORDS] |= bit


@nb.njit(cache=True, nogil=True, boundscheck=False)
def _fill_lists(codes, n_bins, lists, starts):  # type: ignore[no-untyped-def]
    """Samples by bin for every x, bin 0 left out, each bin's list filled up to sixteens with the row of zeros."""
    n_x, n_samples = codes.shape
    at = np.zeros(n_bins, np.int64)
    for x in range(n_x):
        sizes = np.zeros(n_bins, np.int64)
        for s in range(n_samples):
            sizes[codes[x, s]] += 1
        begin = 0
        for k in range(1, n_bins):
            starts[x, k - 1] = begin
            at[k] = begin
            end = begin + (sizes[k] + 15) // 16 * 16
            for t in range(begin + sizes[k], end):
                lists[x, t] = n_samples
            begin = end
        starts[x, n_bins - 1] = begin
        for s in range(n_samples):
            k = codes[x, s]
            if k:
                lists[x, at[k]] = s
                at[k] += 1


@nb.njit(inline="always")
def _sum(a, b, c):  # type: ignore[no-untyped-def]
    return a ^ b ^ c


@nb.njit(inline="always")
def _carry(a, b, c):  # type: ignore[no-untyped-def]
    return (a & b) | (c & (a ^ b))


@nb.njit(cache=True, nogil=True, boundscheck=False)
def _add_sixteen(rows, r, counter, overflow):  # type: ignore[no-untyped-def]
    """Add sixteen rows to a four-bit counter of every column; ``overflow`` gets the carries, of weight sixteen."""
    a0, a1, a2, a3, a4, a5, a6, a7 = r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7]
    b0, b1, b2, b3, b4, b5, b6, b7 = r[8], r[9], r[10], r[11], r[12], r[13], r[14], r[15]
    for w in range(WORDS):
        one, two, four, eight = counter[0, w], counter[1, w], counter[2, w], counter[3, w]
        p = _carry(one, rows[a0, w], rows[a1, w])
        one = _sum(one, rows[a0, w], rows[a1, w])
        q = _carry(one, rows[a2, w], rows[a3, w])
        one = _sum(one, rows[a2, w], rows[a3, w])
        u = _carry(two, p, q)
        two = _sum(two, p, q)
        p = _carry(one, rows[a4, w], rows[a5, w])
        one = _sum(one, rows[a4, w], rows[a5, w])
        q = _carry(one, rows[a6, w], rows[a7, w])
        one = _sum(one, rows[a6, w], rows[a7, w])
        v = _carry(two, p, q)
        two = _sum(two, p, q)
        y = _carry(four, u, v)
        four = _sum(four, u, v)
        p = _carry(one, rows[b0, w], rows[b1, w])
        one = _sum(one, rows[b0, w], rows[b1, w])
        q = _carry(one, rows[b2, w], rows[b3, w])
        one = _sum(one, rows[b2, w], rows[b3, w])
        u = _carry(two, p, q)
        two = _sum(two, p, q)
        p = _carry(one, rows[b4, w], rows[b5, w])
        one = _sum(one, rows[b4, w], rows[b5, w])
        q = _carry(one, rows[b6, w], rows[b7, w])
        one = _sum(one, rows[b6, w], rows[b7, w])
        v = _carry(two, p, q)
        two = _sum(two, p, q)
        z = _carry(four, u, v)
        four = _sum(four, u, v)
        overflow[w] = _carry(eight, y, z)
        counter[0, w], counter[1, w], counter[2, w], counter[3, w] = one, two, four, _sum(eight, y, z)


@nb.njit(cache=True, nogil=True, boundscheck=False)
def _add_block(rows, n_samples, lists, starts, planes):  # type: ignore[no-untyped-def]
    """Count a block's rows over every list, and add the counts to the bit-sliced counters of all blocks."""
    local = np.zeros((LOCAL_PLANES, WORDS), np.uint64)
    sixteens = np.zeros((BLOCK // 16 + 16, WORDS), np.uint64)
    over = np.zeros(WORDS, np.uint64)
    counted = np.arange(BLOCK // 16 + 16).astype(np.uint16)
    for tile in range(rows.shape[0]):
        tile_rows = rows[tile]
        for x in range(lists.shape[0]):
            for k in range(planes.shape[1]):
                begin, end = starts[x, k], starts[x, k + 1]
                if begin == end:
                    continue
                local[:] = 0
                n_first = (end - begin) // 16
                for g in range(n_first):
                    _add_sixteen(tile_rows, lists[x, begin + 16 * g : begin + 16 * g + 16], local, sixteens[g])
                n_second = (n_first + 15) // 16
                sixteens[n_first : 16 * n_second] = 0
                for g in range(n_second):
                    _add_sixteen(sixteens, counted[16 * g : 16 * g + 16], local[4:8], over)
                    for p in range(8, LOCAL_PLANES):
                        for w in range(WORDS):
                            carry = over[w]
                            over[w] = local[p, w] & carry
                            local[p, w] ^= carry
                _add_counters(local, planes[x, k, tile], over)


@nb.njit(cache=True, nogil=True, boundscheck=False)
def _add_counters(local, total, carry):  # type: ignore[no-untyped-def]
    """Add bit-sliced counters, plane by plane, until no carry is left."""
    carry[:] = 0
    for p in range(LOCAL_PLANES):
        for w in range(WORDS):
            a, b, c = total[p, w], local[p, w], carry[w]
            total[p, w] = _sum(a, b, c)
            carry[w] = _carry(a, b, c)
    for p in range(LOCAL_PLANES, PLANES):
        left = np.uint64(0)
        for w in range(WORDS):
            c = carry[w]
            carry[w] = total[p, w] & c
            total[p, w] ^= c
            left |= carry[w]
        if left == 0:
            break


@nb.njit(cache=True, nogil=True, boundscheck=False)
def _expand(planes, groups, out):  # type: ignore[no-untyped-def]
    """Counters to counts of bins 1 … of x and y: differences along the thermometer."""
    n_x, n_units, n_bins = out.shape[0], out.shape[1], out.shape[2]
    for x in range(n_x):
        for y in range(n_units):
            for k in range(n_bins - 1):
                above = np.int64(0)
                for level in range(n_bins - 2, -1, -1):
                    word = level * groups + y // 64
                    at_least = np.int64(0)
                    for p in range(PLANES):
                        bit = (planes[x, k, word // WORDS, p, word % WORDS] >> np.uint64(y % 64)) & np.uint64(1)
                        at_least += np.int64(bit) << p
                    out[x, y, k + 1, level + 1] = at_least - above
                    above = at_least
