"""Unit histograms and bin edges: exact masses, any order, hostile values."""

from __future__ import annotations

import numpy as np
import pytest

from convergence.statistics.histograms import N_BUCKETS, UnitHistograms, bucket_lower_edges, encode

RNG = np.random.default_rng(0)


def hostile(n: int = 20_000) -> np.ndarray:
    """Rectified, nearly always zero, always zero, constant, signed, heavy-tailed, tiny, huge, few-valued units."""
    normal = RNG.standard_normal((4, n))
    rare = np.where(RNG.random(n) < 5e-4, np.abs(normal[0]), 0)
    rows = [
        np.maximum(normal[0], 0), rare, np.zeros(n), np.full(n, 3.3), normal[1], RNG.standard_cauchy(n),
        np.abs(normal[2]) * 1e-30, np.abs(normal[3]) * 1e30, RNG.integers(0, 4, n), np.exp(normal[2]),
        -np.abs(normal[3]),
    ]  # fmt: skip
    return np.array(rows, dtype=np.float32)


def histogram(samples: np.ndarray) -> UnitHistograms:
    h = UnitHistograms.zeros(len(samples))
    h.update(samples)
    return h


@pytest.mark.parametrize("n_bins", [3, 10, 16])
def test_masses_of_codes_are_what_edges_promise(n_bins):
    samples = hostile()
    h = histogram(samples)
    edges = h.edges(n_bins)
    codes = encode(samples, edges.edges)
    lower = bucket_lower_edges()
    for unit, row in enumerate(samples):
        masses = np.bincount(codes[unit], minlength=n_bins)
        assert (masses > 0).sum() == edges.n_effective_bins[unit]
        assert edges.n_effective_bins[unit] <= n_bins
        finite = edges.edges[unit][np.isfinite(edges.edges[unit])]
        assert (np.diff(finite) > 0).all()
        if row.min() >= 0:
            assert masses[0] == (row == 0).sum() == h.zero[unit]
            for k, edge in enumerate(finite[1:], start=2):  # the histogram alone knows every bin's mass
                bucket = np.flatnonzero(lower == edge)[0]
                assert h.positive[unit, bucket:].sum() == (codes[unit] >= k).sum()


def test_bins_of_continuous_units_have_equal_mass():
    n = 200_000
    samples = np.stack([np.abs(RNG.standard_normal(n)), np.exp(2 * RNG.standard_normal(n)), RNG.standard_t(2, n)])
    samples = samples.astype(np.float32)
    edges = histogram(samples).edges(10)
    for unit, n_equal in ((0, 9), (1, 9), (2, 10)):
        masses = np.bincount(encode(samples, edges.edges)[unit], minlength=10) / n
        equal = masses[1:] if n_equal == 9 else masses
        assert np.abs(equal * n_equal - 1).max() < 0.01


def test_rare_units_do_not_crash():
    edges = histogram(hostile()).edges(10)
    assert edges.n_effective_bins[1] >= 2
    assert edges.n_effective_bins[2] == 1
    assert edges.n_effective_bins[3] == 1
    assert histogram(np.zeros((1, 0), np.float32)).edges(10).n_effective_bins[0] == 0


def test_merging_in_any_order_is_one_pass():
    samples = hostile()
    whole = histogram(samples)
    merged = UnitHistograms.zeros(len(samples))
    for k in (3, 0, 2, 1):
        merged.merge(histogram(samples[:, 5_000 * k : 5_000 * (k + 1)]))
    for name in ("zero", "n_nonfinite", "positive", "negative"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(merged, name))


def test_every_value_is_counted_once():
    values = np.array([[0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, -1e-45, 3e38, -3e38, 1.0, -1.0]], np.float32)
    h = histogram(values)
    assert (h.zero[0], h.n_nonfinite[0]) == (2, 3)
    assert (h.positive.sum(), h.negative.sum()) == (3, 3)
    assert h.positive[0, 0] == h.positive[0, N_BUCKETS - 1] == h.negative[0, 0] == 1


def test_zero_fraction():
    np.testing.assert_allclose(
        histogram(np.array([[0, 0, 0, 1], [1, 2, -3, 4]], np.float32)).zero_fraction(), [0.75, 0]
    )


def test_arrays_and_back():
    whole = histogram(hostile())
    arrays = whole.to_arrays()
    back = UnitHistograms.from_arrays(arrays)
    for name in ("zero", "n_nonfinite", "positive", "negative"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(back, name))
    small = histogram(np.abs(RNG.standard_normal((50, 500))).astype(np.float32))
    assert sum(np.asarray(a).nbytes for a in small.to_arrays().values()) < 500_000
