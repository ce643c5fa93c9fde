"""Soft and partial matching: against linear programming, planted pairs, and what it imports."""

from __future__ import annotations

import itertools
import subprocess
import sys
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linprog

from convergence.alignment import soft_matching as module
from convergence.alignment.matching import matching
from convergence.alignment.soft_matching import SoftMatching, partial_soft_matching, soft_matching
from convergence.errors import UserError

SHAPES = [(5, 5), (4, 7), (7, 4), (3, 6), (1, 5), (6, 1), (1, 1), (6, 9)]


def similarities(shape: tuple[int, int], low: float = -1.0, high: float = 1.0, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(low, high, shape)


def best_total(similarity: NDArray[np.float64], mass: float) -> float:
    """The definition: a linear programme over plans of a mass."""
    n_x, n_y = similarity.shape
    rows = np.kron(np.eye(n_x), np.ones(n_y))
    columns = np.kron(np.ones(n_x), np.eye(n_y))
    found = linprog(
        -similarity.ravel(),
        A_ub=np.vstack([rows, columns]),
        b_ub=np.concatenate([np.full(n_x, 1 / n_x), np.full(n_y, 1 / n_y)]),
        A_eq=np.ones((1, similarity.size)),
        b_eq=[mass],
        method="highs",
    )
    assert found.status == 0
    return -float(found.fun)


def check_plan(found: SoftMatching, similarity: NDArray[np.float64], mass: float) -> None:
    n_x, n_y = similarity.shape
    assert found.mass == mass
    assert found.plan.shape == similarity.shape
    assert np.all((found.plan == 0) | (found.plan > 1e-15))
    assert found.plan.sum(axis=1).max() <= 1 / n_x + 1e-12
    assert found.plan.sum(axis=0).max() <= 1 / n_y + 1e-12
    assert found.plan.sum() == pytest.approx(mass, abs=1e-12)
    assert found.mean == pytest.approx(np.sum(found.plan * similarity) / mass, abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_soft_matching_equals_linear_programme(shape: tuple[int, int]) -> None:
    similarity = similarities(shape)
    found = soft_matching(similarity)
    check_plan(found, similarity, 1.0)
    np.testing.assert_allclose(found.plan.sum(axis=1), 1 / shape[0], atol=1e-12)
    np.testing.assert_allclose(found.plan.sum(axis=0), 1 / shape[1], atol=1e-12)
    assert found.mean == pytest.approx(best_total(similarity, 1.0), abs=1e-9)
    np.testing.assert_allclose(soft_matching(similarity.T).mean, found.mean, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_partial_matching_equals_linear_programme(shape: tuple[int, int]) -> None:
    for mass, bounds in itertools.product(
        (1e-9, 0.1, 1 / 3, 0.5, np.sqrt(0.5), 0.999999, 1.0), ((-1.0, 1.0), (-1.0, -0.5), (2.0, 3.0))
    ):
        similarity = similarities(shape, *bounds)
        found = partial_soft_matching(similarity, mass)
        check_plan(found, similarity, mass)
        if mass > 1e-6:  # below, the tolerance of the linear programme is all of it
            assert found.mean * mass == pytest.approx(best_total(similarity, mass), abs=1e-9)
        else:
            assert found.mean == pytest.approx(similarity.max())


def test_layers_of_one_width_are_matched_one_to_one() -> None:
    similarity = similarities((40, 40))
    one_to_one = matching(similarity)
    expected = np.zeros((40, 40))
    expected[one_to_one.rows, one_to_one.columns] = 1 / 40
    np.testing.assert_array_equal(soft_matching(similarity).plan, expected)
    assert soft_matching(similarity).mean == pytest.approx(one_to_one.mean)


def test_units_with_copies_share_their_mass() -> None:
    # Every unit of x has three copies in y, in hidden places.
    hidden = np.random.default_rng(1).permutation(np.repeat(np.arange(8), 3))
    similarity = similarities((8, 24), -0.4, 0.4)
    similarity[hidden, np.arange(24)] = 0.9
    found = soft_matching(similarity)
    assert found.mean == pytest.approx(0.9)
    np.testing.assert_array_equal(found.plan > 0, hidden == np.arange(8)[:, None])


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_partial_matching_of_square_layers_is_the_best_k_pairs(k: int) -> None:
    similarity = similarities((5, 5), seed=2)
    best = max(
        sum(similarity[i, j] for i, j in zip(rows, columns, strict=True))
        for rows in combinations(range(5), k)
        for columns in permutations(range(5), k)
    )
    found = partial_soft_matching(similarity, k / 5)
    assert np.count_nonzero(found.plan) == k
    np.testing.assert_allclose(found.plan[found.plan > 0], 1 / 5)
    assert found.mean == pytest.approx(best / k)


def test_partial_mass_is_rounded_to_a_count_of_pairs() -> None:
    assert 0.58 * 50 != 29
    plan = partial_soft_matching(similarities((50, 50)), 0.58).plan
    assert np.count_nonzero(plan) == 29
    np.testing.assert_array_equal(np.unique(plan), [0.0, 1 / 50])


def test_partial_matching_excludes_planted_outliers() -> None:
    rng = np.random.default_rng(3)
    hidden = rng.permutation(30)[:20]
    similarity = rng.uniform(-0.3, 0.3, (20, 30))
    similarity[np.arange(20), hidden] = 0.8
    similarity[15:] = rng.uniform(-0.9, -0.6, (5, 30))  # units of x without a partner
    found = partial_soft_matching(similarity, 15 / 30)
    assert found.mean == pytest.approx(0.8)
    assert not found.plan[15:].any()
    assert soft_matching(similarity).mean < 0.4


@pytest.mark.parametrize("shape", [(30, 30), (24, 36), (17, 29)])
def test_the_mean_never_rises_with_the_mass(shape: tuple[int, int]) -> None:
    similarity = similarities(shape)
    means = [partial_soft_matching(similarity, mass).mean for mass in np.linspace(0.02, 1.0, 37)]
    assert np.all(np.diff(means) <= 1e-12)
    assert means[0] > means[-1] + 0.1
    assert means[-1] == soft_matching(similarity).mean


@pytest.mark.parametrize("value", [-0.5, 0.0, 2.0])
def test_equal_similarities_give_a_plan_of_full_mass(value: float) -> None:
    similarity = np.full((4, 6), value)
    for mass in (0.25, 0.3, 1.0):
        found = partial_soft_matching(similarity, mass)
        check_plan(found, similarity, mass)
        assert found.mean == pytest.approx(value)


def test_the_same_bits_every_time() -> None:
    similarity = similarities((31, 57)).round(1)  # with ties
    np.testing.assert_array_equal(soft_matching(similarity).plan, soft_matching(similarity).plan)
    first, second = (partial_soft_matching(similarity, 0.37) for _ in range(2))
    np.testing.assert_array_equal(first.plan, second.plan)


def test_failed_solver_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    similarity = similarities((30, 50))
    best, solved = soft_matching(similarity).mean, []
    for pivots in range(1, 1000, 7):
        monkeypatch.setattr(module, "MOST_PIVOTS", pivots)
        try:
            assert soft_matching(similarity).mean == best, "the best plan, or none"
            solved.append(True)
        except UserError:
            solved.append(False)
    assert solved == sorted(solved)
    assert solved[-1]
    monkeypatch.setattr(module, "MOST_PIVOTS", 1)
    with pytest.raises(UserError, match=r"30 and 50 units.*numItermax"):
        soft_matching(similarity)
    with pytest.raises(UserError, match="not solved"):
        partial_soft_matching(similarity, 0.5)


def test_inconsistent_plan_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    solver = module._pot().emd

    def leaking(given: Any, taken: Any, cost: Any, **options: Any) -> Any:
        flow, log = solver(given, taken, cost, **options)
        return flow * 0.5, log

    monkeypatch.setattr(module._pot(), "emd", leaking)
    with pytest.raises(UserError, match="add up"):
        soft_matching(similarities((3, 5)))


@pytest.mark.parametrize("scale", [1e-300, 1e-12, 1e9, 1e308])
def test_the_scale_of_similarities_does_not_matter(scale: float) -> None:
    similarity = similarities((6, 10))
    for mass in (0.4, 1.0):
        found = partial_soft_matching(similarity * scale, mass)
        np.testing.assert_allclose(found.plan, partial_soft_matching(similarity, mass).plan, atol=1e-15)
        assert found.mean / scale == pytest.approx(partial_soft_matching(similarity, mass).mean)


@pytest.mark.parametrize("bad", [np.nan, np.inf, "empty", "vector"])
def test_unusable_similarities_are_refused(bad: Any) -> None:
    similarity: Any = np.eye(3, 4)
    if bad == "empty":
        similarity = np.empty((0, 3))
    elif bad == "vector":
        similarity = np.ones(3)
    else:
        similarity[1, 1] = bad
    with pytest.raises(UserError):
        soft_matching(similarity)
    with pytest.raises(UserError):
        partial_soft_matching(similarity, 0.5)


@pytest.mark.parametrize("mass", [0.0, -0.1, 1.0001, np.nan, np.inf])
def test_a_mass_out_of_range_is_refused(mass: float) -> None:
    with pytest.raises(UserError, match="mass"):
        partial_soft_matching(np.eye(3), mass)


def test_pot_is_imported_late_and_without_torch() -> None:
    program = """
import sys
import convergence.alignment.soft_matching as soft
assert "ot" not in sys.modules, "imported with the module"
soft.soft_matching([[0.1, 0.2, 0.3], [0.3, 0.2, 0.2]])
assert "ot" in sys.modules
assert not {"torch", "jax", "cupy", "tensorflow"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
