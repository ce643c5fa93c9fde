r"""Which units of a layer others stand in for, in the order in which they can go.

What a unit is worth is what the next layer loses without it. Let x be the layer's units as the next layer reads them, M
their second moments and W (m, n) the weights by which they are read. Of the units K that are kept, the best linear
stand-in for all of them, folded into the weights, leaves an expected squared change of the next layer's
pre-activations of

    E(K) = min_B E |W x - B x_K|² = tr(W M Wᵀ) - tr(W M_:K M_KK⁻¹ M_K: Wᵀ),   B = W M_:K M_KK⁻¹,

and taking unit j out of K as well adds

    E(K \ j) - E(K) = |B_j|² / (M_KK⁻¹)_jj,

the squared norm of its outgoing weights times the variance of it that the others do not explain. This is the saliency
of the optimal brain surgeon (Hassibi and Stork 1993) for columns of a least-squares problem, as in optimal brain
compression (Frantar and Alistarh 2022); removing j updates M_KK⁻¹ and B by a rank-one (Schur) step. The greedy order
takes out the unit that adds least, again and again.

With few stand-ins a unit is predicted by at most k others, chosen by orthogonal matching pursuit (Pati et al. 1993);
k = 1 is neuron merging (Kim et al. 2020) with least squares in place of the cosine of weights.

Where several layers read the same units, each has its own moments and stand-ins, and a unit costs the sum of what
every reader loses, as a share of what it reads.
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
"""A unit with less than this share of the largest second moment is dead to its reader."""


class Reader(NamedTuple):
    """What one reader of n units has of them.

    Attributes
    ----------
    moments : (n, n) second moments of the units, about ``about``
    about : (n,) their means, or zeros for a reader without a constant
    weights : (m, n) by which it reads them, all that leads away from a unit in its column
    """

    moments: Float64
    about: Float64
    weights: Float64


@dataclass(frozen=True)
class Elimination:
    """All units in the order in which they go, (n,), and what each adds to the loss as it goes, (n,).

    The loss is the expected squared change of the readers' pre-activations as a share of their size, summed over
    readers.
    """

    order: Indices
    loss: Float64


class _Scaled(NamedTuple):
    """A reader with units of size 1, dead ones as units of weight 0, and weights whose whole reading has size 1."""

    moments: Float64
    weights: Float64


def _scaled(reader: Reader) -> _Scaled:
    size = np.diag(reader.moments).copy()
    dead = dead_units(reader)
    size[dead] = 1.0
    root = np.sqrt(size)
    moments = reader.moments / np.outer(root, root)
    moments[dead, :] = moments[:, dead] = 0.0
    weights = np.where(dead, 0.0, reader.weights * root)
    whole = float(np.sum((weights @ moments) * weights))
    np.fill_diagonal(moments, 1.0 + RIDGE)
    return _Scaled(moments, weights / np.sqrt(whole) if whole > 0 else weights)


def dead_units(reader: Reader) -> npt.NDArray[np.bool_]:
    """Units that tell a reader nothing: they are always zero, or constant for a reader that has a constant."""
    size = np.diag(reader.moments)
    return np.asarray(size <= NOTHING * max(float(np.max(size + reader.about**2)), np.finfo(np.float64).tiny))


def eliminate(readers: Sequence[Reader]) -> Elimination:
    """The greedy order in O(n²) a unit and reader: dead units, then the ones that the rest predicts best."""
    scaled = [_scaled(reader) for reader in readers]
    # Upper triangles in the order that the rank-one updates of BLAS change in place.
    inverses = [np.asfortranarray(np.linalg.inv(reader.moments)) for reader in scaled]
    grams = [np.asfortranarray(reader.weights.T @ reader.weights) for reader in scaled]
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
    """A row of a symmetric matrix whose upper triangle is kept."""
    return np.concatenate([upper[:j, j], upper[j, j:]])


def eliminate_plain(readers: Sequence[Reader]) -> Elimination:
    """The same by its definition, E(K) of every set that is one unit smaller: the reference for tests."""
    scaled = [_scaled(reader) for reader in readers]

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


def eliminate_few(readers: Sequence[Reader], terms: int) -> Elimination:
    """The greedy order where a unit that goes leaves its weights to at most ``terms`` units that are still there.

    A unit that stood in for others carries their weights, and costs more to take out. Stand-ins of a unit change only
    when one of them goes, so few are chosen anew each time.
    """
    scaled = [_scaled(reader) for reader in readers]
    n = len(scaled[0].moments)
    grams = [reader.weights.T @ reader.weights for reader in scaled]
    left = np.ones(n, dtype=bool)
    everyone = np.arange(n)
    found = [stand_ins(reader.moments, everyone, left, terms) for reader in scaled]
    order, losses = np.empty(n, np.int64), np.empty(n)
    for step in range(n):
        added = sum(np.diag(gram) * few.unexplained for gram, few in zip(grams, found, strict=True))
        added = np.where(left, added, np.inf)
        j = int(np.argmin(added))
        order[step], losses[step] = j, float(added[j])
        left[j] = False
        for reader, gram, few in zip(scaled, grams, found, strict=True):
            for unit, weight in few.of(j):
                gram[unit] += weight * gram[j]
                gram[:, unit] += weight * gram[:, j]
            gram[j] = gram[:, j] = 0.0
            lost = everyone[left & (few.units == j).any(axis=1)]
            if len(lost):
                few.replace(lost, stand_ins(reader.moments, lost, left, terms))
    return Elimination(order, losses)


@dataclass(frozen=True)
class Few:
    """Stand-ins of some units, each by at most k others.

    Attributes
    ----------
    units : (targets, k) int, which units; -1 for none
    weights : (targets, k), zero for none
    unexplained : (targets,) second moment of what is left of each
    """

    units: Indices
    weights: Float64
    unexplained: Float64

    def of(self, target: int) -> list[tuple[int, float]]:
        """A target's stand-ins and their weights."""
        pairs = zip(self.units[target], self.weights[target], strict=True)
        return [(int(unit), float(weight)) for unit, weight in pairs if unit >= 0]

    def replace(self, targets: Indices, other: Few) -> None:
        """Take over other stand-ins for some targets."""
        self.units[targets], self.weights[targets] = other.units, other.weights
        self.unexplained[targets] = other.unexplained


