"""The stored images of a layer, and what measures of pairs of images derive from them, once for all pairs of layers."""

from __future__ import annotations

import weakref
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from convergence.linalg import Matrix
from convergence.similarity.image_ranks import PairOrder

Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]
NEIGHBOURS = 10


class StoredImages:
    """Activations of the same N images in one layer; replicates that leave out images share one object.

    Parameters
    ----------
    samples : (N, n_units), optional
        Activations, of a map the mean over its positions.
    gram : (N, N), optional
        Inner products of the images' flattened maps, of raw units.
    standardised : bool
        Whether the samples are standard scores, or those in another basis.
    """

    def __init__(self, samples: Matrix | None, gram: Matrix | None = None, standardised: bool = False) -> None:
        self._samples, self.gram, self.standardised = samples, gram, standardised
        self._hsic: dict[bytes, float] = {}
        self._last: tuple[weakref.ref[StoredImages], float] | None = None

    @property
    def samples(self) -> Matrix | None:
        """(N, n_units) activations."""
        return self._samples

    @cached_property
    def scores(self) -> Matrix:
        """(N, n_units) samples with standardised units."""
        assert self.samples is not None
        return self.samples if self.standardised else standard_scores(self.samples)

    @cached_property
    def neighbours(self) -> Bools:
        """(N, N) mask of the nearest images of each image, by the cosine of standardised units."""
        return neighbours(similarities(self.scores))

    @cached_property
    def pattern_order(self) -> PairOrder:
        """The pairs of images by their dissimilarity, 1 − correlation of raw units."""
        assert self.samples is not None
        return PairOrder(1.0 - pattern_correlations(self.samples))

    @cached_property
    def cosine_order(self) -> PairOrder:
        """The pairs of images by the cosine of standardised units."""
        return PairOrder(similarities(self.scores))

    @cached_property
    def kernel(self) -> Matrix:
        """(N, N) Gram matrix about the mean image, of largest magnitude 1, with a diagonal of 0; for unbiased HSIC."""
        assert self.gram is not None
        rows = self.gram.mean(axis=1)
        kernel = self.gram - rows[:, None] - rows + rows.mean()
        kernel /= max(float(np.abs(kernel).max()), 1e-300)
        np.fill_diagonal(kernel, 0.0)
        return kernel

    def hsic(self, other: StoredImages, kept: Bools | None) -> float:
        """Unbiased HSIC of the images ``kept`` (all for None) in two layers, or in one; at least four images."""
        key = b"" if kept is None else kept.tobytes()
        if other is self and key in self._hsic:
            return self._hsic[key]
        found = hsic_of_kernels(self.kernel, other.kernel, kept, self._product(other))
        if other is self:
            self._hsic[key] = found
        return found

    def _product(self, other: StoredImages) -> float:
        """Sum of the products of both kernels; that of the last layer is remembered, for its replicates."""
        last = None if self._last is None else self._last[0]()
        if self._last is None or last is not other:
            self._last = weakref.ref(other), float(np.vdot(self.kernel, other.kernel))
        return self._last[1]

    def permuted(self, order: Indices) -> StoredImages:
        """The images in another order."""
        samples = None if self.samples is None else self.samples[order]
        gram = None if self.gram is None else self.gram[np.ix_(order, order)]
        return StoredImages(samples, gram, self.standardised)

    def in_basis(self, q: Matrix | None) -> StoredImages:
        """The images with standardised units in another basis, the columns of a matrix; None keeps the basis."""
        return _ImagesInBasis(self, q)


class _ImagesInBasis(StoredImages):
    """Standard scores of other images, taken to another basis when they are asked for."""

    def __init__(self, of: StoredImages, q: Matrix | None) -> None:
        super().__init__(None, standardised=True)
        self._of, self._q = of, q

    @cached_property
    def samples(self) -> Matrix | None:
        if self._of.samples is None:
            return None
        return self._of.scores if self._q is None else self._of.scores @ self._q


def standard_scores(samples: Matrix) -> Matrix:
    """Standardise samples (N, units) to mean 0 and standard deviation 1 per unit; constant units become 0."""
    centred = np.asarray(samples, dtype=np.float64) - samples.mean(axis=0, dtype=np.float64)
    deviation = centred.std(axis=0)
    return centred / np.where(deviation > 0, deviation, 1.0)


def pattern_correlations(samples: Matrix) -> Matrix:
    """Pearson correlations (N, N) over units between the patterns (N, n_units); 0 for a pattern without variance."""
    return similarities(samples - samples.mean(axis=1, keepdims=True))


def similarities(scores: Matrix) -> Matrix:
    """Cosine similarities (N, N) of the patterns (N, n_units) of standard scores; 0 for a zero pattern."""
    length = np.linalg.norm(scores, axis=1, keepdims=True)
    scores = scores / np.where(length > 0, length, 1.0)
    return np.asarray(scores @ scores.T)


def neighbours(similarity: Matrix) -> Bools:
    """Mask (N, N): column j is among the ten nearest images of row i; ties go to the lowest index."""
    n = len(similarity)
    k = min(NEIGHBOURS, n - 1)
    others = similarity.round(12)
    np.fill_diagonal(others, -np.inf)
    nearest = np.argsort(-others, axis=1, kind="stable")[:, :k]
    found = np.zeros((n, n), dtype=bool)
    np.put_along_axis(found, nearest, True, axis=1)
    return found


def hsic_of_kernels(k: Matrix, l: Matrix, kept: Bools | None = None, product: float | None = None) -> float:
    """Unbiased HSIC of kernel matrices (N, N) with a diagonal of 0 over the images ``kept``, at least four.

    It is that of the rows and columns that are kept (Song et al. 2007, equation 5). The images left out are subtracted
    from the sums over all images where they are fewer. ``product`` is Σ k l over all images, where it is known.
    """
    if kept is not None and 3 * np.count_nonzero(kept) < 2 * len(kept):
        some = np.ix_(kept, kept)
        k, l, kept, product = k[some], l[some], None, None
    both = float(np.vdot(k, l)) if product is None else product
    n, rows_k, rows_l = len(k), k.sum(axis=1), l.sum(axis=1)
    if kept is not None and not kept.all():
        left, n = np.flatnonzero(~kept), int(np.count_nonzero(kept))
        strip_k, strip_l = k[left], l[left]
        rows_k, rows_l = (rows_k - strip_k.sum(axis=0))[kept], (rows_l - strip_l.sum(axis=0))[kept]
        both += float(np.vdot(strip_k[:, left], strip_l[:, left])) - 2 * float(np.vdot(strip_k, strip_l))
    total = both + rows_k.sum() * rows_l.sum() / ((n - 1) * (n - 2)) - 2 * (rows_k @ rows_l) / (n - 2)
    return float(total / (n * (n - 3)))
