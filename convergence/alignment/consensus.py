"""One-to-one alignment of all nets of a comparison at once.

A *consensus unit* is a set of units, at most one of each net, that represent the same feature. All results are
computed from the correlations of the joined units. Units of layers without a preferred sign are aligned by |r|, and
every member gets a sign.
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

# Smallest gain in the sum of correlations by a reassignment or another start; smaller gains are rounding errors.
LEAST_GAIN = 1e-9
# Units whose mean has less variance than this cancel; strengths that differ by less than this are equal.
ROUNDING = 1e-12
CHECKED_ROWS = 1024


@dataclass(frozen=True, eq=False)
class Consensus:
    """Consensus units of K nets.

    Attributes
    ----------
    members : (n_consensus, K)
        Positions along the joined axis, -1 for a missing member.
    signs : (n_consensus, K)
        Sign of each member, 0 for a missing member: all 1 by r; by |r| those of the leading eigenvector of the members'
        correlations, the first member positive.
    within : (n_consensus, K, K)
        Correlations of the members with their signs, 0 for missing members.
    strength : (n_consensus, K)
        Correlation of each member with the mean of the other standardised members; 0 for a missing member, for a single
        member, and if the others cancel.
    mean_correlation : (n_consensus,)
        Mean over the pairs of members; 0, which is no measurement, without a pair.
    objective : float
        Mean over all ``n_pairs`` pairs of members of all consensus units.
    pivot : int
        Net whose pairwise matchings started the search; -1 for a given start.
    trace : (n_steps,)
        Sum of correlations (of |r|, if signs are free), the objective of the search, at the start and after each
        reassignment.
    """

    members: Indices
    signs: Matrix
    within: Matrix
    strength: Matrix
    mean_correlation: Matrix
    objective: float
    n_pairs: int
    pivot: int
    trace: Matrix


@dataclass(frozen=True, eq=False)
class Presence:
    """Number of nets in which each consensus unit is present.

    ``n_nets`` (n_consensus,): K for a core unit, 1 for an idiosyncratic unit. ``stays`` (n_consensus, K): mask of the
    members that are present.
    """

    n_nets: Indices
    stays: Mask


def consensus_units(
    correlation: ArrayLike, net_of_unit: ArrayLike, start: ArrayLike | None = None, absolute: bool = False
) -> Consensus:
    """Find the multi-way matching with the largest sum of correlations over the pairs of members.

    Every unit of every net is a member of exactly one consensus unit. The number of consensus units is the width of the
    widest net; narrower nets have missing members. Each net in turn is the pivot, and the other nets are matched with
    it. Starting from these matchings, the units of one net after the other are reassigned by their summed correlations
    with the other members, until no net raises the sum. The best of the K solutions is returned; ties go to the lowest
    pivot. The solution is a local optimum, because the problem is NP-hard for three or more nets. For two nets it is
    the matching.

    Parameters
    ----------
    correlation : (U, U)
        Correlations of the joined units.
    net_of_unit : (U,)
        The net of each unit, 0 … K - 1 in any order. Dead units must be excluded before.
    start : (n_consensus, K), optional
        Members to start from instead of the pivots, for example those of all images for a subset of the images.
    absolute : bool
        Whether units have no preferred sign: the search maximises the sum of |r|.

    Returns
    -------
    Consensus
        Sorted by descending mean correlation; units without a pair come last, ties are ordered by the lowest member.

    Raises
    ------
    UserError
        if the correlations are not finite, symmetric and 1 on the diagonal, there are fewer than two nets, a net has no
        unit, or ``start`` does not hold every unit once in the column of its net.
    """
    matrix = _checked_correlation(correlation)
    units = _units_of_nets(net_of_unit, len(matrix))
    gains = np.abs(matrix) if absolute else matrix
    best: tuple[int, Indices, list[float]] | None = None
    for pivot, begin in _starts(gains, units, start):
        members, trace = _ascend(gains, units, begin)
        if best is None or trace[-1] > best[2][-1] + LEAST_GAIN:
            best = pivot, members, trace
    assert best is not None
    pivot, members, trace = best
    signs = _signs(_within(matrix, members), members >= 0) if absolute else (members >= 0).astype(np.float64)
    mean, n_pairs = _mean_over_pairs(_within(matrix, members, signs))
    lowest = np.where(members < 0, len(matrix), members).min(axis=1)
    order = np.lexsort((lowest, -mean, n_pairs == 0))
    return _described(matrix, members[order], signs[order], pivot, trace)


def score_members(correlation: ArrayLike, members: ArrayLike, signs: ArrayLike | None = None) -> Consensus:
    """Evaluate given consensus units on other correlations, for example of held-out images.

    Parameters
    ----------
    correlation : (U, U)
        As in :func:`consensus_units`.
    members : (n_consensus, K)
        Consensus units; their order is kept.
    signs : (n_consensus, K), optional
        Signs of the members; all 1 by default.

    Raises
    ------
    UserError
        if a member is no unit, or occurs twice.
    """
    matrix = _checked_correlation(correlation)
    chosen = np.asarray(members)
    taken = chosen[chosen >= 0] if chosen.dtype.kind == "i" else chosen
    if chosen.dtype.kind != "i" or chosen.ndim != 2 or len(np.unique(taken)) != len(taken):
        raise UserError(
            f"members of shape {chosen.shape} and type {chosen.dtype} are not valid: give integers (n_consensus, K), "
            "each unit at most once and -1 for none."
        )
    if chosen.min(initial=0) < -1 or chosen.max(initial=-1) >= len(matrix):
        raise UserError(
            f"members range from {chosen.min()} to {chosen.max()}: give positions 0 … {len(matrix) - 1} along the "
            "joined axis, or -1 for none."
        )
    chosen = chosen.astype(np.intp)
    of_members = (chosen >= 0).astype(np.float64) if signs is None else np.asarray(signs, dtype=np.float64)
    return _described(matrix, chosen, of_members, -1, [_total(_within(matrix, chosen, of_members))])


def presence(consensus: Consensus, threshold: float) -> Presence:
    """Count the nets in which each consensus unit is present, by removing weak members.

    The weakest member is removed while its strength is below ``threshold``; ties go to the highest net. Members are
    removed one at a time, because a weak member lowers the strengths of the others; all strengths are recomputed after
    each removal. The last member stays and makes an idiosyncratic unit. Removed members are not counted elsewhere.

    Raises
    ------
    UserError
        unless 0 < threshold <= 1.
    """
    if not 0.0 < threshold <= 1.0:
        raise UserError(f"threshold = {threshold}: give a correlation above 0 and up to 1.")
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
    """List the starts of the search: pivot and members."""
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
    """Reassign the units of one net after the other until no reassignment raises the sum of correlations."""
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
            idle = 1  # this net stays optimal until another net changes
        net = (net + 1) % len(units)
    return members, trace


def _signs(within: Matrix, there: Mask) -> Matrix:
    """Signs (n_consensus, K) of the leading eigenvectors of the members' correlations, the first member positive."""
    leading = np.linalg.eigh(within)[1][:, :, -1]
    signs = np.where(leading < 0, -1.0, 1.0)
    first = np.argmax(there, axis=1)
    return np.where(there, signs * signs[np.arange(len(signs)), first][:, None], 0.0)


