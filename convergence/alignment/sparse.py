"""Few-to-one alignment: predict each unit of one net from few units of the other.

For a target of unit variance with correlations r to the predictors, which have correlations R among themselves, the
loss is

    loss(w) = 1/2 (1 - 2 w'r + w'Rw) = 1/2 (1 - R²):    1/2 if nothing is explained, 0 if everything is.

All targets of a matrix are solved at once. The weights take n_alphas × n_targets × n_x × 8 bytes; for very wide layers
pass slices of the targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convergence.alignment import homotopy_kernels, sparse_kernels
from convergence.errors import UserError
from convergence.linalg import RANK_TOLERANCE, least_squares

Matrix = NDArray[np.float64]

# Largest violation of optimality at which a penalty counts as solved; the documented bound is 1e-8.
GAP_GOAL = 1e-10
# Smallest decrease of the residual variance by a further unit in forward selection.
LEAST_GAIN = 1e-12
LARGE_WEIGHT = 0.01
# Asymmetry of correlations, as a share of the largest, that float32 sums may have.
LARGEST_ASYMMETRY = 1e-5


@dataclass(frozen=True, eq=False)
class LassoPath:
    """LASSO solutions for all penalties and targets.

    Attributes
    ----------
    alphas : (n_alphas,)
        Penalties in the given order.
    weights : (n_alphas, n_targets, n_x)
    kkt_gap : (n_alphas, n_targets)
        Largest violation of the optimality conditions, in units of correlation.
    loss : (n_alphas, n_targets)
    n_nonzero : (n_alphas, n_targets)
        Number of nonzero weights.
    n_above : (n_alphas, n_targets)
        Number of weights above 0.01 in absolute value, as counted by Li et al. 2016.
    """

    alphas: Matrix
    weights: Matrix
    kkt_gap: Matrix
    loss: Matrix
    n_nonzero: NDArray[np.int64]
    n_above: NDArray[np.int64]


def paper_lambda(alphas: ArrayLike, n_targets: int) -> Matrix:
    """Convert to the penalty of Li et al. 2016, λ = α / C, whose loss is a mean over the C targets."""
    return np.asarray(alphas, dtype=np.float64) / n_targets


def lasso_path(r_xx: ArrayLike, r_xy: ArrayLike, alphas: ArrayLike) -> LassoPath:
    """Minimise 1/2 w'Rw - w'r + α |w|₁ for every target and penalty (Li et al. 2016, section 4).

    The solution is exact, also with duplicated predictors or more predictors than samples. In these cases the weights
    are one of many solutions, on a support of independent units. A matrix that is no correlation matrix of common
    samples may have no minimum; ``kkt_gap`` then shows that the minimum was not reached.

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
        if shapes do not fit, ``r_xx`` is not symmetric, a value is not finite, or a penalty is not positive.
    """
    gram, targets = _checked(r_xx, r_xy)
    penalties = np.array(alphas, dtype=np.float64)
    if penalties.ndim != 1 or not np.isfinite(penalties).all() or np.any(penalties <= 0):
        raise UserError("alphas must be a list of positive numbers; use dense_fit() for a fit without a penalty.")
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


def kkt_gap(r_xx: Matrix, r_xy: Matrix, weights: Matrix, alpha: float) -> Matrix:
    """Compute the largest violations (n_targets,) of the optimality (KKT) conditions by weights (n_targets, n_x)."""
    slope = r_xy.T - weights @ r_xx
    used = np.abs(slope - alpha * np.sign(weights))
    unused = np.maximum(np.abs(slope) - alpha, 0.0)
    return np.where(weights != 0, used, unused).max(axis=1)


def prediction_loss(r_xx: Matrix, r_xy: Matrix, weights: Matrix) -> Matrix:
    """Compute the losses 1/2 (1 - 2 w'r + w'Rw), (..., n_targets), of weights (..., n_targets, n_x)."""
    return 0.5 * (1.0 - 2.0 * np.sum(weights * r_xy.T, axis=-1) + np.sum(weights @ r_xx * weights, axis=-1))


def sparse_loss(r_xx: ArrayLike, r_xy: ArrayLike, weights: ArrayLike) -> Matrix:
    """Compute :func:`prediction_loss` of sparse weights, in time quadratic in the number of nonzero weights.

    The correlations may be of other samples than those of the fit. Raises as :func:`lasso_path`.
    """
    gram, targets = _checked(r_xx, r_xy)
    given = _plain_array(weights)
    if given.ndim < 2 or given.shape[-2:] != targets.shape:
        raise UserError(f"weights of shape {given.shape} do not fit {targets.shape[0]} targets of {len(gram)} units.")
    losses = np.empty(given.shape[:-1])
    sparse_kernels.loss_kernel(gram, targets, given.reshape(-1, len(gram)), losses.reshape(-1))
    return losses


def forward_weights(r_xx: ArrayLike, r_xy: ArrayLike, order: NDArray[np.int64]) -> Matrix:
    """Fit weights (n_steps, n_targets, n_x) on the first 1, 2, … units of an order (n_targets, n_steps)."""
    n_targets, n_steps = order.shape
    chosen = np.zeros((n_steps, n_targets, len(np.asarray(r_xx))))
    for step in range(n_steps):
        if step:
            chosen[step] = chosen[step - 1]
        taken = np.flatnonzero(order[:, step] >= 0)
        chosen[step, taken, order[taken, step]] = 1.0
    return refit(r_xx, r_xy, chosen)[0]


def refit(r_xx: ArrayLike, r_xy: ArrayLike, weights: ArrayLike) -> tuple[Matrix, Matrix]:
    """Refit weights by least squares on the support of each row, without the shrinkage of the penalty (relaxed LASSO).

    ``weights`` are (..., n_targets, n_x). Returns refitted weights of the same shape and losses (..., n_targets). A
    unit that depends linearly on earlier units of its support gets weight zero. Raises as :func:`lasso_path`.
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
    """Fit without a penalty, by rank-revealing least squares.

    Eigenvalues of ``r_xx`` below ``tolerance`` (1e-7) times the largest count as zero. Returns weights
    (n_targets, n_x), losses (n_targets,) and the rank. Raises as :func:`lasso_path`.
    """
    gram, targets = _checked(r_xx, r_xy)
    weights, rank = least_squares(gram, targets.T, tolerance)
    return weights, 0.5 * np.maximum(1.0 - np.sum(weights * targets, axis=1), 0.0), rank


