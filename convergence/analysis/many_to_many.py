"""Groups of units of both nets that belong together: spectral clusters of the joined units."""

from __future__ import annotations

import numpy as np

from convergence.alignment.clustering import cluster_similarities, similarity_graph, spectral_clusters
from convergence.analysis.few_to_one import FewToOne
from convergence.analysis.section import Float64, Numbers, Replicated, Tree
from convergence.analysis.units import PairSums
from convergence.experiment import AnalysisConfig
from convergence.similarity.pair import PairMoments


class ManyToMany:
    """Clusters of all images; errors are those of the similarities inside the clusters so found."""

    name = "clusters"

    def __init__(self, pair: PairSums, config: AnalysisConfig, sparse: list[FewToOne]) -> None:
        self._pair, self._config, self._sparse = pair, config, sparse
        settings = config.clustering
        self._joined = joined(pair.pooled)
        graph = similarity_graph(self._joined, settings.similarity, settings.threshold)
        self._found = spectral_clusters(graph, settings.n_clusters, settings.max_clusters, config.seed)
        self._sides = np.repeat([0, 1], [len(pair.units_x), len(pair.units_y)])

    def numbers(self, moments: PairMoments) -> Numbers:
        return {"mean_similarity": cluster_similarities(joined(moments), self._found.labels, self._sides).mean}

    def tree(self, found: Replicated) -> Tree:
        clusters = self._found
        inside = cluster_similarities(self._joined, clusters.labels, self._sides)
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
        }


def joined(moments: PairMoments) -> Float64:
    """(n_x + n_y, n_x + n_y) correlations within and between."""
    return np.block([[moments.corr_xx, moments.corr_xy], [moments.corr_xy.T, moments.corr_yy]])
