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
    return np.argmax(_checked(similarity), axis=1)


def matching(similarity: ArrayLike) -> Matching:
    """The assignment without replacement of the largest total similarity (Li et al. 2016, section 3).

    ``similarity`` is (n_x, n_y), any widths; raises as :func:`semi_matching`.
    """
    matrix = _checked(similarity)
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
    matrix = _checked(similarity)
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
    matrix = _checked(similarity)
    found = matching(matrix)
    strongest = np.argsort(-found.values, kind="stable")
    rest_x = found.unmatched_rows[np.argsort(-matrix[found.unmatched_rows].max(axis=1), kind="stable")]
    rest_y = found.unmatched_columns[np.argsort(-matrix[:, found.unmatched_columns].max(axis=0), kind="stable")]
    return np.concatenate([found.rows[strongest], rest_x]), np.concatenate([found.columns[strongest], rest_y])


def _checked(similarity: ArrayLike) -> Matrix:
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
