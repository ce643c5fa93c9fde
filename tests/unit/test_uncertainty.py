"""Error bars and chance levels, where theory says what they must be."""

import numpy as np
import pytest

from convergence.inference import (
    Estimate,
    false_discovery_rates,
    jackknife,
    jackknife_error,
    mean_estimate,
    null_level,
    unit_p_values,
)
from convergence.linalg import random_rotation
from convergence.similarity.pair import PairMoments


def test_jackknife_of_a_mean_is_the_standard_error():
    x = np.random.default_rng(0).standard_normal(12)
    without = [np.delete(x, g).mean() for g in range(12)]
    estimate = jackknife(x.mean(), without)
    assert estimate.standard_error == pytest.approx(x.std(ddof=1) / np.sqrt(12), rel=1e-12)
    assert estimate.low < x.mean() < estimate.high
    np.testing.assert_allclose(jackknife_error(np.array(without)[:, None]), [estimate.standard_error])


def test_jackknife_intervals_cover():
    """A ratio of means over 16 groups of a skewed variable: nominal 95 %, within what 400 trials can tell."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        a = rng.exponential(2.0, (16, 40)).mean(axis=1)
        b = 1 + rng.exponential(1.0, (16, 40)).mean(axis=1)
        without = [np.delete(a, g).mean() / np.delete(b, g).mean() for g in range(16)]
        estimate = jackknife(a.mean() / b.mean(), without)
        covered += estimate.low <= 1.0 <= estimate.high
    assert 0.92 <= covered / 400 <= 0.98


def test_one_group_is_refused():
    with pytest.raises(ValueError, match="at least 2 groups"):
        jackknife(1.0, [1.0])


def test_rotations_are_orthogonal_and_uniform():
    draws = [random_rotation(5, np.random.default_rng([0, k])) for k in range(2000)]
    np.testing.assert_allclose(draws[0] @ draws[0].T, np.eye(5), atol=1e-12)
    entries = np.array([q[0, 0] for q in draws])
    assert abs(entries.mean()) < 0.03  # without fixed signs QR would favour one sign
    assert entries.var() == pytest.approx(1 / 5, rel=0.1)


def test_null_level_is_reproducible_and_below_identity():
    rng = np.random.default_rng(2)
    x = np.maximum(rng.standard_normal((30, 5000)), 0)
    cov = np.cov(x)
    pair = PairMoments.of(5000, cov, cov, cov)

    def draw(generator):
        return float(pair.in_basis(random_rotation(30, generator)).corr_xy.max(axis=1).mean())

    level, spread = null_level(draw, 10, seed=3)
    assert (level, spread) == null_level(draw, 10, seed=3)
    assert 0.2 < level < 0.6
    assert spread < 0.1


def test_jackknife_bias_of_a_square_is_found():
    """The square of a mean is too large by its variance; the jackknife's bias of it is exact."""
    x = 0.3 + np.random.default_rng(0).standard_normal(20)
    estimate = jackknife(x.mean() ** 2, [np.delete(x, g).mean() ** 2 for g in range(20)])
    assert estimate.bias == pytest.approx(x.var(ddof=1) / 20, rel=1e-9)
    reach = 2.093 * estimate.standard_error
    assert estimate.low == pytest.approx(estimate.value - estimate.bias - reach, rel=1e-3)
    assert estimate.high == pytest.approx(estimate.value + reach, rel=1e-3)
    stepwise = jackknife(x.mean() ** 2, [np.delete(x, g).mean() ** 2 for g in range(20)], smooth=False)
    assert stepwise.bias == 0
    assert stepwise.high - stepwise.value == pytest.approx(stepwise.value - stepwise.low)


