"""LASSO, refit, dense fit and forward selection: exactness on hostile designs, planted supports,
references.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Lasso

from convergence.alignment import homotopy_kernels, sparse, sparse_kernels
from convergence.errors import UserError

ALPHAS = np.geomspace(0.9, 1e-3, 12)


def correlations(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    zx, zy = ((v - v.mean(0)) / v.std(0) for v in (x, y))
    return zx.T @ zx / len(x), zx.T @ zy / len(x)


def design(kind: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Samples x units of the predictors and of 5 targets."""
    rng = np.random.default_rng(seed)
    n, k = 300, 24
    if kind == "random":
        x = rng.standard_normal((n, k))
    elif kind == "correlated":
        x = rng.standard_normal((n, 3)) @ rng.standard_normal((3, k)) + 0.05 * rng.standard_normal((n, k))
    elif kind == "duplicated":
        x = rng.standard_normal((n, k // 3))[:, np.tile(np.arange(k // 3), 3)]
        x[:, -4:] *= -1
    elif kind == "combined":  # sums of others, so that dependence is not pairwise
        base = rng.standard_normal((n, k // 2))
        x = np.hstack([base, base @ rng.choice([-1.0, 0.0, 1.0], (k // 2, k // 2)) + 1e-9])
        x[:, x.std(0) < 1e-6] = base[:, :1]
    elif kind == "few samples":
        x = rng.standard_normal((10, k))
    elif kind == "sparse activations":
        x = np.maximum(rng.standard_normal((n, 6)) @ rng.standard_normal((6, k)) - 1, 0)
    else:
        x = np.repeat(rng.standard_normal((n, 1)), k, axis=1)  # one unit, k times
    y = x[:, :5] + np.roll(x, 3, axis=1)[:, :5] + 0.5 * rng.standard_normal((len(x), 5))
    return x, y


KINDS = ["random", "correlated", "duplicated", "combined", "few samples", "sparse activations", "one unit"]


def lasso_plain(
    r_xx: np.ndarray, r: np.ndarray, alpha: float, sweeps: int = 100_000, tolerance: float = 1e-12
) -> np.ndarray:
    """LASSO of one target by textbook coordinate descent, until a sweep changes no weight by ``tolerance``."""
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


def forward_selection_plain(r_xx: np.ndarray, r: np.ndarray, max_units: int) -> tuple[list[int], list[float]]:
    """Forward selection of one target that refits every candidate at every step."""
    taken: list[int] = []
    losses: list[float] = []
    for _ in range(max_units):
        trials: dict[int, float] = {}
        for j in set(range(len(r))) - set(taken):
            units = [*taken, j]
            weights = np.linalg.lstsq(r_xx[np.ix_(units, units)], r[units], rcond=sparse.RANK_TOLERANCE)[0]
            trials[j] = float(0.5 * (1.0 - weights @ r[units]))
        best = min(trials, key=lambda j: (round(trials[j], 12), j), default=-1)
        before = losses[-1] if losses else 0.5
        if best < 0 or before - trials[best] < sparse.LEAST_GAIN:
            break
        taken.append(best)
        losses.append(trials[best])
    return taken, losses


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", KINDS)
def test_lasso_path_has_zero_kkt_gap(kind: str, seed: int) -> None:
    r_xx, r_xy = correlations(*design(kind, seed))
    path = sparse.lasso_path(r_xx, r_xy, np.append(ALPHAS, 1e-6))
    assert path.kkt_gap.max() <= 1e-8
    for weights, reported, loss, alpha in zip(path.weights, path.kkt_gap, path.loss, path.alphas, strict=True):
        gap = sparse.kkt_gap(r_xx, r_xy, weights, alpha)
        assert gap.max() <= 1e-8
        np.testing.assert_allclose(gap, reported, atol=1e-12)
        np.testing.assert_allclose(loss, sparse.prediction_loss(r_xx, r_xy, weights), atol=1e-12)
    np.testing.assert_array_equal(path.n_nonzero, (path.weights != 0).sum(-1))
    np.testing.assert_array_equal(path.n_above, (np.abs(path.weights) > 0.01).sum(-1))


@pytest.mark.parametrize("kind", KINDS)
def test_the_support_is_of_independent_units(kind: str) -> None:
    r_xx, r_xy = correlations(*design(kind))
    path = sparse.lasso_path(r_xx, r_xy, ALPHAS)
    for weights in path.weights.reshape(-1, len(r_xx)):
        used = np.flatnonzero(weights)
        if len(used):
            assert np.linalg.eigvalsh(r_xx[np.ix_(used, used)])[0] > 1e-12


@pytest.mark.parametrize("kind", ["random", "correlated", "sparse activations"])
def test_full_rank_solutions_equal_scikit_learn_and_the_plain_one(kind: str) -> None:
    x, y = design(kind)
    r_xx, r_xy = correlations(x, y)
    alphas = [0.5, 0.1, 0.02]
    path = sparse.lasso_path(r_xx, r_xy, alphas)
    zx, zy = ((v - v.mean(0)) / v.std(0) for v in (x, y))
    for weights, alpha in zip(path.weights, alphas, strict=True):
        theirs = Lasso(alpha=alpha, fit_intercept=False, tol=1e-12, max_iter=1_000_000).fit(zx, zy).coef_
        np.testing.assert_allclose(weights, theirs, atol=1e-6)
        plain = np.stack([lasso_plain(r_xx, r, alpha) for r in r_xy.T])
        np.testing.assert_allclose(weights, plain, atol=1e-7)


def test_loss_falls_with_the_penalty_and_ends_at_the_dense_fit() -> None:
    r_xx, r_xy = correlations(*design("sparse activations"))
    path = sparse.lasso_path(r_xx, r_xy, ALPHAS)
    assert np.all(np.diff(path.loss, axis=0) <= 1e-12)
    assert np.all(path.loss[0] <= 0.5)
    weights, loss, rank = sparse.dense_fit(r_xx, r_xy)
    assert rank == len(r_xx)
    np.testing.assert_allclose(weights, np.linalg.solve(r_xx, r_xy).T, rtol=1e-6)
    assert np.all(loss <= path.loss[-1])
    nearly = sparse.lasso_path(r_xx, r_xy, [1e-8])
    np.testing.assert_allclose(nearly.loss[0], loss, atol=1e-6)


def test_a_target_made_of_three_units_names_them() -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((2000, 40))
    y = x[:, [3]] * 0.6 + x[:, [17]] * 0.5 - x[:, [29]] * 0.4 + 0.1 * rng.standard_normal((2000, 1))
    r_xx, r_xy = correlations(x, y)
    path = sparse.lasso_path(r_xx, r_xy, [0.15])
    assert set(np.flatnonzero(path.weights[0, 0])) == {3, 17, 29}
    order, loss = sparse.forward_selection(r_xx, r_xy, 5)
    assert list(order[0, :3]) == [3, 17, 29]
    assert loss[0, 2] < 0.02
    refitted, after = sparse.refit(r_xx, r_xy, path.weights)
    assert set(np.flatnonzero(refitted[0, 0])) == {3, 17, 29}
    np.testing.assert_allclose(after[0, 0], loss[0, 2], atol=1e-12)
    assert after[0, 0] < path.loss[0, 0]


def test_penalties_may_come_in_any_order() -> None:
    r_xx, r_xy = correlations(*design("correlated"))
    falling = sparse.lasso_path(r_xx, r_xy, ALPHAS)
    rising = sparse.lasso_path(r_xx, r_xy, ALPHAS[::-1])
    np.testing.assert_array_equal(rising.alphas, ALPHAS[::-1])
    np.testing.assert_array_equal(rising.weights, falling.weights[::-1])
    np.testing.assert_array_equal(rising.loss, falling.loss[::-1])


def test_large_penalties_give_zero_weights() -> None:
    r_xx, r_xy = correlations(*design("random"))
    path = sparse.lasso_path(r_xx, r_xy, [2.0, np.abs(r_xy).max()])
    assert not path.weights.any()
    assert np.all(path.loss == 0.5)


def test_correlations_that_float32_sums_leave_asymmetric_are_solved_exactly() -> None:
    r_xx, r_xy = correlations(*design("correlated", 0))
    noise = 3e-7 * np.random.default_rng(0).standard_normal(r_xx.shape)
    np.fill_diagonal(noise, 0.0)
    path = sparse.lasso_path(r_xx + noise, r_xy, ALPHAS)
    symmetric = sparse.lasso_path(r_xx + (noise + noise.T) / 2, r_xy, ALPHAS)
    assert path.kkt_gap.max() <= 1e-12, "as far as homotopy alone gets"
    np.testing.assert_allclose(path.weights, symmetric.weights, atol=1e-12)


def test_read_only_and_float32_input_is_taken() -> None:
    r_xx, r_xy = (values.astype(np.float32) for values in correlations(*design("random")))
    r_xx.setflags(write=False)
    assert sparse.lasso_path(r_xx, r_xy, [0.1]).kkt_gap.max() <= 1e-8


@pytest.mark.parametrize("kind", KINDS)
def test_refit_is_least_squares_on_the_support(kind: str) -> None:
    r_xx, r_xy = correlations(*design(kind))
    path = sparse.lasso_path(r_xx, r_xy, ALPHAS)
    weights, loss = sparse.refit(r_xx, r_xy, path.weights)
    assert weights.shape == path.weights.shape
    np.testing.assert_allclose(loss, sparse.prediction_loss(r_xx, r_xy, weights), atol=1e-9)
    assert np.all(loss <= path.loss + 1e-9)
    everything, dense = sparse.refit(r_xx, r_xy, np.ones(r_xy.T.shape))
    assert everything.shape == r_xy.T.shape
    np.testing.assert_allclose(dense, sparse.dense_fit(r_xx, r_xy)[1], atol=1e-6)


def test_dense_fit_sees_the_rank() -> None:
    assert sparse.dense_fit(*correlations(*design("duplicated")))[2] == 8
    assert sparse.dense_fit(*correlations(*design("few samples")))[2] == 9
    assert sparse.dense_fit(*correlations(*design("one unit")))[2] == 1
    for kind in KINDS:
        x, y = design(kind)
        r_xx, r_xy = correlations(x, y)
        zx, zy = ((v - v.mean(0)) / v.std(0) for v in (x, y))
        residual = zy - zx @ np.linalg.lstsq(zx, zy, rcond=1e-6)[0]
        np.testing.assert_allclose(sparse.dense_fit(r_xx, r_xy)[1], 0.5 * np.mean(residual**2, axis=0), atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_forward_selection_equals_the_plain_one(kind: str) -> None:
    r_xx, r_xy = correlations(*design(kind, 2))
    order, loss = sparse.forward_selection(r_xx, r_xy, 6)
    assert np.all(np.diff(loss, axis=1) <= 1e-15)
    for taken, losses, r in zip(order, loss, r_xy.T, strict=True):
        _, plain_losses = forward_selection_plain(r_xx, r, 6)
        units = taken[taken >= 0]
        assert len(set(units)) == len(units)
        assert np.linalg.matrix_rank(r_xx[np.ix_(units, units)], tol=1e-9) == len(units)
        padded = np.pad(plain_losses, (0, 6 - len(plain_losses)), mode="edge")
        np.testing.assert_allclose(losses, padded, atol=1e-9)


def test_forward_selection_stops_when_nothing_is_left() -> None:
    order, loss = sparse.forward_selection(*correlations(*design("one unit")), 4)
    np.testing.assert_array_equal(order[:, 1:], -1)
    np.testing.assert_array_equal(order[:, 0], 0)  # of equal units the lowest index
    assert np.all(loss == loss[:, :1])


def test_indefinite_correlations_end_with_positive_gap() -> None:
    rng = np.random.default_rng(0)
    contradictory = sparse.lasso_path(np.ones((8, 8)), rng.uniform(-0.9, 0.9, (8, 3)), [0.1, 0.01])
    noise = rng.uniform(-0.9, 0.9, (20, 20))
    indefinite = (noise + noise.T) / 2
    np.fill_diagonal(indefinite, 1.0)
    unbounded = sparse.lasso_path(indefinite, rng.uniform(-0.9, 0.9, (20, 3)), [0.1, 0.01])
    for path in (contradictory, unbounded):
        assert path.kkt_gap.max() > 1e-8
        assert np.isfinite(path.weights).all()


def by_kernels(
    r_xx: np.ndarray, r_xy: np.ndarray, alphas: np.ndarray, first: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, counts and how far homotopy came; the active-set kernel does the rest, or all from penalty ``first``."""
    shape = (len(alphas), r_xy.shape[1])
    weights, gaps, losses = np.zeros((*shape, len(r_xx))), np.full(shape, np.nan), np.full(shape, np.nan)
    counts, solved = np.full((2, *shape), -1), np.empty(shape[1], dtype=np.int64)
    problem = (r_xx, np.ascontiguousarray(r_xy.T), alphas, sparse.LARGE_WEIGHT)
    homotopy_kernels.homotopy_kernel(*problem, weights, gaps, losses, counts, solved)
    came = solved.copy()
    if first is not None:
        solved[:] = np.minimum(solved, first)
        weights[first:], gaps[first:], losses[first:], counts[:, first:] = 0.0, np.nan, np.nan, -1
    sparse_kernels.lasso_kernel(*problem, sparse.GAP_GOAL, weights, gaps, losses, counts, solved)
    assert np.isfinite(losses).all()
    assert gaps.max() <= 1e-8
    return weights, counts, came


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 30),
    st.floats(0.0, 0.95),
    st.lists(st.floats(2e-3, 1.0), min_size=1, max_size=8),
    st.integers(0, 8),
)
def test_both_kernels_and_the_plain_one_agree(
    seed: int, n: int, shared: float, alphas: list[float], first: int
) -> None:
    rng = np.random.default_rng(seed)
    common = np.sqrt(shared) * rng.standard_normal((100, 1))
    x = common * rng.choice([-1.0, 1.0], n) + np.sqrt(1 - shared) * rng.standard_normal((100, n))
    r_xx, r_xy = correlations(x, x[:, [0]] - x[:, [-1]] + common + rng.standard_normal((100, 2)))
    falling = np.sort(alphas)[::-1].copy()
    weights, counts, came = by_kernels(r_xx, r_xy, falling)
    assert np.all(came == len(falling))
    np.testing.assert_array_equal(counts[0], (weights != 0).sum(-1))
    np.testing.assert_array_equal(counts[1], (np.abs(weights) > 0.01).sum(-1))
    handed_over, its_counts, _ = by_kernels(r_xx, r_xy, falling, first)
    np.testing.assert_allclose(handed_over, weights, atol=1e-9)
    np.testing.assert_array_equal(its_counts[1], (np.abs(handed_over) > 0.01).sum(-1))
    for at, alpha in zip(weights, falling, strict=True):
        plain = np.stack([lasso_plain(r_xx, r, alpha, tolerance=1e-10) for r in r_xy.T])
        np.testing.assert_allclose(at, plain, atol=1e-6)


def test_homotopy_knots_equal_solutions() -> None:
    r_xx, r_xy = correlations(*design("random"))
    n, target, k = len(r_xx), np.ascontiguousarray(r_xy[:, 0]), homotopy_kernels
    units, x = np.random.default_rng(0).permutation(n), np.empty((k.TOGETHER, n))
    table, lines = np.full((n, n), np.nan), np.zeros((k.N_LINES, n))
    size, count, sign_of = 0, 0, {}
    # e: candidates enter, up to this column; + and -: it joins with this sign; l: it leaves.
    for step in ["e9", "+5", "-3", "e18", "+17", "+9", "-4", "+8", "l2", "e24", "l0", "+20", "l3", "-7", "l2"]:
        what, column = step[0], int(step[1:])
        unit = units[column] if what != "e" else -1
        if what == "e":
            k.enter(r_xx, target, units, table, lines, x, size, count, column)
            count = column
        elif what == "l":
            k.leave(units, table, lines, size, count, column)
            size -= 1
            del sign_of[unit]
        else:
            sign_of[unit] = 1.0 if what == "+" else -1.0
            assert k.join(r_xx, units, table, lines, size, count, column, sign_of[unit])
            size += 1
        assert sorted(units) == list(range(n))
        support, others = units[:size], units[size:count]
        assert set(support) == set(sign_of)
        signs = np.array([sign_of[j] for j in support])
        factor = np.linalg.cholesky(r_xx[np.ix_(support, support)])
        q = np.linalg.solve(factor, r_xx[np.ix_(support, others)])
        z, y = np.linalg.solve(factor, target[support]), np.linalg.solve(factor, signs)
        upper = np.triu(table[:size, :size], 1) + np.diag(1.0 / np.diag(table[:size, :size]))
        np.testing.assert_allclose(upper, factor.T, atol=1e-12)
        np.testing.assert_allclose(table[:size, size:count], q, atol=1e-12)
        np.testing.assert_allclose(lines[k.Z, :size], z, atol=1e-12)
        np.testing.assert_allclose(lines[k.Y, :size], y, atol=1e-12)
        np.testing.assert_array_equal(lines[k.SIGN, :size], signs)
        np.testing.assert_allclose(lines[k.REST, size:count], target[others] - q.T @ z, atol=1e-12)
        np.testing.assert_allclose(lines[k.PULL, size:count], q.T @ y, atol=1e-12)
    assert size == 4


def test_active_set_continues_after_homotopy() -> None:
    handed_over = 0
    for seed in range(40):
        r_xx, r_xy = correlations(*design("combined", seed))
        alphas = np.append(ALPHAS, 1e-6)
        weights, counts, came = by_kernels(r_xx, r_xy, alphas)
        handed_over += np.sum(came < len(alphas))
        np.testing.assert_array_equal(counts[0], (weights != 0).sum(-1))
        path = sparse.lasso_path(r_xx, r_xy, alphas)
        np.testing.assert_array_equal(path.weights, weights)
        np.testing.assert_array_equal(path.n_nonzero, counts[0])
    assert handed_over > 0


def test_tied_units_enter_the_path_together() -> None:
    # Two units that the target treats alike, by mirror symmetry, and a third that is uncorrelated with them.
    r_xx = np.array([[1.0, 0.3, 0.0], [0.3, 1.0, 0.0], [0.0, 0.0, 1.0]])
    for signs in ([1.0, 1.0, 1.0], [1.0, -1.0, 1.0], [-1.0, -1.0, -1.0]):
        flip = np.array(signs)
        path = sparse.lasso_path(r_xx * np.outer(flip, flip), (flip * [0.5, 0.5, 0.5])[:, None], [0.5, 0.4, 0.1])
        expected = np.array([[0.0, 0.0, 0.0], [0.1 / 1.3, 0.1 / 1.3, 0.1], [0.4 / 1.3, 0.4 / 1.3, 0.4]])
        np.testing.assert_allclose(path.weights[:, 0], expected * flip, atol=1e-15)
        assert path.kkt_gap.max() <= 1e-15


def test_of_equal_units_the_lowest_index_carries_the_weight() -> None:
    r_xx, r_xy = correlations(*design("one unit"))
    r_xx[:], r_xy[:] = 1.0, r_xy[:1]
    weights = sparse.lasso_path(r_xx, r_xy, ALPHAS).weights
    assert not weights[..., 1:].any()
    np.testing.assert_allclose(weights[-1, :, 0], np.sign(r_xy[0]) * (np.abs(r_xy[0]) - ALPHAS[-1]))


@pytest.mark.parametrize("kind", KINDS)
def test_dead_units_change_nothing(kind: str) -> None:
    r_xx, r_xy = correlations(*design(kind))
    dead = [0, 5, len(r_xx) + 2]
    live = np.setdiff1d(np.arange(len(r_xx) + 3), dead)
    wide_xx, wide_xy = np.zeros((len(r_xx) + 3, len(r_xx) + 3)), np.zeros((len(r_xx) + 3, r_xy.shape[1]))
    wide_xx[np.ix_(live, live)], wide_xy[live] = r_xx, r_xy
    path = sparse.lasso_path(wide_xx, wide_xy, ALPHAS)
    assert not path.weights[..., dead].any()
    assert path.kkt_gap.max() <= 1e-8
    np.testing.assert_allclose(path.loss, sparse.lasso_path(r_xx, r_xy, ALPHAS).loss, atol=1e-9)


def test_a_single_unit_is_shrunk() -> None:
    alphas = np.array([0.01, 0.7, 0.2, 0.7, 0.6])
    path = sparse.lasso_path([[1.0]], [[-0.6, 0.0, 0.3]], alphas)
    expected = np.sign([-0.6, 0.0, 0.3]) * np.maximum(np.abs([-0.6, 0.0, 0.3]) - alphas[:, None], 0)
    np.testing.assert_allclose(path.weights[..., 0], expected, atol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_solution_does_not_depend_on_other_penalties(kind: str) -> None:
    r_xx, r_xy = correlations(*design(kind, 3))
    alphas = np.geomspace(0.9, 1e-3, 2000)
    dense = sparse.lasso_path(r_xx, r_xy, alphas)
    assert dense.kkt_gap.max() <= 1e-8
    for k in (600, 1300, 1999):
        alone = sparse.lasso_path(r_xx, r_xy, [alphas[k]])
        np.testing.assert_allclose(dense.loss[k], alone.loss[0], atol=1e-9)
        if kind in ("random", "sparse activations"):
            np.testing.assert_allclose(dense.weights[k], alone.weights[0], atol=1e-9)


def test_penalty_scale_equals_the_papers() -> None:
    np.testing.assert_allclose(sparse.paper_lambda([0.96], 96), [0.01])


@pytest.mark.parametrize("alphas", [[0.0], [-1.0], [np.nan], [[0.1]]])
def test_unusable_penalties_are_refused(alphas: list) -> None:
    with pytest.raises(UserError, match="positive"):
        sparse.lasso_path(np.eye(3), np.zeros((3, 2)), alphas)


@pytest.mark.parametrize(
    ("r_xx", "r_xy"),
    [
        (np.full((2, 2), np.nan), np.zeros((2, 1))),
        (np.eye(3), np.zeros((2, 3))),
        (np.empty((0, 0)), np.empty((0, 1))),
        (np.eye(2), np.empty((2, 0))),
        (np.ones((2, 3)), np.zeros((2, 1))),
        (np.array([[1.0, 0.5], [0.501, 1.0]]), np.zeros((2, 1))),
    ],
)
def test_unusable_correlations_are_refused(r_xx: np.ndarray, r_xy: np.ndarray) -> None:
    for call in (
        lambda: sparse.lasso_path(r_xx, r_xy, [0.1]),
        lambda: sparse.dense_fit(r_xx, r_xy),
        lambda: sparse.forward_selection(r_xx, r_xy, 2),
    ):
        with pytest.raises(UserError):
            call()


def test_forward_selection_takes_the_first_of_copies() -> None:
    """Sums of a copy may differ in their last digit, which must not decide."""
    for seed in range(60):
        r = np.corrcoef(np.random.default_rng(seed).standard_normal((50, 3)), rowvar=False)
        copies = [0, 1, 1, 0]
        order, _ = sparse.forward_selection(r[:2, :2][np.ix_(copies, copies)], r[:2, 2:][copies], 2)
        assert set(order[0]) == {0, 1}
