"""Alignment of single units of two layers: with replacement (semi-matching) and one-to-one (matching)."""

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
    """A one-to-one assignment: unit ``rows[k]`` of x goes with unit ``columns[k]`` of y.

    ``rows`` ascends. ``values`` are the similarities of the pairs and ``mean`` their mean. Of two layers of
    different width the wider one has units left over, listed in ``unmatched_rows`` or ``unmatched_columns``.
    """

    rows: Indices
    columns: Indices
    values: Matrix
    mean: float
    unmatched_rows: Indices
    unmatched_columns: Indices


@dataclass(frozen=True, eq=False)
class Overlap:
    """Where semi-matching and matching agree.

    ``share`` of the matched units of x that get the same unit of y from both; ``in_degree`` (n_y,): how often
    semi-matching chooses each unit of y; ``never_chosen``: units of y that it never chooses; ``mutual``
    (n_mutual, 2): pairs that are each other's best.
    """

    share: float
    in_degree: Indices
    never_chosen: Indices
    mutual: Indices


def semi_matching(similarity: ArrayLike) -> Indices:
    """For every unit of x the most similar unit of y, with replacement (Li et al. 2016, section 3).

    Parameters
    ----------
    similarity : (n_x, n_y)
        Signed similarities. Of equal ones the lowest index wins.

    Returns
    -------
    (n_x,) indices of units of y.

    Raises
    ------
    UserError
        when the matrix is empty or has NaN or infinite values.
    """
    return np.argmax(checked_similarities(similarity), axis=1)


def matching(similarity: ArrayLike) -> Matching:
    """The assignment without replacement of the largest total similarity (Li et al. 2016, section 3).

    ``similarity`` is (n_x, n_y), any widths; raises as :func:`semi_matching`.
    """
    matrix = checked_similarities(similarity)
    rows, columns = linear_sum_assignment(matrix, maximize=True)
    values = matrix[rows, columns]
    return Matching(
        rows=rows,
        columns=columns,
        values=values,
        mean=float(values.mean()),
        unmatched_rows=np.setdiff1d(np.arange(matrix.shape[0]), rows),
        unmatched_columns=np.setdiff1d(np.arange(matrix.shape[1]), columns),
    )


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
    """Orders of x's and y's units that put matched pairs on the diagonal, the strongest first.

    Returns
    -------
    order_x (n_x,), order_y (n_y,) : permutations
        ``similarity[order_x][:, order_y]`` has the pairs on its main diagonal; unmatched units come last,
        each with its largest similarity falling.
    """
    matrix = checked_similarities(similarity)
    found = matching(matrix)
    strongest = np.argsort(-found.values, kind="stable")
    rest_x = found.unmatched_rows[np.argsort(-matrix[found.unmatched_rows].max(axis=1), kind="stable")]
    rest_y = found.unmatched_columns[np.argsort(-matrix[:, found.unmatched_columns].max(axis=0), kind="stable")]
    return np.concatenate([found.rows[strongest], rest_x]), np.concatenate([found.columns[strongest], rest_y])


def cycle_order(one_to_one: Matching, n_x: int, n_y: int) -> tuple[Indices, Indices]:
    """The paper's order of units: along the cycles of i -> partner(i) (Li et al. 2016, figure 1d).

    A unit of x and the unit of y of the same index stand for one node, from which the assignment leads to the
    next. Of two layers of equal width, all matched, the nodes form cycles. Where units are left over there are
    chains, too: from a unit of x whose index no unit of y in a pair has, to a unit of y whose index no unit of
    x in a pair has.

    Returns
    -------
    order_x (n_x,), order_y (n_y,) : permutations
        In ``similarity[order_x][:, order_y]``, with c nodes on cycles and m matched pairs:

        * ``order_x[:c]`` equals ``order_y[:c]``. A cycle takes up one block s … e - 1 of it, and its pairs lie
          at (k, k + 1), on the first superdiagonal, but for the last, which wraps to (e - 1, s). A unit that
          is matched with its own index is a block of one, on the main diagonal.
        * Pairs of chains lie at (k, k) for c <= k < m, on the main diagonal; in a chain ``order_y[k]`` equals
          ``order_x[k + 1]``.
        * Unmatched units come last, ascending: of x from m to n_x, of y from m to n_y.

        Longest cycles come first, and longest chains first after them; of equal ones that with the lowest
        first unit. A cycle begins at its lowest unit. If all of both layers are matched the orders are equal.

    Raises
    ------
    UserError
        when the matching is not one of n_x and n_y units.
    """
    rows, columns = one_to_one.rows, one_to_one.columns
    widths = len(rows) + len(one_to_one.unmatched_rows), len(columns) + len(one_to_one.unmatched_columns)
    if widths != (n_x, n_y):
        raise UserError(
            f"a matching of {widths[0]} and {widths[1]} units has no order of {n_x} and {n_y}; give the widths of "
            "the layers that were matched."
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
        np.concatenate([np.array(order_x, dtype=np.intp), np.setdiff1d(np.arange(n_x), rows)]),
        np.concatenate([np.array(order_y, dtype=np.intp), np.setdiff1d(np.arange(n_y), columns)]),
    )


def _walk(following: dict[int, int], unit: int) -> list[int]:
    """The units from ``unit`` on, to the one that leads nowhere; steps that were taken are taken out."""
    path = [unit]
    while path[-1] in following:
        path.append(following.pop(path[-1]))
    return path


def checked_similarities(similarity: ArrayLike) -> Matrix:
    """The (n_x, n_y) matrix as float64; raises :class:`UserError` when it is empty or not finite."""
    matrix = np.asarray(similarity, dtype=np.float64)
    if matrix.ndim != 2 or matrix.size == 0:
        raise UserError(
            f"similarities of shape {matrix.shape} cannot be matched; give at least one unit of each layer."
        )
    if not np.isfinite(matrix).all():
        raise UserError(
            f"{np.count_nonzero(~np.isfinite(matrix))} similarities are NaN or infinite; leave units without "
            "variance or with non-finite activations out before matching."
        )
    return matrix
