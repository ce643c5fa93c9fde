"""Dimensions that two or more nets share: canonical directions fitted on half of the images, scored on the other half.

Canonical correlations of the images that fitted them are near 1 for any nets with many units, and say nothing. On other
images their expectation is 0 for dimensions that are not shared, so that they can be counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import scipy.linalg
from scipy import special

from convergence.linalg import Matrix, principal_directions

Labels = npt.NDArray[np.integer]
Weights = tuple[Matrix, ...]
MAX_DIRECTIONS = 2048
"""Largest number of principal directions of all nets together; each net keeps an equal share of them."""
HALF = 0.5
"""Least correlation of a dimension that counts as shared. If the dimension has the same cause and equally much private
variance in both nets, the correlation is the share of its variance that the cause explains."""
_CONFIDENCE = 0.95
_FEW = 10
"""Dimensions from which the spread of the correlations with next images is measured."""
_JITTER = 1e-9


@dataclass(frozen=True, eq=False)
class SharedSpectrum:
    """Held-out correlations of nets by dimension, and the numbers of dimensions that they share.

    Attributes
    ----------
    correlation : (n_dimensions,)
        Mean correlation of the nets' variates on images that did not fit them, the mean of both halves, not increasing:
        dimensions out of order are averaged (isotonic regression).
    standard_error : (n_dimensions,)
        Jackknife over image groups; without a group, directions are fitted and scored anew.
    null : (n_dimensions,)
        The correlation that a dimension reaches with probability .05 if it is not shared.
    shared, beyond_chance : int
        Number of leading dimensions with a correlation above the null; of these, ``shared`` ones correlate by at least
        :data:`HALF`.
    effective : float
        Sum of squared correlations, each the product of the correlations of both halves, so that it is unbiased; it
        needs no threshold.
    without : (n_groups, 3)
        ``shared``, ``beyond_chance`` and ``effective`` without each image group.
    """

    correlation: Matrix
    standard_error: Matrix
    null: Matrix
    shared: int
    beyond_chance: int
    effective: float
    without: Matrix


def effective_samples(correlation: Matrix, of_groups: Iterable[Matrix]) -> float:
    """Number of independent Gaussian samples whose correlations (n, n) would vary as those of all image groups do.

    Positions of an image are dependent and activations have heavy tails, so that there are fewer of them than samples.
    ``of_groups``: at least two of (n, n), correlations of the groups, with means and scales of all groups. The expected
    squared error of a covariance R of N samples is ((tr R)² + tr R²) / N (Ledoit and Wolf 2004).
    """
    deviations = [float(((of_group - correlation) ** 2).sum()) for of_group in of_groups]
    variance = sum(deviations) / (len(deviations) * (len(deviations) - 1))
    energy = float(np.trace(correlation)) ** 2 + float((correlation**2).sum())
    return energy / variance if variance > 0 else float("inf")


def n_dimensions(correlation: Matrix, net_of_unit: Labels) -> int:
    """Number of dimensions that the nets could share: the least rank of a net, at most its share of the limit."""
    nets = _nets(net_of_unit)
    ranks = [len(principal_directions(correlation[np.ix_(own, own)])[0]) for own in nets]
    return min(*ranks, _limit(len(nets)))


def shared_directions(correlation: Matrix, net_of_unit: Labels, n_samples: Matrix, n_dims: int) -> Weights:
    """Fit the directions of the nets that correlate most with each other.

    For two nets this is canonical correlation analysis, for more its generalisation MAXVAR (Kettenring 1971) with the
    nets' own variances left out: eigenvectors of the covariances between whitened nets. Each net keeps its leading
    principal directions, at most 2048 of all nets together.

    Within a net, correlations are shrunk for whitening: n / N is added to every eigenvalue, for n units and N effective
    samples. Eigenvalues of noise have errors of about √(n / N); smaller ones would be divided by their errors. The
    penalty vanishes with many images. Variates are made uncorrelated afterwards, so that no dimension counts twice.

    Parameters
    ----------
    correlation : (n, n)
        Correlations of the joined units on the images that fit.
    net_of_unit : (n,)
        Index of the net of each unit, 0 … n_nets - 1.
    n_samples : (n_nets,)
        Effective number of samples of each net on these images (:func:`effective_samples`).
    n_dims : int
        Number of directions; directions beyond the rank on these images are 0.

    Returns
    -------
    For each net (n_own, n_dims) weights of its standardised units.
    """
    nets = _nets(net_of_unit)
    whitening = []
    for own, n in zip(nets, n_samples, strict=True):
        values, vectors = principal_directions(correlation[np.ix_(own, own)])
        kept = slice(0, _limit(len(nets)))
        whitening.append(vectors[:, kept] / np.sqrt(values[kept] + len(own) / n))
    own_directions = _between(correlation, nets, whitening, n_dims)
    out = []
    for own, white, directions in zip(nets, whitening, own_directions, strict=True):
        weights = np.zeros((len(own), n_dims))
        weights[:, : directions.shape[1]] = white @ directions
        out.append(_uncorrelated(weights, correlation[np.ix_(own, own)]))
    return tuple(out)


def held_out_correlations(weights: Weights, correlation: Matrix, net_of_unit: Labels) -> Matrix:
    """Mean correlation over pairs of nets of their variates (n_dims,), from correlations (n, n) of other images."""
    nets = _nets(net_of_unit)
    variances = [
        np.einsum("ik,ik->k", w, correlation[np.ix_(own, own)] @ w) for own, w in zip(nets, weights, strict=True)
    ]
    found = []
    for a, b in combinations(range(len(nets)), 2):
        covariance = np.einsum("ik,ik->k", weights[a], correlation[np.ix_(nets[a], nets[b])] @ weights[b])
        scale = np.sqrt(np.maximum(variances[a] * variances[b], 0.0))
        found.append(np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0))
    return np.clip(np.mean(found, axis=0), -1.0, 1.0)


def shared_spectrum(both: Matrix, scored: Matrix, refitted: Matrix, next_image: Matrix | None = None) -> SharedSpectrum:
    """Count shared dimensions from correlations fitted on either half of the image groups and scored on the other.

    A dimension is beyond chance if its correlation exceeds 0 by more than Student's t (one-sided, .05, groups - 2
    degrees of freedom) times the error of the scored images; given the fit, the correlation of a dimension that is not
    shared is symmetric about 0. With correlations of next images their 95 % point is a second limit, and the larger
    counts. Dimensions are tested in the order of the fit; the first that is not beyond chance ends the count.

    Parameters
    ----------
    both : (2, n_dims)
        Row h: fitted on half h, scored on the other.
    scored, refitted : (n_groups, 2, n_dims)
        The same without each image group: left out of scoring only, and of fitting and scoring.
    next_image : (n_dims,), optional
        Mean over both ways if every net but the first sees the next image.
    """
    n_groups = len(scored)
    error = _jackknife(scored.mean(axis=1))
    # Both ways use the same two halves: without anything shared they correlate by about 1 / n_dims.
    error = error * np.sqrt(1 + 1 / max(both.shape[1], 1))
    null = float(special.stdtrit(max(n_groups - 2, 1), _CONFIDENCE)) * error
    if next_image is not None and len(next_image) >= _FEW:
        above = next_image.mean() + float(special.ndtri(_CONFIDENCE)) * next_image.std(ddof=1)
        null = np.maximum(null, above)
    correlation = _not_increasing(both.mean(axis=0))
    replicates = np.array([_not_increasing(way.mean(axis=0)) for way in refitted]).reshape(n_groups, -1)
    shared, beyond = _counts(correlation, null)
    without = [
        [*_counts(one, null), float(way.prod(axis=0).sum())] for one, way in zip(replicates, refitted, strict=True)
    ]
    return SharedSpectrum(
        correlation=correlation,
        standard_error=_jackknife(replicates),
        null=null,
        shared=shared,
        beyond_chance=beyond,
        effective=float(both.prod(axis=0).sum()),
        without=np.array(without, dtype=np.float64).reshape(n_groups, 3),
    )


def _nets(net_of_unit: Labels) -> list[npt.NDArray[np.intp]]:
    return [np.flatnonzero(net_of_unit == k) for k in range(int(net_of_unit.max()) + 1)]


def _limit(n_nets: int) -> int:
    return max(MAX_DIRECTIONS // n_nets, 1)


def _between(
    correlation: Matrix, nets: list[npt.NDArray[np.intp]], whitening: list[Matrix], n_dims: int
) -> list[Matrix]:
    """Leading directions of the whitened nets by their correlations with each other."""
    ranks = [white.shape[1] for white in whitening]
    n_dims = min(n_dims, *ranks)
    blocks = {
        (a, b): whitening[a].T @ correlation[np.ix_(nets[a], nets[b])] @ whitening[b]
        for a, b in combinations(range(len(nets)), 2)
    }
    if len(nets) == 2:
        left, right = _singular_vectors(blocks[0, 1])
        return [left[:, :n_dims], right[:n_dims].T]
    edges = np.concatenate([[0], np.cumsum(ranks)])
    matrix = np.zeros((edges[-1], edges[-1]))
    for (a, b), block in blocks.items():
        matrix[edges[a] : edges[a + 1], edges[b] : edges[b + 1]] = block
        matrix[edges[b] : edges[b + 1], edges[a] : edges[a + 1]] = block.T
    _, vectors = scipy.linalg.eigh(matrix, subset_by_index=(edges[-1] - n_dims, edges[-1] - 1))
    leading = vectors[:, ::-1]
    return [leading[edges[k] : edges[k + 1]] for k in range(len(nets))]


def _singular_vectors(matrix: Matrix) -> tuple[Matrix, Matrix]:
    """Singular vectors by divide and conquer, or by QR iterations in the rare cases where that does not converge."""
    try:
        left, _, right = scipy.linalg.svd(matrix, full_matrices=False)
    except scipy.linalg.LinAlgError:
        left, _, right = scipy.linalg.svd(matrix, full_matrices=False, lapack_driver="gesvd")
    return left, right


def _uncorrelated(weights: Matrix, within: Matrix) -> Matrix:
    """Make variates uncorrelated, each with those before it (Gram and Schmidt); directions without variance stay."""
    variance = np.einsum("ik,ik->k", weights, within @ weights)
    there = variance > _JITTER * max(float(variance.max(initial=0.0)), np.finfo(float).tiny)
    kept = weights[:, there] / np.sqrt(variance[there])
    out = np.zeros_like(weights)
    if kept.shape[1]:
        covariance = kept.T @ within @ kept
        covariance[np.diag_indices_from(covariance)] += _JITTER
        lower = scipy.linalg.cholesky(covariance, lower=True)
        out[:, there] = scipy.linalg.solve_triangular(lower, kept.T, lower=True).T
    return out


def _not_increasing(values: Matrix) -> Matrix:
    from sklearn.isotonic import isotonic_regression  # here, because the import takes a second

    return np.asarray(isotonic_regression(values, increasing=False), dtype=np.float64) if len(values) else values


def _counts(correlation: Matrix, null: Matrix) -> tuple[int, int]:
    """Leading dimensions that are beyond chance and correlate by half, and those beyond chance."""
    beyond = correlation > null
    return _leading(beyond & (correlation >= HALF)), _leading(beyond)


def _leading(flags: npt.NDArray[np.bool_]) -> int:
    return len(flags) if flags.all() else int(np.argmin(flags))


def _jackknife(without: Matrix) -> Matrix:
    """Jackknife errors (n_dims,) from values without each group (n_groups, n_dims)."""
    n_groups = len(without)
    return np.sqrt((n_groups - 1) / n_groups * ((without - without.mean(axis=0)) ** 2).sum(axis=0))
