"""Measures of pairs of images without some images are those of the remaining images."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from convergence.similarity.image_ranks import PairOrder, rank_correlation
from convergence.similarity.stored_images import StoredImages


def similarity(n: int, decimals: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 5))
    return (x @ x.T).round(decimals)


@pytest.mark.parametrize("decimals", [0, 1, 15])
@pytest.mark.parametrize("left_out", [None, 0, 1, 20, 37, 38, 39, 40])
def test_ranks_are_those_of_the_counted_pairs_alone(decimals, left_out):
    matrix = similarity(40, decimals)
    order = PairOrder(matrix)
    kept = None
    if left_out is not None:
        kept = np.ones(40, bool)
        kept[np.random.default_rng(1).permutation(40)[:left_out]] = False
    own = matrix if kept is None else matrix[np.ix_(kept, kept)]
    values = own[np.triu_indices(len(own), 1)]
    ranks = rankdata(values.round(12)) if len(values) else np.zeros(0)
    every = np.ones(40, bool) if kept is None else kept
    counted = (every[:, None] & every)[np.triu_indices(40, 1)]
    twice, norm = order.centred_ranks(kept)
    np.testing.assert_array_equal(twice[counted], 2 * ranks - (len(ranks) + 1))
    assert not twice[~counted].any()
    assert norm == pytest.approx(np.linalg.norm(twice.astype(float)))


def test_differences_of_rounding_are_ties():
    matrix = np.ones((4, 4)) + 1e-15 * np.random.default_rng(0).standard_normal((4, 4))
    assert not PairOrder(matrix).centred_ranks()[0].any()


def test_rank_correlation_is_that_of_the_kept_images_alone():
    x, y = similarity(40, 1, seed=1), similarity(40, 1, seed=1) + similarity(40, 1, seed=2)
    orders = PairOrder(x), PairOrder(y)
    for kept in (None, np.arange(40) % 5 > 0, np.arange(40) < 3):
        every = np.ones(40, bool) if kept is None else kept
        values = [m[np.ix_(every, every)][np.triu_indices(every.sum(), 1)].round(12) for m in (x, y)]
        assert rank_correlation(*orders, kept) == pytest.approx(spearmanr(*values).statistic, abs=1e-12)
    assert rank_correlation(PairOrder(np.ones((4, 4))), PairOrder(x[:4, :4])) == 0.0


def test_hsic_without_images_is_that_of_the_remaining_images():
    rng = np.random.default_rng(3)
    samples = [rng.standard_normal((30, 4)) for _ in range(2)]
    x, y = (StoredImages(s, 5 + s @ s.T) for s in samples)
    for kept in (None, np.arange(30) % 6 > 0, np.arange(30) % 3 == 0):
        every = np.ones(30, bool) if kept is None else kept
        wanted = unbiased_hsic_plain(*(5 + s[every] @ s[every].T for s in samples))
        raw = [np.abs(centred(5 + s @ s.T)).max() for s in samples]
        assert x.hsic(y, kept) * raw[0] * raw[1] == pytest.approx(wanted, rel=1e-9)


def centred(gram: np.ndarray) -> np.ndarray:
    keep = np.eye(len(gram)) - 1 / len(gram)
    return keep @ gram @ keep


def unbiased_hsic_plain(k: np.ndarray, l: np.ndarray) -> float:
    """Mean over four different images, by the sums of Song et al. 2007, equation 5."""
    n, (k, l) = len(k), (m - np.diag(np.diagonal(m)) for m in (k, l))
    one = np.ones(n)
    total = (
        np.trace(k @ l) + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ l @ one)
    )
    return float(total / (n * (n - 3)))
