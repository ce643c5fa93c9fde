"""Few-to-one alignment: each unit of one net predicted from few units of the other.

For a target of unit variance with correlations r to the predictors, whose own correlations are R, all losses
are

    loss(w) = 1/2 (1 - 2 w'r + w'Rw) = 1/2 (1 - R²):    1/2 nothing explained, 0 everything.

All targets of a matrix are solved at once. For very wide layers pass slices of targets: weights take
n_alphas x n_targets x n_x x 8 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convergence.alignment import homotopy_kernels, sparse_kernels
from convergence.errors import UserError
from convergence.linalg import RANK_TOLERANCE, least_squares

Matrix = NDArray[np.float64]

# The path goes on at a penalty until optimality is violated by no more than this; the documented bar is 1e-8.
GAP_GOAL = 1e-10
# A further unit must lower the residual variance by more than this, or forward selection ends.
LEAST_GAIN = 1e-12
LARGE_WEIGHT = 0.01


@dataclass(frozen=True, eq=False)
class LassoPath:
    """LASSO solutions for all penalties and targets.

    ``alphas`` (n_alphas,) as given; ``weights`` (n_alphas, n_targets, n_x); and, each (n_alphas, n_targets):
    ``kkt_gap``, the largest violation of the optimality conditions, in units of correlation; ``loss``;
    ``n_nonzero`` weights, and ``n_above``: those of more than 0.01 in absolute value, as the paper counts.
    """

    alphas: Matrix
    weights: Matrix
    kkt_gap: Matrix
    loss: Matrix
    n_nonzero: NDArray[np.int64]
    n_above: NDArray[np.int64]


def paper_lambda(alphas: ArrayLike, n_targets: int) -> Matrix:
    """The paper's penalty λ = α / C: its loss is a mean over the C targets, ours is one target's."""
    return np.asarray(alphas, dtype=np.float64) / n_targets


def lasso_path(r_xx: ArrayLike, r_xy: ArrayLike, alphas: ArrayLike) -> LassoPath:
    """Minimise 1/2 w'Rw - w'r + α |w|₁ for every target and penalty (Li et al. 2016, section 4).

    Exact, also where predictors are duplicates or outnumber the samples; there the weights are one of many
    solutions, on a support of independent units. Matrices that are no correlations of common samples may
    have no minimum: then ``kkt_gap`` says that it was not reached.

    Parameters
    ----------
    r_xx : (n_x, n_x)
        Correlations of the predictors.
    r_xy : (n_x, n_targets)
        Correlations of predictors and targets.
    alphas : (n_alphas,)
        Positive penalties in any order.

    Raises
    ------
    UserError
        when shapes do not fit, a value is not finite or a penalty is not positive.
    """
    gram, targets = _checked(r_xx, r_xy)
    penalties = np.array(alphas, dtype=np.float64)
    if penalties.ndim != 1 or not np.isfinite(penalties).all() or np.any(penalties <= 0):
        raise UserError("penalties are a list of positive numbers; for none at all use dense_fit().")
    falling = np.argsort(-penalties, kind="stable")
    shape = (len(penalties), len(targets))
    weights, gaps, losses = np.zeros((*shape, len(gram))), np.empty(shape), np.empty(shape)
    counts, solved = np.empty((2, *shape), dtype=np.int64), np.empty(len(targets), dtype=np.int64)
    problem = (gram, targets, penalties[falling], LARGE_WEIGHT)
    homotopy_kernels.homotopy_kernel(*problem, weights, gaps, losses, counts, solved)
    if np.any(solved < len(penalties)):
        sparse_kernels.lasso_kernel(*problem, GAP_GOAL, weights, gaps, losses, counts, solved)
    if not np.array_equal(falling, np.arange(len(penalties))):
        back = np.argsort(falling)
        weights, gaps, losses, counts = weights[back], gaps[back], losses[back], counts[:, back]
    return LassoPath(
        alphas=penalties,
        weights=weights,
        kkt_gap=gaps,
        loss=losses,
        n_nonzero=counts[0],
        n_above=counts[1],
    )


def lasso_plain(r_xx: Matrix, r: Matrix, alpha: float, sweeps: int = 100_000, tolerance: float = 1e-12) -> Matrix:
    """The LASSO of one target by coordinate descent as it stands in textbooks: the reference for tests.

    ``r_xx`` (n_x, n_x) and ``r`` (n_x,) give ``weights`` (n_x,). Stops when a sweep moves no weight by
    ``tolerance``.
    """
    weights = np.zeros(len(r))
    for _ in range(sweeps):
        largest = 0.0
        for j in range(len(r)):
            partial = r[j] - r_xx[j] @ weights + r_xx[j, j] * weights[j]
            new = np.sign(partial) * max(abs(partial) - alpha, 0.0) / r_xx[j, j]
            largest = max(largest, abs(new - weights[j]))
            weights[j] = new
        if largest < tolerance:
            break
    return weights


def kkt_gap(r_xx: Matrix, r_xy: Matrix, weights: Matrix, alpha: float) -> Matrix:
    """How far (n_targets, n_x) weights are from optimal: (n_targets,) largest violations, the definition."""
    slope = r_xy.T - weights @ r_xx
    used = np.abs(slope - alpha * np.sign(weights))
    unused = np.maximum(np.abs(slope) - alpha, 0.0)
    return np.where(weights != 0, used, unused).max(axis=1)


def prediction_loss(r_xx: Matrix, r_xy: Matrix, weights: Matrix) -> Matrix:
    """1/2 (1 - 2 w'r + w'Rw) of (..., n_targets, n_x) weights: (..., n_targets) losses, the definition."""
    return 0.5 * (1.0 - 2.0 * np.sum(weights * r_xy.T, axis=-1) + np.sum(weights @ r_xx * weights, axis=-1))


def sparse_loss(r_xx: ArrayLike, r_xy: ArrayLike, weights: ArrayLike) -> Matrix:
    """:func:`prediction_loss` of weights that are mostly zero, in time of the squared number of those that are not.

    The correlations may be of other samples than the weights were fitted on. Raises as :func:`lasso_path`.
    """
    gram, targets = _checked(r_xx, r_xy)
    given = _plain_array(weights)
    if given.ndim < 2 or given.shape[-2:] != targets.shape:
        raise UserError(f"weights of shape {given.shape} do not fit {targets.shape[0]} targets of {len(gram)} units.")
    losses = np.empty(given.shape[:-1])
    sparse_kernels.loss_kernel(gram, targets, given.reshape(-1, len(gram)), losses.reshape(-1))
    return losses


def forward_weights(r_xx: ArrayLike, r_xy: ArrayLike, order: NDArray[np.int64]) -> Matrix:
    """Refitted weights (n_steps, n_targets, n_x) of the first 1, 2, … units of an order (n_targets, n_steps)."""
    n_targets, n_steps = order.shape
    chosen = np.zeros((n_steps, n_targets, len(np.asarray(r_xx))))
    for step in range(n_steps):
        if step:
            chosen[step] = chosen[step - 1]
        taken = np.flatnonzero(order[:, step] >= 0)
        chosen[step, taken, order[taken, step]] = 1.0
    return refit(r_xx, r_xy, chosen)[0]


def refit(r_xx: ArrayLike, r_xy: ArrayLike, weights: ArrayLike) -> tuple[Matrix, Matrix]:
    """Least squares on each row's support, without the penalty's shrinkage (relaxed LASSO).

    ``weights`` (..., n_targets, n_x) give refitted weights of the same shape and losses (..., n_targets). A
    unit that depends on others of its support gets weight zero. Raises as :func:`lasso_path`.
    """
    gram, targets = _checked(r_xx, r_xy)
    given = _plain_array(weights)
    if given.ndim < 2 or given.shape[-2:] != targets.shape:
        raise UserError(f"weights of shape {given.shape} do not fit {targets.shape[0]} targets of {len(gram)} units.")
    fitted, losses = np.zeros(given.shape), np.empty(given.shape[:-1])
    rows = (-1, len(gram))
    sparse_kernels.refit_kernel(gram, targets, given.reshape(rows), fitted.reshape(rows), losses.reshape(-1))
    return fitted, losses


def dense_fit(
    r_xx: ArrayLike, r_xy: ArrayLike, tolerance: float = RANK_TOLERANCE
) -> tuple[Matrix, NDArray[np.float64], int]:
    """The unpenalised fit by rank-revealing least squares.

    Eigenvalues of ``r_xx`` below ``tolerance`` (1e-7) times the largest count as zero. Gives weights
    (n_targets, n_x), losses (n_targets,) and the rank. Raises as :func:`lasso_path`.
    """
    gram, targets = _checked(r_xx, r_xy)
    weights, rank = least_squares(gram, targets.T, tolerance)
    return weights, 0.5 * np.maximum(1.0 - np.sum(weights * targets, axis=1), 0.0), rank


def forward_selection(r_xx: ArrayLike, r_xy: ArrayLike, max_units: int) -> tuple[NDArray[np.int64], Matrix]:
    """Orthogonal forward selection: each step takes the unit that lowers the loss most, and refits.

    Parameters
    ----------
    r_xx, r_xy : (n_x, n_x), (n_x, n_targets)
        As in :func:`lasso_path`, which also says what is raised.
    max_units : int
        Number of steps, at least 1.

    Returns
    -------
    order : (n_targets, max_units) int
        Units in the order they are taken, of equal ones the lowest index; -1 where nothing is left to gain.
        Units that depend on those taken are passed over.
    loss : (n_targets, max_units)
        Loss after each step, never rising.
    """
    gram, targets = _checked(r_xx, r_xy)
    if max_units < 1:
        raise UserError(f"max_units {max_units} must be at least 1.")
    order = np.empty((len(targets), max_units), dtype=np.int64)
    losses = np.empty((len(targets), max_units))
    sparse_kernels.forward_kernel(gram, targets, order, losses, LEAST_GAIN)
    return order, losses


def forward_selection_plain(r_xx: Matrix, r: Matrix, max_units: int) -> tuple[list[int], list[float]]:
    """Forward selection of one target by refitting every candidate at every step: the reference for tests."""
    taken: list[int] = []
    losses: list[float] = []
    for _ in range(max_units):
        trials: dict[int, float] = {}
        for j in set(range(len(r))) - set(taken):
            units = [*taken, j]
            weights = np.linalg.lstsq(r_xx[np.ix_(units, units)], r[units], rcond=RANK_TOLERANCE)[0]
            trials[j] = float(0.5 * (1.0 - weights @ r[units]))
        best = min(trials, key=lambda j: (round(trials[j], 12), j), default=-1)
        before = losses[-1] if losses else 0.5
        if best < 0 or before - trials[best] < LEAST_GAIN:
            break
        taken.append(best)
        losses.append(trials[best])
    return taken, losses


def _plain_array(values: ArrayLike) -> Matrix:
    """Writable, C-contiguous float64: the one kind of array that the kernels are compiled for."""
    return np.require(np.asarray(values), np.float64, ["C", "W", "A"])


def _checked(r_xx: ArrayLike, r_xy: ArrayLike) -> tuple[Matrix, Matrix]:
    """The predictors' matrix (n_x, n_x) and the targets as rows (n_targets, n_x)."""
    gram, targets = _plain_array(r_xx), _plain_array(np.transpose(np.asarray(r_xy)))
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or gram.size == 0 or targets.ndim != 2:
        raise UserError(f"correlations of shape {gram.shape} join no predictors; give (n_x, n_x) and (n_x, n_targets).")
    if targets.shape[1] != len(gram) or len(targets) == 0:
        raise UserError(f"{len(gram)} predictors do not fit targets of shape {targets.T.shape}; give (n_x, n_targets).")
    if not (np.isfinite(gram).all() and np.isfinite(targets).all()):
        raise UserError("a correlation is NaN or infinite; leave units without variance out before fitting.")
    return gram, targets
