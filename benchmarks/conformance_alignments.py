"""Rows of agreement: one-to-one, by transport, and clusters."""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg
from scipy.optimize import linprog
from scipy.sparse import csgraph, csr_array

from benchmarks.conformance_layers import LAYERS, PLAIN, Float64, pair_of, scores
from benchmarks.conformance_table import Cases, module, row
from convergence.alignment.matching import matching
from convergence.alignment.soft_matching import partial_soft_matching, soft_matching
from convergence.alignment.sparse import lasso_path
from convergence.clustering.eigenvectors import spectral_embedding
from convergence.clustering.graph import similarity_graph
from convergence.clustering.sparse_clusters import agglomerative_clusters, joined_affinity, weight_affinity
from convergence.clustering.spectral import spectral_clusters
from convergence.clustering.subspaces import shared_subspace


def similarities(shape: tuple[int, int], seed: int = 0) -> Float64:
    return np.random.default_rng(seed).uniform(-1, 1, shape)


def matrices(*shapes: tuple[int, int]) -> list[Float64]:
    """Signed similarities, each as they are and rounded to one decimal, so that many are equal."""
    return [similarity for shape in shapes for similarity in (similarities(shape), similarities(shape).round(1))]


@row(
    "matching",
    "networkx",
    "`max_weight_matching`",
    "12 × 12, 8 × 14, 14 × 8, 1 × 6, 6 × 1, each with and without ties",
    1e-12,
)
def matching_networkx() -> Cases:
    networkx = module("networkx")
    for similarity in matrices((12, 12), (8, 14), (14, 8), (1, 6), (6, 1)):
        graph = networkx.Graph()
        graph.add_weighted_edges_from((("x", i), ("y", j), r) for (i, j), r in np.ndenumerate(similarity))
        pairs = networkx.max_weight_matching(graph, maxcardinality=True)
        yield matching(similarity).values.sum(), sum(graph.edges[pair]["weight"] for pair in pairs)


@row(
    "matching",
    "scipy",
    "`sparse.csgraph.min_weight_full_bipartite_matching`",
    "200 × 200, 90 × 160, 160 × 90, each with and without ties",
    1e-12,
)
def matching_sparse() -> Cases:
    for similarity in matrices((200, 200), (90, 160), (160, 90)):
        # An entry of 0 would be no edge there.
        rows, columns = csgraph.min_weight_full_bipartite_matching(csr_array(similarity + 2), maximize=True)
        yield matching(similarity).values.sum(), similarity[rows, columns].sum()


TRANSPORTS = ((20, 20), (9, 21), (21, 9), (16, 24), (1, 5))
MASSES = (0.05, 1 / 3, math.sqrt(0.5), 0.999)
TRANSPORT_CASES = "20 × 20, 9 × 21, 21 × 9, 16 × 24, 1 × 5, each with and without ties"


def best_plan(similarity: Float64, mass: float) -> float:
    """Largest total of a plan of so much mass, as a linear programme."""
    n_x, n_y = similarity.shape
    sides = np.vstack([np.kron(np.eye(n_x), np.ones(n_y)), np.kron(np.ones(n_x), np.eye(n_y))])
    limits = np.repeat([1 / n_x, 1 / n_y], [n_x, n_y])
    everything = np.ones((1, similarity.size))
    return -float(linprog(-similarity.ravel(), sides, limits, everything, [mass], method="highs").fun)


@row("soft_matching", "POT", "`ot.emd2` in fractions (here its simplex moves whole pieces)", TRANSPORT_CASES, 1e-12)
def soft_pot() -> Cases:
    for similarity in matrices(*TRANSPORTS):
        ours = soft_matching(similarity).mean  # before POT is imported: it keeps torch out of it
        given, taken = (np.full(k, 1 / k) for k in similarity.shape)
        yield ours, -module("ot").emd2(given, taken, -similarity)


@row("soft_matching", "scipy", "`optimize.linprog`", TRANSPORT_CASES, 1e-12)
def soft_programme() -> Cases:
    for similarity in matrices(*TRANSPORTS):
        yield soft_matching(similarity).mean, best_plan(similarity, 1.0)


@row("partial_soft_matching", "POT", "`ot.partial.partial_wasserstein2`", f"{TRANSPORT_CASES}; 4 masses", 1e-12)
def partial_pot() -> Cases:
    for similarity in matrices(*TRANSPORTS):
        given, taken = (np.full(k, 1 / k) for k in similarity.shape)
        for mass in MASSES:
            ours = partial_soft_matching(similarity, mass).mean
            theirs = module("ot.partial").partial_wasserstein2(given, taken, 1 - similarity, m=mass)
            yield ours * mass, mass - theirs


