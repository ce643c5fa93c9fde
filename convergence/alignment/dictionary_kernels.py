"""Compiled steps of :mod:`convergence.alignment.dictionaries`: candidates of blocks, and matching of sparse graphs."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np

from convergence.kernels.jit import njit

Array = Any  # a numpy array here, numba's array type in compiled code
_jit = njit(nogil=True)


@_jit
def _keep(value: Any, index: int, values: Array, indices: Array) -> None:
    """Put a similarity in the place of the smallest one, which is in slot 0 (a binary heap)."""
    size, at = len(values), 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and values[child + 1] < values[child]:
            child += 1
        if values[child] >= value:
            break
        values[at], indices[at] = values[child], indices[child]
        at = child
    values[at], indices[at] = value, index


@_jit
def merge_block(block: Array, first: int, value_x: Array, index_x: Array, value_y: Array, index_y: Array) -> None:
    """Keep the largest positive similarities of a block (n_rows, n_y) of x from ``first``, by row and by column."""
    for row in range(block.shape[0]):
        x = first + row
        for y in range(block.shape[1]):
            value = block[row, y]
            if value > value_x[x, 0]:
                _keep(value, y, value_x[x], index_x[x])
            if value > value_y[y, 0]:
                _keep(value, x, value_y[y], index_y[y])


@_jit
def code_rows(
    starts_x: Array, tokens_x: Array, data_x: Array, starts_y: Array, latents_y: Array, data_y: Array, n_tokens: int,
    mean_x: Array, scale_x: Array, mean_y: Array, scale_y: Array,
    value_x: Array, index_x: Array, value_y: Array, index_y: Array,
) -> None:  # fmt: skip
    """Keep the largest positive correlations; x by latent (CSC), y by token (CSR).

    Latents that are never active on the same token have a correlation below 0.
    """
    n_y = len(mean_y)
    products = np.zeros(n_y)
    met = np.empty(n_y, dtype=np.int64)
    for x in range(len(mean_x)):
        n_met = 0
        for at in range(starts_x[x], starts_x[x + 1]):
            token, own = tokens_x[at], np.float64(data_x[at])
            for other in range(starts_y[token], starts_y[token + 1]):
                y = latents_y[other]
                if products[y] == 0.0:
                    met[n_met] = y
                    n_met += 1
                products[y] += own * np.float64(data_y[other])
        for at in range(n_met):
            y = met[at]
            value = np.float32((products[y] / n_tokens - mean_x[x] * mean_y[y]) * scale_x[x] * scale_y[y])
            products[y] = 0.0
            if value > value_x[x, 0]:
                _keep(value, y, value_x[x], index_x[x])
            if value > value_y[y, 0]:
                _keep(value, x, value_y[y], index_y[y])


@_jit
def assign(starts: Array, columns: Array, values: Array, n_y: int) -> tuple[Array, Array]:
    """Partner of each row, -1 for none, and its potential, of the matching with the largest sum of similarities.

    Potentials u of rows and v of columns are at least 0, u + v is at least the similarity of every pair and equal to it
    for matched pairs, and rows and columns without partner have potential 0: so the matching is optimal. Each row
    without partner is joined by the cheapest alternating path to a free column, or to a row that is better left alone.
    """
    n_x = len(starts) - 1
    partner, owner = np.full(n_x, -1, dtype=np.int64), np.full(n_y, -1, dtype=np.int64)
    u, v = np.zeros(n_x), np.zeros(n_y)
    for x in range(n_x):
        best = -1
        for at in range(starts[x], starts[x + 1]):
            if values[at] > u[x]:
                u[x], best = values[at], columns[at]
        if best >= 0 and owner[best] < 0:
            partner[x], owner[best] = best, x
    distance = np.full(n_y, np.inf)
    origin = np.empty(n_y, dtype=np.int64)  # row from which a column is reached
    done = np.zeros(n_y, dtype=np.bool_)
    touched = np.empty(n_y, dtype=np.int64)
    for root in range(n_x):
        if partner[root] >= 0 or u[root] == 0.0:
            continue
        n_touched = 0
        best_cost, last_row, last_column = u[root], root, -1  # leave the root alone
        heap = [(0.0, np.int64(-1))]
        heap.pop()
        row: Any = np.int64(root)
        reached = 0.0
        while True:
            for at in range(starts[row], starts[row + 1]):
                y = columns[at]
                cost = reached + max(u[row] + v[y] - values[at], 0.0)
                if cost < distance[y] and cost < best_cost:
                    if distance[y] == np.inf:
                        touched[n_touched] = y
                        n_touched += 1
                    distance[y], origin[y] = cost, row
                    heapq.heappush(heap, (cost, y))
            found: Any = np.int64(-1)
            while len(heap) > 0:
                cost, y = heapq.heappop(heap)
                if cost >= best_cost:
                    break
                if not done[y] and cost == distance[y]:
                    found = y
                    break
            if found < 0:
                break
            done[found] = True
            reached = distance[found]
            if owner[found] < 0:
                best_cost, last_row, last_column = reached, -1, found
                break
            row = owner[found]
            if reached + u[row] < best_cost:  # this row gives up its partner
                best_cost, last_row, last_column = reached + u[row], row, -1
        # Potentials: rows and columns nearer than the end of the path.
        u[root] -= best_cost
        for at in range(n_touched):
            y = touched[at]
            if done[y] and distance[y] < best_cost:
                v[y] += best_cost - distance[y]
                if owner[y] >= 0:
                    u[owner[y]] -= best_cost - distance[y]
        if last_column < 0:
            u[last_row] = 0.0
            column = partner[last_row]
            partner[last_row] = -1
        else:
            column = last_column
        while last_row != root and column >= 0:
            row = origin[column]
            column_before = partner[row]
            partner[row], owner[column] = column, row
            if row == root:
                break
            column = column_before
        for at in range(n_touched):
            distance[touched[at]] = np.inf
            done[touched[at]] = False
    return partner, u