def test_calibration_maps_chance_to_0_and_ceiling_to_1():
    without = np.linspace(0.58, 0.62, 10)
    base = Estimate(0.6, 0.02, 0.55, 0.65, null=0.4, null_sd=0.03, ceiling=0.9, without=without)
    found = base.calibrated()
    assert found is not None
    assert found.value == pytest.approx(0.4)
    assert found.standard_error == pytest.approx(np.hypot(0.02, 0.03) / 0.5)
    assert found.low < 0.4 < found.high
    distance = Estimate(1.2, 0.02, 1.1, 1.3, shifted=1.5, ceiling=0.0, without=without).calibrated()
    assert distance is not None
    assert distance.value == pytest.approx(0.2)
    assert distance.low < distance.value < distance.high
    assert Estimate(0.6, 0.02, 0.55, 0.65, ceiling=0.9, without=without).calibrated() is None
    assert Estimate(0.6, 0.02, 0.55, 0.65, null=0.9, null_sd=0.0, ceiling=0.9, without=without).calibrated() is None


def test_a_mean_over_pairs_keeps_its_levels():
    one = jackknife(0.5, [0.4, 0.5, 0.6]).against((0.1, 0.02))
    other = jackknife(0.7, [0.8, 0.7, 0.6]).against((0.3, 0.04))
    mean = mean_estimate([one, other])
    assert (mean.value, mean.null, mean.null_sd) == pytest.approx((0.6, 0.2, 0.03))
    assert mean.standard_error == pytest.approx(0, abs=1e-12), (
        "errors of opposite sign cancel, in quadrature they would not"
    )


def test_p_values_are_uniform_under_null_and_small_for_planted_pairs():
    rng = np.random.default_rng(0)
    scale, place = rng.uniform(0.5, 2, 60), rng.uniform(-1, 1, 60)
    null = place + scale * rng.gumbel(size=(20, 60))
    values = place + scale * rng.gumbel(size=60)
    p = unit_p_values(values, null)
    assert 0.35 < p.mean() < 0.65
    assert np.mean(p < 0.1) < 0.25
    values[:10] = place[:10] + 25 * scale[:10]
    p = unit_p_values(values, null)
    assert p[:10].max() <= 1 / 1201 + 1e-12
    q = false_discovery_rates(p)
    assert set(np.flatnonzero(q < 0.05)) >= set(range(10))
    assert (q < 0.05).sum() <= 13


@pytest.mark.parametrize("n_draws", [3, 5, 8])
def test_p_values_follow_their_definition(n_draws):
    """Every draw scored against the other draws of its unit, in loops."""
    rng = np.random.default_rng(n_draws)
    null, values = rng.normal(size=(n_draws, 12)), rng.normal(size=12)
    pooled = np.mean([np.var(null[:, u], ddof=1) for u in range(12)])

    def score(value, others):
        n = len(others)
        spread = np.sqrt((4 * pooled + (n - 1) * np.var(others, ddof=1)) / (4 + n - 1))
        return (value - np.mean(others)) / (spread * np.sqrt(1 + 1 / n))

    draws = [score(null[d, u], np.delete(null[:, u], d)) for d in range(n_draws) for u in range(12)]
    wanted = [(1 + sum(draw >= score(values[u], null[:, u]) for draw in draws)) / (1 + len(draws)) for u in range(12)]
    np.testing.assert_allclose(unit_p_values(values, null), wanted)


@pytest.mark.parametrize("n_draws", [3, 5, 8])
def test_p_values_have_their_level_for_few_draws(n_draws):
    """Values and draws of one distribution, with a mean and a spread of its own for each unit."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(150):
        place, scale = rng.uniform(0.2, 0.6, 40), rng.uniform(0.02, 0.05, 40)
        found.append(unit_p_values(place + scale * rng.gumbel(size=40), place + scale * rng.gumbel(size=(n_draws, 40))))
    assert 0.04 < np.mean(np.array(found) <= 0.05) < 0.07


def test_equal_values_are_not_significant():
    """Layers of one unit: every rotation gives the same |r|, or one of two values."""
    same = np.full((5, 3), 0.4)
    np.testing.assert_array_equal(unit_p_values(np.full(3, 0.4), same), 1.0)
    np.testing.assert_allclose(unit_p_values(np.array([0.4, 0.5, 0.3]), same), [1.0, 1 / 16, 1.0])
    two = np.where(np.arange(20) % 2, 0.7, -0.7)[:, None]
    assert unit_p_values(np.array([0.7]), two)[0] > 0.4
    with pytest.raises(ValueError, match="at least 3 draws"):
        unit_p_values(np.zeros(3), same[:2])
