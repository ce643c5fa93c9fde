"""Matching of large dictionaries over the most similar pairs."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from scipy.optimize import linear_sum_assignment

from convergence.alignment.dictionaries import (
    code_candidates,
    direction_candidates,
    match,
    match_codes,
    match_directions,
    rotated_directions,
    shifted_codes,
)
from convergence.errors import UserError


def best_total(similarity: np.ndarray) -> float:
    """Largest sum of a one-to-one matching in which units may stay alone."""
    alone = np.hstack([similarity, np.zeros((len(similarity), len(similarity)))])
    return float(alone[linear_sum_assignment(alone, maximize=True)].sum())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("n_x", "n_y", "dims"), [(40, 40, 3), (30, 50, 5), (50, 20, 2)])
def test_with_all_candidates_the_matching_is_the_best(seed, n_x, n_y, dims):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n_x, dims)), rng.standard_normal((n_y, dims))
    cosines = (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (y / np.linalg.norm(y, axis=1, keepdims=True)).T
    found = match_directions(x, y, k=max(n_x, n_y))
    assert found.mean == pytest.approx(best_total(cosines) / min(n_x, n_y), abs=1e-6)
    assert found.bound == pytest.approx(found.mean, abs=1e-9)
    chosen = found.partner[found.partner >= 0]
    assert len(set(chosen.tolist())) == len(chosen)
    np.testing.assert_allclose(found.similarity[found.partner >= 0], cosines[found.partner >= 0, chosen], atol=1e-6)
    np.testing.assert_allclose(found.best, np.maximum(cosines.max(axis=1), 0), atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_with_few_candidates_the_bound_holds_and_tightens(k):
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((60, 4)), rng.standard_normal((70, 4))
    cosines = (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (y / np.linalg.norm(y, axis=1, keepdims=True)).T
    found, more = match_directions(x, y, k), match_directions(x, y, 2 * k)
    assert found.mean <= best_total(cosines) / 60 + 1e-6 <= found.bound + 2e-6
    assert more.bound - more.mean <= found.bound - found.mean + 1e-9


def test_planted_permutation_of_directions_is_found_and_chance_is_lower():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((3000, 64))
    order = rng.permutation(3000)
    y = 3.0 * x[order] + 0.3 * rng.standard_normal((3000, 64))
    found = match_directions(x, y)
    np.testing.assert_array_equal(found.partner, np.argsort(order))
    assert found.bound == found.mean > 0.98
    chance = match_directions(x, rotated_directions(y))
    assert chance.mean < 0.6 < found.mean


def codes(rng: np.random.Generator, n_tokens: int, n_latents: int, density: float) -> scipy.sparse.csr_array:
    return scipy.sparse.random_array((n_tokens, n_latents), density=density, rng=rng, format="csr")


def test_correlations_of_codes_are_those_of_the_dense_activations():
    rng = np.random.default_rng(3)
    x, y = codes(rng, 500, 12, 0.2), codes(rng, 500, 15, 0.1)
    dense = np.corrcoef(x.toarray().T, y.toarray().T)[:12, 12:]
    found = code_candidates(x, y, k=20)
    for row in range(12):
        own = slice(found.starts[row], found.starts[row + 1])
        assert set(found.columns[own].tolist()) == set(np.flatnonzero(dense[row] > 1e-7).tolist())
        np.testing.assert_allclose(found.values[own], dense[row, found.columns[own]], atol=1e-6)
    assert match(found).mean == pytest.approx(best_total(dense) / 12, abs=1e-6)


def test_planted_permutation_of_codes_is_found_and_shifted_tokens_are_chance():
    rng = np.random.default_rng(4)
    x = codes(rng, 4000, 200, 0.02)
    order = rng.permutation(200)
    y = scipy.sparse.csr_array(x[:, order]) + 0.2 * codes(rng, 4000, 200, 0.005)
    found = match_codes(x, y)
    np.testing.assert_array_equal(found.partner, np.argsort(order))
    assert found.mean > 0.9
    assert match_codes(x, shifted_codes(y)).mean < 0.1


def test_latents_without_a_similar_one_stay_alone():
    x = np.eye(4)
    found = match_directions(x, np.vstack([x[1], -x[0], -x[2]]), k=2)
    np.testing.assert_array_equal(found.partner, [-1, 0, -1, -1])
    assert found.mean == pytest.approx(1 / 3)
    dead = scipy.sparse.csr_array((10, 3))
    assert match_codes(dead, codes(np.random.default_rng(0), 10, 4, 0.5)).mean == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: match_directions(np.ones((3, 2)), np.ones((3, 4))), "2 and 4 dimensions"),
        (lambda: match_directions(np.zeros((3, 2)), np.ones((3, 2))), "direction 0 of x"),
        (lambda: match_directions(np.ones(3), np.ones((3, 2))), "n_latents, n_dims"),
        (lambda: match_directions(np.ones((3, 2)), np.ones((3, 2)), k=0), "k = 0"),
        (lambda: match_codes(-np.eye(3), np.eye(3)), "negative"),
        (lambda: match_codes(np.eye(3), np.eye(4)), "3 tokens"),
    ],
)
def test_bad_input_is_explained(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_candidates_include_the_best_of_both_dictionaries():
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((80, 6)), rng.standard_normal((90, 6))
    cosines = (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (y / np.linalg.norm(y, axis=1, keepdims=True)).T
    found = direction_candidates(x, y, k=3)
    kept = {(row, int(c)) for row in range(80) for c in found.columns[found.starts[row] : found.starts[row + 1]]}
    by_row = {(r, int(c)) for r in range(80) for c in np.argsort(-cosines[r])[:3]}
    by_column = {(int(r), c) for c in range(90) for r in np.argsort(-cosines[:, c])[:3]}
    assert kept == by_row | by_column
