"""The figures of one layer. Each is a function of the layer's results and, where units are shown, one pair of nets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np

from convergence.figures.style import (
    ACCENT,
    KIND_COLOURS,
    KIND_WORDS,
    NULL,
    SECOND,
    STYLE,
    TRAINED,
    UNTRAINED,
    Drawing,
    new_figure,
    show_matrix,
)
from convergence.summary import Kind, Layer, PairResult, mean_over

TRAINED_OR_NOT: tuple[Kind, ...] = ("trained", "untrained")
Draw = Callable[[Layer, PairResult], Drawing | None]


def matrices(layer: Layer, pair: PairResult) -> Drawing:
    """Correlations within and between two nets, in natural order and with matched units on the diagonal."""
    tree = pair.tree
    ux, uy = (np.flatnonzero(layer.units["net"] == layer.nets.index(net)) for net in (pair.x, pair.y))
    between = layer.correlation[np.ix_(ux, uy)]
    aligned = between[np.ix_(tree["alignment"]["order_x"], tree["alignment"]["order_y"])]
    figure, axes = new_figure(12.4, 3.5, 4)
    with mpl.rc_context(STYLE):
        show_matrix(axes[0], layer.correlation[np.ix_(ux, ux)], f"within {pair.x}", "unit", "unit")
        show_matrix(axes[1], layer.correlation[np.ix_(uy, uy)], f"within {pair.y}", "unit", "unit")
        show_matrix(axes[2], between, "between, natural order", f"unit of {pair.y}", f"unit of {pair.x}")
        image = show_matrix(
            axes[3],
            aligned,
            "between, matched units aligned",
            f"matched unit of {pair.y}",
            f"unit of {pair.x}, by match",
        )
        figure.colorbar(image, ax=list(axes), shrink=0.8, label="correlation r")
    rows = [(i, j, between[i, j]) for i in range(between.shape[0]) for j in range(between.shape[1])]
    return Drawing(
        name=f"{layer.name}-matrices",
        title=f"Correlations of {pair.x} and {pair.y}",
        caption=f"Units of {pair.x} and {pair.y} in {layer.name}: within each net, between them as they come, and "
        "between them once units are paired so that the sum of correlations is largest, strongest pair first. A "
        "diagonal that stands out means that single units were learnt twice.",
        alt=f"Correlation matrices of {pair.x} and {pair.y} before and after alignment",
        figure=figure,
        columns=(f"unit_{pair.x}", f"unit_{pair.y}", "correlation"),
        rows=rows,
    )


def matched_units(layer: Layer, pair: PairResult) -> Drawing:
    """Correlation of every unit with its partner, sorted: semi-matching and matching, trained and untrained."""
    figure, axes = new_figure(9.2, 3.5, 2)
    rows: list[tuple[Any, ...]] = []
    with mpl.rc_context(STYLE):
        for ax, key, title in (
            (axes[0], "semi_xy", "semi-matching: the best partner"),
            (axes[1], "matching", "matching: a partner of one's own"),
        ):
            shown = [("trained", pair), *(("untrained", other) for other in layer.of_kind("untrained")[:1])]
            if pair.kind != "trained":
                shown = [(pair.kind, pair)]
            for kind, one in shown:
                found = one.tree["alignment"]
                r, error, partner = found[f"{key}_correlation"], found[f"{key}_error"], found[key]
                order = np.argsort(-r, kind="stable")
                x = np.arange(len(r))
                colour = KIND_COLOURS[kind]
                ax.fill_between(x, (r - 2 * error)[order], (r + 2 * error)[order], color=colour, alpha=0.2, linewidth=0)
                ax.plot(x, r[order], color=colour, linewidth=1.8, label=f"{one.x} to {one.y} ({kind})")
                rows += [(key, one.x, one.y, one.tree["units_x"][i], partner[i], r[i], error[i]) for i in order]
            measure = "semi_matching" if key == "semi_xy" else "matching"
            if measure in pair.tree["measures"]:
                null = pair.tree["measures"][measure]["xy"]["null"]
                ax.axhline(null, color=NULL, linestyle="--", label=f"mean after random rotation: {null:.2f}")
            ax.set_title(title)
            ax.set_xlabel(f"units of {layer.name}, best first")
            ax.set_ylim(min(0, ax.get_ylim()[0]), 1.02)
            ax.legend(loc="lower left", fontsize=8.5)
        axes[0].set_ylabel("correlation with the partner")
    a = pair.tree["alignment"]
    return Drawing(
        name=f"{layer.name}-matched",
        title="How well does each unit find its partner?",
        caption=f"{pair.x} to {pair.y}: bands are ± 2 standard errors over image groups. "
        f"{100 * a['same_assignment']:.0f} % of the units have the same partner in both; {a['never_chosen']} units "
        f"of {pair.y} are nobody's best. Chosen on one half of the images and scored on the other, the means are "
        f"{a['cross_fitted_semi_xy']:.3f} (semi-matching) and {a['cross_fitted_matching']:.3f} (matching).",
        alt="Sorted correlation of each unit with its semi-matched and matched partner",
        figure=figure,
        columns=("alignment", "net_x", "net_y", "unit_x", "unit_y", "correlation", "standard_error"),
        rows=rows,
    )


def information(layer: Layer, pair: PairResult) -> Drawing | None:
    """Mutual information with the partner against correlation: does the answer survive a change of measure?"""
    if "information" not in pair.tree:
        return None
    found, alignment = pair.tree["information"], pair.tree["alignment"]
    figure, axes = new_figure(9.2, 3.5, 2)
    with mpl.rc_context(STYLE):
        for key, colour, word in (("semi_xy", TRAINED, "semi-matching"), ("matching", ACCENT, "matching")):
            axes[0].plot(np.sort(found[f"{key}_nats"])[::-1], color=colour, linewidth=1.8, label=word)
        axes[0].set(title="mutual information with the partner", xlabel=f"units of {layer.name}, best first")
        axes[0].set_ylabel("nats")
        axes[0].set_ylim(bottom=min(0, axes[0].get_ylim()[0]))
        axes[0].legend()
        same = found["semi_xy"] == alignment["semi_xy"]
        for chosen, colour, word in (
            (same, TRAINED, f"same partner by both ({same.sum()})"),
            (~same, UNTRAINED, f"another partner ({(~same).sum()})"),
        ):
            axes[1].scatter(
                alignment["semi_xy_correlation"][chosen],
                found["semi_xy_nats"][chosen],
                s=16,
                color=colour,
                label=word,
            )
        axes[1].set(title="best partner by each measure", xlabel="correlation", ylabel="mutual information (nats)")
        axes[1].legend(loc="upper left", fontsize=8.5)
    rows = [
        (
            pair.tree["units_x"][i],
            found["semi_xy"][i],
            found["semi_xy_nats"][i],
            found["semi_xy_error"][i],
            found["matching"][i],
            found["matching_nats"][i],
            alignment["semi_xy"][i],
            alignment["semi_xy_correlation"][i],
        )
        for i in range(len(same))
    ]
    return Drawing(
        name=f"{layer.name}-information",
        title="Does mutual information agree with correlation?",
        caption=f"{pair.x} to {pair.y}: {100 * found['same_semi_as_correlation']:.0f} % of the units have the same best "
        f"partner by mutual information as by correlation, {100 * found['same_matching_as_correlation']:.0f} % the same "
        f"matched one. Mean mutual information {found['mean_semi_nats']:.3f} nats (semi-matching) and "
        f"{found['mean_matching_nats']:.3f} (matching), corrected for the bias of counting.",
        alt="Mutual information per unit, and scatter of mutual information against correlation",
        figure=figure,
        columns=(
            "unit_x",
            "semi_unit_y",
            "semi_nats",
            "semi_nats_error",
            "matched_unit_y",
            "matched_nats",
            "semi_unit_y_by_correlation",
            "semi_correlation",
        ),
        rows=rows,
    )


def sparse_prediction(layer: Layer, pair: PairResult) -> Drawing | None:
    """Loss of predicting units from few units of another net: along the LASSO path and by number of units."""
    if "sparse_xy" not in pair.tree:
        return None
    figure, axes = new_figure(12.4, 3.5, 3)
    rows: list[tuple[Any, ...]] = []
    facts = {}
    with mpl.rc_context(STYLE):
        for kind in TRAINED_OR_NOT:
            pairs = layer.of_kind(kind)
            if not pairs:
                continue
            colour, word = KIND_COLOURS[kind], KIND_WORDS[kind]

            def both(name: str, pairs: list[PairResult] = pairs) -> Any:
                return (mean_over(pairs, "sparse_xy", name) + mean_over(pairs, "sparse_yx", name)) / 2

            # Errors of different pairs come from the same images: averaged, not divided by the number of pairs.
            alphas, loss, error, dense = (
                both("alphas"),
                both("loss"),
                both("loss_error"),
                float(both("dense_loss")),
            )
            units, refitted, forward = both("n_nonzero"), both("refit_loss"), both("forward_loss")
            facts[kind] = (dense, forward)
            axes[0].fill_between(alphas, loss - 2 * error, loss + 2 * error, color=colour, alpha=0.2, linewidth=0)
            axes[0].plot(alphas, loss, color=colour, linewidth=1.8, label=word)
            axes[0].axhline(dense, color=colour, linestyle=":", linewidth=1.4)
            axes[1].plot(alphas, units, color=colour, linewidth=1.8, label=word)
            axes[2].plot(units, loss, color=colour, linewidth=1.8, label=f"LASSO, {word}")
            axes[2].plot(units, refitted, color=colour, linestyle="--", linewidth=1.4, label=f"LASSO refit, {word}")
            axes[2].plot(
                np.arange(1, len(forward) + 1),
                forward,
                "o",
                color=colour,
                markersize=3.5,
                label=f"forward, {word}",
            )
            rows += [
                (kind, "lasso", a, n, value, e, again)
                for a, n, value, e, again in zip(alphas, units, loss, error, refitted, strict=True)
            ]
            rows += [(kind, "forward", "", k, value, "", value) for k, value in enumerate(forward, start=1)]
            rows += [(kind, "dense", 0.0, both("rank"), dense, both("dense_loss_error"), dense)]
        for ax in axes[:2]:
            ax.set_xscale("log")
            ax.set_xlabel("penalty alpha (dotted: no penalty)")
            ax.legend(fontsize=8.5)
        axes[0].set(title="prediction loss", ylabel="½ (1 − R²)", ylim=(0, 0.52))
        axes[1].set(title="units that a target uses", ylabel="mean number of units")
        axes[2].set(title="loss against units used", xlabel="mean number of units", ylim=(0, 0.52))
        axes[2].set_xlim(0, 1.15 * pair.tree["sparse_xy"]["forward_loss"].size)
        axes[2].legend(fontsize=7.5)
    kind = "trained" if "trained" in facts else "untrained"
    dense, forward = facts[kind]
    gap = max(p.tree[d]["kkt_gap"].max() for p in layer.pairs for d in ("sparse_xy", "sparse_yx"))
    return Drawing(
        name=f"{layer.name}-sparse",
        title="How few units predict one unit?",
        caption=f"Mean over both directions of all pairs of {KIND_WORDS[kind]}: one unit leaves a loss of "
        f"{forward[0]:.3f}, {min(3, len(forward))} units {forward[min(2, len(forward) - 1)]:.3f}, all units "
        f"{dense:.3f}; 0.5 means that nothing is explained, 0 all. Fitted and scored on the same images. Every "
        f"point of the path is optimal to {gap:.0e} (KKT gap).",
        alt="Prediction loss and number of units along the LASSO path, and loss against number of units",
        figure=figure,
        columns=("pairs", "method", "alpha", "n_units", "loss", "standard_error", "refit_loss"),
        rows=rows,
    )


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
    with mpl.rc_context(STYLE):
        image = show_matrix(axes[0], matrix, "joined units, by cluster", "unit of either net", "unit of either net")
        for edge in edges:
            axes[0].axhline(edge, color="black", linewidth=0.5)
            axes[0].axvline(edge, color="black", linewidth=0.5)
        figure.colorbar(image, ax=axes[0], shrink=0.8, label="r")
        values = found["eigenvalues"]
        axes[1].plot(np.arange(1, len(values) + 1), values, "o-", color=TRAINED, markersize=4)
        axes[1].axvline(found["n_clusters"] + 0.5, color=UNTRAINED, linestyle="--", label=f"k = {found['n_clusters']}")
        axes[1].set(title="smallest eigenvalues of the Laplacian", xlabel="index")
        axes[1].legend()
        sizes, inside = found["sizes"], found["mean_similarity"]
        at = np.arange(len(sizes))
        words = (f"within {pair.x}", f"within {pair.y}", "between")
        for column, (word, colour) in enumerate(zip(words, (TRAINED, SECOND, ACCENT), strict=True)):
            axes[2].bar(at + 0.27 * (column - 1), inside[:, column], width=0.25, color=colour, label=word)
        axes[2].set(title="similarity inside each cluster", xlabel="cluster (largest first)", ylabel="mean |r|")
        axes[2].set_xticks(at, [f"{x}+{y}" for x, y in sizes], fontsize=7, rotation=60)
        axes[2].legend(fontsize=8.5)
    both = int((sizes > 0).all(axis=1).sum())
    return Drawing(
        name=f"{layer.name}-clusters",
        title="Groups of units that belong together",
        caption=f"Spectral clustering of the {len(labels)} joined units of {pair.x} and {pair.y}: {found['n_clusters']} "
        f"clusters (largest eigengap {found['eigengap']:.3f}), {both} of them with units of both nets; {(labels < 0).sum()} "
        "units have no edge. Bars: mean |r| within and between the nets inside each cluster; below them the number "
        "of units of each net.",
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


def mean_activations(layer: Layer, pair: PairResult) -> Drawing:
    """Mean activations of every net's units, sorted, overlaid."""
    figure, axes = new_figure(6.4, 3.4)
    (ax,) = axes
    rows: list[tuple[Any, ...]] = []
    with mpl.rc_context(STYLE):
        for k, net in enumerate(layer.nets):
            units = np.flatnonzero(layer.units["net"] == k)
            mean, error = layer.units["mean"][units], layer.units["mean_error"][units]
            order = np.argsort(-mean, kind="stable")
            kind = "trained" if layer.trained[k] else "untrained"
            style = "-" if layer.trained[k] else "--"
            first = layer.trained.index(layer.trained[k]) == k
            ax.fill_between(
                np.arange(len(units)),
                (mean - 2 * error)[order],
                (mean + 2 * error)[order],
                color=KIND_COLOURS[kind],
                alpha=0.12,
                linewidth=0,
            )
            ax.plot(
                mean[order],
                style,
                color=KIND_COLOURS[kind],
                alpha=0.85,
                label=KIND_WORDS[kind] if first else None,
            )
            rows += [
                (
                    net,
                    kind,
                    int(i),
                    mean[i],
                    error[i],
                    layer.units["zero_fraction"][units[i]],
                    layer.units["left_out_because"][units[i]],
                )
                for i in order
            ]
        ax.set(xlabel=f"units of {layer.name}, most active first", ylabel="mean activation")
        ax.legend()
    distances = {
        kind: float(mean_over(pairs, "mean_activations", "value"))
        for kind in TRAINED_OR_NOT
        if (pairs := layer.of_kind(kind))
    }
    said = " and ".join(f"{value:.3f} between {KIND_WORDS[kind]}" for kind, value in distances.items())
    return Drawing(
        name=f"{layer.name}-mean-activations",
        title="Do mean activations converge although units differ?",
        caption="One curve a net: its units' mean activations, sorted. Mean distance of two curves, relative to the "
        f"mean activation: {said}. Bands are ± 2 standard errors over image groups.",
        alt="Sorted mean activations of every net",
        figure=figure,
        columns=("net", "kind", "unit", "mean", "standard_error", "zero_fraction", "left_out_because"),
        rows=rows,
    )


FIGURES: tuple[Draw, ...] = (
    matched_units,
    matrices,
    information,
    sparse_prediction,
    clusters,
    mean_activations,
)
