"""Bins that are joined from the fine bins of a pilot: masses, counts and codes are those of the definition."""

from __future__ import annotations

import numpy as np
import pytest

from convergence.statistics.bin_edges import bin_masses, encode, equal_mass_bins
from convergence.statistics.fine_bins import (
    FEW,
    FINE_EDGES,
    bin_error,
    encode_fine,
    fine_edges,
    join_bins,
    join_codes,
    thresholds,
)
from convergence.statistics.histograms import UnitHistograms
from convergence.statistics.joint_counts import JointCounts

N_PILOT, N_IMAGES, BINS = 2048, 30_000, 10


def histogram(samples: np.ndarray) -> UnitHistograms:
    found = UnitHistograms.zeros(len(samples))
    found.update(samples)
    return found


def units(kind: str) -> np.ndarray:
    """Twelve units with means and scales of their own."""
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((12, N_IMAGES)) + rng.normal(0.3, 0.5, (12, 1))) * np.exp(rng.standard_normal((12, 1)))
    if kind == "rectified":
        x = np.maximum(x, 0)
    if kind == "steps":
        x = np.round(np.maximum(x, 0), 1)
    if kind == "rare":
        x = np.where(rng.random(x.shape) < 0.002, np.abs(x), 0.0)
    if kind == "hostile":
        x[0] = 0
        x[1, ::3] = np.nan
        x[2] *= 1e-30
        x[3] *= 1e30
        x[4, ::5], x[4, 1::5] = np.inf, -np.inf
        x[5, N_PILOT:] -= 5  # a unit that is negative in no image of the pilot
        x[5, :N_PILOT] = np.abs(x[5, :N_PILOT])
        x[6, :N_PILOT] = 0  # a unit that is silent in the pilot
    return x.astype(np.float32)


@pytest.mark.parametrize("kind", ["rectified", "signed", "steps", "rare", "hostile"])
def test_joined_codes_are_the_bins_of_the_joined_edges(kind):
    x = units(kind)
    fine = fine_edges(histogram(x[:, :N_PILOT]), BINS, N_PILOT)
    assert fine.shape == (12, FINE_EDGES)
    for row in fine:
        row = row[np.isfinite(row)]
        assert (np.diff(row) > 0).all()
    bins = join_bins(histogram(x), fine, BINS)
    codes = encode_fine(x, fine)
    np.testing.assert_array_equal(codes, (x[:, :, None] >= np.where(np.isinf(fine), np.nan, fine)[:, None]).sum(axis=2))
    np.testing.assert_array_equal(codes[:, : FEW - 1], encode_fine(x[:, : FEW - 1], fine))
    np.testing.assert_array_equal(join_codes(codes, thresholds(fine, bins.edges)), encode(x, bins.edges))
    finite = np.isfinite(x)
    masses, _ = bin_masses(histogram(x), bins.edges)
    for unit in range(len(x)):
        expected = np.bincount(encode(x[unit : unit + 1, finite[unit]], bins.edges[unit : unit + 1])[0], minlength=BINS)
        np.testing.assert_array_equal(masses[unit], expected)
        assert (expected > 0).sum() == bins.n_effective_bins[unit]


@pytest.mark.parametrize("kind", ["rectified", "signed"])
def test_masses_differ_little_from_equal(kind):
    x = units(kind)
    of_pilot, of_all = histogram(x[:, :N_PILOT]), histogram(x)
    joined = join_bins(of_all, fine_edges(of_pilot, BINS, N_PILOT), BINS)
    error = bin_error(of_all, joined)
    assert bin_error(of_all, equal_mass_bins(of_all, BINS)) <= 0.01
    assert error <= 0.06, "one sample an image"
    assert error < bin_error(of_all, equal_mass_bins(of_pilot, BINS)) / 3, "the pilot's own edges are worse"
    zeros = (x == 0).sum(axis=1)
    if kind == "rectified":
        np.testing.assert_array_equal(bin_masses(of_all, joined.edges)[0][:, 0], zeros)


def test_error_is_unknown_without_continuous_units():
    assert np.isnan(bin_error(*[(h := histogram(np.ones((2, 50), np.float32))), equal_mass_bins(h, BINS)]))


def test_counts_are_those_of_a_second_reading_with_the_same_edges():
    x = units("rectified")
    fine = fine_edges(histogram(x[:, :N_PILOT]), BINS, N_PILOT)
    stored = encode_fine(x, fine)  # all that is kept of the images
    edges = join_bins(histogram(x), fine, BINS).edges
    codes = join_codes(stored, thresholds(fine, edges))
    joint = JointCounts(12, 12, BINS)
    joint.update(codes, codes)
    counts = joint.counts()
    for a, b in [(0, 1), (3, 3), (11, 4)]:
        cuts = [np.concatenate([[-np.inf], edges[unit], [np.inf]]) for unit in (a, b)]
        expected, *_ = np.histogram2d(x[a].astype(float), x[b].astype(float), [np.nextafter(c, -np.inf) for c in cuts])
        np.testing.assert_array_equal(counts[a, b].astype(float), expected)
