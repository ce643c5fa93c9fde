"""Rows of agreement: units predicted from few units, and from all."""

from __future__ import annotations

import numpy as np

from benchmarks.conformance_layers import FEW, PLAIN, Float64, duplicated, pair_of, scores, sparse
from benchmarks.conformance_table import DEFINITION, Cases, row
from convergence.alignment.sparse import dense_fit, forward_selection, lasso_path, refit

ALPHAS = np.geomspace(0.9, 0.003, 15)


@row(
    "lasso_path",
    "scikit-learn",
    "`lars_path_gram`",
    "weights at 15 penalties, of 8, 6 and 24 targets; 80 % zeros, n < units",
    1e-10,
)
def lasso_lars() -> Cases:
    from sklearn.linear_model import lars_path_gram

    for layers in (PLAIN, sparse(), FEW):
        pair, n = pair_of(layers), layers[0].shape[1]
        ours = lasso_path(pair.corr_xx, pair.corr_xy, ALPHAS).weights
        theirs = np.empty_like(ours)
        for t, r in enumerate(pair.corr_xy.T):
            knots, _, path = lars_path_gram(
                n * r, n * pair.corr_xx, n_samples=n, method="lasso", alpha_min=ALPHAS[-1] / 2
            )
            for j, weight in enumerate(path):  # linear between its knots
                theirs[:, t, j] = np.interp(ALPHAS, knots[::-1], weight[::-1])
        yield ours, theirs


@row(
    "lasso_path",
    "scikit-learn",
    "`Lasso(precompute=gram, tol=1e-12)`",
    "objective at 15 penalties; 80 % zeros, duplicated units, n < units",
    1e-11,
)
def lasso_descent() -> Cases:
    from sklearn.linear_model import Lasso

    for layers in (PLAIN, sparse(), duplicated(), FEW):
        pair, x, y = pair_of(layers), scores(layers[0]), scores(layers[1])
        ours = lasso_path(pair.corr_xx, pair.corr_xy, ALPHAS)
        for alpha, loss, weights in zip(ALPHAS, ours.loss, ours.weights, strict=True):
            model = Lasso(alpha, fit_intercept=False, precompute=x.T @ x, tol=1e-12, max_iter=1_000_000)
            theirs = np.atleast_2d(model.fit(np.asfortranarray(x), y).coef_)
            residual = y - x @ theirs.T
            yield (
                loss + alpha * np.abs(weights).sum(axis=1),
                0.5 * (residual**2).mean(axis=0) + alpha * np.abs(theirs).sum(axis=1),
            )


@row(
    "lasso_path",
    DEFINITION,
    "largest violation of the optimality conditions, on samples",
    "15 penalties; 80 % zeros, duplicated units, n < units",
    1e-10,
)
def lasso_optimality() -> Cases:
    for layers in (PLAIN, sparse(), duplicated(), FEW):
        pair, x, y = pair_of(layers), scores(layers[0]), scores(layers[1])
        path = lasso_path(pair.corr_xx, pair.corr_xy, ALPHAS)
        for alpha, weights in zip(ALPHAS, path.weights, strict=True):
            slope = (y - x @ weights.T).T @ x / len(x)
            used = np.abs(slope - alpha * np.sign(weights))
            yield np.where(weights != 0, used, np.maximum(np.abs(slope) - alpha, 0)).max(), 0.0


def loss_on_samples(x: Float64, y: Float64) -> float:
    """½ mean squared residual of least squares."""
    return float(0.5 * np.mean((y - x @ np.linalg.lstsq(x, y, rcond=None)[0]) ** 2))


@row(
    "forward_selection",
    DEFINITION,
    "every candidate of every step refitted by `numpy.linalg.lstsq` on samples",
    "units (copies as one) and losses of 4 steps; 80 % zeros, duplicated units, n < units",
    1e-12,
)
def forward() -> Cases:
    for layers in (PLAIN, sparse(), duplicated(), FEW):
        pair, x, y = pair_of(layers), scores(layers[0]), scores(layers[1])
        order, losses = forward_selection(pair.corr_xx, pair.corr_xy, 4)
        original = np.argmax(np.abs(pair.corr_xx) > 1 - 1e-12, axis=0)
        for t in range(min(y.shape[1], 6)):
            taken: list[int] = []
            wanted = []
            for _ in range(4):
                trials = [loss_on_samples(x[:, [*taken, j]], y[:, t]) for j in range(x.shape[1])]
                taken.append(int(np.argmin(trials)))
                wanted.append(loss_on_samples(x[:, taken], y[:, t]))
            yield np.concatenate([original[order[t]], losses[t]]), np.concatenate([original[taken], wanted])


@row("refit", "numpy", "`linalg.lstsq` on samples", "supports of 1 to all independent units, 80 % zeros", 1e-12)
def refitted() -> Cases:
    rng = np.random.default_rng(2)
    for layers in (PLAIN, sparse()):
        pair, x, y = pair_of(layers), scores(layers[0]), scores(layers[1])
        for share in (0.1, 0.3, 0.6, 1.0):
            chosen = rng.random((y.shape[1], x.shape[1])) <= share
            chosen[:, 0] = True
            wanted = np.zeros(chosen.shape)
            for t, support in enumerate(chosen):
                wanted[t, support] = np.linalg.lstsq(x[:, support], y[:, t], rcond=None)[0]
            yield refit(pair.corr_xx, pair.corr_xy, chosen.astype(float))[0], wanted


@row("dense_fit", "scikit-learn", "`LinearRegression`", "weights; 80 % zeros, duplicated units, n < units", 1e-10)
def dense() -> Cases:
    from sklearn.linear_model import LinearRegression

    for layers in (PLAIN, sparse(), duplicated(), FEW):
        pair = pair_of(layers)
        model = LinearRegression().fit(scores(layers[0]), scores(layers[1]))
        yield dense_fit(pair.corr_xx, pair.corr_xy)[0], model.coef_