def stand_ins(moments: Float64, targets: Indices, allowed: npt.NDArray[np.bool_], terms: int) -> Few:
    """At most ``terms`` of the units allowed for each target, itself excluded, by orthogonal matching pursuit.

    Parameters
    ----------
    moments : (n, n)
        Second moments of units of size 1.
    targets : (t,)
        Indices of the units that are predicted.
    allowed : (n,) bool
        Who may stand in.
    terms : int
        Most stand-ins of a unit.
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
        # What is explained already, or by nobody, needs no further stand-in: its pursuit has ended.
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
    return Few(units, weights, unexplained)


def predicted(reader: Reader, kept: Indices, removed: Indices, terms: int | None = None) -> tuple[Float64, Float64]:
    """How the units that are kept stand in for those removed: x_removed ≈ P x_kept + c.

    By least squares over all kept units, or over at most ``terms`` of them. Returns P (removed, kept) and c (removed,),
    which is zero for a reader without a constant. Dead units have rows of zeros.
    """
    size = np.sqrt(np.diag(reader.moments))
    dead = dead_units(reader)
    size[dead] = 1.0
    moments = _scaled(reader).moments
    weights: Float64 = np.zeros((len(removed), len(kept)))
    if len(removed) and len(kept):
        if terms is None:
            weights[:] = np.linalg.solve(moments[np.ix_(kept, kept)], moments[np.ix_(kept, removed)]).T
        else:
            allowed = np.zeros(len(moments), dtype=bool)
            allowed[kept] = ~dead[kept]
            few = stand_ins(moments, removed, allowed, terms)
            place = np.full(len(moments), -1)
            place[kept] = np.arange(len(kept))
            rows, steps = np.nonzero(few.units >= 0)
            weights[rows, place[few.units[rows, steps]]] = few.weights[rows, steps]
    weights *= size[removed][:, None] / size[kept]
    return weights, reader.about[removed] - weights @ reader.about[kept]
