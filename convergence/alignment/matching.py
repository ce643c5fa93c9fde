"""Alignment of single units of two layers: semi-matching (with replacement) and matching (one-to-one)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from convergence.errors import UserError

Matrix = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Matching:
    """A one-to-one assignment: unit ``rows[k]`` of x is matched with unit ``columns[k]`` of y.

    ``rows`` is ascending. ``values`` are the similarities of the pairs, and ``mean`` is their mean. If the layers
    differ in width, ``unmatched_rows`` or ``unmatched_columns`` lists the unmatched units of the wider layer.
    """

    rows: Indices
    columns: Indices
    values: Matrix
    mean: float
    unmatched_rows: Indices
    unmatched_columns: Indices


@dataclass(frozen=True, eq=False)
class Overlap:
    """Agreement of semi-matching and matching.

    ``share``: share of the matched units of x with the same partner in both. ``in_degree`` (n_y,): number of times that
    semi-matching chooses each unit of y. ``never_chosen``: units of y that semi-matching never chooses. ``mutual``
    (n_mutual, 2): pairs of units that are each other's most similar unit.
    """

    share: float
    in_degree: Indices
    never_chosen: Indices
    mutual: Indices


def semi_matching(similarity: ArrayLike) -> Indices:
    """Match every unit of x with the most similar unit of y, with replacement (Li et al. 2016, section 3).

    Parameters
    ----------
    similarity : (n_x, n_y)
        Signed similarities. Ties go to the lowest index.

    Returns
    -------
    (n_x,) indices of units of y.

    Raises
    ------
    UserError
        if the matrix is empty or has NaN or infinite values.
    """
    return np.argmax(checked_similarities(similarity), axis=1)


def matching(similarity: ArrayLike) -> Matching:
    """Match units one-to-one with the largest total similarity (Li et al. 2016, section 3).

    ``similarity`` is (n_x, n_y), of any widths; raises as :func:`semi_matching`.
    """
    matrix = checked_similarities(similarity)
    rows, columns = linear_sum_assignment(matrix, maximize=True)
    values = matrix[rows, columns]
    return Matching(
        rows=rows,
        columns=columns,
        values=values,
        mean=float(values.mean()),
        unmatched_rows=_others(matrix.shape[0], rows),
        unmatched_columns=_others(matrix.shape[1], columns),
    )


def _others(n: int, units: Indices) -> Indices:
    """The units out of ``n`` that are not among some different units, ascending."""
    if len(units) == n:
        return np.zeros(0, dtype=np.intp)
    left = np.ones(n, dtype=bool)
    left[units] = False
    return np.flatnonzero(left)


def overlap(similarity: ArrayLike, one_to_one: Matching | None = None) -> Overlap:
    """Compare semi-matching and matching of (n_x, n_y) similarities; raises as :func:`semi_matching`."""
    matrix = checked_similarities(similarity)
    best_y = semi_matching(matrix)
    best_x = np.argmax(matrix, axis=0)
    one_to_one = matching(matrix) if one_to_one is None else one_to_one
    in_degree = np.bincount(best_y, minlength=matrix.shape[1])
    units = np.arange(matrix.shape[0])
    mutual = units[best_x[best_y] == units]
    return Overlap(
        share=float(np.mean(best_y[one_to_one.rows] == one_to_one.columns)),
        in_degree=in_degree,
        never_chosen=np.flatnonzero(in_degree == 0),
        mutual=np.stack([mutual, best_y[mutual]], axis=1),
    )


def aligned_order(similarity: ArrayLike) -> tuple[Indices, Indices]:
    """Order the units of x and y so that matched pairs are on the diagonal, the most similar first.

    Returns
    -------
    order_x (n_x,), order_y (n_y,) : permutations
        ``similarity[order_x][:, order_y]`` has the pairs on its main diagonal; unmatched units come last, by descending
        largest similarity.
    """
    matrix = checked_similarities(similarity)
    found = matching(matrix)
    strongest = np.argsort(-found.values, kind="stable")
    rest_x = found.unmatched_rows[np.argsort(-matrix[found.unmatched_rows].max(axis=1), kind="stable")]
    rest_y = found.unmatched_columns[np.argsort(-matrix[:, found.unmatched_columns].max(axis=0), kind="stable")]
    return np.concatenate([found.rows[strongest], rest_x]), np.concatenate([found.columns[strongest], rest_y])


def cycle_order(one_to_one: Matching, n_x: int, n_y: int) -> tuple[Indices, Indices]:
    """Order units along the cycles of i -> partner(i), as in figure 1d of Li et al. 2016.

    A unit of x and the unit of y with the same index form one node, and the assignment maps a node to the next. For two
    layers of equal width, all matched, the nodes form cycles. With unmatched units there are also chains. A chain
    starts at a unit of x whose index is no matched unit of y, and ends at a unit of y whose index is no matched unit of
    x.

    Returns
    -------
    order_x (n_x,), order_y (n_y,) : permutations
        In ``similarity[order_x][:, order_y]``, with c nodes on cycles and m matched pairs:

        * ``order_x[:c]`` equals ``order_y[:c]``. A cycle is one block s … e - 1. Its pairs are at (k, k + 1), on the
          first superdiagonal, except for the last pair, which wraps to (e - 1, s). A unit matched with its own index is
          a block of one, on the main diagonal.
        * Pairs of chains are at (k, k) for c <= k < m, on the main diagonal; in a chain ``order_y[k]`` equals
          ``order_x[k + 1]``.
        * Unmatched units come last, ascending: of x from m to n_x, of y from m to n_y.

        Cycles come before chains, both by descending length, and ties by their lowest first unit. A cycle starts at its
        lowest unit. If all units of both layers are matched, the two orders are equal.

    Raises
    ------
    UserError
        if the matching does not fit n_x and n_y units.
    """
    rows, columns = one_to_one.rows, one_to_one.columns
    widths = len(rows) + len(one_to_one.unmatched_rows), len(columns) + len(one_to_one.unmatched_columns)
    if widths != (n_x, n_y):
        raise UserError(
            f"the matching is of {widths[0]} and {widths[1]} units, but n_x = {n_x} and n_y = {n_y}; give the widths "
            "of the matched layers."
        )
    following = dict(zip(rows.tolist(), columns.tolist(), strict=True))
    chains = [_walk(following, unit) for unit in np.setdiff1d(rows, columns).tolist()]
    cycles = []
    while following:
        cycles.append(_walk(following, next(iter(following)))[:-1])
    chains.sort(key=len, reverse=True)  # stable, so the lowest first unit stays first
    cycles.sort(key=len, reverse=True)
    turning = [unit for cycle in cycles for unit in cycle]
    order_x = turning + [unit for chain in chains for unit in chain[:-1]]
    order_y = turning + [unit for chain in chains for unit in chain[1:]]
    return (
        np.concatenate([np.array(order_x, dtype=np.intp), _others(n_x, rows)]),
        np.concatenate([np.array(order_y, dtype=np.intp), _others(n_y, columns)]),
    )


def _walk(following: dict[int, int], unit: int) -> list[int]:
    """Follow the assignment from ``unit`` to its end; removes the followed steps from ``following``."""
    path = [unit]
    while path[-1] in following:
        path.append(following.pop(path[-1]))
    return path


def checked_similarities(similarity: ArrayLike) -> Matrix:
    """Convert the (n_x, n_y) matrix to float64; raises :class:`UserError` if it is empty or not finite."""
    matrix = np.asarray(similarity, dtype=np.float64)
    if matrix.ndim != 2 or matrix.size == 0:
        raise UserError(
            f"similarities of shape {matrix.shape} cannot be matched; give (n_x, n_y) with at least one unit per layer."
        )
    if not np.isfinite(matrix).all():
        raise UserError(
            f"{np.count_nonzero(~np.isfinite(matrix))} similarities are NaN or infinite; exclude units without "
            "variance or with non-finite activations before matching."
        )
    return matrix
