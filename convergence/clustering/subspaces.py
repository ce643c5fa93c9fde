"""Shared subspaces of groups of units of two nets, and shared bases of these subspaces.

Li et al. 2016 claim shared low-dimensional subspaces without shared units. The evidence for this claim is high
canonical correlations together with matched units that are not more similar than in a random basis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from convergence.alignment.matching import matching
from convergence.clustering.graph import Labels, Matrix, check_square
from convergence.errors import UserError
from convergence.linalg import RANK_TOLERANCE, RandomBases, principal_directions

STACK_BYTES = 16e6
"""Memory of the correlations of random groups that are decomposed together."""
NUMBERS = ("mean_correlation", "explained_x", "explained_y", "matched")
"""Attributes of :class:`SharedSubspace` with a chance level, in the order of columns."""


@dataclass(frozen=True, eq=False)
class SharedSubspace:
    """Similarity of the subspaces of a group of units of x and a group of units of y; values are in [0, 1].

    Attributes
    ----------
    correlations : (min(rank_x, rank_y),)
        Canonical correlations, the cosines of the principal angles between the spans of centred activations, by
        descending value.
    mean_correlation : float
        Mean of ``correlations``.
    explained_x, explained_y : float
        Mean share of the variance of the units of x that the units of y explain linearly, and vice versa.
    matched : float
        Mean |r| of the one-to-one matched units, over as many pairs as the smaller group has units.
    rank_x, rank_y : int
        Dimensions of the spans; duplicated units add none.
    """

    correlations: Matrix
    mean_correlation: float
    explained_x: float
    explained_y: float
    matched: float
    rank_x: int
    rank_y: int


@dataclass(frozen=True, eq=False)
class ClusterSubspaces:
    """Subspaces of the clusters that have units of both nets.

    Attributes
    ----------
    clusters : (m,)
        Labels of the clusters.
    sizes : (m, 2)
        Numbers of units of x and of y.
    shared : m of :class:`SharedSubspace`
    values : (m, 4)
        The :data:`NUMBERS` of ``shared``.
    chance, chance_sd : (m, 4)
        Mean and standard deviation of the :data:`NUMBERS` over random groups of the same sizes.
    rotated, rotated_sd : (m,)
        Mean and standard deviation of ``matched`` over random bases of the group of y, which do not
        change its span or the canonical correlations.
    """

    clusters: Labels
    sizes: Labels
    shared: tuple[SharedSubspace, ...]
    values: Matrix
    chance: Matrix
    chance_sd: Matrix
    rotated: Matrix
    rotated_sd: Matrix


def shared_subspace(r_xx: Matrix, r_xy: Matrix, r_yy: Matrix, units_x: ArrayLike, units_y: ArrayLike) -> SharedSubspace:
    """Compare the spans and the bases of two groups of units.

    Canonical correlations are biased upwards for few samples: for n samples, rank_x + rank_y - n + 1 of them are 1 for
    any units. Compare them with their chance level (:func:`cluster_subspaces`).

    Parameters
    ----------
    r_xx, r_xy, r_yy : (n_x, n_x), (n_x, n_y), (n_y, n_y)
        Correlations of live units. Eigenvalues within a group below 1e-7 of the largest count as zero.
    units_x, units_y
        Indices of the units of the groups, at least one each.

    Raises
    ------
    UserError
        if shapes do not fit, a value is not finite, a diagonal is not 1, a group is empty, or an index is out of range.
    """
    check_square(r_xx)
    check_square(r_yy)
    if np.shape(r_xy) != (len(r_xx), len(r_yy)):
        raise UserError(f"r_xy has shape {np.shape(r_xy)} for {len(r_xx)} and {len(r_yy)} units; give (n_x, n_y).")
    _check_diagonal(r_xx)
    _check_diagonal(r_yy)
    x, y = np.asarray(units_x, dtype=np.intp), np.asarray(units_y, dtype=np.intp)
    if x.size == 0 or y.size == 0:
        raise UserError(f"groups of {x.size} and {y.size} units cannot be compared; give at least one unit of each.")
    if min(x.min(), y.min()) < 0 or x.max() >= len(r_xx) or y.max() >= len(r_yy):
        raise UserError(f"a unit is out of range; give 0 … {len(r_xx) - 1} of x and 0 … {len(r_yy) - 1} of y.")
    if not np.isfinite(r_xy[np.ix_(x, y)]).all():
        raise UserError("a correlation is NaN or infinite; exclude units without variance first.")
    return _compare(r_xx[np.ix_(x, x)], r_xy[np.ix_(x, y)], r_yy[np.ix_(y, y)])


def cluster_subspaces(
    r_joined: Matrix, labels: Labels, sides: Labels, n_random: int = 20, seed: int = 0
) -> ClusterSubspaces:
    """Compare the subspaces of every cluster with units of both nets, with chance levels.

    The chance level of all numbers is from groups of the same sizes, drawn at random from all units of each net,
    including those of the cluster. ``matched`` has a second chance level: the units of the cluster with those of y in a
    random basis (:class:`~convergence.linalg.RandomBases`). Matched units that are more similar than that share the
    basis, not only the subspace.

    Parameters
    ----------
    r_joined : (n, n)
        Correlations of the live units of both nets.
    labels, sides : (n,)
        Cluster of each unit, -1 for none; 0 for a unit of x, 1 for one of y.
    n_random : int
        Number of random groups and of rotations, at least 2.
    seed : int
        Seed of the draws; each cluster and draw has its own generator.

    Raises
    ------
    UserError
        as :func:`shared_subspace`, and for fewer than two draws.
    """
    check_square(r_joined)
    _check_diagonal(r_joined)
    if n_random < 2:
        raise UserError(f"n_random = {n_random} gives no standard deviation; give 2 or more.")
    if np.shape(labels) != (len(r_joined),) or np.shape(sides) != (len(r_joined),):
        raise UserError(
            f"labels {np.shape(labels)} and sides {np.shape(sides)} do not fit {len(r_joined)} units; give one per "
            "unit."
        )
    all_x, all_y = np.flatnonzero(sides == 0), np.flatnonzero(sides == 1)
    clusters = np.intersect1d(labels[all_x], labels[all_y])
    clusters = clusters[clusters >= 0].astype(np.int64)
    shared, drawn, turned, sizes = [], [], [], []
    for cluster in clusters.tolist():
        x, y = (units[labels[units] == cluster] for units in (all_x, all_y))
        blocks = _blocks(r_joined, x, y)
        shared.append(_compare(*blocks))
        sizes.append((len(x), len(y)))
        bases = RandomBases(blocks[2])
        most = max(1, int(STACK_BYTES // (8 * (len(x) + len(y)) ** 2)))
        for first in range(0, n_random, most):
            groups, drawn_bases = [], []
            for k in range(first, min(first + most, n_random)):
                generator = np.random.default_rng([seed, cluster, k])
                random_x = np.sort(generator.choice(all_x, len(x), replace=False))
                random_y = np.sort(generator.choice(all_y, len(y), replace=False))
                groups.append(_blocks(r_joined, random_x, random_y))
                drawn_bases.append(bases.draw(generator))
            drawn.append(_numbers_of_many(*map(np.stack, zip(*groups, strict=True))))
            turned.append(rotated_matchings(blocks[1], blocks[2], np.stack(drawn_bases)))
    chance = np.concatenate(drawn or [np.zeros(0)]).reshape(len(clusters), n_random, len(NUMBERS))
    rotated = np.concatenate(turned or [np.zeros(0)]).reshape(len(clusters), n_random)
    return ClusterSubspaces(
        clusters=clusters,
        sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
        shared=tuple(shared),
        values=np.array([_numbers(one) for one in shared]).reshape(-1, len(NUMBERS)),
        chance=chance.mean(axis=1),
        chance_sd=chance.std(axis=1, ddof=1),
        rotated=rotated.mean(axis=1),
        rotated_sd=rotated.std(axis=1, ddof=1),
    )


def rotated_matchings(r_xy: Matrix, r_yy: Matrix, bases: Matrix) -> Matrix:
    """(m,) mean |r| of matched units with the standardised units of y in other bases (m, n_y, n_y)."""
    deviation = np.sqrt(np.maximum((bases * (r_yy @ bases)).sum(axis=1), 0.0))[:, None, :]
    # A basis of duplicated units may have a unit without variance; its correlations are 0.
    turned = r_xy @ bases
    turned = np.divide(turned, deviation, out=np.zeros_like(turned), where=deviation > 1e-7)
    return _matched(turned)


def _matched(r_xy: Matrix) -> Matrix:
    """(m,) mean |r| of the matched units of matrices (m, n_x, n_y)."""
    return np.array([min(matching(one).mean, 1.0) for one in np.abs(r_xy)])


def _numbers_of_many(r_xx: Matrix, r_xy: Matrix, r_yy: Matrix) -> Matrix:
    """(m, 4) the :data:`NUMBERS` of m groups of equal sizes, as of :func:`_compare`, by stacked decompositions."""
    whitening, ranks = zip(*(_whitenings(r) for r in (r_xx, r_yy)), strict=True)
    from_x = whitening[0].transpose(0, 2, 1) @ r_xy
    from_y = r_xy @ whitening[1]
    cosines = np.clip(np.linalg.svd(from_x @ whitening[1], compute_uv=False), 0.0, 1.0)
    return np.stack(
        [
            cosines.sum(axis=1) / np.minimum(*ranks),
            np.minimum((from_y**2).sum(axis=(1, 2)) / r_xx.shape[1], 1.0),
            np.minimum((from_x**2).sum(axis=(1, 2)) / r_yy.shape[1], 1.0),
            _matched(r_xy),
        ],
        axis=1,
    )


def _whitenings(r: Matrix) -> tuple[Matrix, Labels]:
    """Weights (m, n, n) of principal components of variance 1, 0 beyond the rank, and the ranks (m,)."""
    values, vectors = np.linalg.eigh(r)
    kept = values > RANK_TOLERANCE * values[:, -1:]
    scale = np.divide(1.0, np.sqrt(np.abs(values)), out=np.zeros_like(values), where=kept)
    return vectors * scale[:, None, :], kept.sum(axis=1)


def _compare(r_xx: Matrix, r_xy: Matrix, r_yy: Matrix) -> SharedSubspace:
    (values_x, basis_x), (values_y, basis_y) = principal_directions(r_xx), principal_directions(r_yy)
    from_x = (basis_x / np.sqrt(values_x)).T @ r_xy  # covariances of y's units with an orthonormal basis of x's span
    from_y = r_xy @ (basis_y / np.sqrt(values_y))
    cosines = np.linalg.svd(from_x @ (basis_y / np.sqrt(values_y)), compute_uv=False)
    correlations = np.clip(cosines, 0.0, 1.0)
    return SharedSubspace(
        correlations=correlations,
        mean_correlation=float(correlations.mean()),
        explained_x=min(float(np.sum(from_y**2)) / len(r_xx), 1.0),
        explained_y=min(float(np.sum(from_x**2)) / len(r_yy), 1.0),
        matched=min(matching(np.abs(r_xy)).mean, 1.0),
        rank_x=len(values_x),
        rank_y=len(values_y),
    )


def _numbers(shared: SharedSubspace) -> list[float]:
    return [getattr(shared, name) for name in NUMBERS]


def _blocks(r_joined: Matrix, x: Labels, y: Labels) -> tuple[Matrix, Matrix, Matrix]:
    return r_joined[np.ix_(x, x)], r_joined[np.ix_(x, y)], r_joined[np.ix_(y, y)]


def _check_diagonal(correlation: Matrix) -> None:
    if not np.allclose(np.diagonal(correlation), 1.0):
        raise UserError("the diagonal is not 1; give correlations (divide covariances by the standard deviations).")
