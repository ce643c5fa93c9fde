"""Spectral clustering of joined units, against scikit-learn's, from the same graph to labels.

    python -m benchmarks.spectral                # 768 and 2048 units
    python -m benchmarks.spectral 8192 --rounds 1   # about a minute, and 2.3 GB

Units are rectified mixtures of k factors, one of them the main one of each, and the graph holds |r| of at least
``--threshold`` between them. Both find k clusters by k-means with ten starts from the eigenvectors of the normalised
Laplacian, and both are given the dense matrix; scikit-learn finds them by ARPACK, its default, and divides rows by
degrees where ours have length 1. The normalised cut (mean of cut / volume) says how good each is, the adjusted Rand
index how far they agree. ``--factors`` gives other units: with far more factors than k there is no clear k.
"""

from __future__ import annotations

import argparse
import warnings
from statistics import median

from benchmarks.timing import describe_blas, interleaved, ratio  # before numpy, see there

# isort: split
import numpy as np
import sklearn
from sklearn.cluster import SpectralClustering
from sklearn.metrics import adjusted_rand_score

from convergence.clustering.eigenvectors import spectral_embedding
from convergence.clustering.graph import normalised_cut, similarity_graph
from convergence.clustering.spectral import spectral_clusters


def latent_graph(n: int, n_factors: int, threshold: float, samples: int = 4000) -> np.ndarray:
    """(n, n) graph of ReLU units of two layers that see the same factors; without isolated units."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((n_factors, n), dtype=np.float32)
    mixing *= rng.random(mixing.shape) < min(0.1, 4 / n_factors)
    mixing[np.arange(n) % n_factors, np.arange(n)] += 1.5
    units = rng.standard_normal((samples, n_factors), dtype=np.float32) @ mixing
    units += 0.5 * rng.standard_normal(units.shape, dtype=np.float32)
    np.maximum(units - 0.3, 0, out=units)
    units -= units.mean(axis=0)
    units /= np.linalg.norm(units, axis=0)
    graph = similarity_graph((units.T @ units).astype(np.float64), threshold=threshold)
    linked = graph.any(axis=1)
    return graph if linked.all() else graph[np.ix_(linked, linked)]


def compare(n: int, n_clusters: int, n_factors: int, threshold: float, rounds: int) -> None:
    """Print the figures of one graph."""
    graph = latent_graph(n, n_factors, threshold)
    labels = {}

    def theirs() -> None:
        model = SpectralClustering(
            n_clusters, affinity="precomputed", assign_labels="kmeans", n_init=10, random_state=0
        )
        labels["scikit-learn"] = model.fit(graph).labels_

    def ours() -> None:
        labels["ours"] = spectral_clusters(graph, n_clusters).labels

    seconds = interleaved(
        {"scikit-learn": theirs, "ours": ours, "eigenvectors": lambda: spectral_embedding(graph, n_clusters + 1)},
        rounds,
    )
    times = {name: median(values) for name, values in seconds.items()}
    cuts = {name: normalised_cut(graph, np.asarray(found, dtype=np.int64)) for name, found in labels.items()}
    print(
        f"n = {len(graph)}  k = {n_clusters}  {n_factors} factors  {np.count_nonzero(graph) / graph.size:6.2%} edges   "
        f"scikit-learn {times['scikit-learn']:7.3f} s (cut {cuts['scikit-learn']:.4f})   "
        f"ours {times['ours']:6.3f} s (cut {cuts['ours']:.4f}; eigenvectors {times['eigenvectors']:.3f} s)   "
        f"agreement {adjusted_rand_score(labels['scikit-learn'], labels['ours']):.3f}   "
        f"ratio {ratio(seconds, 'scikit-learn', 'ours'):.1f}",
        flush=True,
    )


def main() -> None:
    """Parse the widths and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("units", nargs="*", type=int, default=[768, 2048], help="joined units of two layers")
    parser.add_argument("--clusters", type=int, help="k; 20 below 2000 units, 100 from there on")
    parser.add_argument("--factors", type=int, help="factors of the units; as many as clusters")
    parser.add_argument("--threshold", type=float, default=0.2)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # scikit-learn's own about graphs that are not connected
    print(f"{describe_blas()}; scikit-learn {sklearn.__version__}; one thread")
    for n in arguments.units:
        k = arguments.clusters or (20 if n < 2000 else 100)
        compare(n, k, arguments.factors or k, arguments.threshold, arguments.rounds)


if __name__ == "__main__":
    main()
