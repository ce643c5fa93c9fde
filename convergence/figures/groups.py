"""Groups of units: spectral clusters of the joined units of two nets, and the subspaces that they span."""

from __future__ import annotations

from typing import Any

import numpy as np

from convergence.figures.style import (
    ACCENT,
    NULL,
    SECOND,
    TRAINED,
    UNTRAINED,
    Drawing,
    drawing_style,
    new_figure,
    printing,
    show_matrix,
)
from convergence.results import ComparisonResults, PairResults
from convergence.results.groups import Clustering

KEYS = ("value", "standard_error", "chance", "chance_sd")


def clusters(layer: ComparisonResults, pair: PairResults) -> Drawing | None:
    """Units of both nets in order of their spectral cluster, with the Laplacian's smallest eigenvalues."""
    found, split, weights = pair.clusters, pair.clustering("hierarchical"), pair.clustering("sparse_weights")
    if found is None or split is None or without_clusters(pair):
        return None
    labels = np.concatenate([found.labels_x, found.labels_y])
    key = np.where(labels < 0, labels.max() + 1, labels)
    order = np.lexsort((np.arange(len(labels)) >= len(found.labels_x), key))
    matrix = layer.joint_correlation(pair)[np.ix_(order, order)]
    edges = np.flatnonzero(np.diff(key[order])) + 0.5
    sizes, inside, error = found.sizes, found.similarity, found.similarity_error
    at = np.arange(len(sizes))
    figure, axes = new_figure(12.4, 3.9, 3, ratios=(1.15, 1, 1.2))
    with drawing_style():
        image = show_matrix(axes[0], matrix, "joined units, by cluster", "unit of either net", "unit of either net")
        for edge in edges:
            axes[0].axhline(edge, color="black", linewidth=0.5)
            axes[0].axvline(edge, color="black", linewidth=0.5)
        figure.colorbar(image, ax=axes[0], shrink=0.8, label="r", location="bottom" if printing() else "right")
        values = pair.eigenvalues
        axes[1].plot(np.arange(1, len(values) + 1), values, "o-", color=TRAINED, markersize=4)
        axes[1].axvline(found.n_clusters + 0.5, color=UNTRAINED, linestyle="--", label=f"k = {found.n_clusters}")
        axes[1].set(title="smallest eigenvalues of the Laplacian", xlabel="index")
        axes[1].legend()
        words = (f"within {pair.x}", f"within {pair.y}", "between")
        for column, (word, colour) in enumerate(zip(words, (TRAINED, SECOND, ACCENT), strict=True)):
            axes[2].bar(
                at + 0.27 * (column - 1), inside[:, column], width=0.25, color=colour, label=word,
                yerr=1.96 * error[:, column], error_kw={"linewidth": 0.8},
            )  # fmt: skip
        axes[2].set(title="similarity inside each cluster", xlabel="cluster (largest first)", ylabel="mean |r|")
        axes[2].set_xticks(at, [f"{x}+{y}" for x, y in sizes], fontsize="x-small", rotation=60)
        axes[2].set_ylim(0, 1.3 * max(float(inside.max()), 0.1))
        axes[2].legend(fontsize="small", ncols=3, loc="upper left", columnspacing=1, handlelength=1.2)
    both, alone = int((sizes > 0).all(axis=1).sum()), int((labels < 0).sum())
    unlinked = "1 unit has no edge" if alone == 1 else f"{alone} units have no edge"
    others = (
        f" Stability without each image group: {found.stability:.2f} (adjusted Rand index). Splitting clusters of more "
        f"than {split.limit:.1f} units again, as in the paper, gives {split.n_clusters} clusters."
    )
    if weights is not None:
        others += f" Adjusted Rand index with clusters of the LASSO weights: {weights.same_as_spectral:.2f}."
    return Drawing(
        name=f"{layer.name}-clusters",
        title="Groups of units that belong together",
        caption=f"Spectral clustering of the {len(labels)} joined units of {pair.x} and {pair.y}: "
        f"{found.n_clusters} clusters{_evidence(found)}, {both} of them with units of both "
        f"nets; {unlinked}. Bars: mean |r| within and between the nets inside each "
        f"cluster, with 95 % intervals; labels give the number of units of each net.{others}",
        alt="Joined correlation matrix ordered by cluster, eigenvalues, and similarities per cluster",
        figure=figure,
        columns=("cluster", "n_x", "n_y", "within_x", "within_y", "between"),
        rows=[
            (k, *sizes[k], *(value if n else "" for value, n in zip(inside[k], found.n_pairs[k], strict=True)))
            for k in at
        ],
    )


