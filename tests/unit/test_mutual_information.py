"""Joint counts agree with plain counting, mutual information with theory and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from convergence.statistics.information import (
    leave_one_out,
    leave_one_out_plain,
    mutual_information,
    mutual_information_plain,
    without_bias,
)
from convergence.statistics.joint_counts import JointCounts, joint_counts_plain, tile_bytes

RNG = np.random.default_rng(0)


def random_codes(n_units: int, n_samples: int, n_bins: int) -> np.ndarray:
    codes = RNG.integers(0, n_bins, (n_units, n_samples))
    codes[RNG.random(codes.shape) < 0.5] = 0
    return codes.astype(np.uint8)


@pytest.mark.parametrize(
    ("n_units", "n_samples", "n_bins", "x0", "x1"),
    [
        (3, 0, 10, 0, 3), (3, 1, 10, 0, 3), (5, 100, 3, 1, 4), (64, 8191, 10, 0, 64), (65, 8193, 4, 60, 65),
        (70, 20_000, 10, 0, 9), (130, 8192, 16, 128, 130), (200, 3_000, 10, 7, 90),
    ],
)  # fmt: skip
def test_joint_counts_are_exact(n_units, n_samples, n_bins, x0, x1):
    codes = random_codes(n_units, n_samples, n_bins)
    joint = JointCounts(x1 - x0, n_units, n_bins)
    for start in range(0, n_samples, 7_000):
        joint.update(codes[x0:x1, start : start + 7_000], codes[:, start : start + 7_000])
    counts = joint.counts()
    np.testing.assert_array_equal(joint.counts(np.empty(counts.shape, np.int32)), counts)
    assert joint.n_samples == n_samples
    assert (counts.sum(axis=(2, 3)) == n_samples).all()
    for x in {x0, (x0 + x1) // 2, x1 - 1}:
        for y in {0, x, n_units // 2, n_units - 1}:
            np.testing.assert_array_equal(counts[x - x0, y], joint_counts_plain(codes[x], codes[y], n_bins))


def test_bins_without_or_with_all_samples_are_counted():
    codes = np.zeros((4, 9_000), np.uint8)
    codes[1] = 9
    joint = JointCounts(4, 4, 10)
    joint.update(codes, codes)
    counts = joint.counts()
    assert counts[0, 2, 0, 0] == counts[1, 1, 9, 9] == counts[1, 3, 9, 0] == 9_000


def test_many_blocks_carry_into_high_bits():
    codes = np.full((2, 8_192), 2, np.uint8)
    joint = JointCounts(2, 2, 3)
    for _ in range(40):
        joint.update(codes, codes)
    assert (joint.counts()[:, :, 2, 2] == 40 * 8_192).all()


def test_stated_memory_equals_allocated_memory():
    joint = JointCounts(64, 200, 10)
    taken = joint._planes.nbytes + joint._rows.nbytes + joint._lists.nbytes + joint.counts().nbytes
    assert taken <= tile_bytes(64, 200, 10) <= 3 * taken


def test_plug_in_equals_the_definition_and_scikit_learn():
    x = RNG.integers(0, 10, 3_000)
    y = np.where(RNG.random(3_000) < 0.4, x, RNG.integers(0, 10, 3_000))
    found = float(mutual_information(joint_counts_plain(x.astype(np.uint8), y, 10), corrected=False))
    assert found == pytest.approx(mutual_information_plain(x, y), rel=1e-12)
    assert found == pytest.approx(mutual_info_score(x, y), rel=1e-12)


def test_correction_removes_the_bias_of_independent_units():
    """1,000 samples, 10 bins: the plug-in estimate is .04 too large; the term of Li et al. overcorrects (−.028)."""
    plain, corrected = [], []
    for _ in range(200):
        counts = joint_counts_plain(RNG.integers(0, 10, 1_000), RNG.integers(0, 10, 1_000), 10)
        plain.append(float(mutual_information(counts, corrected=False)))
        corrected.append(float(mutual_information(counts)))
    assert np.mean(plain) == pytest.approx(81 / 2_000, rel=0.1)
    assert abs(np.mean(corrected)) < 0.004
    assert np.mean(plain) - 100 / (2_000 * np.log(2)) < -0.02


def test_information_of_identical_units_is_their_entropy():
    x = RNG.integers(0, 8, 5_000)
    p = np.bincount(x) / 5_000
    found = mutual_information(joint_counts_plain(x, x, 8), corrected=False)
    assert float(found) == pytest.approx(-(p * np.log(p)).sum(), rel=1e-12)


def test_order_of_bins_does_not_matter():
    counts = RNG.integers(0, 50, (6, 7, 9, 9))
    shuffled = counts[:, :, RNG.permutation(9)][:, :, :, RNG.permutation(9)]
    np.testing.assert_allclose(mutual_information(counts), mutual_information(shuffled), atol=1e-12)
    np.testing.assert_allclose(mutual_information(counts), mutual_information(counts.swapaxes(2, 3)), atol=1e-12)


def test_no_samples_give_zero_information():
    assert (mutual_information(np.zeros((3, 4, 10, 10), np.int64)) == 0).all()


@pytest.mark.parametrize("largest", [3, 400, 200_000])
def test_leave_one_out_information_equals_definition(largest):
    blocks = RNG.integers(0, largest, (8, 5, 4, 10, 10))
    blocks[:, 0, :, 3:] = 0  # bins that nothing is in
    blocks[:, 1, 1] = 0
    for found, wanted in zip(leave_one_out(blocks), leave_one_out_plain(blocks), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


def test_jackknife_takes_off_the_bias_of_constant_maps():
    """An image of a constant map is one sample, not 100: the correction for counting leaves the bias of the images."""
    n_images, positions, n_units, n_bins = 400, 100, 5, 6
    rng = np.random.default_rng(3)
    raw, found = [], []
    for _ in range(12):
        codes = rng.integers(0, n_bins, (2 * n_units, n_images)).astype(np.uint8)
        counts = []
        for block in np.array_split(np.arange(n_images), 8):
            joint = JointCounts(2 * n_units, 2 * n_units, n_bins)
            samples = np.repeat(codes[:, block], positions, axis=1)
            joint.update(samples, samples)
            counts.append(joint.counts()[:n_units, n_units:])
        estimate, without = leave_one_out(np.stack(counts))
        raw.append(estimate.mean())
        found.append(without_bias(estimate, without).mean())
    error = np.std(found, ddof=1) / np.sqrt(len(found))
    assert np.mean(raw) > 0.03
    assert abs(np.mean(found)) < 3 * error < 0.005


def test_jackknife_of_independent_samples_keeps_the_information():
    """Of two related units with many independent samples it changes next to nothing."""
    rng = np.random.default_rng(4)
    x = rng.integers(0, 4, 20_000)
    codes = np.stack([x, (x + (rng.random(len(x)) < 0.3)) % 4]).astype(np.uint8)
    counts = []
    for block in np.array_split(np.arange(len(x)), 8):
        joint = JointCounts(2, 2, 4)
        joint.update(codes[:, block], codes[:, block])
        counts.append(joint.counts())
    estimate, without = leave_one_out(np.stack(counts))
    np.testing.assert_allclose(without_bias(estimate, without), estimate, atol=1e-3)
