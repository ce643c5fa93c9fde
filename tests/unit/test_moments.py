"""Moments agree with the definition on units that are hard to sum accurately."""

import h5py
import numpy as np
import pytest

from convergence.errors import ConfigError, UserError
from convergence.statistics.moments import Moments, correlation_plain, symmetric_rows
from convergence.statistics.sampling import ImageGroups, sample_positions


def hostile_samples(n_samples: int = 40_000, seed: int = 0) -> np.ndarray:
    """Units (rows) with mean/std of 1000, 80 % zeros, heavy tails, drift, tiny and huge scale, and their mixtures."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((4, n_samples))
    rows = [
        1000 + common[0],
        -1000 + 0.9 * common[0] + 0.4 * rng.standard_normal(n_samples),
        np.maximum(common[1] - 0.84, 0),
        np.maximum(common[1] + 0.2 * rng.standard_normal(n_samples) - 0.84, 0),
        rng.standard_t(2.1, n_samples),
        np.exp(1.5 * common[2]),
        np.exp(1.5 * common[2]) + np.exp(common[3]),
        np.linspace(0, 100, n_samples) + common[3],
        np.repeat([0.0, 300.0], n_samples // 2) + common[3],
        1e-6 * common[0],
        1e6 * np.maximum(common[1], 0),
    ]
    return np.array(rows, dtype=np.float32)


def collect(samples: np.ndarray, precision: str, batch: int) -> Moments:
    """Moments of all samples in batches, about the first batch's mean."""
    moments = Moments(samples[:, :batch].mean(axis=1), precision)
    for start in range(0, samples.shape[1], batch):
        moments.update(samples[:, start : start + batch])
    return moments


@pytest.mark.parametrize("batch", [100, 7_001, 40_000])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-6), ("float64", 1e-12)])
def test_correlation_of_hostile_columns(precision, tolerance, batch):
    samples = hostile_samples()
    found = collect(samples, precision, batch).correlation()
    assert np.abs(found - correlation_plain(samples)).max() <= tolerance
    assert np.abs(found - np.corrcoef(samples.astype(np.float64))).max() <= tolerance


