"""Measures over pairs of images, computed on the images whose activations are stored.

The value of a unit for an image is its mean over the positions of its map. Kriegeskorte's analysis compares two images
by the correlation over the raw units of a layer. The other measures standardise units over the stored images, and
compare two images by the cosine of their centred patterns, which is invariant to rotations of the units.
"""

from __future__ import annotations

import numpy as np

from convergence.similarity.image_ranks import rank_correlation
from convergence.similarity.measure import measure, one
from convergence.similarity.pair import PairMoments
from convergence.similarity.stored_images import StoredImages


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
    x, y = _images(pair)
    return rank_correlation(x.pattern_order, y.pattern_order, pair.kept)


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
    x, y = _images(pair)
    return rank_correlation(x.cosine_order, y.cosine_order, pair.kept)


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
    x, y = (images.neighbours for images in _images(pair))
    if pair.kept is not None:
        x, y = x[pair.kept], y[pair.kept]
    return float(np.count_nonzero(x & y) / np.count_nonzero(x))


def _images(pair: PairMoments) -> tuple[StoredImages, StoredImages]:
    assert pair.x.images is not None
    assert pair.y.images is not None
    return pair.x.images, pair.y.images