def _described(matrix: Matrix, members: Indices, signs: Matrix, pivot: int, trace: list[float]) -> Consensus:
    within = _within(matrix, members, signs)
    mean, n_pairs = _mean_over_pairs(within)
    return Consensus(
        members=members,
        signs=signs,
        within=within,
        strength=_strength(within, members >= 0),
        mean_correlation=mean,
        objective=float(_total(within) / max(n_pairs.sum(), 1)),
        n_pairs=int(n_pairs.sum()),
        pivot=pivot,
        trace=np.array(trace),
    )


def _within(matrix: Matrix, members: Indices, signs: Matrix | None = None) -> Matrix:
    """Correlations of the members of each consensus unit, times their signs, (n_consensus, K, K)."""
    there = members >= 0
    pairs = there[:, :, None] & there[:, None, :]
    found = np.where(pairs, matrix[members[:, :, None], members[:, None, :]], 0.0)
    return found if signs is None else found * signs[:, :, None] * signs[:, None, :]


def _mean_over_pairs(within: Matrix) -> tuple[Matrix, Indices]:
    """Mean correlation over the pairs of members of each consensus unit, and number of pairs, (n_consensus,)."""
    above = np.triu_indices(within.shape[1], 1)
    there = np.diagonal(within, axis1=1, axis2=2) > 0
    n_pairs = (there[:, above[0]] & there[:, above[1]]).sum(axis=1)
    return within[:, above[0], above[1]].sum(axis=1) / np.maximum(n_pairs, 1), n_pairs


