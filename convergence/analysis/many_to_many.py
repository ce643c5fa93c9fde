"""Groups of units of both nets that belong together, by three methods, and whether they span the same subspace."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from convergence.analysis import cost
from convergence.analysis.few_to_one import FewToOne
from convergence.analysis.pair_sums import PairSums
from convergence.analysis.steps import Float64, Numbers, PairShape, Parts, Replicated, Step, Tree, ranges, replicates
from convergence.clustering.eigenvectors import spectral_embedding
from convergence.clustering.graph import Labels, similarity_graph
from convergence.clustering.halves_kernels import agreement_of
from convergence.clustering.hierarchical import hierarchical_clusters
from convergence.clustering.number import (
    SWEEP,
    candidate_numbers,
    choose_number,
    halves_agreement,
    largest_eigengap,
    n_rotations,
    rotated_halves,
)
from convergence.clustering.sparse_clusters import agglomerative_clusters
from convergence.clustering.spectral import cluster_similarities, most_clusters, spectral_clusters, sweep
from convergence.clustering.stability import replicate_labels, stability
from convergence.clustering.subspaces import NUMBERS, cluster_subspaces, shared_subspace
from convergence.config.stages import AnalysisConfig
from convergence.inference import generator_of
from convergence.similarity.pair import PairMoments


class ManyToMany:
    """Clusters of all images; errors are those of the similarities inside the clusters so found.

    Steps: candidates for the number of clusters (``candidates``) and their stability on halves of the images, of the
    nets and of rotated nets (``halves``); the clusters (``spectral``) and, beside them, more of them (``sweep``) and
    the paper's (``hierarchical``); then replicates, subspaces, and clusters of the weights of both sparse mappings, if
    there are any.
    """

    name = "clusters"

    def __init__(self, pair: PairSums, config: AnalysisConfig, sparse: list[FewToOne]) -> None:
        self._pair, self._config, self._sparse = pair, config, sparse
        self._sides = np.repeat([0, 1], [len(pair.units_x), len(pair.units_y)])

    @classmethod
    def steps(cls, shape: PairShape, config: AnalysisConfig) -> list[Step]:
        """Steps of the method for a pair of a shape."""
        both, name, after = shape.n_x + shape.n_y, cls.name, (f"{cls.name}/spectral",)
        graph = cost.GRAPH * both**2 * cost.CLUSTERS
        subspaces = cost.SUBSPACES * both**3
        each = 2 * graph + subspaces
        found: list[Step] = []
        before: tuple[str, ...] = ()
        if config.clustering.n_clusters == "stability":
            half = cost.HALVES * both**3 + cost.CALL
            found.append(Step(name, "candidates", seconds=cost.HALVES * both**3 / 10))
            found += [
                Step(name, "halves", first, last, after=(f"{name}/candidates",), seconds=half * (last - first))
                for first, last in ranges(n_rotations(both) + 1, half, cost.GOAL)
            ]
            before = (f"{name}/candidates", f"{name}/halves")
        found += [
            Step(name, "spectral", after=before, seconds=graph),
            Step(name, "sweep", seconds=10 * graph),
            Step(name, "hierarchical", after=after, seconds=3 * graph),
            Step(name, "subspaces", after=after, seconds=config.rotations * subspaces),
        ]
        if config.sparse.enabled:
            weights = ("sparse_xy/fit", "sparse_yx/fit")
            found.append(Step(name, "of_weights", after=after + weights, seconds=graph))
        return found + [
            Step(name, "numbers", first, last, after=after, seconds=each * (last - first))
            for first, last in ranges(shape.n_groups + 1, each, cost.GOAL)
        ]

    def compute(self, step: Step, parts: Parts) -> Tree:
        """The part of a step."""
        if step.name == "candidates":
            return self._candidates()
        if step.name == "halves":
            return self._halves(step, parts.one(self.name, "candidates"))
        if step.name == "spectral":
            return self._spectral(parts)
        if step.name == "sweep":
            return self._swept()
        if step.name == "hierarchical":
            return self._hierarchical(parts.one(self.name, "spectral")["n_clusters"])
        labels = self._labels(parts)
        if step.name == "subspaces":
            return self._subspaces(labels)
        if step.name == "of_weights":
            n_clusters = parts.one(self.name, "spectral")["n_clusters"]
            return self._of_weights(labels, n_clusters, [one.weights(parts) for one in self._sparse])
        return replicates(step, lambda left_out: self._numbers(self._pair.replicate(left_out), labels))

    @cached_property
    def _joined(self) -> Float64:
        return joined(self._pair.pooled)

    @cached_property
    def _graph(self) -> Float64:
        return self._similarities(self._joined)

    def _similarities(self, correlation: Float64) -> Float64:
        settings = self._config.clustering
        return similarity_graph(correlation, settings.similarity, settings.threshold)

    def _labels(self, parts: Parts) -> Labels:
        return np.asarray(parts.one(self.name, "spectral")["labels"])

    def _candidates(self) -> Tree:
        """Smallest eigenvalues of the graph, and the numbers of clusters to consider."""
        most = most_clusters(len(self._graph), self._config.clustering.max_clusters)
        found = spectral_embedding(self._graph, most + 1, self._config.seed)
        return {
            "eigenvalues": found.values,
            "ks": candidate_numbers(found.values, most),
            "n_linked": len(found.linked),
        }

    def _halves(self, step: Step, candidates: Tree) -> Tree:
        """Agreement of the clusters of both halves of the images: 0 is of the nets, k of the rotation k − 1."""
        seed, ks = self._config.seed, candidates["ks"]
        correlations = (joined(self._pair.halves[0]), joined(self._pair.halves[1]))
        if not len(ks):
            return {str(k): np.zeros((2, 0)) for k in range(step.first, step.last)}
        halves = []
        for k in range(step.first, step.last):
            own = correlations if k == 0 else rotated_halves(correlations, self._sides, generator_of(seed, k - 1))
            halves.append((self._similarities(own[0]), self._similarities(own[1])))
        found = halves_agreement(halves, ks, candidates["n_linked"], seed)
        return {str(k): agreed for k, agreed in zip(range(step.first, step.last), found, strict=True)}

    def _spectral(self, parts: Parts) -> Tree:
        settings, seed = self._config.clustering, self._config.seed
        if settings.n_clusters != "stability":
            found = spectral_clusters(self._graph, settings.n_clusters, settings.max_clusters, seed)
            evidence: Tree = {"stability_halves": np.nan, "stability_null": np.nan, "beyond_chance": False}
            eigenvalues = found.eigenvalues
        else:
            candidates = parts.one(self.name, "candidates")
            agreed = [piece[key] for piece in parts.of(self.name, "halves") for key in sorted(piece, key=int)]
            number = choose_number(
                candidates["ks"],
                agreed[0],
                np.stack(agreed[1:]),
                largest_eigengap(candidates["eigenvalues"], candidates["ks"]),
            )
            found = spectral_clusters(self._graph, number.n_clusters, seed=seed)
            evidence = {
                "stability_halves": number.stability,
                "stability_null": number.null,
                "beyond_chance": number.beyond_chance,
            }
            eigenvalues = candidates["eigenvalues"]
        return {
            "labels": found.labels,
            "eigenvalues": eigenvalues,
            "n_clusters": found.n_clusters,
            "eigengap": found.eigengap,
            **evidence,
        }

    def _numbers(self, moments: PairMoments, labels: Labels) -> Numbers:
        correlation = joined(moments)
        n_x = len(moments.cov_xx)
        groups = [
            (np.flatnonzero((labels == k) & (self._sides == 0)), np.flatnonzero((labels == k) & (self._sides == 1)))
            for k in range(int(labels.max(initial=-1)) + 1)
        ]
        shared = [
            shared_subspace(moments.corr_xx, moments.corr_xy, moments.corr_yy, x, y - n_x)
            for x, y in groups
            if len(x) and len(y)
        ]
        return {
            "mean_similarity": cluster_similarities(correlation, labels, self._sides).mean,
            "labels": replicate_labels(self._similarities(correlation), labels, self._config.seed),
            "subspaces": np.array([[getattr(s, name) for name in NUMBERS] for s in shared]).reshape(-1, len(NUMBERS)),
        }

    def tree(self, parts: Parts) -> Tree:
        clusters, labels = parts.one(self.name, "spectral"), self._labels(parts)
        found = Replicated.of(parts.of(self.name, "numbers"))
        inside = cluster_similarities(self._joined, labels, self._sides)
        stable = stability(labels, found.of_all("labels"))
        of_weights = {"of_weights": parts.one(self.name, "of_weights")} if self._sparse else {}
        subspaces = parts.one(self.name, "subspaces")
        for k, name in enumerate(NUMBERS):
            subspaces[name]["standard_error"] = found.error("subspaces")[:, k]
        return {
            "labels_x": labels[self._sides == 0],
            "labels_y": labels[self._sides == 1],
            "eigenvalues": clusters["eigenvalues"],
            "n_clusters": clusters["n_clusters"],
            "eigengap": clusters["eigengap"],
            **{key: clusters[key] for key in ("stability_halves", "stability_null", "beyond_chance")},
            "sizes": inside.sizes,
            "mean_similarity": inside.mean,
            "mean_similarity_error": found.error("mean_similarity"),
            "n_pairs": inside.n_pairs,
            "stability": stable.mean,
            "stability_without": stable.each,
            "sweep": parts.one(self.name, "sweep"),
            "hierarchical": parts.one(self.name, "hierarchical"),
            **of_weights,
            "subspaces": subspaces,
        }

    def _swept(self) -> Tree:
        """One set of eigenvectors, cut into ever more clusters."""
        ks = [k for k in SWEEP if k < len(self._graph)]
        if not ks or not self._graph.any():
            return {}
        found = sweep(self._graph, ks, self._config.seed)
        return {
            "ks": found.ks,
            "eigengaps": found.eigengaps,
            "normalised_cuts": found.normalised_cuts,
            "labels_x": found.labels[:, self._sides == 0],
            "labels_y": found.labels[:, self._sides == 1],
        }

    def _hierarchical(self, n_clusters: int) -> Tree:
        """The paper's version: clusters of more than 2 α C units are split again."""
        settings = self._config.clustering
        widths = (len(self._pair.units_x), len(self._pair.units_y))
        found = hierarchical_clusters(
            self._graph,
            settings.split_share,
            max(int(n_clusters), 1),
            max(widths),
            seed=self._config.seed,
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

    def _of_weights(self, labels: Labels, n_clusters: int, weights: list[Float64]) -> Tree:
        """Agglomerative clusters of the sparse weights of both directions, as many as the spectral ones."""
        forth, back = weights
        found = agglomerative_clusters(forth, back, n_clusters=max(n_clusters, 1))
        inside = cluster_similarities(self._joined, found.labels, self._sides)
        there = (found.labels >= 0) & (labels >= 0)
        agreement = agreement_of(found.labels[there], labels[there], 1.0) if there.any() else 0.0
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

    def _subspaces(self, labels: Labels) -> Tree:
        """Of the clusters with units of both nets: whether they span the same, and whether in the same basis."""
        config = self._config
        found = cluster_subspaces(self._joined, labels, self._sides, config.rotations, config.seed)
        columns = {
            name: {"value": found.values[:, k], "chance": found.chance[:, k], "chance_sd": found.chance_sd[:, k]}
            for k, name in enumerate(NUMBERS)
        }
        columns["matched"] |= {"rotated": found.rotated, "rotated_sd": found.rotated_sd}
        return {"clusters": found.clusters, "sizes": found.sizes, **columns}


def joined(moments: PairMoments) -> Float64:
    """(n_x + n_y, n_x + n_y) correlations within and between."""
    return np.block([[moments.corr_xx, moments.corr_xy], [moments.corr_xy.T, moments.corr_yy]])
