"""One-to-one matching of large dictionaries, such as the latents of two sparse autoencoders.

The matrix of all similarities of 131,072 latents with as many others has 69 GB. Only the ``k`` most similar partners of
every latent of either dictionary are kept, and latents are matched over these candidates. The matching is exact over
the candidates, and its dual variables bound what any other pair could add.

Two similarities: cosines of decoder directions, and correlations of activations over the same tokens. Pairs with a
similarity of 0 or less are not matched, so latents may stay without partner. The chance level matches with a dictionary
that has nothing in common with the other: directions rotated at random, or activations of other tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike, NDArray

from convergence.alignment.dictionary_kernels import assign, code_rows, merge_block
from convergence.errors import UserError
from convergence.linalg import random_rotation

Float64 = NDArray[np.float64]
Indices = NDArray[np.int64]
BLOCK_BYTES = 512e6
"""Memory of the similarities of a block of latents with all others."""
NEIGHBOURS = 16
"""Candidates of each latent of either dictionary."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """The most similar pairs of two dictionaries, as rows of a sparse matrix (n_x, n_y).

    Attributes
    ----------
    starts, columns, values : (n_x + 1,), (n_pairs,), (n_pairs,)
        Latents of y that are candidates of each latent of x, and similarities.
    limit : (n_x,)
        No other pair of the latent has a larger similarity; 0 if no other pair has a positive one.
    n_y : int
        Latents of y.
    """

    starts: Indices
    columns: Indices
    values: Float64
    limit: Float64
    n_y: int

    @property
    def best(self) -> Float64:
        """(n_x,) similarity of each latent of x with the most similar latent of y; 0 without a positive one."""
        out = np.zeros(len(self.limit))
        filled = np.diff(self.starts) > 0
        if filled.any():
            out[filled] = np.maximum.reduceat(self.values, self.starts[:-1][filled])
        return out


@dataclass(frozen=True, eq=False)
class DictionaryMatching:
    """A one-to-one matching of the latents of two dictionaries.

    Attributes
    ----------
    partner : (n_x,)
        Latent of y, -1 for none.
    similarity : (n_x,)
        Similarity with the partner, 0 for none.
    best : (n_x,)
        Largest similarity with any latent of y (the terms of the mean max cosine similarity).
    mean : float
        Mean of ``similarity`` over as many latents as the smaller dictionary has.
    bound : float
        No one-to-one matching of all pairs has a larger mean. It equals ``mean`` if no pair beyond the candidates
        could help; otherwise raise ``k``.
    """

    partner: Indices
    similarity: Float64
    best: Float64
    mean: float
    bound: float


def match_directions(x: ArrayLike, y: ArrayLike, k: int = NEIGHBOURS) -> DictionaryMatching:
    """Match decoder directions by their cosine.

    Parameters
    ----------
    x, y : (n_x, n_dims), (n_y, n_dims)
        One direction a latent, of any length; products are in float32.
    k : int
        Candidates of each latent of either dictionary, at least 1.

    Raises
    ------
    UserError
        for arrays that do not fit, values that are not finite, or directions of length 0.
    """
    return match(direction_candidates(x, y, k))


def match_codes(x: Any, y: Any, k: int = NEIGHBOURS) -> DictionaryMatching:
    """Match latents by the Pearson correlation of their activations over the same tokens.

    Parameters
    ----------
    x, y : sparse (n_tokens, n_x), (n_tokens, n_y)
        Activations, none negative, as any SciPy sparse array; row t of both is the same token.
    k : int
        Candidates of each latent of either dictionary, at least 1.

    Raises
    ------
    UserError
        for arrays that do not fit, and negative or non-finite activations.
    """
    return match(code_candidates(x, y, k))


def rotated_directions(y: ArrayLike, seed: int = 0) -> NDArray[np.float32]:
    """Directions (n, n_dims) in a random basis of their space: the chance level of :func:`match_directions`.

    Angles within the dictionary are kept, those with any other dictionary are random.
    """
    directions = np.asarray(y, dtype=np.float32)
    q = random_rotation(directions.shape[1], np.random.default_rng(seed))
    return np.asarray(directions @ q.astype(np.float32))


def shifted_codes(y: Any) -> Any:
    """Activations (n_tokens, n) half of the tokens later, in a ring: the chance level of :func:`match_codes`.

    How often a latent is active, how strongly, and in which runs of tokens is kept.
    """
    codes = scipy.sparse.csr_array(y)
    half = codes.shape[0] // 2
    return scipy.sparse.vstack([codes[half:], codes[:half]], format="csr")


def direction_candidates(x: ArrayLike, y: ArrayLike, k: int = NEIGHBOURS) -> Candidates:
    """The ``k`` pairs of largest cosine of every direction of x and of y; raises as :func:`match_directions`."""
    ours, theirs = _unit_directions(x, "x"), _unit_directions(y, "y")
    if ours.shape[1] != theirs.shape[1]:
        raise UserError(f"directions of {ours.shape[1]} and {theirs.shape[1]} dimensions do not fit; give one space.")
    n_x, n_y = len(ours), len(theirs)
    k = _checked_k(k)
    best = _Best(n_x, n_y, k)
    step = max(1, int(BLOCK_BYTES // (4 * n_y)))
    for first in range(0, n_x, step):
        best.add(first, ours[first : first + step] @ theirs.T)
    return best.candidates()


def code_candidates(x: Any, y: Any, k: int = NEIGHBOURS) -> Candidates:
    """The ``k`` most correlated pairs of every latent of x and of y; raises as :func:`match_codes`."""
    ours, theirs = _checked_codes(x, "x"), _checked_codes(y, "y")
    if ours.shape[0] != theirs.shape[0]:
        raise UserError(
            f"x has {ours.shape[0]} tokens and y has {theirs.shape[0]}; give activations of the same tokens."
        )
    k = _checked_k(k)
    n_tokens, n_x = ours.shape
    by_latent = ours.tocsc()
    (mean_x, scale_x), (mean_y, scale_y) = _mean_and_scale(ours), _mean_and_scale(theirs)
    best = _Best(n_x, theirs.shape[1], k)
    code_rows(
        by_latent.indptr.astype(np.int64), by_latent.indices.astype(np.int64), by_latent.data,
        theirs.indptr.astype(np.int64), theirs.indices.astype(np.int64), theirs.data,
        n_tokens, mean_x, scale_x, mean_y, scale_y, *best.arrays,
    )  # fmt: skip
    return best.candidates()


def match(candidates: Candidates) -> DictionaryMatching:
    """The one-to-one matching of candidates with the largest total similarity, by shortest augmenting paths.

    Source: the Hungarian method with potentials (Kuhn 1955; Jonker and Volgenant 1987), on a sparse graph in which
    every latent may stay alone at a similarity of 0.
    """
    n_x = len(candidates.limit)
    partner, potential = assign(candidates.starts, candidates.columns, candidates.values, candidates.n_y)
    similarity = np.zeros(n_x)
    for latent in np.flatnonzero(partner >= 0):
        own = slice(candidates.starts[latent], candidates.starts[latent + 1])
        similarity[latent] = candidates.values[own][candidates.columns[own] == partner[latent]][0]
    # Potentials are feasible for all pairs once that of a latent is at least the limit of its missing pairs.
    missed = np.maximum(candidates.limit - potential, 0.0).sum()
    n = min(n_x, candidates.n_y)
    return DictionaryMatching(
        partner, similarity, candidates.best, float(similarity.sum() / n), float((similarity.sum() + missed) / n)
    )


class _Best:
    """The largest similarities of each latent of x, and of each latent of y, while blocks are read."""

    def __init__(self, n_x: int, n_y: int, k: int) -> None:
        self._k_x, self._k_y = min(k, n_y), min(k, n_x)
        # Slots without a pair have the similarity 0 and the index -1; the first slot has the smallest similarity.
        self.arrays = (
            np.zeros((n_x, self._k_x), np.float32), np.full((n_x, self._k_x), -1, np.int32),
            np.zeros((n_y, self._k_y), np.float32), np.full((n_y, self._k_y), -1, np.int32),
        )  # fmt: skip

    def add(self, first: int, block: NDArray[np.float32]) -> None:
        """Similarities (n_rows, n_y) of the latents of x from ``first``."""
        merge_block(block, first, *self.arrays)

    def candidates(self) -> Candidates:
        value_x, index_x, value_y, index_y = self.arrays
        n_x, n_y = len(value_x), len(value_y)
        pairs = [
            (np.repeat(np.arange(n_x), self._k_x), index_x.ravel(), value_x.ravel()),
            (index_y.ravel(), np.repeat(np.arange(n_y), self._k_y), value_y.ravel()),
        ]
        rows, columns, values = (np.concatenate([pair[of] for pair in pairs]) for of in range(3))
        there = (rows >= 0) & (columns >= 0)
        rows, columns, values = rows[there].astype(np.int64), columns[there].astype(np.int64), values[there]
        order = np.argsort(rows * n_y + columns, kind="stable")
        rows, columns, values = rows[order], columns[order], values[order]
        new = np.ones(len(rows), dtype=bool)
        new[1:] = (np.diff(rows) != 0) | (np.diff(columns) != 0)
        starts = np.concatenate([[0], np.cumsum(np.bincount(rows[new], minlength=n_x))]).astype(np.int64)
        # The smallest kept similarity bounds those left out; all are there if there are slots without a pair.
        limit = value_x.min(axis=1).astype(np.float64) if self._k_x < n_y else np.zeros(n_x)
        return Candidates(starts, columns[new], values[new].astype(np.float64), limit, n_y)


def _unit_directions(given: ArrayLike, name: str) -> NDArray[np.float32]:
    directions = np.asarray(given, dtype=np.float32)
    if directions.ndim != 2 or not directions.size:
        raise UserError(f"directions {name} of shape {directions.shape}; give (n_latents, n_dims).")
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not (lengths > 0).all():
        bad = int(np.flatnonzero(~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0))[0])
        raise UserError(f"direction {bad} of {name} has no length or is not finite; leave out such latents.")
    return directions / lengths


def _checked_codes(given: Any, name: str) -> Any:
    codes = scipy.sparse.csr_array(given)
    if codes.ndim != 2 or not all(codes.shape):
        raise UserError(f"activations {name} of shape {codes.shape}; give (n_tokens, n_latents).")
    codes = codes.astype(np.float32)
    codes.sum_duplicates()
    if not np.isfinite(codes.data).all() or (codes.nnz and codes.data.min() < 0):
        raise UserError(f"activations {name} are negative or not finite; give those after the ReLU or TopK.")
    codes.eliminate_zeros()
    return codes


def _checked_k(k: int) -> int:
    if k < 1:
        raise UserError(f"k = {k}; give at least one candidate for each latent.")
    return int(k)


def _mean_and_scale(codes: Any) -> tuple[Float64, Float64]:
    """(n_latents,) means, and 1 over the standard deviation; 0 for a latent without variance."""
    n = codes.shape[0]
    columns, values = codes.indices, codes.data.astype(np.float64)
    mean = np.bincount(columns, values, minlength=codes.shape[1]) / n
    variance = np.bincount(columns, values**2, minlength=codes.shape[1]) / n - mean**2
    varies = variance > 1e-12 * np.maximum(mean**2, np.finfo(float).tiny)
    return mean, np.divide(1.0, np.sqrt(np.abs(variance)), out=np.zeros(len(mean)), where=varies)