def _total(within: Matrix) -> float:
    """Sum of the correlations of all pairs of members."""
    above = np.triu_indices(within.shape[1], 1)
    return float(within[:, above[0], above[1]].sum())


def _strength(within: Matrix, there: Mask) -> Matrix:
    """Strength sum_j r_ij / sqrt(sum_jk r_jk) over the others j, k of each present member i, (n_consensus, K)."""
    links = within * (there[:, :, None] & there[:, None, :])
    own = np.diagonal(links, axis1=1, axis2=2)
    rows = links.sum(axis=2)
    variance = rows.sum(axis=1, keepdims=True) - 2.0 * rows + own  # of the sum of the others
    spread = there & (variance > ROUNDING)
    return np.where(spread, (rows - own) / np.sqrt(np.where(spread, variance, 1.0)), 0.0)


def _checked_correlation(correlation: ArrayLike) -> Matrix:
    matrix = np.asarray(correlation, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 0:
        raise UserError(f"correlations of shape {matrix.shape}: give a square matrix of at least one unit.")
    for first in range(0, len(matrix), CHECKED_ROWS):  # in blocks, because the matrix may fill most of the memory
        rows, columns = matrix[first : first + CHECKED_ROWS], matrix[:, first : first + CHECKED_ROWS].T
        if not np.isfinite(rows).all() or np.abs(rows - columns).max() > 1e-8:
            raise UserError("the correlations are not finite and symmetric; exclude dead units.")
    if np.abs(np.diagonal(matrix) - 1.0).max() > 1e-6:
        raise UserError("the correlation of a unit with itself is not 1; exclude dead units.")
    return matrix


def _units_of_nets(net_of_unit: ArrayLike, n_units: int) -> list[Indices]:
    """List the positions of the units of each net along the joined axis, ascending."""
    nets = np.asarray(net_of_unit)
    if nets.shape != (n_units,) or nets.dtype.kind not in "iu" or nets.min() < 0:
        raise UserError(f"net_of_unit has shape {nets.shape}; give the net of each of {n_units} units, 0 … K - 1.")
    units = [np.flatnonzero(nets == net) for net in range(int(nets.max()) + 1)]
    if len(units) < 2 or not all(map(len, units)):
        raise UserError(
            f"the nets have {[len(of_net) for of_net in units]} units; give at least two nets, numbered "
            "without a gap, with at least one unit each."
        )
    return units


def _checked_start(start: ArrayLike, units: list[Indices]) -> Indices:
    members = np.asarray(start)
    shape = (max(map(len, units)), len(units))
    if members.shape != shape or members.dtype.kind != "i" or members.min() < -1:
        raise UserError(f"the start has shape {members.shape}; give integers {shape}, with -1 for no member.")
    for net, of_net in enumerate(units):
        if not np.array_equal(np.sort(members[members[:, net] >= 0, net]), of_net):
            raise UserError(f"column {net} of the start does not hold each unit of net {net} once.")
    return members.astype(np.intp)
