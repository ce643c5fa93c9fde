"""One-to-one alignment softened: units share out their mass, so that layers of any widths match as a whole.

A unit of x has mass 1 / n_x and a unit of y has 1 / n_y. A plan says how much of it goes from each to each, and
the best plan is one of optimal transport (Khosla and Williams 2023, arXiv 2311.09466); in part of the mass, the
worst units stay out (Kapoor, Williams and Khosla 2026, arXiv 2602.19331).

The problems are solved in whole numbers: with N the least common multiple of the widths a unit of x has N / n_x
pieces and a unit of y N / n_y, which the network simplex then moves without rounding.
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

# Pivots of the network simplex before it gives up; layers of a thousand units take some ten thousand.
MOST_PIVOTS = 1_000_000_000
# A mass this near to a whole number of pieces is that number, as a part of the total.
WHOLE = 1e-15


@dataclass(frozen=True, eq=False)
class SoftMatching:
    """A plan of transport between the units of two layers.

    ``plan`` (n_x, n_y), none negative: rows sum to at most 1 / n_x, columns to at most 1 / n_y and everything to
    ``mass``, so that the sums are equalities where ``mass`` is 1. ``mean``: similarity of what is matched,
    sum(plan * similarity) / mass.
    """

    plan: Matrix
    mean: float
    mass: float


def soft_matching(similarity: ArrayLike) -> SoftMatching:
    """The plan of all mass with the largest mean similarity (Khosla and Williams 2023, arXiv 2311.09466).

    Of two layers of equal width it is the one-to-one matching, as the corners of the plans are the permutations
    (Birkhoff). Of equally good plans the solver takes one, the same every time.

    Parameters
    ----------
    similarity : (n_x, n_y)
        Signed similarities, any widths.

    Raises
    ------
    UserError
        when the matrix is empty or has NaN or infinite values, or the solver does not come to an end.
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
    """The plan of a part of the mass with the largest mean similarity (arXiv 2602.19331).

    Exactly ``mass`` is matched, also where that takes negative similarities. The mean falls, or stays, as the
    mass grows; mass 1 gives :func:`soft_matching`; mass k / n of two layers of n units gives the best k pairs.

    Between two whole numbers of pieces the best total is linear in the mass, as a flow through whole capacities
    is, so the plan is then a mixture of the two whole plans.

    Parameters
    ----------
    similarity : (n_x, n_y)
        Signed similarities, any widths.
    mass
        0 < mass <= 1.

    Raises
    ------
    UserError
        as :func:`soft_matching`, and when the mass is not in its range.
    """
    matrix = checked_similarities(similarity)
    if not 0.0 < mass <= 1.0:
        raise UserError(f"a mass of {mass} cannot be matched; give a part above 0 and up to 1, which is all of it.")
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
    """``value`` as an integer and a part of 1; a part that is rounding alone is none."""
    nearest = round(value)
    if nearest and abs(value - nearest) <= tolerance:
        return nearest, 0.0
    return floor(value), value - floor(value)


def _pieces_moved(matrix: Matrix, moved: int) -> Matrix:
    """How many of ``moved`` pieces go from each unit to each, (n_x, n_y), for the largest total similarity.

    What is not moved goes to and comes from one dummy unit a side, for nothing. Costs count down from the largest
    similarity, so they are 0 … 1 of the range whatever the signs; then any price above 0 keeps dummies from serving
    each other: a plan that sends a piece from dummy to dummy moves one pair too many, and is better off without both.
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
    """The cheapest flow of whole pieces, (len(given), len(taken)), by the network simplex."""
    ot = _pot()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it warns of is in the log, and raised
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
    """The only door to POT, which else imports torch and others where it can: seconds, and nothing used of it."""
    for library in ("PYTORCH", "JAX", "CUPY", "TENSORFLOW"):
        os.environ.setdefault(f"POT_BACKEND_DISABLE_{library}", "1")
    import ot

    return ot