def without_clusters(pair: PairResults) -> str:
    """Why clusters that were computed have no figure, in a sentence; "" if they have one."""
    if pair.clusters is None or len(pair.clusters.sizes):
        return ""
    return (
        f"{pair.x} and {pair.y} have no clusters: no two of their units are as similar as "
        "analysis.clustering.threshold asks for."
    )


def _evidence(found: Clustering) -> str:
    """How the number of clusters was chosen, and whether there are clusters beyond chance."""
    if not np.isfinite(found.stability_halves):
        return f" (eigengap {found.eigengap:.3f})"
    words = "" if found.beyond_chance else ", no clusters beyond chance"
    return (
        f" (agreement of both halves of the images {found.stability_halves:.2f}, rotated nets "
        f"{found.stability_null:.2f}{words})"
    )


def subspaces(layer: ComparisonResults, pair: PairResults) -> Drawing | None:
    """For every cluster with units of both nets: canonical correlations of the two groups, and matched units' |r|.

    Whether groups of units span the same subspace in another basis is claim 2 of Li et al. 2016.
    """
    found = pair.subspaces
    if found is None:
        return None
    at = np.arange(len(found.clusters))
    span, matched, sizes = found.mean_correlation, found.matched, found.sizes
    rotated, rotated_sd = found.matched_rotated, found.matched_rotated_sd
    figure, (ax,) = new_figure(max(6.4, min(12.4, 2.5 + 0.5 * len(at))), 3.5)
    with drawing_style():
        for offset, what, colour, word in (
            (-0.18, span, TRAINED, "span: mean canonical correlation"),
            (0.18, matched, ACCENT, "units: |r| of matched pairs"),
        ):
            error = 1.96 * what.standard_error
            ax.errorbar(at + offset, what.value, error, fmt="o", color=colour, capsize=3, label=word)
        levels: tuple[tuple[float, Any, Any, str, str], ...] = (
            (-0.18, span.chance, span.chance_sd, "_", "random groups of these sizes"),
            (0.18, rotated, rotated_sd, "x", "same span, random basis"),
        )
        for offset, mean, spread, marker, word in levels:
            ax.errorbar(at + offset, mean, 2 * spread, fmt=marker, color=NULL, markersize=8, linewidth=1, label=word)
        ax.set_xticks(at, [f"{x}+{y}" for x, y in sizes], fontsize="small")
        ax.set(xlabel=f"cluster: units of {pair.x} + units of {pair.y}", ylim=(0, 1.05))
        if printing():
            ax.set_ylim(0, 1.9)
            ax.set_yticks([0, 0.5, 1])
        ax.legend(fontsize="small", ncols=1 if printing() else 2, loc="upper left" if printing() else "lower left")
    shared = span.value > span.chance + 2 * span.chance_sd
    turned = shared & (matched.value <= rotated + 2 * rotated_sd)
    return Drawing(
        name=f"{layer.name}-subspaces",
        title="Same subspace, another basis?",
        caption=f"{pair.x} and {pair.y}: {int(shared.sum())} of {len(at)} clusters with units of both nets span more "
        "of the same subspace than random groups of their sizes (mean cosine of the principal angles "
        f"{span.value.mean():.2f}, random groups {span.chance.mean():.2f}). "
        f"{_turned(int(shared.sum()), int(turned.sum()))} Bars: 95 % intervals over image groups; grey: "
        "± 2 standard deviations over the draws.",
        alt="Canonical correlations and matched correlations of each cluster, with their chance levels",
        figure=figure,
        columns=(
            "cluster", "n_x", "n_y", *(f"{what}_{key}" for what in ("span", "matched") for key in KEYS), "rotated",
        ),
        rows=[
            (
                int(found.clusters[k]), *map(int, sizes[k]),
                *(getattr(what, key)[k] for what in (span, matched) for key in KEYS), rotated[k],
            )
            for k in at
        ],
    )  # fmt: skip


def _turned(n_shared: int, n_turned: int) -> str:
    """In how many of the shared subspaces the units are another basis, in a sentence."""
    rotated = "match better than in a random basis of the same span"
    if not n_shared:
        return "So none is found to be shared."
    if not n_turned:
        return f"In {'it' if n_shared == 1 else 'each of them'}, single units {rotated}."
    which = "it" if n_shared == 1 else "each of them" if n_turned == n_shared else f"{n_turned} of them"
    return f"In {which}, single units do not {rotated}."
