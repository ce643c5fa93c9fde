"""Groups of units of both nets that belong together, by three methods, and whether they span the same subspace."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import adjusted_rand_score

from convergence.alignment.clustering import cluster_similarities, similarity_graph, spectral_clusters, sweep
from convergence.alignment.hierarchy import hierarchical_clusters
from convergence.alignment.sparse_clusters import agglomerative_clusters
from convergence.alignment.stability import replicate_labels, stability
from convergence.alignment.subspaces import NUMBERS, cluster_subspaces, shared_subspace
from convergence.analysis.few_to_one import FewToOne
from convergence.analysis.section import Float64, Numbers, Replicated, Tree
from convergence.analysis.units import PairSums
from convergence.experiment import AnalysisConfig
from convergence.similarity.pair import PairMoments

SWEEP = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


class ManyToMany:
    """Clusters of all images; errors are those of the similarities inside the clusters so found.

    ``sparse``: both directions, ``xy`` first, whose weights are clustered too; empty if there are none. They have to
    have given their trees before this one does.
    """

    name = "clusters"

    def __init__(self, pair: PairSums, config: AnalysisConfig, sparse: list[FewToOne]) -> None:
        self._pair, self._config, self._sparse = pair, config, sparse
        settings = config.clustering
        self._joined = joined(pair.pooled)
        self._graph = similarity_graph(self._joined, settings.similarity, settings.threshold)
        self._found = spectral_clusters(self._graph, settings.n_clusters, settings.max_clusters, config.seed)
        self._sides = np.repeat([0, 1], [len(pair.units_x), len(pair.units_y)])
        labels, own = self._found.labels, range(self._found.n_clusters)
        self._groups = [
            (np.flatnonzero((labels == k) & (self._sides == 0)), np.flatnonzero((labels == k) & (self._sides == 1)))
            for k in own
        ]
        self._both = [k for k in own if all(len(units) for units in self._groups[k])]

    def numbers(self, moments: PairMoments) -> Numbers:
        settings = self._config.clustering
        correlation = joined(moments)
        graph = similarity_graph(correlation, settings.similarity, settings.threshold)
        n_x = len(moments.cov_xx)
        shared = [
            shared_subspace(moments.corr_xx, moments.corr_xy, moments.corr_yy, x, y - n_x)
            for x, y in (self._groups[k] for k in self._both)
        ]
        return {
            "mean_similarity": cluster_similarities(correlation, self._found.labels, self._sides).mean,
            "labels": replicate_labels(graph, self._found.labels, self._config.seed),
            "subspaces": np.array([[getattr(s, name) for name in NUMBERS] for s in shared]).reshape(-1, len(NUMBERS)),
        }

    def tree(self, found: Replicated) -> Tree:
        clusters, config = self._found, self._config
        inside = cluster_similarities(self._joined, clusters.labels, self._sides)
        stable = stability(clusters.labels, found.of_all("labels"))
        return {
            "labels_x": clusters.labels[self._sides == 0],
            "labels_y": clusters.labels[self._sides == 1],
            "eigenvalues": clusters.eigenvalues,
            "n_clusters": clusters.n_clusters,
            "eigengap": clusters.eigengap,
            "sizes": inside.sizes,
            "mean_similarity": inside.mean,
            "mean_similarity_error": found.error("mean_similarity"),
            "n_pairs": inside.n_pairs,
            "stability": stable.mean,
            "stability_without": stable.each,
            "sweep": self._swept(),
            "hierarchical": self._hierarchical(),
            **({"of_weights": self._of_weights()} if self._sparse else {}),
            "subspaces": self._subspaces(found.error("subspaces"), config),
        }

    def _swept(self) -> Tree:
        """One set of eigenvectors, cut into ever more clusters."""
        ks = [k for k in SWEEP if k < len(self._graph)]
        if not ks or not self._found.n_clusters:
            return {}
        found = sweep(self._graph, ks, self._config.seed)
        return {
            "ks": found.ks,
            "eigengaps": found.eigengaps,
            "normalised_cuts": found.normalised_cuts,
            "labels_x": found.labels[:, self._sides == 0],
            "labels_y": found.labels[:, self._sides == 1],
        }

    def _hierarchical(self) -> Tree:
        """The paper's version: clusters of more than 2 α C units are split again."""
        settings = self._config.clustering
        widths = (len(self._pair.units_x), len(self._pair.units_y))
        found = hierarchical_clusters(
            self._graph,
            settings.split_share,
            settings.n_clusters,
            max(widths),
            settings.max_clusters,
            self._config.seed,
        )
        inside = cluster_similarities(self._joined, found.clusters.labels, self._sides)
        return {
            "labels_x": found.clusters.labels[self._sides == 0],
            "labels_y": found.clusters.labels[self._sides == 1],
            "n_clusters": found.clusters.n_clusters,
            "limit": found.limit,
            "too_large": found.too_large,
            "sizes": inside.sizes,
            "mean_similarity": inside.mean,
            "n_pairs": inside.n_pairs,
            "tree_parent": found.tree.parent,
            "tree_size": found.tree.size,
            "tree_label": found.tree.label,
        }

    def _of_weights(self) -> Tree:
        """Agglomerative clusters of the sparse weights of both directions, as many as the spectral ones."""
        forth, back = (one.weights for one in self._sparse)
        found = agglomerative_clusters(forth, back, n_clusters=max(self._found.n_clusters, 1))
        inside = cluster_similarities(self._joined, found.labels, self._sides)
        there = (found.labels >= 0) & (self._found.labels >= 0)
        agreement = adjusted_rand_score(found.labels[there], self._found.labels[there]) if there.any() else 0.0
        return {
            "labels_x": found.labels[self._sides == 0],
            "labels_y": found.labels[self._sides == 1],
            "n_clusters": found.n_clusters,
            "sizes": inside.sizes,
            "mean_similarity": inside.mean,
            "n_pairs": inside.n_pairs,
            "linked": found.linked,
            "linkage": found.linkage,
            "order": found.order,
            "same_as_spectral": float(agreement),
        }

    def _subspaces(self, error: Float64, config: AnalysisConfig) -> Tree:
        """Of the clusters with units of both nets: whether they span the same, and whether in the same basis."""
        found = cluster_subspaces(self._joined, self._found.labels, self._sides, config.rotations, config.seed)
        columns = {
            name: {"value": found.values[:, k], "standard_error": error[:, k], "chance": found.chance[:, k],
                   "chance_sd": found.chance_sd[:, k]}
            for k, name in enumerate(NUMBERS)
        }  # fmt: skip
        columns["matched"] |= {"rotated": found.rotated, "rotated_sd": found.rotated_sd}
        return {"clusters": found.clusters, "sizes": found.sizes, **columns}


def joined(moments: PairMoments) -> Float64:
    """(n_x + n_y, n_x + n_y) correlations within and between."""
    return np.block([[moments.corr_xx, moments.corr_xy], [moments.corr_xy.T, moments.corr_yy]])
