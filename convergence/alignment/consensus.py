"""One-to-one alignment of all nets of a comparison at once.

A *consensus unit* is a set of units, at most one of each net, that stand for the same feature. Everything is
computed from the correlations of the joined units.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from convergence.errors import UserError

Matrix = NDArray[np.float64]
Indices = NDArray[np.intp]
Mask = NDArray[np.bool_]

# A reassignment, or a further start, has to raise the sum of correlations by more than rounding may.
LEAST_GAIN = 1e-9
# Units whose mean has no more variance than this cancel; strengths nearer than this are equal.
ROUNDING = 1e-12
CHECKED_ROWS = 1024


@dataclass(frozen=True, eq=False)
class Consensus:
    """Consensus units of K nets.

    ``members`` (n_consensus, K): positions along the joined axis, -1 for none. ``within`` (n_consensus, K, K):
    correlations of the members, 0 where one is missing. ``strength`` (n_consensus, K): correlation of each
    member with the mean of the other, standardised, members; 0 for no member, for a member without others and
    where the others cancel. ``mean_correlation`` (n_consensus,) over the pairs of members of each unit; 0 where
    there is no pair, which is no measurement. ``objective``: mean over all ``n_pairs`` pairs of members of all
    units.

    ``pivot``: the net from whose pairwise matchings the search began, -1 for a given start. ``trace``: the sum
    of correlations, which the search maximises, at the start and after each reassignment.
    """

    members: Indices
    within: Matrix
    strength: Matrix
    mean_correlation: Matrix
    objective: float
    n_pairs: int
    pivot: int
    trace: Matrix


@dataclass(frozen=True, eq=False)
class Presence:
    """In how many nets each consensus unit is present.

    ``n_nets`` (n_consensus,): K for a core unit, 1 for an idiosyncratic one; ``stays`` (n_consensus, K): which
    members those are.
    """

    n_nets: Indices
    stays: Mask


def consensus_units(correlation: ArrayLike, net_of_unit: ArrayLike, start: ArrayLike | None = None) -> Consensus:
    """Multi-way matching with the largest sum of correlations over the pairs of members of all consensus units.

    Every unit of every net is a member of one consensus unit; there are as many as the widest net has units, and
    narrower nets leave holes. Each net in turn is the pivot with which the others are matched, one by one. From
    there one net after the other is taken out, and its units are assigned anew by their summed correlations with
    the other members, until that raises the sum for no net. The best of the K ends is kept, of equal ones that
    of the lowest pivot. It is a local optimum: the problem is NP-hard from three nets on. Two nets: matching.

    Parameters
    ----------
    correlation : (U, U)
        Correlations of the joined units.
    net_of_unit : (U,)
        The net of each unit, 0 … K - 1 in any order; units that carry nothing are left out before.
    start : (n_consensus, K), optional
        Members to begin from instead of the pivots, such as those of all images for a part of them.

    Returns
    -------
    Consensus
        Sorted by falling mean correlation; units without a pair come last, ties by the lowest member.

    Raises
    ------
    UserError
        when the correlations are not finite, symmetric and 1 on the diagonal, a net has no unit, there are fewer
        than two, or ``start`` does not hold every unit once, in the column of its net.
    """
    matrix = _checked_correlation(correlation)
    units = _units_of_nets(net_of_unit, len(matrix))
    best: tuple[int, Indices, list[float]] | None = None
    for pivot, begin in _starts(matrix, units, start):
        members, trace = _ascend(matrix, units, begin)
        if best is None or trace[-1] > best[2][-1] + LEAST_GAIN:
            best = pivot, members, trace
    assert best is not None
    pivot, members, trace = best
    mean, n_pairs = _mean_over_pairs(_within(matrix, members))
    lowest = np.where(members < 0, len(matrix), members).min(axis=1)
    return _described(matrix, members[np.lexsort((lowest, -mean, n_pairs == 0))], pivot, trace)


def score_members(correlation: ArrayLike, members: ArrayLike) -> Consensus:
    """Given consensus units measured on other correlations, such as of images that did not choose them.

    ``correlation`` (U, U) as in :func:`consensus_units`; ``members`` (n_consensus, K), whose order is kept.
    Raises :class:`UserError` when a member is no unit, or is in two places.
    """
    matrix = _checked_correlation(correlation)
    chosen = np.asarray(members)
    taken = chosen[chosen >= 0] if chosen.dtype.kind == "i" else chosen
    if chosen.dtype.kind != "i" or chosen.ndim != 2 or len(np.unique(taken)) != len(taken):
        raise UserError("members are integers (n_consensus, K), each unit in one place and -1 for none.")
    if chosen.min(initial=0) < -1 or chosen.max(initial=-1) >= len(matrix):
        raise UserError(f"members are positions 0 … {len(matrix) - 1} along the joined axis, or -1 for none.")
    chosen = chosen.astype(np.intp)
    return _described(matrix, chosen, -1, [_total(_within(matrix, chosen))])


def presence(consensus: Consensus, threshold: float) -> Presence:
    """In how many nets each consensus unit is present: how many members stay when weak ones are taken out.

    The weakest member (of equal ones that of the highest net) is taken out while its strength is below
    ``threshold``, one at a time, since it lowers the strengths of the others; they are computed anew after each. A
    member that is left alone stays, and makes an idiosyncratic unit; one that was taken out is counted nowhere.

    Raises :class:`UserError` unless 0 < threshold <= 1.
    """
    if not 0.0 < threshold <= 1.0:
        raise UserError(f"a threshold of {threshold} parts no members; give a correlation above 0 and up to 1.")
    stays = consensus.members >= 0
    n_nets = stays.shape[1]
    for _ in range(n_nets - 1):
        strength = np.where(stays, _strength(consensus.within, stays), np.inf)
        weakest = strength.min(axis=1, initial=np.inf)
        units = np.flatnonzero((weakest < threshold) & (stays.sum(axis=1) > 1))
        equal = strength[units] <= weakest[units, None] + ROUNDING
        stays[units, n_nets - 1 - np.argmax(equal[:, ::-1], axis=1)] = False
    return Presence(n_nets=stays.sum(axis=1), stays=stays)


def _starts(matrix: Matrix, units: list[Indices], start: ArrayLike | None) -> list[tuple[int, Indices]]:
    """Pivots and members to begin from."""
    if start is not None:
        return [(-1, _checked_start(start, units))]
    partner: dict[tuple[int, int], tuple[Indices, Indices]] = {}
    for a, b in combinations(range(len(units)), 2):
        rows, columns = linear_sum_assignment(matrix[np.ix_(units[a], units[b])], maximize=True)
        partner[a, b], partner[b, a] = (rows, columns), (columns, rows)
    n_consensus = max(map(len, units))
    found = []
    for pivot, of_pivot in enumerate(units):
        members = np.full((n_consensus, len(units)), -1, dtype=np.intp)
        members[: len(of_pivot), pivot] = of_pivot
        for net, of_net in enumerate(units):
            if net != pivot:
                rows, columns = partner[pivot, net]
                left = np.setdiff1d(np.arange(len(of_net)), columns)
                members[rows, net] = of_net[columns]
                members[len(of_pivot) : len(of_pivot) + len(left), net] = of_net[left]
        found.append((pivot, members))
    return found


def _ascend(matrix: Matrix, units: list[Indices], begin: Indices) -> tuple[Indices, list[float]]:
    """Reassign the units of one net after the other until it helps with none."""
    members, trace = begin.copy(), [_total(_within(matrix, begin))]
    net, idle = 0, 0
    while idle < len(units):
        gain = np.zeros((len(members), len(units[net])))
        for other in range(len(units)):
            if other != net:
                filled = np.flatnonzero(members[:, other] >= 0)
                gain[filled] += matrix[np.ix_(members[filled, other], units[net])]
        places = np.flatnonzero(members[:, net] >= 0)
        before = gain[places, np.searchsorted(units[net], members[places, net])].sum()
        rows, columns = linear_sum_assignment(gain, maximize=True)
        raised = float(gain[rows, columns].sum() - before)
        idle += 1
        if raised > LEAST_GAIN:
            members[:, net] = -1
            members[rows, net] = units[net][columns]
            trace.append(trace[-1] + raised)
            idle = 1  # this net is as good as it can be until another one changes
        net = (net + 1) % len(units)
    return members, trace


def _described(matrix: Matrix, members: Indices, pivot: int, trace: list[float]) -> Consensus:
    within = _within(matrix, members)
    mean, n_pairs = _mean_over_pairs(within)
    return Consensus(
        members=members,
        within=within,
        strength=_strength(within, members >= 0),
        mean_correlation=mean,
        objective=float(_total(within) / max(n_pairs.sum(), 1)),
        n_pairs=int(n_pairs.sum()),
        pivot=pivot,
        trace=np.array(trace),
    )


def _within(matrix: Matrix, members: Indices) -> Matrix:
    """Correlations of the members of each consensus unit, (n_consensus, K, K)."""
    there = members >= 0
    pairs = there[:, :, None] & there[:, None, :]
    return np.where(pairs, matrix[members[:, :, None], members[:, None, :]], 0.0)


def _mean_over_pairs(within: Matrix) -> tuple[Matrix, Indices]:
    """Mean correlation of the pairs of members of each consensus unit and how many they are, (n_consensus,)."""
    above = np.triu_indices(within.shape[1], 1)
    there = np.diagonal(within, axis1=1, axis2=2) > 0
    n_pairs = (there[:, above[0]] & there[:, above[1]]).sum(axis=1)
    return within[:, above[0], above[1]].sum(axis=1) / np.maximum(n_pairs, 1), n_pairs


def _total(within: Matrix) -> float:
    """Sum of the correlations of all pairs of members."""
    above = np.triu_indices(within.shape[1], 1)
    return float(within[:, above[0], above[1]].sum())


def _strength(within: Matrix, there: Mask) -> Matrix:
    """sum_j r_ij / sqrt(sum_jk r_jk) over the others j, k of each member i that is there, (n_consensus, K)."""
    links = within * (there[:, :, None] & there[:, None, :])
    own = np.diagonal(links, axis1=1, axis2=2)
    rows = links.sum(axis=2)
    variance = rows.sum(axis=1, keepdims=True) - 2.0 * rows + own  # of the sum of the others
    spread = there & (variance > ROUNDING)
    return np.where(spread, (rows - own) / np.sqrt(np.where(spread, variance, 1.0)), 0.0)


def _checked_correlation(correlation: ArrayLike) -> Matrix:
    matrix = np.asarray(correlation, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 0:
        raise UserError(f"correlations of shape {matrix.shape} join no units; give a square matrix of them.")
    for first in range(0, len(matrix), CHECKED_ROWS):  # in blocks, as the matrix may be most of the memory
        rows, columns = matrix[first : first + CHECKED_ROWS], matrix[:, first : first + CHECKED_ROWS].T
        if not np.isfinite(rows).all() or np.abs(rows - columns).max() > 1e-8:
            raise UserError("correlations are finite and symmetric; leave out units that carry nothing.")
    if np.abs(np.diagonal(matrix) - 1.0).max() > 1e-6:
        raise UserError("a unit's correlation with itself is not 1; leave out units that carry nothing.")
    return matrix


def _units_of_nets(net_of_unit: ArrayLike, n_units: int) -> list[Indices]:
    """Positions along the joined axis of each net's units, ascending."""
    nets = np.asarray(net_of_unit)
    if nets.shape != (n_units,) or nets.dtype.kind not in "iu" or nets.min() < 0:
        raise UserError(f"net_of_unit has shape {nets.shape}; give the net of each of {n_units} units, 0 … K - 1.")
    units = [np.flatnonzero(nets == net) for net in range(int(nets.max()) + 1)]
    if len(units) < 2 or not all(map(len, units)):
        raise UserError(
            f"{[len(of_net) for of_net in units]} units of the nets; a consensus takes at least two nets, numbered "
            "without a gap, of at least one unit each."
        )
    return units


def _checked_start(start: ArrayLike, units: list[Indices]) -> Indices:
    members = np.asarray(start)
    shape = (max(map(len, units)), len(units))
    if members.shape != shape or members.dtype.kind != "i" or members.min() < -1:
        raise UserError(f"a start of shape {members.shape} came; give integers {shape}, and -1 for no member.")
    for net, of_net in enumerate(units):
        if not np.array_equal(np.sort(members[members[:, net] >= 0, net]), of_net):
            raise UserError(f"column {net} of the start does not hold each unit of net {net} once.")
    return members.astype(np.intp)