def test_mean_and_covariance():
    samples = hostile_samples()
    moments = collect(samples, "float64", 999)
    wanted = samples.astype(np.float64)
    np.testing.assert_allclose(moments.mean(), wanted.mean(axis=1), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(np.diag(moments.covariance()), wanted.var(axis=1), rtol=1e-10)


def test_merged_moments_equal_moments_of_all_images():
    samples = hostile_samples(6_000)
    whole = collect(samples, "float64", 1_000)
    total = Moments(whole.shift, "float64")
    for k in range(6):
        part = Moments(whole.shift, "float64")
        part.update(samples[:, 1_000 * k : 1_000 * (k + 1)])
        total.merge(part)
    assert total.count == whole.count
    np.testing.assert_allclose(total.sums, whole.sums, rtol=1e-13)
    assert np.abs(total.correlation() - whole.correlation()).max() < 1e-12


def test_batches_of_any_size_give_the_same_bits():
    samples = hostile_samples(10_000)
    found = []
    for batch in (1, 777, 4_096, 10_000):
        moments = Moments(samples[:, 0])
        for start in range(0, 10_000, batch):
            moments.update(samples[:, start : start + batch])
        found.append((moments.count, moments.sums.tobytes(), moments.products.tobytes()))
    assert len(set(found)) == 1


def test_matrix_in_a_file_has_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr("convergence.statistics.moments.BAND", 7)  # several bands, the last one short
    samples = np.random.default_rng(0).standard_normal((25, 9_000)).astype(np.float32)
    inside = Moments(samples[:, 0])
    inside.update(samples)
    with h5py.File(tmp_path / "sums.h5", "w") as file:
        outside = Moments(samples[:, 0], upper=file.create_dataset("upper", (25, 25), "f8"))
        outside.update(samples)
        assert (outside.products == inside.products).all()
        rows = [symmetric_rows(outside.upper, start, min(start + 6, 25)) for start in range(0, 25, 6)]
    np.testing.assert_array_equal(np.concatenate(rows), inside.products)
    assert np.abs(inside.correlation() - correlation_plain(samples)).max() < 1e-6


def test_constant_units_have_correlation_zero_and_no_nan():
    samples = hostile_samples(2_000)
    samples = np.vstack([samples, np.zeros((1, 2_000), np.float32), np.full((1, 2_000), 3.3, np.float32)])
    moments = collect(samples, "float32", 500)
    assert np.isfinite(moments.correlation()).all()
    assert (moments.correlation()[-2:] == 0).all()
    assert (np.diag(moments.covariance())[-2:] == 0).all()


def test_unit_with_nan_changes_no_other_unit():
    samples = hostile_samples(2_000)
    clean = collect(samples, "float32", 500).correlation()
    spoilt = np.vstack([samples, np.full((1, 2_000), np.nan, np.float32)])
    with np.errstate(invalid="ignore"):
        moments = Moments(np.append(samples[:, :500].mean(axis=1), 0))
        for start in range(0, 2_000, 500):
            moments.update(spoilt[:, start : start + 500])
        found = moments.correlation()
    np.testing.assert_allclose(found[:-1, :-1], clean, atol=1e-6)


def test_moment_errors_state_the_remedy():
    with pytest.raises(UserError, match="no mean"):
        Moments([0.0]).mean()
    with pytest.raises(UserError, match="different shifts"):
        Moments([0.0]).merge(Moments([1.0]))
    with pytest.raises(ConfigError, match="choose at most 5"):
        ImageGroups(10, 6)


@pytest.mark.parametrize(("n_images", "n_groups"), [(10, 2), (17, 5), (100, 7), (64, 16)])
def test_groups_divide_the_images(n_images, n_groups):
    groups = ImageGroups(n_images, n_groups)
    everyone = np.concatenate([groups.images(g) for g in range(n_groups)])
    assert sorted(everyone) == list(range(n_images))
    assert max(map(len, map(groups.images, range(n_groups)))) - min(map(len, map(groups.images, range(n_groups)))) <= 1
    for g in range(n_groups):
        np.testing.assert_array_equal(np.concatenate(list(groups.batches(g, 3))), groups.images(g))
        assert (np.bincount(groups.images(g)) <= 1).all()
    assert [g for block in groups.blocks(8) for g in block] == list(range(n_groups))


def test_sampled_positions_depend_on_seed_and_image_only():
    together = sample_positions(np.arange(20), 50, 7, seed=3)
    apart = np.concatenate([sample_positions(np.array([i]), 50, 7, seed=3) for i in range(20)])
    np.testing.assert_array_equal(together, apart)
    assert all(len(set(row)) == 7 for row in together)
    assert (together != sample_positions(np.arange(20), 50, 7, seed=4)).any()
    assert sample_positions(np.arange(3), 50, "all", 0) is None
    assert sample_positions(np.arange(3), 5, 9, 0) is None


@pytest.mark.parametrize("labels", [np.repeat(np.arange(8), 40), np.tile(np.arange(8), 40)], ids=["sorted", "in turn"])
def test_groups_mix_classes_for_any_image_order(labels):
    """Eight groups of 40 images of eight classes: a class has about five images in each, whatever the order."""
    groups = ImageGroups(320, 8, seed=1)
    counts = np.array([np.bincount(labels[groups.images(g)], minlength=8) for g in range(8)])
    assert counts.min() >= 1
    assert counts.max() <= 14
    assert (groups.group_of_image == ImageGroups(320, 8, seed=1).group_of_image).all()
    assert (groups.group_of_image != ImageGroups(320, 8, seed=2).group_of_image).any()
    part = ImageGroups(320, 4, seed=1, max_images=80)
    used = np.concatenate([part.images(g) for g in range(4)])
    assert part.n_images == len(set(used)) == 80
    assert np.bincount(labels[used], minlength=8).min() >= 3