@row("partial_soft_matching", "scipy", "`optimize.linprog`", f"{TRANSPORT_CASES}; 4 masses", 1e-12)
def partial_programme() -> Cases:
    for similarity in matrices(*TRANSPORTS):
        for mass in MASSES:
            yield partial_soft_matching(similarity, mass).mean * mass, best_plan(similarity, mass)


def blocks(sizes: tuple[int, ...], seed: int, within: float = 0.5) -> tuple[Float64, np.ndarray]:
    """Correlations of units in blocks, in hidden places, and the block of each."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    causes = rng.standard_normal((len(sizes), 600))
    samples = np.sqrt(within) * causes[labels] + np.sqrt(1 - within) * rng.standard_normal((len(labels), 600))
    return np.corrcoef(samples), labels


GRAPHS = {
    "60 units, all edges": lambda: similarity_graph(blocks((30, 20, 10), 0)[0]),
    "600 units, all edges": lambda: similarity_graph(blocks((300, 200, 100), 1)[0]),
    "600 units in 30 components": lambda: similarity_graph(blocks((20,) * 30, 2)[0], threshold=0.3),
    "600 units, few edges": lambda: similarity_graph(blocks((60,) * 10, 3, 0.3)[0], threshold=0.11),
    "a ring of 600, its eigenvalues double": lambda: np.roll(np.eye(600), 1, 0) + np.roll(np.eye(600), -1, 0),
}


@row(
    "spectral_embedding",
    "scipy",
    "`linalg.eigh` in full of `sparse.csgraph.laplacian`",
    f"12 smallest eigenvalues; {'; '.join(GRAPHS)}",
    1e-10,
)
def eigenvalues() -> Cases:
    for make in GRAPHS.values():
        graph = make()
        wanted = scipy.linalg.eigh(csgraph.laplacian(graph, normed=True), eigvals_only=True)[:12]
        yield spectral_embedding(graph, 12).values, wanted


@row(
    "spectral_clusters",
    "scikit-learn",
    "`SpectralClustering`",
    "adjusted Rand index, which should be 1; planted blocks, equal and unequal",
    0.0,
)
def clusters() -> Cases:
    from sklearn.cluster import SpectralClustering
    from sklearn.metrics import adjusted_rand_score

    for k, sizes in enumerate(((30, 20, 10), (25, 25, 25, 25), (60, 40, 30, 20, 10))):
        correlation, planted = blocks(sizes, 10 + k)
        graph = similarity_graph(correlation)
        ours = spectral_clusters(graph, len(sizes)).labels
        theirs = SpectralClustering(len(sizes), affinity="precomputed", random_state=0).fit_predict(graph)
        yield [adjusted_rand_score(ours, theirs), adjusted_rand_score(ours, planted)], [1.0, 1.0]


@row(
    "agglomerative_clusters",
    "scikit-learn",
    '`AgglomerativeClustering`, "average"',
    "adjusted Rand index, which should be 1; LASSO weights of two layers, 2 to 8 clusters",
    0.0,
)
def hierarchy() -> Cases:
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.metrics import adjusted_rand_score

    pair = pair_of(PLAIN)
    forth, back = (lasso_path(p.corr_xx, p.corr_xy, [0.05]).weights[0] for p in (pair, pair.swapped()))
    apart = 1 - joined_affinity(weight_affinity(forth, back))
    for k in range(2, 9):
        theirs = AgglomerativeClustering(k, metric="precomputed", linkage="average").fit_predict(apart)
        yield adjusted_rand_score(agglomerative_clusters(forth, back, k).labels, theirs), 1.0


@row(
    "shared_subspace",
    "scipy",
    "`linalg.subspace_angles` on samples",
    "cosines of groups of 1 to 6 units; mean/std 1e4, 80 % zeros, duplicated units",
    1e-12,
)
def subspaces() -> Cases:
    for name in ("plain", "mean/std 1e4", "80 % zeros", "duplicated units"):
        pair, x, y = pair_of(LAYERS[name]), *map(scores, LAYERS[name])
        for mine, other in (([0], [1]), ([0, 2, 3], [1, 2]), (range(6), range(2, 5)), ([0, 6], [4, 3, 0])):
            x_units, y_units = list(mine), list(other)
            if max(x_units) >= x.shape[1]:
                continue
            angles = scipy.linalg.subspace_angles(x[:, x_units], y[:, y_units])
            found = shared_subspace(pair.corr_xx, pair.corr_xy, pair.corr_yy, x_units, y_units)
            yield found.correlations, np.cos(angles[::-1])
