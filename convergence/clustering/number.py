"""The number of clusters by its stability: clusters of one half of the images found again on the other half.

An eigengap favours few clusters, and has no chance level. Here every candidate number is judged by whether both halves
of the images give the same clusters and whether these are separate, beside nets without groups: the units of each net,
standardised, are rotated by a random orthogonal matrix, the same for both halves, and a quadratic function gives their
correlations the distribution of those of the real units. Without the second step rectified units, which correlate more
strongly with positive than with negative sign, would seem to have groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import special

from convergence.clustering.eigenvectors import spectral_embedding
from convergence.clustering.graph import Labels, Matrix
from convergence.clustering.halves_kernels import agreements, n_not_alone, separations
from convergence.clustering.partition import qr_labels
from convergence.linalg import random_rotation

SWEEP = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Numbers of clusters that are always considered."""
N_GAPS = 12
"""Numbers considered besides: those of the largest eigengaps."""
N_DRAWS = 8
"""Rotations of the null; in small graphs single draws may be separate by chance, and 20 are made."""
_FEW_UNITS = 64
STACK_BYTES = 16e6
"""Memory of the eigenvectors that are cut into clusters together."""
TOLERANCE = 0.01
"""Numbers whose excess is lower by no more than this share count as equally good; the largest of them is chosen."""


@dataclass(frozen=True, eq=False)
class ClusterNumber:
    """A number of clusters and the evidence for it.

    Attributes
    ----------
    n_clusters : int
        The chosen number; 1 without candidates, as for a graph without edges.
    stability, null : float
        Stability of that number of clusters (:func:`halves_agreement`), and its mean over rotated nets.
    beyond_chance : bool
        Whether clusters are more stable and separate than 95 % of those of rotated nets, whatever their number.
    ks, excess : (n_ks,)
        The candidates, and the excess of stability × separation over its null of each.
    """

    n_clusters: int
    stability: float
    null: float
    beyond_chance: bool
    ks: Labels
    excess: Matrix


def n_rotations(n_units: int) -> int:
    """Number of draws of the null for a number of joined units."""
    return N_DRAWS if n_units > _FEW_UNITS else 20


