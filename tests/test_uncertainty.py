"""Error bars and chance levels, where theory says what they must be."""

import numpy as np
import pytest

from convergence.similarity.pair import PairMoments
from convergence.uncertainty import jackknife, jackknife_error, null_level, random_rotation


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
    pair = PairMoments(5000, cov, cov, cov)

    def draw(generator):
        return float(pair.rotated(random_rotation(30, generator)).corr_xy.max(axis=1).mean())

    level, spread = null_level(draw, 10, seed=3)
    assert (level, spread) == null_level(draw, 10, seed=3)
    assert 0.2 < level < 0.6
    assert spread < 0.1
