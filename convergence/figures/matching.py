"""Units of two nets and their partners: correlation matrices before and after alignment, partners unit by unit."""

from __future__ import annotations

from typing import Any

import numpy as np

from convergence.figures.style import KIND_COLOURS, NULL, Drawing, drawing_style, new_figure, printing, show_matrix
from convergence.summary import Layer, PairResult


def matrices(layer: Layer, pair: PairResult) -> Drawing:
    """Correlations within and between two nets, in natural order and with matched units on the diagonal."""
    tree = pair.tree
    ux, uy = (np.flatnonzero(layer.units["net"] == layer.nets.index(net)) for net in (pair.x, pair.y))
    between = layer.correlation[np.ix_(ux, uy)]
    aligned = between[np.ix_(tree["alignment"]["order_x"], tree["alignment"]["order_y"])]
    figure, axes = new_figure(12.4, 3.5, 4, narrowest=1.4)
    with drawing_style():
        show_matrix(axes[0], layer.correlation[np.ix_(ux, ux)], f"within {pair.x}", "unit", "unit")
        show_matrix(axes[1], layer.correlation[np.ix_(uy, uy)], f"within {pair.y}", "unit", "unit")
        show_matrix(axes[2], between, "between, as they come", f"unit of {pair.y}", f"unit of {pair.x}")
        image = show_matrix(
            axes[3],
            aligned,
            "between, matched",
            f"its match of {pair.y}",
            f"unit of {pair.x}",
        )
        figure.colorbar(
            image, ax=list(axes), shrink=0.8, label="correlation r", location="bottom" if printing() else "right"
        )
    rows = [(i, *row) for i, row in enumerate(np.round(between, 6).tolist())]
    return Drawing(
        name=f"{layer.name}-matrices",
        title=f"Correlations of {pair.x} and {pair.y}",
        caption=f"Units of {pair.x} and {pair.y} in {layer.name}: within each net, between them as they come, and "
        "between them once units are paired so that the sum of correlations is largest, strongest pair first. A "
        "diagonal that stands out means that single units were learnt twice.",
        alt=f"Correlation matrices of {pair.x} and {pair.y} before and after alignment",
        figure=figure,
        columns=(f"unit_{pair.x}", *(f"{pair.y}_{j}" for j in range(between.shape[1]))),
        rows=rows,
    )


def matched_units(layer: Layer, pair: PairResult) -> Drawing:
    """Correlation of every unit with its partner, sorted: semi-matching and matching, trained and untrained."""
    figure, axes = new_figure(12.4, 3.5, 3)
    rows: list[tuple[Any, ...]] = []
    with drawing_style():
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
                if key == "matching":
                    mass, mean, wide = (found[f"partial_{what}"] for what in ("mass", "mean", "error"))
                    axes[2].fill_between(mass, mean - 2 * wide, mean + 2 * wide, color=colour, alpha=0.2, linewidth=0)
                    axes[2].plot(mass, mean, "o-", markersize=4, color=colour, label=f"{one.x} to {one.y} ({kind})")
                    rows += [("partial", one.x, one.y, m, "", v, e) for m, v, e in zip(mass, mean, wide, strict=True)]
            measure = "semi_matching" if key == "semi_xy" else "matching"
            if measure in pair.tree["measures"]:
                null = pair.tree["measures"][measure]["xy"]["null"]
                ax.axhline(null, color=NULL, linestyle="--", label=f"mean after random rotation: {null:.2f}")
            ax.set_title(title)
            ax.set_xlabel(f"units of {layer.name}, best first")
            ax.set_ylim(min(0, ax.get_ylim()[0]), 1.02)
            ax.legend(loc="lower left", fontsize="small")
        axes[0].set_ylabel("correlation with the partner")
        axes[2].set(title="if only some have to match", xlabel="share of the units matched", ylim=(0, 1.02))
        axes[2].legend(loc="lower left", fontsize="small")
    a = pair.tree["alignment"]
    return Drawing(
        name=f"{layer.name}-matched",
        title="How well does each unit find its partner?",
        caption=f"{pair.x} to {pair.y}: bands are ± 2 standard errors over image groups. "
        f"{100 * a['same_assignment']:.0f} % of the units have the same partner in both; {a['never_chosen']} units "
        f"of {pair.y} are nobody's best. Chosen on one half of the images and scored on the other, the means are "
        f"{a['semi_xy_held_out'].mean():.3f} (semi-matching) and "
        f"{a['matching_held_out'][a['matching'] >= 0].mean():.3f} (matching). "
        f"{100 * a['significant_xy']:.0f} % of the units have a partner better than the best direction of a rotated "
        "basis, at a false-discovery rate of 5 %. Right: the mean correlation where only the best part of the "
        "units is matched (partial soft matching).",
        alt="Sorted correlation of each unit with its semi-matched and matched partner",
        figure=figure,
        columns=("alignment", "net_x", "net_y", "unit_x", "unit_y", "correlation", "standard_error"),
        rows=rows,
    )
