"""The paper's mapping layers, trained as they were: SGD with momentum on the loss plus λ times the weights' size.

A mapping layer predicts the C units of one net from those of another by a 1×1 convolution W (Li et al. 2016, section
4). On units of unit variance it minimises

    (1/2C) tr(R_yy − 2 W R_xy + W R_xx Wᵀ) + λ Σ|W|,

C LASSO problems with alpha = λ C each, of which :func:`convergence.alignment.sparse.lasso_path` has the solution. The
original took it by Caffe's solver: minibatches, momentum 0.9, and sign(W) for the slope of |W|. Stopped early, what is
left of the random initial weights raises the loss, and a small penalty lowers it again, which no optimum could do.

Only correlations are at hand, so minibatches are approximated: ``batch`` Gaussian vectors with the joint correlations
of x and y at each step. Gradients then have the mean that they had, and the covariance they would have had if the
activations were Gaussian and the positions of an image independent; real ones are neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from convergence.alignment.sparse import LARGE_WEIGHT, prediction_loss
from convergence.errors import UserError

Matrix = NDArray[np.float64]

MOMENTUM = 0.9
LEARNING_RATE = 0.1
BATCH = 256
SHORT_STEPS = 140
"""With the learning rate above, the training that gives the paper's conv1 losses on the paper's conv1 matrices."""
# Weights of standardised units that have grown to this do not come back.
_DIVERGED = 1e6
_LOOK_EVERY = 10


@dataclass(frozen=True, eq=False)
class MappingResult:
    """Mapping layers of several penalties, trained from the same weights on the same minibatches.

    ``lambdas`` (n_lambdas,) and ``steps`` (n_checkpoints,); ``loss`` and ``n_above`` (n_checkpoints, n_lambdas): the
    mean loss over targets without the penalty, from the correlations themselves, and the mean number of weights above
    0.01 a target; ``weights`` (n_lambdas, n_targets, n_x) at the last step; ``learning_rate`` that was used.
    """

    lambdas: Matrix
    steps: tuple[int, ...]
    loss: Matrix
    n_above: Matrix
    weights: Matrix
    learning_rate: float


def train_mapping(
    r_xx: ArrayLike,
    r_xy: ArrayLike,
    r_yy: ArrayLike,
    lam: ArrayLike,
    steps: int,
    batch: int | None = BATCH,
    learning_rate: float | None = None,
    seed: int = 0,
    checkpoints: Sequence[int] = (),
) -> MappingResult:
    """Train mapping layers from x to y, one a penalty.

    Initial weights are Gaussian with variance 1 / n_x, that of Caffe's Xavier filler.

    Parameters
    ----------
    r_xx, r_xy, r_yy : (n_x, n_x), (n_x, n_targets), (n_targets, n_targets)
        Correlations; directions in which rounding made them negative count as zero.
    lam
        The paper's penalty λ, or several.
    steps
        Number of updates.
    batch
        Samples of a minibatch. ``None``: no minibatches but the gradient of the whole, with a proximal step for the
        penalty and restarted acceleration (FISTA; Beck & Teboulle 2009, O'Donoghue & Candès 2015), which goes to the
        LASSO optimum.
    learning_rate
        Of the loss above, whose gradient is a C-th of each target's. ``None``: 0.1 or, if that is less, a quarter of
        :func:`stable_rate`; without minibatches the largest safe one, C over the largest eigenvalue of ``r_xx``.
    seed
        Of the initial weights and the minibatches.
    checkpoints
        Further steps at which loss and weights are read; the last one always is.

    Raises
    ------
    UserError
        when shapes do not fit, a number is out of its range, or the training diverges.
    """
    x, xy, yy = _checked(r_xx, r_xy, r_yy)
    lambdas = np.atleast_1d(np.asarray(lam, dtype=np.float64))
    marks = tuple(sorted({*checkpoints, steps}))
    _check_numbers(lambdas, steps, batch, learning_rate, marks)
    n_x, n_y = xy.shape
    generator = np.random.default_rng(seed)
    start = generator.standard_normal((n_y, n_x)) / np.sqrt(n_x)
    if learning_rate is None:
        safe = n_y / float(np.linalg.eigvalsh(x)[-1])
        learning_rate = safe if batch is None else min(LEARNING_RATE, stable_rate(x, n_y) / 4)
    state = (
        _Proximal(x, xy, lambdas, start, learning_rate)
        if batch is None
        else _Sgd(x, xy, yy, lambdas, start, learning_rate, batch, generator)
    )
    losses, counts = np.empty((len(marks), len(lambdas))), np.empty((len(marks), len(lambdas)))
    # One thread: the same bits for any number of cores. Divergence is detected below.
    with threadpool_limits(1), np.errstate(over="ignore", invalid="ignore"):
        for step in range(1, steps + 1):
            state.advance()
            if step % _LOOK_EVERY == 0 or step in marks:
                _check_size(state.weights, lambdas, step, learning_rate, stable_rate(x, n_y))
            if step in marks:
                at = marks.index(step)
                losses[at] = prediction_loss(x, xy, state.weights).mean(axis=1)
                counts[at] = np.count_nonzero(np.abs(state.weights) > LARGE_WEIGHT, axis=2).mean(axis=1)
    return MappingResult(lambdas, marks, losses, counts, state.weights.copy(), learning_rate)


def stable_rate(r_xx: Matrix, n_targets: int) -> float:
    """The learning rate above which momentum descent diverges even without noise: 2 (1 + 0.9) C / largest eigenvalue.

    ``r_xx`` is (n_x, n_x) and C is ``n_targets`` (Polyak 1964, heavy ball).
    """
    return 2 * (1 + MOMENTUM) * n_targets / float(np.linalg.eigvalsh(r_xx)[-1])


def joint_root(r_xx: Matrix, r_xy: Matrix, r_yy: Matrix) -> Matrix:
    """A square root F (n_x + n_y, rank) of the joint correlations: F Fᵀ is they, without their negative directions."""
    values, vectors = scipy.linalg.eigh(np.block([[r_xx, r_xy], [r_xy.T, r_yy]]))
    kept = values > 1e-12 * values[-1]
    return np.asarray(vectors[:, kept] * np.sqrt(values[kept]))


def sgd_step_plain(
    weights: Matrix, velocity: Matrix, x: Matrix, y: Matrix, lam: float, learning_rate: float
) -> tuple[Matrix, Matrix]:
    """One of Caffe's updates from samples x (batch, n_x), y (batch, n_targets), the definition: weights, velocity."""
    misses = x @ weights.T - y
    gradient = misses.T @ x / y.size + lam * np.sign(weights)
    velocity = MOMENTUM * velocity + learning_rate * gradient
    return weights - velocity, velocity


class _Sgd:
    """:func:`sgd_step_plain` for several penalties at once: V ← 0.9 V + rate · (gradient + λ sign W), W ← W − V."""

    def __init__(
        self,
        r_xx: Matrix,
        r_xy: Matrix,
        r_yy: Matrix,
        lambdas: Matrix,
        start: Matrix,
        rate: float,
        batch: int,
        generator: np.random.Generator,
    ) -> None:
        self.weights = np.repeat(start[None], len(lambdas), axis=0)
        self._velocity, self._slope = np.zeros_like(self.weights), np.empty_like(self.weights)
        self._penalty = np.empty_like(self.weights)
        self._root = np.ascontiguousarray(joint_root(r_xx, r_xy, r_yy).T)
        self._lambdas, self._rate, self._batch, self._generator = lambdas[:, None, None], rate, batch, generator

    def advance(self) -> None:
        """One minibatch, the same for all penalties: all that it says is its second moments."""
        n_targets, n_x = self.weights.shape[1:]
        samples = self._generator.standard_normal((self._batch, len(self._root))) @ self._root
        x, y = samples[:, :n_x], samples[:, n_x:]
        slope, penalty = self._slope, self._penalty
        np.matmul(self.weights.reshape(-1, n_x), x.T @ x, out=slope.reshape(-1, n_x))
        slope -= y.T @ x
        slope *= self._rate / (self._batch * n_targets)
        np.sign(self.weights, out=penalty)
        penalty *= self._rate * self._lambdas
        slope += penalty
        self._velocity *= MOMENTUM
        self._velocity += slope
        self.weights -= self._velocity


class _Proximal:
    """FISTA with a restart of each target whose last step went uphill."""

    def __init__(self, r_xx: Matrix, r_xy: Matrix, lambdas: Matrix, start: Matrix, rate: float) -> None:
        self.weights = np.repeat(start[None], len(lambdas), axis=0)
        self._ahead = self.weights.copy()
        self._age = np.ones((*self.weights.shape[:2], 1))
        self._r_xx, self._r_yx = r_xx, r_xy.T
        self._rate = rate / len(start)
        self._threshold = rate * lambdas[:, None, None]

    def advance(self) -> None:
        """One gradient step and soft threshold, then ahead along the last move."""
        n_x = len(self._r_xx)
        slope = (self._ahead.reshape(-1, n_x) @ self._r_xx).reshape(self._ahead.shape) - self._r_yx
        moved = self._ahead - self._rate * slope
        new = np.sign(moved) * np.maximum(np.abs(moved) - self._threshold, 0.0)
        step = new - self.weights
        uphill = np.sum((self._ahead - new) * step, axis=2, keepdims=True) > 0
        age = np.where(uphill, 1.0, self._age)
        self._age = (1 + np.sqrt(1 + 4 * age**2)) / 2
        self._ahead = new + (age - 1) / self._age * step
        self.weights = new


def _check_size(weights: Matrix, lambdas: Matrix, step: int, rate: float, stable: float) -> None:
    largest = np.abs(weights).max(axis=(1, 2))
    gone = np.flatnonzero(~(largest < _DIVERGED))
    if len(gone):
        raise UserError(
            f"the training of a mapping layer diverged by step {step} at lambda {lambdas[gone[0]]:g}: learning rate "
            f"{rate:g} is too high. Take {stable / 4:.2g} or less."
        )


def _check_numbers(lambdas: Matrix, steps: int, batch: int | None, rate: float | None, marks: tuple[int, ...]) -> None:
    if lambdas.ndim != 1 or len(lambdas) == 0 or not np.isfinite(lambdas).all() or lambdas.min() < 0:
        raise UserError("penalties are numbers of at least 0.")
    if steps < 1 or (batch is not None and batch < 1):
        raise UserError(f"steps {steps} and batch {batch} must be at least 1.")
    if rate is not None and not (np.isfinite(rate) and rate > 0):
        raise UserError(f"learning rate {rate} must be a positive number.")
    if marks[0] < 1 or marks[-1] > steps:
        raise UserError(f"checkpoints {', '.join(map(str, marks))} must be from 1 to the number of steps, {steps}.")


def _checked(r_xx: ArrayLike, r_xy: ArrayLike, r_yy: ArrayLike) -> tuple[Matrix, Matrix, Matrix]:
    x, xy, yy = (np.ascontiguousarray(matrix, dtype=np.float64) for matrix in (r_xx, r_xy, r_yy))
    if xy.ndim != 2 or xy.size == 0 or x.shape != (len(xy), len(xy)) or yy.shape != (xy.shape[1], xy.shape[1]):
        raise UserError(
            f"correlations of shapes {x.shape}, {xy.shape} and {yy.shape} do not belong together; give (n_x, n_x), "
            "(n_x, n_targets) and (n_targets, n_targets)."
        )
    if not all(np.isfinite(matrix).all() for matrix in (x, xy, yy)):
        raise UserError("a correlation is NaN or infinite; leave units without variance out first.")
    return x, xy, yy
