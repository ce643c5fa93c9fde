"""Sums of pseudo-nets give the covariances of real units with pseudo-units."""

from __future__ import annotations

import numpy as np
import pytest

from convergence.statistics.null_sums import NullSums, null_sums_plain

UNIT_NET = np.repeat([0, 1], [4, 6])


def sums_of_samples(n: int = 50) -> tuple[NullSums, np.ndarray, np.ndarray, np.ndarray]:
    """Sums, real units (10, n), pseudo-units (3, 10, n), and the half of each sample."""
    rng = np.random.default_rng(0)
    real, pseudo = np.maximum(rng.standard_normal((10, n)), 0), rng.standard_normal((3, 10, n)) + 5
    half = rng.integers(0, 2, n)
    sums = null_sums_plain(real, pseudo, half, UNIT_NET, rng.standard_normal(10), rng.standard_normal((3, 10)))
    return sums, real, pseudo, half


@pytest.mark.parametrize("half", [None, 0, 1])
def test_null_sums_give_covariances(half):
    sums, real, pseudo, half_of_sample = sums_of_samples()
    chosen = np.ones(50, bool) if half is None else half_of_sample == half
    x, p = real[:, chosen], pseudo[1][:, chosen]
    exact = np.cov(x, p, bias=True)
    rows, columns = slice(0, 4), slice(4, 10)
    np.testing.assert_allclose(sums.cross(half, 1, rows, columns), exact[rows, 14:20], atol=1e-12)
    np.testing.assert_allclose(sums.cross(half, 1, slice(5, 8), slice(1, 3)), exact[5:8, 11:13], atol=1e-12)
    np.testing.assert_allclose(sums.within(half, 1, columns), exact[14:20, 14:20], atol=1e-12)
    np.testing.assert_allclose(sums.within(half, 1, slice(5, 8)), exact[15:18, 15:18], atol=1e-12)
    np.testing.assert_allclose(sums.real_variance(half, slice(2, 9)), np.diag(exact)[2:9], atol=1e-12)


def test_products_that_float32_sums_leave_asymmetric_give_symmetric_covariances():
    sums, *_ = sums_of_samples()
    exact = sums.within(0, 1, slice(4, 10))
    sums.own[0, 1, 4, 1] += 1e-5
    found = sums.within(0, 1, slice(4, 10))
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_allclose(found, exact, atol=1e-6)
    assert found[0, 1] != exact[0, 1]
