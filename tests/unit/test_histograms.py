"""Unit histograms and bin edges: exact masses, any order, hostile values."""

from __future__ import annotations

import numpy as np
import pytest

from convergence.statistics.bin_edges import _equal_mass, encode, equal_mass_bins, equal_mass_plain, unevenness
from convergence.statistics.histograms import N_BUCKETS, UnitHistograms, bucket_lower_edges

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


def plain(samples: np.ndarray, sign: int = 1) -> np.ndarray:
    """(n_units, N_BUCKETS) counts of the values of one sign, by their buckets' edges."""
    inner = bucket_lower_edges()[1:]
    kept = [row[np.isfinite(row) & (row > 0)] for row in sign * samples]
    return np.array([np.bincount(np.searchsorted(inner, row, side="right"), minlength=N_BUCKETS) for row in kept])


def assert_same(a: UnitHistograms, b: UnitHistograms) -> None:
    """The same in every array that a file gets, types included."""
    one, other = a.to_arrays(), b.to_arrays()
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
        assert one[name].dtype == other[name].dtype


def test_histogram_counts_equal_definition():
    samples = hostile()
    h = histogram(samples)
    np.testing.assert_array_equal(h.positive.dense(), plain(samples))
    np.testing.assert_array_equal(h.negative.dense(), plain(samples, -1))
    np.testing.assert_array_equal(h.positive.total(), (samples > 0).sum(axis=1))


@pytest.mark.parametrize("n_bins", [3, 10, 16])
def test_masses_of_codes_equal_those_of_edges(n_bins):
    samples = hostile()
    h = histogram(samples)
    edges = equal_mass_bins(h, n_bins)
    codes = encode(samples, edges.edges)
    lower = bucket_lower_edges()
    positive = h.positive.dense()
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
                assert positive[unit, bucket:].sum() == (codes[unit] >= k).sum()


def test_bins_of_continuous_units_have_equal_mass():
    n = 200_000
    samples = np.stack([np.abs(RNG.standard_normal(n)), np.exp(2 * RNG.standard_normal(n)), RNG.standard_t(2, n)])
    samples = samples.astype(np.float32)
    edges = equal_mass_bins(histogram(samples), 10)
    for unit, n_equal in ((0, 9), (1, 9), (2, 10)):
        masses = np.bincount(encode(samples, edges.edges)[unit], minlength=10) / n
        equal = masses[1:] if n_equal == 9 else masses
        assert np.abs(equal * n_equal - 1).max() < 0.01


def test_rare_units_do_not_crash():
    edges = equal_mass_bins(histogram(hostile()), 10)
    assert edges.n_effective_bins[1] >= 2
    assert edges.n_effective_bins[2] == 1
    assert edges.n_effective_bins[3] == 1
    assert equal_mass_bins(histogram(np.zeros((1, 0), np.float32)), 10).n_effective_bins[0] == 0


def test_merge_order_changes_no_histogram():
    samples = hostile()
    whole = histogram(samples)
    merged = UnitHistograms.zeros(len(samples))
    for k in (3, 0, 2, 1):
        merged.merge(histogram(samples[:, 5_000 * k : 5_000 * (k + 1)]))
    assert_same(whole, merged)


def planted(counts: list[int]) -> np.ndarray:
    """One unit whose values 1, 2, 4, … are found so many times, in random order."""
    return RNG.permutation(np.repeat(2.0 ** np.arange(len(counts)), counts))[None].astype(np.float32)


def test_counts_beyond_sixteen_bits_are_exact_in_any_order():
    """Counts just below, at and far above the 65,536 that a bucket's own number holds, in pieces and merged."""
    counts = [65_535, 65_536, 65_537, 300_000, 1]
    samples = np.concatenate([planted(counts), planted(counts[::-1]), -planted(counts), np.zeros((1, sum(counts)))])
    samples = samples.astype(np.float32)
    whole = histogram(samples)
    np.testing.assert_array_equal(whole.positive.dense(), plain(samples))
    np.testing.assert_array_equal(whole.negative.dense(), plain(samples, -1))
    arrays = whole.to_arrays()
    assert arrays["positive"].max() == arrays["negative"].max() == 300_000
    assert list(arrays["positive"][0][arrays["positive"][0] > 0]) == counts
    assert list(whole.positive.total()) == [sum(counts), sum(counts), 0, 0]
    np.testing.assert_allclose(whole.zero_fraction(), [0, 0, 0, 1])

    pieces = np.array_split(samples, [1, 70_000, 130_000, 350_000], axis=1)
    for order in (range(5), [4, 2, 0, 1, 3]):
        in_turn, merged, added = (UnitHistograms.zeros(4) for _ in range(3))
        for k in order:
            in_turn.update(pieces[k])
            piece = histogram(pieces[k])
            merged.merge(piece)
            added.add_arrays(piece.to_arrays())
        for found in (in_turn, merged, added):
            assert_same(whole, found)
    doubled = histogram(samples)
    doubled.merge(whole)
    np.testing.assert_array_equal(doubled.positive.dense(), 2 * plain(samples))
    assert doubled.positive.dense().max() == 600_000


