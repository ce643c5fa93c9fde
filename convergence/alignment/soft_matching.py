"""Soft matching: a generalisation of one-to-one matching to layers of any width, by optimal transport.

A unit of x has mass 1 / n_x and a unit of y has mass 1 / n_y. A transport plan moves mass from units of x to units of
y; the best plan solves an optimal transport problem (Khosla and Williams 2023, arXiv 2311.09466). Partial soft matching
moves a part of the mass and leaves out the worst units (Kapoor, Williams and Khosla 2026, arXiv 2602.19331).

The problems are solved in integers. With N the least common multiple of the widths, a unit of x has N / n_x pieces and
a unit of y has N / n_y pieces, which the network simplex moves without rounding.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from math import floor, lcm
from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convergence.alignment.matching import checked_similarities, matching
from convergence.errors import UserError

Matrix = NDArray[np.float64]

# Maximum number of pivots of the network simplex; layers of a thousand units take about ten thousand.
MOST_PIVOTS = 1_000_000_000
# Relative tolerance within which a mass counts as a whole number of pieces.
WHOLE = 1e-15


@dataclass(frozen=True, eq=False)
class SoftMatching:
    """A transport plan between the units of two layers.

    ``plan`` (n_x, n_y) is non-negative: rows sum to at most 1 / n_x, columns to at most 1 / n_y, and all entries to
    ``mass``; with mass 1 the bounds are equalities. ``mean`` is the mean similarity, sum(plan * similarity) / mass.
    """

    plan: Matrix
    mean: float
    mass: float


def soft_matching(similarity: ArrayLike) -> SoftMatching:
    """Find the plan of all mass with the largest mean similarity (Khosla and Williams 2023, arXiv 2311.09466).

    For two layers of equal width it is the one-to-one matching, because the vertices of the set of plans are the
    permutations (Birkhoff). Among equally good plans the solver always returns the same one.

    Parameters
    ----------
    similarity : (n_x, n_y)
        Signed similarities, any widths.

    Raises
    ------
    UserError
        if the matrix is empty or has NaN or infinite values, or the solver does not converge.
    """
    matrix = checked_similarities(similarity)
    n_x, n_y = matrix.shape
    if n_x == n_y:
        one_to_one = matching(matrix)
        plan = np.zeros(matrix.shape)
        plan[one_to_one.rows, one_to_one.columns] = 1.0 / n_x
    else:
        pieces = lcm(n_x, n_y)
        plan = _pieces_moved(matrix, pieces) / pieces
    return SoftMatching(plan=plan, mean=float(np.sum(plan * matrix)), mass=1.0)


def partial_soft_matching(similarity: ArrayLike, mass: float) -> SoftMatching:
    """Find the plan of a part of the mass with the largest mean similarity (arXiv 2602.19331).

    Exactly ``mass`` is matched, even at negative similarities. The mean never rises with the mass. Mass 1 gives
    :func:`soft_matching`; mass k / n for two layers of n units gives the best k pairs.

    Between two integer numbers of pieces the optimum is linear in the mass, because a flow with integer capacities is.
    The plan is then a mixture of the two integer plans.

    Parameters
    ----------
    similarity : (n_x, n_y)
        Signed similarities, any widths.
    mass
        0 < mass <= 1.

    Raises
    ------
    UserError
        as :func:`soft_matching`, and if the mass is out of range.
    """
    matrix = checked_similarities(similarity)
    if not 0.0 < mass <= 1.0:
        raise UserError(f"mass = {mass} cannot be matched; give a share above 0 and up to 1.")
    pieces = lcm(*matrix.shape)
    whole, part = _whole_and_part(mass * pieces, tolerance=WHOLE * pieces)
    if whole == pieces:
        return soft_matching(matrix)
    plan = np.zeros(matrix.shape)
    if whole:
        plan += (1.0 - part) / pieces * _pieces_moved(matrix, whole)
    if part:
        plan += part / pieces * _pieces_moved(matrix, whole + 1)
    return SoftMatching(plan=plan, mean=float(np.sum(plan * matrix) / mass), mass=float(mass))


def _whole_and_part(value: float, tolerance: float) -> tuple[int, float]:
    """Split ``value`` into an integer and a fraction; a fraction within ``tolerance`` is 0."""
    nearest = round(value)
    if nearest and abs(value - nearest) <= tolerance:
        return nearest, 0.0
    return floor(value), value - floor(value)


def _pieces_moved(matrix: Matrix, moved: int) -> Matrix:
    """Number of pieces (n_x, n_y) moved between units for the largest total similarity, ``moved`` pieces in total.

    One dummy unit per side sends and receives the pieces that are not moved, at no cost. Costs are the distances from
    the largest similarity, scaled to 0 … 1. Any positive cost then prevents flow from dummy to dummy: a plan with such
    a piece moves one pair too many, and is cheaper without both.
    """
    n_x, n_y = matrix.shape
    pieces = lcm(n_x, n_y)
    cost = matrix.max() / 2 - matrix / 2
    cost /= cost.max() or 1.0
    given, taken = np.full(n_x, float(pieces // n_x)), np.full(n_y, float(pieces // n_y))
    if moved < pieces:
        cost = np.pad(cost, (0, 1))
        cost[-1, -1] = 1.0
        given, taken = np.append(given, float(pieces - moved)), np.append(taken, float(pieces - moved))
    return _transport(given, taken, cost)[:n_x, :n_y]


def _transport(given: Matrix, taken: Matrix, cost: Matrix) -> Matrix:
    """Find the cheapest integer flow, (len(given), len(taken)), by the network simplex."""
    ot = _pot()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings are in the log, and raised below
        flow, log = ot.emd(given, taken, cost, numItermax=MOST_PIVOTS, log=True)
    pieces = np.rint(flow)
    adds_up = np.array_equal(pieces.sum(axis=1), given) and np.array_equal(pieces.sum(axis=0), taken)
    if log["warning"] is not None or not adds_up:
        reason = (log["warning"] or "its flow does not add up").split(".")[0]
        raise UserError(
            f"the transport between {len(given)} and {len(taken)} units was not solved: {reason}. "
            "Match fewer units at a time."
        )
    return pieces


def _pot() -> ModuleType:
    """Import POT without its optional backends (torch and others), whose import takes seconds."""
    for library in ("PYTORCH", "JAX", "CUPY", "TENSORFLOW"):
        os.environ.setdefault(f"POT_BACKEND_DISABLE_{library}", "1")
    import ot

    return ot