def candidate_numbers(eigenvalues: Matrix, most: int) -> Labels:
    """List the numbers of clusters to consider, ascending: the largest eigengaps from 2 to ``most``, and the sweep.

    More clusters than half of the linked units are left out, because most of them would be single units.

    ``eigenvalues`` are the smallest of the normalised Laplacian, ascending, more than ``most`` of them if there are.
    """
    most = min(most, max(len(eigenvalues) // 2, 2), len(eigenvalues) - 1)
    gaps = np.diff(eigenvalues)[1:most]
    largest = np.argsort(-gaps, kind="stable")[:N_GAPS] + 2
    return np.array(sorted({int(k) for k in (*largest, *SWEEP) if 2 <= k <= most}), dtype=np.int64)


def largest_eigengap(eigenvalues: Matrix, ks: Labels) -> int:
    """Position of the candidate with the largest gap after its eigenvalue."""
    return int(np.argmax(eigenvalues[ks] - eigenvalues[ks - 1])) if len(ks) else 0


def halves_agreement(
    halves: Sequence[tuple[Matrix, Matrix]], ks: Sequence[int] | Labels, n_linked: int, seed: int = 0
) -> list[Matrix]:
    """Compare the clusters of two graphs of the same units, made from disjoint halves of the images; of several nets.

    Clusters are those of :func:`~convergence.clustering.partition.qr_labels`, which has no random start.

    Parameters
    ----------
    halves : n_nets of two (n, n)
        Graphs of the halves, of the nets themselves and of rotated nets.
    ks : (n_ks,)
        Numbers of clusters.
    n_linked : int
        Number of units with an edge in the graph of all images.
    seed : int
        Seed of iterated eigenvectors.

    Returns
    -------
    n_nets of (2, n_ks)
        Row 0, stability: adjusted Rand index of the two clusterings, times the share of the units that are not alone
        in their cluster. Units without an edge count as clusters of one. Without the share a cut into nearly as many
        clusters as units would be stable because of a single pair of units. Row 1, separation: mean over units of the
        mean weight to other units of the cluster minus that to units outside, on the half that did not give the
        clusters.
    """
    labels = _labels([graph for graphs in halves for graph in graphs], ks, seed)
    out = []
    for graphs, found in zip(halves, zip(labels[::2], labels[1::2], strict=True), strict=True):
        together = np.mean([n_not_alone(labels) for labels in found], axis=0)
        stability = agreements(*found) * np.minimum(together / max(n_linked, 1), 1.0)
        of_halves = [separations(graph, labels) for graph, labels in zip(graphs, found[::-1], strict=True)]
        out.append(np.stack([stability, np.mean(of_halves, axis=0)]))
    return out


def _labels(graphs: Sequence[Matrix], ks: Sequence[int] | Labels, seed: int) -> list[Labels]:
    """(n_ks, n) clusters of each graph; graphs with equal numbers of linked units are cut together."""
    embeddings = [spectral_embedding(graph, int(max(ks)), seed) for graph in graphs]
    out = [np.full((len(ks), len(graph)), -1, dtype=np.int64) for graph in graphs]
    shapes = [embedding.vectors.shape for embedding in embeddings]
    for shape in dict.fromkeys(shape for shape in shapes if shape[0]):
        same = [at for at, other in enumerate(shapes) if other == shape]
        together = max(1, int(STACK_BYTES // (8 * shape[0] * shape[1])))
        for first in range(0, len(same), together):
            some = same[first : first + together]
            stack = np.stack([embeddings[at].vectors for at in some])
            for row, k in enumerate(ks):
                for at, labels in zip(some, qr_labels(stack[:, :, : int(k)]), strict=True):
                    out[at][row, embeddings[at].linked] = labels
    return out


def agreement(first: Labels, second: Labels) -> float:
    """Adjusted Rand index (Hubert and Arabie 1985) of clusters of n units; a unit of label -1 is a cluster of its own.

    Two clusterings without two units together have index 0, and two of a single cluster of all units index 1.
    """
    n = len(first)
    pairs_first, pairs_second = _pairs(first), _pairs(second)
    there = (first >= 0) & (second >= 0)
    both = _pairs(first[there] * (int(second.max(initial=-1)) + 1) + second[there])
    expected = pairs_first * pairs_second / max(n * (n - 1) / 2, 1)
    largest = (pairs_first + pairs_second) / 2
    if largest == 0:
        return 0.0
    return float((both - expected) / (largest - expected)) if largest > expected else 1.0


def rotated_halves(
    correlations: tuple[Matrix, Matrix], sides: Labels, generator: np.random.Generator
) -> tuple[Matrix, Matrix]:
    """Draw nets without groups: rotate the standardised units of each net, the same in both halves, standardise again.

    Within each net and between each two nets a quadratic function is then applied to the correlations, the
    least-squares fit of the sorted correlations of the real units to the sorted ones of the rotated units. The
    correlations of rectified units are nearly such a function of those before rectification.

    Parameters
    ----------
    correlations : two of (n, n)
        Correlations of the joined units in the halves.
    sides : (n,)
        Net of each unit.
    generator
        Random generator of the rotations.
    """
    nets = [np.flatnonzero(sides == k) for k in np.unique(sides)]
    rotations = [random_rotation(len(own), generator) for own in nets]
    first, second = (_rotated(correlation, nets, rotations) for correlation in correlations)
    return first, second


def choose_number(ks: Labels, observed: Matrix, null: Matrix, fallback: int = 0) -> ClusterNumber:
    """Choose the number of clusters of the largest excess of stability × separation over its null.

    Stability alone would not do: with many images any number of clusters is stable, and so is any cut of a graph that
    falls apart. Among numbers that nearly tie the largest is chosen, because groups may be nested and the others follow
    from it by merging.

    Whether there are groups at all is judged by the largest product over all numbers, beside the same of each draw of
    the null: it has to exceed the upper limit of their 95 % prediction interval. Without groups the number is that of
    the largest eigengap, ``ks[fallback]``: a number chosen for its excess would have one.

    Parameters
    ----------
    ks : (n_ks,)
        Numbers of clusters; may be empty.
    observed : (2, n_ks)
        Stability and separation by :func:`halves_agreement`.
    null : (n_draws, 2, n_ks)
        The same of rotated nets, two draws or more.
    fallback : int
        Position in ``ks`` of the number without groups.
    """
    if len(ks) == 0:
        return ClusterNumber(1, 0.0, 0.0, False, ks, np.zeros(0))
    evidence, drawn = observed.prod(axis=0), null.prod(axis=1)
    excess = evidence - drawn.mean(axis=0)
    most, n = drawn.max(axis=1), len(drawn)
    limit = most.mean() + float(special.stdtrit(n - 1, 0.975)) * float(most.std(ddof=1)) * np.sqrt(1 + 1 / n)
    beyond = bool(excess.max() > 0 and evidence.max() > limit)
    at = int(np.flatnonzero(excess >= (1 - TOLERANCE) * excess.max())[-1]) if beyond else fallback
    return ClusterNumber(int(ks[at]), float(observed[0, at]), float(null[:, 0, at].mean()), beyond, ks, excess)


def _rotated(correlation: Matrix, nets: list[Labels], rotations: list[Matrix]) -> Matrix:
    out = np.zeros_like(correlation)
    spread = [
        np.sqrt(np.maximum(np.einsum("ij,ij->j", q, correlation[np.ix_(own, own)] @ q), np.finfo(float).eps))
        for own, q in zip(nets, rotations, strict=True)
    ]
    for a, own in enumerate(nets):
        for b in range(a, len(nets)):
            block = correlation[np.ix_(own, nets[b])]
            turned = rotations[a].T @ block @ rotations[b] / np.outer(spread[a], spread[b])
            if a == b:
                pairs = np.triu_indices(len(own), 1)
                turned[pairs] = _like(block[pairs], turned[pairs])
                turned[pairs[::-1]] = turned[pairs]
                np.fill_diagonal(turned, 1.0)
            else:
                turned = _like(block.ravel(), turned.ravel()).reshape(block.shape)
            out[np.ix_(own, nets[b])] = turned
            out[np.ix_(nets[b], own)] = turned.T
    return out


def _like(real: Matrix, rotated: Matrix) -> Matrix:
    """A quadratic function of ``rotated`` with nearly the distribution of ``real``; both (n,)."""
    weights = np.linalg.lstsq(_powers(np.sort(rotated)), np.sort(real), rcond=None)[0]
    return np.clip(_powers(rotated) @ weights, -1.0, 1.0)


def _powers(values: Matrix) -> Matrix:
    """(n, 3) powers 0 to 2."""
    return np.stack([np.ones_like(values), values, values * values], axis=1)


def _pairs(labels: Labels) -> float:
    """Number of pairs of units in the same cluster."""
    counts = np.bincount(labels[labels >= 0]).astype(np.float64)
    return float((counts * (counts - 1)).sum()) / 2


def separation(graph: Matrix, labels: Labels) -> float:
    """Mean over units of the mean weight to the others of their cluster minus that to all units outside.

    A unit that is alone in its cluster has weight 0 inside. The mean is over units and not over pairs of them, which
    would neglect small clusters beside large ones.
    """
    units = np.flatnonzero(labels >= 0)
    if len(units) < 2:
        return 0.0
    units = units[np.argsort(labels[units], kind="stable")]
    weights = graph[np.ix_(units, units)]
    edges = np.concatenate([np.flatnonzero(np.diff(labels[units], prepend=-1)), [len(units)]])
    sizes = np.repeat(np.diff(edges), np.diff(edges)).astype(np.float64)
    inside = np.concatenate([weights[a:b, a:b].sum(axis=1) for a, b in pairwise(edges)])
    outside = (weights.sum(axis=1) - inside) / np.maximum(len(units) - sizes, 1.0)
    return float((inside / np.maximum(sizes - 1.0, 1.0) - outside).mean())
