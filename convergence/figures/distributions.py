"""Distributions of activation: are partners' alike, and are the same distributions in both nets?"""

from __future__ import annotations

from typing import Any

import numpy as np

from convergence.figures.style import KIND_COLOURS, KIND_WORDS, Drawing, drawing_style, new_figure
from convergence.summary import Layer, PairResult, mean_over

BARS = {
    "assigned": "best fit,\none-to-one",
    "matched": "matched by\ncorrelation",
    "any": "any two,\nbetween",
    "within": "any two,\nwithin",
}


def distributions(layer: Layer, pair: PairResult) -> Drawing | None:
    """Distance of units' distributions: partners, the best fit, and any two units, between nets and within."""
    if "distributions" not in pair.tree:
        return None
    figure, (ax,) = new_figure(6.4, 3.4)
    rows: list[tuple[Any, ...]] = []
    means: dict[str, dict[str, float]] = {}
    with drawing_style():
        for k, kind in enumerate(layer.kinds):
            pairs = layer.of_kind(kind)
            values = {name: float(mean_over(pairs, "distributions", name)) for name in ("assigned", "matched", "any")}
            values["within"] = float(
                np.mean([mean_over(pairs, "distributions", name) for name in ("within_x", "within_y")])
            )
            means[kind] = values
            at = np.arange(len(BARS)) + 0.38 * (k - (len(layer.kinds) - 1) / 2)
            ax.bar(at, [values[n] for n in BARS], width=0.36, color=KIND_COLOURS[kind], label=KIND_WORDS[kind])
            sparsity = float(mean_over(pairs, "distributions", "sparsity"))
            rows += [(kind, name, value, len(pairs)) for name, value in {**values, "sparsity": sparsity}.items()]
        ax.set_xticks(range(len(BARS)), list(BARS.values()))
        ax.set_ylabel("distance of distributions")
        ax.legend(fontsize="small")
    first = means[layer.kinds[0]]
    return Drawing(
        name=f"{layer.name}-distributions",
        title="Do units have the same distributions of activation?",
        caption="Wasserstein-1 distance of two units' values, each in units of its own standard deviation, mean over "
        f"pairs of nets. For {KIND_WORDS[layer.kinds[0]]}: {first['matched']:.3f} for units matched by correlation, "
        f"{first['any']:.3f} for any two units of the two nets (chance) and {first['within']:.3f} for any two of one "
        f"net; {first['assigned']:.3f} where units are paired by distribution alone. Histograms are of all images "
        "together, so these have no error over images.",
        alt="Mean distances of activation distributions for partners and for any two units",
        figure=figure,
        columns=("pairs", "what", "distance", "n_pairs"),
        rows=rows,
    )