def forward_selection(r_xx: ArrayLike, r_xy: ArrayLike, max_units: int) -> tuple[NDArray[np.int64], Matrix]:
    """Select units by orthogonal forward selection: each step adds the unit that lowers the loss most, and refits.

    Parameters
    ----------
    r_xx, r_xy : (n_x, n_x), (n_x, n_targets)
        As in :func:`lasso_path`; raises the same errors.
    max_units : int
        Number of steps, at least 1.

    Returns
    -------
    order : (n_targets, max_units) int
        Units in the order of selection, ties by the lowest index; -1 after the last unit that lowers the loss. Units
        that depend linearly on selected units are skipped.
    loss : (n_targets, max_units)
        Loss after each step, non-increasing.
    """
    gram, targets = _checked(r_xx, r_xy)
    if max_units < 1:
        raise UserError(f"max_units = {max_units} must be at least 1.")
    order = np.empty((len(targets), max_units), dtype=np.int64)
    losses = np.empty((len(targets), max_units))
    sparse_kernels.forward_kernel(gram, targets, order, losses, LEAST_GAIN)
    return order, losses


def _plain_array(values: ArrayLike) -> Matrix:
    """Convert to writable, C-contiguous float64, the type for which the kernels are compiled."""
    return np.require(np.asarray(values), np.float64, ["C", "W", "A"])


def _checked(r_xx: ArrayLike, r_xy: ArrayLike) -> tuple[Matrix, Matrix]:
    """Check and return the matrix (n_x, n_x) of the predictors and the targets as rows (n_targets, n_x)."""
    gram, targets = _plain_array(r_xx), _plain_array(np.transpose(np.asarray(r_xy)))
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or gram.size == 0 or targets.ndim != 2:
        raise UserError(f"correlations of shape {gram.shape} are not valid; give (n_x, n_x) and (n_x, n_targets).")
    if targets.shape[1] != len(gram) or len(targets) == 0:
        raise UserError(f"{len(gram)} predictors do not fit targets of shape {targets.T.shape}; give (n_x, n_targets).")
    if not (np.isfinite(gram).all() and np.isfinite(targets).all()):
        raise UserError("a correlation is NaN or infinite; exclude units without variance before fitting.")
    asymmetry = float(np.abs(gram - gram.T).max())
    if asymmetry > LARGEST_ASYMMETRY * float(np.abs(gram).max()):
        raise UserError(
            f"the correlations of the predictors are not symmetric: values of i, j and j, i differ by {asymmetry:.3g}."
        )
    if asymmetry > 0:
        gram = (gram + gram.T) / 2  # of an asymmetric matrix, neither kernel finds a minimum
    return gram, targets
