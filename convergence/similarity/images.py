"""Measures over pairs of images, computed on the images whose activations are stored.

The value of a unit for an image is its mean over the positions of its map. Kriegeskorte's analysis compares two images
by the correlation over the raw units of a layer. The other measures standardise units over the stored images, and
compare two images by the cosine of their centred patterns, which is invariant to rotations of the units.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from convergence.linalg import Matrix
from convergence.similarity.image_ranks import RecentOrders, counted_pairs
from convergence.similarity.measure import measure, one
from convergence.similarity.pair import PairMoments

NEIGHBOURS = 10
_recent = RecentOrders()


@measure(
    title="Representational similarity (RSA)",
    source="Kriegeskorte et al. 2008 (Front. Syst. Neurosci. 2:4): dissimilarity 1 − correlation over units, compared "
    "by Spearman's rank correlation over pairs of images",
    symmetric=True,
    bounds=(-1.0, 1.0),
    rotation_invariant=False,
    scale_invariant=False,
    needs="samples",
    rotation_null=False,
)
def representational_similarity(pair: PairMoments) -> float:
    """Spearman correlation of the dissimilarities of all image pairs in x with those in y; 0 if all are equal.

    The dissimilarity of two images is 1 minus the Pearson correlation, over units, of their raw mean activations.
    """
    return _rank_correlation(pair, "patterns", lambda samples, _: 1.0 - pattern_correlations(samples))


@measure(
    title="Representational similarity, cosine of standardised units",
    source="Spearman's rank correlation of the cosines of centred patterns: a form of RSA invariant to rotations",
    symmetric=True,
    bounds=(-1.0, 1.0),
    rotation_invariant=True,
    needs="samples",
    bound=one,
)
def cosine_similarity(pair: PairMoments) -> float:
    """Spearman correlation of the similarities of all image pairs in x with those in y; 0 if all are equal."""
    return _rank_correlation(pair, f"scores {pair.standardised}", lambda _, k: similarities(_both(pair)[k]))


@measure(
    title="Mutual nearest neighbours",
    source="Huh et al. 2024 (arXiv 2405.07987), appendix A: shared share of ten nearest neighbours",
    symmetric=True,
    bounds=(0.0, 1.0),
    rotation_invariant=True,
    needs="samples",
    bound=one,
)
def mutual_nearest_neighbours(pair: PairMoments) -> float:
    """Mean over images of the shared fraction of their ten nearest images in both nets (fewer for few images)."""
    x, y = (neighbours(similarities(scores)) for scores in _both(pair))
    if pair.kept is not None:
        x, y = x[pair.kept], y[pair.kept]
    return float((x & y).sum() / x.sum())


def pattern_correlations(samples: Matrix) -> Matrix:
    """Pearson correlations (n, n) over units between the patterns (n, n_units); 0 for a pattern without variance."""
    return similarities(samples - samples.mean(axis=1, keepdims=True))


def similarities(scores: Matrix) -> Matrix:
    """Cosine similarities (n, n) of the patterns (n, n_units) of standard scores; 0 for a zero pattern."""
    length = np.linalg.norm(scores, axis=1, keepdims=True)
    scores = scores / np.where(length > 0, length, 1.0)
    return np.asarray(scores @ scores.T)


def neighbours(similarity: Matrix) -> NDArray[np.bool_]:
    """Mask (n, n): column j is among the ten nearest images of row i; ties go to the lowest index."""
    n = len(similarity)
    k = min(NEIGHBOURS, n - 1)
    others = similarity.round(12)
    np.fill_diagonal(others, -np.inf)
    nearest = np.argsort(-others, axis=1, kind="stable")[:, :k]
    found = np.zeros((n, n), dtype=bool)
    np.put_along_axis(found, nearest, True, axis=1)
    return found


def _both(pair: PairMoments) -> tuple[Matrix, Matrix]:
    x, y = pair.scores()
    assert x is not None
    assert y is not None
    return x, y


def _rank_correlation(pair: PairMoments, kind: str, similarity: Callable[[Matrix, int], Matrix]) -> float:
    """Spearman correlation over the pairs of counted images of the similarities in x and in y.

    ``kind`` names the similarity, a function of the samples of a layer and of its number, 0 for x and 1 for y; it
    depends on all stored images.
    """
    counted, ranks = counted_pairs(pair.kept), []
    for k, samples in enumerate((pair.samples_x, pair.samples_y)):
        assert samples is not None
        found = _recent.of(samples, kind, functools.partial(similarity, samples, k)).ranks(counted)
        ranks.append(found - (len(found) + 1) / 2)
    scale = np.linalg.norm(ranks[0]) * np.linalg.norm(ranks[1])
    return float(ranks[0] @ ranks[1] / scale) if scale > 0 else 0.0