def test_bin_edges_use_counts_beyond_sixteen_bits():
    """Four values a third of a million times each: modulo 65,536 they would be very unequal."""
    samples = planted([327_680, 327_681, 327_690, 393_216])
    found = equal_mass_bins(histogram(samples), 5)
    np.testing.assert_array_equal(found.edges, [[np.nextafter(np.float32(0), np.float32(1)), 2, 4, 8]])
    assert found.n_effective_bins[0] == 4
    signed = equal_mass_bins(histogram(np.concatenate([samples, -samples], axis=1)), 8)
    assert signed.n_effective_bins[0] == 8
    assert list(np.bincount(encode(samples, signed.edges)[0])[4:]) == [327_680, 327_681, 327_690, 393_216]


def test_stated_memory_equals_allocated_memory():
    """16,384 rectified units take 340 MB."""
    h = histogram(np.abs(hostile()[:4]))
    assert h.negative is None
    assert h.positive.nbytes <= 4 * 20_480 + 1_000
    assert 16_384 * h.positive.low[0].nbytes < 340e6


def test_bins_are_as_even_as_buckets_allow():
    chosen = np.empty(8, np.int64)
    for i in range(300):
        n_bins, n_buckets = int(RNG.integers(2, 8)), int(RNG.integers(1, 60))
        mass = RNG.integers(0, (2, 5, 100)[i % 3], n_buckets) * (RNG.random(n_buckets) < RNG.random())
        mass[RNG.integers(n_buckets)] += 1_000 * (i % 5 == 0)
        found, expected = chosen[: _equal_mass(mass, n_bins, chosen)], equal_mass_plain(mass, n_bins)
        assert (np.diff(found) > 0).all()
        assert set(found) <= set(np.flatnonzero(mass)[1:])
        # Several choices may be as even; an edge that is left out stands for a bin without any mass.
        uneven = [unevenness(mass, np.pad(starts, (0, n_bins - 1 - len(starts)), mode="edge")) for starts in
                  (found, expected) if len(starts)]  # fmt: skip
        assert len(found) == len(expected) == 0 or uneven[0] == uneven[1]


def test_every_value_is_counted_once():
    values = np.array([[0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, -1e-45, 3e38, -3e38, 1.0, -1.0]], np.float32)
    h = histogram(values)
    assert (h.zero[0], h.n_nonfinite[0]) == (2, 3)
    positive, negative = h.positive.dense(), h.negative.dense()
    assert (positive.sum(), negative.sum()) == (3, 3)
    assert positive[0, 0] == positive[0, N_BUCKETS - 1] == negative[0, 0] == 1


def test_zero_fraction():
    np.testing.assert_allclose(
        histogram(np.array([[0, 0, 0, 1], [1, 2, -3, 4]], np.float32)).zero_fraction(), [0.75, 0]
    )


def test_histograms_survive_conversion_to_arrays():
    whole = histogram(hostile())
    arrays = whole.to_arrays()
    back = UnitHistograms.from_arrays(arrays)
    assert_same(whole, back)
    small = histogram(np.abs(RNG.standard_normal((50, 500))).astype(np.float32))
    assert sum(np.asarray(a).nbytes for a in small.to_arrays().values()) < 500_000


def test_percentiles_are_within_their_error():
    samples = np.concatenate([hostile()[[0, 1, 2, 3, 4, 5, 8, 9, 10]], np.full((1, 20_000), np.nan, np.float32)])
    percents = (0, 1, 37.5, 50, 90, 99, 100)
    found = histogram(samples).percentiles(percents)
    for unit, row in enumerate(samples[:-1]):
        wanted = np.percentile(row.astype(float), percents, method="inverted_cdf")
        assert (np.abs(found[unit] - wanted) <= 0.002 * np.abs(wanted) + 2**-20).all()
        assert ((found[unit] == 0) >= (wanted == 0)).all()
    assert (found[-1] == 0).all()


def test_percentiles_use_counts_beyond_sixteen_bits():
    samples = np.concatenate([np.full(200_000, 2.0), np.full(100_000, 3.0), np.full(1, 5.0)]).astype(np.float32)[None]
    found = histogram(samples).percentiles((50, 66, 67, 99.9, 100))[0]
    np.testing.assert_allclose(found, [2, 2, 3, 3, 5], rtol=0.002)
