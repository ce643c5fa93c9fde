r"""The redundancy of a layer's units: the order in which they can be pruned.

Let x be the layer's units as the next layer reads them, M their second moments and W (m, n) the weights of the next
layer. With the units K kept, the best linear prediction of all units, folded into the weights, leaves an expected
squared change of the next layer's pre-activations of

    E(K) = min_B E |W x - B x_K|² = tr(W M Wᵀ) - tr(W M_:K M_KK⁻¹ M_K: Wᵀ),   B = W M_:K M_KK⁻¹,

and removing unit j from K adds

    E(K \ j) - E(K) = |B_j|² / (M_KK⁻¹)_jj,

the squared norm of its outgoing weights times its variance that the others do not explain. This is the saliency of
the optimal brain surgeon (Hassibi and Stork 1993) for columns of a least-squares problem, as in optimal brain
compression (Frantar and Alistarh 2022); removing j updates M_KK⁻¹ and B by a rank-one (Schur) step. The greedy order
removes the unit that adds least at each step.

A sparse prediction uses at most k units, chosen by orthogonal matching pursuit (Pati et al. 1993); k = 1 is neuron
merging (Kim et al. 2020) with least squares instead of the cosine of weights.

Where several layers consume the same units, each has its own moments and predictions; losses are relative to what a
consumer reads, and add up over consumers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.linalg import blas

Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
RIDGE = 1e-9
"""Added to the second moments of units of unit size, so that copies of units leave them invertible."""
NOTHING = 1e-12
"""Share of the largest second moment below which a unit is dead."""


class ConsumerMoments(NamedTuple):
    """What one consumer reads of n units.

    Attributes
    ----------
    moments : (n, n) second moments of the units about ``center``
    center : (n,) their means, or zeros for a consumer without a constant
    weights : (m, n) of the consumer, all outgoing weights of a unit in its column
    """

    moments: Float64
    center: Float64
    weights: Float64


@dataclass(frozen=True)
class Elimination:
    """Units in the order of their removal, (n,), and what each adds to the loss, (n,).

    The loss is the relative expected squared change of the consumers' pre-activations, summed over consumers.
    """

    order: Indices
    loss: Float64


class _Scaled(NamedTuple):
    """Moments of units scaled to size 1 (dead ones get weight 0), and weights scaled to an output of size 1."""

    moments: Float64
    weights: Float64


def _scaled(consumer: ConsumerMoments) -> _Scaled:
    size = np.diag(consumer.moments).copy()
    dead = dead_units(consumer)
    size[dead] = 1.0
    root = np.sqrt(size)
    moments = consumer.moments / np.outer(root, root)
    moments[dead, :] = moments[:, dead] = 0.0
    weights = np.where(dead, 0.0, consumer.weights * root)
    whole = float(np.sum((weights @ moments) * weights))
    np.fill_diagonal(moments, 1.0 + RIDGE)
    return _Scaled(moments, weights / np.sqrt(whole) if whole > 0 else weights)


def dead_units(consumer: ConsumerMoments) -> npt.NDArray[np.bool_]:
    """(n,) whether a unit is always zero, or constant for a consumer that has a constant."""
    size = np.diag(consumer.moments)
    return np.asarray(size <= NOTHING * max(float(np.max(size + consumer.center**2)), np.finfo(np.float64).tiny))


def eliminate(consumers: Sequence[ConsumerMoments]) -> Elimination:
    """The greedy order, in O(n²) per unit and consumer: dead units first, then those that the others predict best."""
    scaled = [_scaled(consumer) for consumer in consumers]
    # Upper triangles in Fortran order, which BLAS updates in place.
    inverses = [np.asfortranarray(np.linalg.inv(consumer.moments)) for consumer in scaled]
    grams = [np.asfortranarray(consumer.weights.T @ consumer.weights) for consumer in scaled]
    n = len(inverses[0])
    left = np.ones(n, dtype=bool)
    order, losses = np.empty(n, np.int64), np.empty(n)
    for step in range(n):
        added = np.full(n, np.inf)
        added[left] = sum(
            np.diag(gram)[left] / np.diag(inverse)[left] for gram, inverse in zip(grams, inverses, strict=True)
        )
        j = int(np.argmin(added))
        order[step], losses[step] = j, max(float(added[j]), 0.0)
        left[j] = False
        for k, (gram, inverse) in enumerate(zip(grams, inverses, strict=True)):
            h, with_j = _row(inverse, j), _row(gram, j)
            pivot = h[j]
            inverses[k] = blas.dsyr(-1.0 / pivot, h, a=inverse, overwrite_a=1)
            # B loses B_j hᵀ, so BᵀB changes by h hᵀ |B_j|² - (BᵀB)_j hᵀ - h (BᵀB)_jᵀ.
            h = h / pivot
            grams[k] = blas.dsyr2(-1.0, with_j - 0.5 * with_j[j] * h, h, a=gram, overwrite_a=1)
            for matrix in (inverses[k], grams[k]):
                matrix[j, :] = matrix[:, j] = 0.0
    return Elimination(order, losses)


def _row(upper: Float64, j: int) -> Float64:
    """A row of a symmetric matrix from its upper triangle."""
    return np.concatenate([upper[:j, j], upper[j, j:]])


def eliminate_plain(consumers: Sequence[ConsumerMoments]) -> Elimination:
    """The same by definition, from E(K) of every set that is one unit smaller: the reference for tests."""
    scaled = [_scaled(consumer) for consumer in consumers]

    def loss(kept: list[int]) -> float:
        total = 0.0
        for moments, weights in scaled:
            read = weights @ moments[:, kept]
            own = moments[np.ix_(kept, kept)]
            total += np.sum((weights @ moments) * weights) - np.sum(read * np.linalg.solve(own, read.T).T)
        return total

    left = list(range(len(scaled[0].moments)))
    order, losses, before = [], [], 0.0
    while left:
        trials = [loss([i for i in left if i != j]) for j in left]
        best = int(np.argmin(trials))
        order.append(left.pop(best))
        losses.append(trials[best] - before)
        before = trials[best]
    return Elimination(np.array(order), np.array(losses))


def eliminate_few(consumers: Sequence[ConsumerMoments], terms: int) -> Elimination:
    """The greedy order in which each removed unit is predicted from at most ``terms`` remaining ones.

    A unit that predicts others takes over their weights, and costs more to remove. Predictions are computed again only
    where one of their units is removed.
    """
    scaled = [_scaled(consumer) for consumer in consumers]
    n = len(scaled[0].moments)
    grams = [consumer.weights.T @ consumer.weights for consumer in scaled]
    left = np.ones(n, dtype=bool)
    everyone = np.arange(n)
    found = [matching_pursuit(consumer.moments, everyone, left, terms) for consumer in scaled]
    order, losses = np.empty(n, np.int64), np.empty(n)
    for step in range(n):
        added = sum(np.diag(gram) * few.unexplained for gram, few in zip(grams, found, strict=True))
        added = np.where(left, added, np.inf)
        j = int(np.argmin(added))
        order[step], losses[step] = j, float(added[j])
        left[j] = False
        for consumer, gram, few in zip(scaled, grams, found, strict=True):
            for unit, weight in few.of(j):
                gram[unit] += weight * gram[j]
                gram[:, unit] += weight * gram[:, j]
            gram[j] = gram[:, j] = 0.0
            lost = everyone[left & (few.units == j).any(axis=1)]
            if len(lost):
                few.replace(lost, matching_pursuit(consumer.moments, lost, left, terms))
    return Elimination(order, losses)


@dataclass(frozen=True)
class FewUnitPrediction:
    """Predictions of some units, each from at most k others.

    Attributes
    ----------
    units : (targets, k) indices of the predicting units; -1 for none
    weights : (targets, k), zero for none
    unexplained : (targets,) second moment of the error
    """

    units: Indices
    weights: Float64
    unexplained: Float64

    def of(self, target: int) -> list[tuple[int, float]]:
        """The units that predict a target, and their weights."""
        pairs = zip(self.units[target], self.weights[target], strict=True)
        return [(int(unit), float(weight)) for unit, weight in pairs if unit >= 0]

    def replace(self, targets: Indices, other: FewUnitPrediction) -> None:
        """Replace the predictions of some targets."""
        self.units[targets], self.weights[targets] = other.units, other.weights
        self.unexplained[targets] = other.unexplained


def matching_pursuit(
    moments: Float64, targets: Indices, allowed: npt.NDArray[np.bool_], terms: int
) -> FewUnitPrediction:
    """Predict each target from at most ``terms`` other allowed units by orthogonal matching pursuit.

    Parameters
    ----------
    moments : (n, n)
        Second moments of units of size 1.
    targets : (t,)
        Indices of the predicted units.
    allowed : (n,) bool
        Units that may predict.
    terms : int
        Largest number of units per target.
    """
    n_targets, rows = len(targets), np.arange(len(targets))
    units = np.full((n_targets, terms), -1, np.int64)
    weights = np.zeros((n_targets, terms))
    own = np.diag(moments)[targets]
    rest, unexplained = moments[targets].copy(), own.copy()
    free = np.repeat(allowed[None], n_targets, axis=0)
    free[rows, targets] = False
    for step in range(terms):
        gain = np.where(free, rest**2, -1.0)
        best = np.argmax(gain, axis=1)
        # The pursuit ends where nothing is left to explain, or no unit explains it.
        more = gain[rows, best] > NOTHING
        if not more.any():
            break
        units[more, step] = best[more]
        free[rows, best] = False
        chosen = units[more, : step + 1]
        of_chosen = moments[chosen[:, :, None], chosen[:, None, :]]
        with_target = moments[targets[more][:, None], chosen]
        solved = np.linalg.solve(of_chosen, with_target[:, :, None])[:, :, 0]
        weights[more, : step + 1] = solved
        rest[more] = moments[targets[more]] - np.einsum("tk,tkn->tn", solved, moments[chosen])
        rest[~more] = 0.0
        unexplained[more] = np.maximum(own[more] - np.sum(solved * with_target, axis=1), 0.0)
    return FewUnitPrediction(units, weights, unexplained)


def predicted(
    consumer: ConsumerMoments, kept: Indices, removed: Indices, terms: int | None = None
) -> tuple[Float64, Float64]:
    """The prediction of removed units from kept ones: x_removed ≈ P x_kept + c.

    By least squares on all kept units, or on at most ``terms`` of them. Returns P (removed, kept) and c (removed,),
    which is zero for a consumer without a constant. Dead units have rows of zeros.
    """
    size = np.sqrt(np.diag(consumer.moments))
    dead = dead_units(consumer)
    size[dead] = 1.0
    moments = _scaled(consumer).moments
    weights: Float64 = np.zeros((len(removed), len(kept)))
    if len(removed) and len(kept):
        if terms is None:
            weights[:] = np.linalg.solve(moments[np.ix_(kept, kept)], moments[np.ix_(kept, removed)]).T
        else:
            allowed = np.zeros(len(moments), dtype=bool)
            allowed[kept] = ~dead[kept]
            few = matching_pursuit(moments, removed, allowed, terms)
            place = np.full(len(moments), -1)
            place[kept] = np.arange(len(kept))
            rows, steps = np.nonzero(few.units >= 0)
            weights[rows, place[few.units[rows, steps]]] = few.weights[rows, steps]
    weights *= size[removed][:, None] / size[kept]
    return weights, consumer.center[removed] - weights @ consumer.center[kept]
