"""Distance of mean activations: its scale, its chance level, and its p-values in nets with a planted truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest, wasserstein_distance

from convergence.analysis.active_units import active_units, unit_means
from convergence.analysis.distributions import DEALS, Wasserstein, mean_activation_distance
from tests.unit.test_analysis import rectified, sums_of


def nets_with_means(*means: np.ndarray) -> dict[str, np.ndarray]:
    """Nets of units with given means, of a little noise."""
    noise = 0.01 * np.random.default_rng(0).standard_normal(60)
    return {f"net{k}": mean[:, None] + noise for k, mean in enumerate(means)}


@pytest.mark.parametrize(("n_x", "n_y"), [(1, 1), (5, 5), (4, 6), (7, 3), (12, 35)])
def test_vectorised_distance_equals_scipy(n_x, n_y):
    rng = np.random.default_rng(n_x)
    x, y = rng.standard_normal((3, n_x)), rng.standard_normal((3, n_y))
    expected = [wasserstein_distance(a, b) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(Wasserstein(n_x, n_y)(x, y), expected, atol=1e-14)


def test_distance_ignores_order_and_scale():
    x = rectified(6)
    sums = sums_of({"a": x, "b": x[::-1], "c": 2 * x})
    live = active_units(sums)
    np.testing.assert_allclose(unit_means(sums)[:6], x.astype(np.float32).mean(axis=1, dtype=float), rtol=1e-6)
    for other in "bc":
        assert mean_activation_distance(sums, live, "a", other, 0)["value"] == pytest.approx(0, abs=1e-6)


def test_distance_of_relative_means():
    """Means 1, 1, 1, 1 and 0, 0, 2, 2: every unit of one is 1 away from its place in the other."""
    sums = sums_of(nets_with_means(np.ones(4), np.array([0.0, 0.0, 7.0, 7.0])))
    found = mean_activation_distance(sums, active_units(sums), "net0", "net1", 0)
    assert found["value"] == pytest.approx(1, abs=0.02)
    assert found["p"] < 0.1
    assert found["null"] == pytest.approx(found["draws"].mean())
    assert len(found["draws"]) == DEALS


def test_p_values_are_uniform_where_units_are_dealt_at_random():
    rng = np.random.default_rng(1)
    nets = nets_with_means(*(rng.gamma(2, 1 + k % 3, 7 + k % 3) for k in range(24)))
    sums = sums_of(nets)
    live = active_units(sums)
    names = list(nets)
    p = [mean_activation_distance(sums, live, *pair, 0)["p"] for pair in zip(names[::2], names[1::2], strict=True)]
    assert kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(p) <= 0.05) < 0.2


def test_nets_of_other_sparseness_are_farther_than_chance():
    rng = np.random.default_rng(2)
    sums = sums_of(nets_with_means(rng.gamma(0.3, 1, 40), rng.gamma(9, 1, 30)))
    found = mean_activation_distance(sums, active_units(sums), "net0", "net1", 0)
    assert found["p"] == pytest.approx(1 / (1 + DEALS))
    assert found["value"] > found["null"] + 4 * found["null_sd"]
