"""Many-to-many: spectral clusters of the joined units of two nets."""

from __future__ import annotations

import numpy as np

from convergence.figures.style import (
    ACCENT,
    SECOND,
    TRAINED,
    UNTRAINED,
    Drawing,
    drawing_style,
    new_figure,
    printing,
    show_matrix,
)
from convergence.summary import Layer, PairResult


def clusters(layer: Layer, pair: PairResult) -> Drawing | None:
    """Units of both nets in order of their spectral cluster, with the Laplacian's smallest eigenvalues."""
    if "clusters" not in pair.tree:
        return None
    found = pair.tree["clusters"]
    labels = np.concatenate([found["labels_x"], found["labels_y"]])
    ux, uy = (
        np.flatnonzero(layer.units["net"] == layer.nets.index(net))[units]
        for net, units in ((pair.x, pair.tree["units_x"]), (pair.y, pair.tree["units_y"]))
    )
    joined = np.concatenate([ux, uy])
    key = np.where(labels < 0, labels.max() + 1, labels)
    order = np.lexsort((np.arange(len(joined)) >= len(ux), key))
    matrix = layer.correlation[np.ix_(joined[order], joined[order])]
    edges = np.flatnonzero(np.diff(key[order])) + 0.5
    figure, axes = new_figure(12.4, 3.9, 3, ratios=(1.15, 1, 1.2))
    with drawing_style():
        image = show_matrix(axes[0], matrix, "joined units, by cluster", "unit of either net", "unit of either net")
        for edge in edges:
            axes[0].axhline(edge, color="black", linewidth=0.5)
            axes[0].axvline(edge, color="black", linewidth=0.5)
        figure.colorbar(image, ax=axes[0], shrink=0.8, label="r", location="bottom" if printing() else "right")
        values = found["eigenvalues"]
        axes[1].plot(np.arange(1, len(values) + 1), values, "o-", color=TRAINED, markersize=4)
        axes[1].axvline(found["n_clusters"] + 0.5, color=UNTRAINED, linestyle="--", label=f"k = {found['n_clusters']}")
        axes[1].set(title="smallest eigenvalues of the Laplacian", xlabel="index")
        axes[1].legend()
        sizes, inside, error = found["sizes"], found["mean_similarity"], found["mean_similarity_error"]
        at = np.arange(len(sizes))
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
    both = int((sizes > 0).all(axis=1).sum())
    weights = found.get("of_weights")
    others = (
        f" Stability without each image group: {found['stability']:.2f} (adjusted Rand index). Split again while "
        f"larger than {found['hierarchical']['limit']:.1f} units, as in the paper: "
        f"{found['hierarchical']['n_clusters']} clusters."
    )
    if weights:
        others += f" Clusters of the LASSO weights agree with these by {weights['same_as_spectral']:.2f}."
    return Drawing(
        name=f"{layer.name}-clusters",
        title="Groups of units that belong together",
        caption=f"Spectral clustering of the {len(labels)} joined units of {pair.x} and {pair.y}: "
        f"{found['n_clusters']} clusters (largest eigengap {found['eigengap']:.3f}), {both} of them with units of both "
        f"nets; {(labels < 0).sum()} units have no edge. Bars: mean |r| within and between the nets inside each "
        f"cluster, with 95 % intervals; below them the number of units of each net.{others}",
        alt="Joined correlation matrix ordered by cluster, eigenvalues, and similarities per cluster",
        figure=figure,
        columns=("cluster", "n_x", "n_y", "within_x", "within_y", "between"),
        rows=[
            (
                k,
                *sizes[k],
                *(value if n else "" for value, n in zip(inside[k], found["n_pairs"][k], strict=True)),
            )
            for k in at
        ],
    )
