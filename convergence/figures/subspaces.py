"""Do clusters of units of two nets span the same subspace, and in the same basis? (Li et al. 2016, claim 2.)"""

from __future__ import annotations

import numpy as np

from convergence.figures.style import ACCENT, NULL, TRAINED, Drawing, drawing_style, new_figure, printing
from convergence.summary import Layer, PairResult

KEYS = ("value", "standard_error", "chance", "chance_sd")


def subspaces(layer: Layer, pair: PairResult) -> Drawing | None:
    """For every cluster with units of both nets: canonical correlations of the two groups, and matched units' |r|."""
    found = pair.tree.get("clusters", {}).get("subspaces")
    if found is None or not len(found["clusters"]):
        return None
    at = np.arange(len(found["clusters"]))
    span, matched, sizes = found["mean_correlation"], found["matched"], found["sizes"]
    figure, (ax,) = new_figure(max(6.4, min(12.4, 2.5 + 0.5 * len(at))), 3.5)
    with drawing_style():
        for offset, what, colour, word in (
            (-0.18, span, TRAINED, "span: mean canonical correlation"),
            (0.18, matched, ACCENT, "units: |r| of matched pairs"),
        ):
            ax.errorbar(
                at + offset, what["value"], 1.96 * what["standard_error"], fmt="o", color=colour, capsize=3, label=word
            )
        for offset, mean, spread, marker, word in (
            (-0.18, span["chance"], span["chance_sd"], "_", "random groups of these sizes"),
            (0.18, matched["rotated"], matched["rotated_sd"], "x", "same span, rotated basis"),
        ):
            ax.errorbar(at + offset, mean, 2 * spread, fmt=marker, color=NULL, markersize=8, linewidth=1, label=word)
        ax.set_xticks(at, [f"{x}+{y}" for x, y in sizes], fontsize="small")
        ax.set(xlabel=f"cluster: units of {pair.x} + units of {pair.y}", ylim=(0, 1.05))
        if printing():
            ax.set_ylim(0, 1.9)
            ax.set_yticks([0, 0.5, 1])
        ax.legend(fontsize="small", ncols=1 if printing() else 2, loc="upper left" if printing() else "lower left")
    shared = span["value"] > span["chance"] + 2 * span["chance_sd"]
    turned = shared & (matched["value"] <= matched["rotated"] + 2 * matched["rotated_sd"])
    return Drawing(
        name=f"{layer.name}-subspaces",
        title="Same subspace, another basis?",
        caption=f"{pair.x} and {pair.y}: of {len(at)} clusters with units of both nets {int(shared.sum())} span more "
        "of the same than random groups of their sizes (mean cosine of the principal angles "
        f"{span['value'].mean():.2f}, random {span['chance'].mean():.2f}). In {int(turned.sum())} of these, single "
        "units match no better than in a rotated basis of the same span. Bars: 95 % intervals over image groups; grey: "
        "± 2 standard deviations of the draws.",
        alt="Canonical correlations and matched correlations of each cluster, with their chance levels",
        figure=figure,
        columns=(
            "cluster", "n_x", "n_y", *(f"{what}_{key}" for what in ("span", "matched") for key in KEYS), "rotated",
        ),
        rows=[
            (
                int(found["clusters"][k]), *map(int, sizes[k]),
                *(what[key][k] for what in (span, matched) for key in KEYS), matched["rotated"][k],
            )
            for k in at
        ],
    )  # fmt: skip
