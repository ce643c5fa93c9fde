"""Mutual information in nats from joint counts, with bias correction and leave-one-block-out replicates."""

from __future__ import annotations

import numba as nb
import numpy as np
import numpy.typing as npt

from convergence.kernels.jit import njit

Float64 = npt.NDArray[np.float64]
Counts = npt.NDArray[np.integer]
TABLE = 1 << 15
"""Counts below this value have c log c tabulated."""


def mutual_information(counts: Counts, corrected: bool = True) -> Float64:
    """Mutual information (…) in nats of joint counts (…, K, K); 0 without samples.

    The plug-in estimate Σ p log p − Σ pₓ log pₓ − Σ p_y log p_y has a bias of (Kₓ − 1)(K_y − 1) / 2N to first order
    (Miller 1955; Treves & Panzeri 1995, Neural Comput. 7), where Kₓ and K_y are the numbers of occupied bins.
    ``corrected`` subtracts this bias. Corrected values of independent units scatter about 0, so some are negative.

    Li et al. (2016) subtracted K² / (2N ln 2), which is in bits whereas their estimate is in nats, and which counts K²
    cells instead of the (K − 1)² free ones.
    """
    n = counts.sum(axis=(-2, -1)).astype(np.float64)
    x, y = counts.sum(axis=-1), counts.sum(axis=-2)
    sums = _n_log_n(counts).sum(axis=(-2, -1)) - _n_log_n(x).sum(axis=-1) - _n_log_n(y).sum(axis=-1)
    safe = np.maximum(n, 1.0)
    information = sums / safe + np.log(safe)
    if corrected:
        free = ((x > 0).sum(axis=-1) - 1) * ((y > 0).sum(axis=-1) - 1)
        information = information - free / (2.0 * safe)
    return np.asarray(np.where(n > 0, information, 0.0))


def mutual_information_plain(codes_x: npt.ArrayLike, codes_y: npt.ArrayLike) -> float:
    """The definition, Σ p log(p / pₓ p_y), from the bins of two units, each (n_samples,); not corrected."""
    x, y = np.asarray(codes_x), np.asarray(codes_y)
    total = 0.0
    for a in np.unique(x):
        for b in np.unique(y):
            p = np.mean((x == a) & (y == b))
            if p > 0:
                total += p * np.log(p / (np.mean(x == a) * np.mean(y == b)))
    return float(total)


def leave_one_out(block_counts: Counts) -> tuple[Float64, Float64]:
    """Mutual information of all samples, (n_x, n_y), and without each block of samples, (n_blocks, n_x, n_y).

    ``block_counts`` are (n_blocks, n_x, n_y, K, K). Estimates are corrected. Compiled, with a table of c log c.
    """
    n_blocks, n_x, n_y = block_counts.shape[:3]
    estimate, without = np.empty((n_x, n_y)), np.empty((n_blocks, n_x, n_y))
    _leave_one_out(np.ascontiguousarray(block_counts), _n_log_n(np.arange(TABLE)), estimate, without)
    return estimate, without


def without_bias(estimate: npt.ArrayLike, without: npt.ArrayLike) -> Float64:
    """Mutual information (…) less its jackknife bias, B·I − (B − 1)·mean of ``without`` (n_blocks, …).

    The correction of :func:`mutual_information` takes samples as independent. Positions of one image are not: where a
    map is constant, an image is one sample however many positions it has. Blocks hold whole images, so what the
    estimate gains for want of a block is the bias of the images (Quenouille 1956, Biometrika 43). What is left is of
    second order: with fewer than three images a pair of bins it is not small.
    """
    blocks = np.asarray(without, dtype=np.float64)
    n_blocks = len(blocks)
    return np.asarray(n_blocks * np.asarray(estimate) - (n_blocks - 1) * blocks.mean(axis=0))


def leave_one_out_plain(block_counts: Counts) -> tuple[Float64, Float64]:
    """The definition of :func:`leave_one_out`."""
    total = block_counts.sum(axis=0)
    return mutual_information(total), np.array([mutual_information(total - block) for block in block_counts])


def _n_log_n(counts: Counts) -> Float64:
    values = counts.astype(np.float64)
    return np.asarray(values * np.log(np.maximum(values, 1.0)))


@njit(nogil=True)
def _information(counts, table):  # type: ignore[no-untyped-def]
    """Corrected mutual information of one (K, K) table of counts."""
    bins = counts.shape[0]
    n, cells, margins = 0, 0.0, 0.0
    columns = np.zeros(bins, np.int64)
    used_rows, used_columns = 0, 0
    for k in range(bins):
        row = 0
        for l in range(bins):
            count = counts[k, l]
            row += count
            columns[l] += count
            cells += _times_log(count, table)
        n += row
        used_rows += row > 0
        margins += _times_log(row, table)
    for l in range(bins):
        used_columns += columns[l] > 0
        margins += _times_log(columns[l], table)
    if n == 0:
        return 0.0
    return (cells - margins) / n + np.log(n) - (used_rows - 1) * (used_columns - 1) / (2.0 * n)


@nb.njit(inline="always")
def _times_log(count, table):  # type: ignore[no-untyped-def]
    return table[count] if count < len(table) else count * np.log(count)


@njit(nogil=True)
def _leave_one_out(blocks, table, estimate, without):  # type: ignore[no-untyped-def]
    n_blocks, n_x, n_y, bins, _ = blocks.shape
    total, part = np.empty((bins, bins), np.int64), np.empty((bins, bins), np.int64)
    for x in range(n_x):
        for y in range(n_y):
            total[:] = 0
            for b in range(n_blocks):
                total += blocks[b, x, y]
            estimate[x, y] = _information(total, table)
            for b in range(n_blocks):
                part[:] = total - blocks[b, x, y]
                without[b, x, y] = _information(part, table)
