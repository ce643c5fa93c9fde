"""All layers in one figure, beside untrained nets and rotated bases; two runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from convergence.figures.style import KIND_COLOURS, KIND_WORDS, NULL, Drawing, drawing_style, new_figure
from convergence.results import ComparisonResults, kinds_of
from convergence.similarity import MEASURES

PANELS = ("matching", "semi_matching", "linear_cka")


def overview(layers: Sequence[ComparisonResults]) -> Drawing:
    """Mean of each shown measure over pairs of nets, layer by layer, with 95 % intervals and chance levels."""
    panels = [name for name in PANELS if any(name in layer.measures for layer in layers)]
    panels = panels or layers[0].measures[:3]
    figure, axes = new_figure(3.6 * len(panels) + 0.4, 3.3, len(panels))
    rows = []
    with drawing_style():
        for ax, name in zip(axes, panels, strict=True):
            ax.set_title(MEASURES.load(name).title)
            for offset, kind in enumerate(kinds_of(layers)):
                labelled = False
                for at, layer in enumerate(layers):
                    found = layer.summary(name, kind)
                    if found is None:
                        continue
                    e = found.estimate
                    numbers = (e.value, e.standard_error, e.low, e.high, found.lowest, found.highest, e.null, e.null_sd)
                    rows.append((name, layer.name, kind, found.n_pairs, *numbers))
                    x = at + 0.16 * (offset - 0.5)
                    ax.errorbar(
                        x,
                        e.value,
                        [[e.value - e.low], [e.high - e.value]],
                        fmt="o" if kind == "trained" else "s",
                        color=KIND_COLOURS[kind],
                        capsize=3,
                        markersize=6,
                        label=None if labelled else KIND_WORDS[kind],
                    )
                    if np.isfinite(e.null):
                        word = None if labelled or offset else "rotated basis"
                        ax.plot([x - 0.09, x + 0.09], [e.null, e.null], color=NULL, linewidth=2.5, label=word)
                    labelled = True
            ax.set_xticks(range(len(layers)), [layer.name for layer in layers])
            ax.set_xlim(-0.5, len(layers) - 0.5)
            ax.set_ylim(0, 1.02)
        axes[0].set_ylabel("similarity of two nets")
        axes[0].legend(loc="lower left", fontsize="small")
    return Drawing(
        name="overview",
        title="Every layer at a glance",
        caption="Mean over all pairs of nets; bars: 95 % jackknife intervals over image groups. Grey marks: the same "
        "measure after a random rotation of one net's basis, which keeps the span of the layer and mixes its units. "
        "Untrained nets show the similarity without learning.",
        alt="Similarity measures for each layer, for pairs of trained and of untrained nets, with error bars",
        figure=figure,
        columns=(
            "measure", "layer", "kind", "n_pairs", "value", "standard_error", "low", "high", "lowest_pair",
            "highest_pair", "null", "null_sd",
        ),
        rows=rows,
    )  # fmt: skip


MARKERS = ("o", "s")


def two_runs(names: tuple[str, str], layers: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> Drawing | None:
    """Measures with their intervals, the first run full and the second one hollow.

    ``rows`` are (measure, layer, kind, run, value, low, high); None without any.
    """
    panels = list(dict.fromkeys(row[0] for row in rows))
    if not panels:
        return None
    figure, axes = new_figure(3.6 * len(panels) + 0.4, 3.5, len(panels))
    with drawing_style():
        for ax, measure in zip(axes, panels, strict=True):
            labelled = set()
            for of, layer, kind, run, value, low, high in rows:
                if of != measure:
                    continue
                second = run != names[0]
                word = f"{run}, {KIND_WORDS[kind]}"
                ax.errorbar(
                    layers.index(layer) + 0.26 * (second - 0.5) + 0.1 * (kind != "trained"),
                    value,
                    [[value - low], [high - value]],
                    fmt=MARKERS[kind != "trained"],
                    color=KIND_COLOURS[kind],
                    markerfacecolor="white" if second else KIND_COLOURS[kind],
                    capsize=3,
                    markersize=6,
                    label=None if word in labelled else word,
                )
                labelled.add(word)
            ax.set_title(MEASURES.load(measure).title)
            ax.set_xticks(range(len(layers)), layers)
            ax.set_xlim(-0.5, len(layers) - 0.5)
            ax.set_ylim(0, 1.02)
        axes[0].set_ylabel("similarity of two nets")
        axes[0].legend(loc="lower left", fontsize="small")
    return Drawing(
        name="two-runs",
        title=f"{names[0]} and {names[1]}",
        caption=f"Means over pairs of nets with 95 % intervals over image groups: {names[0]} full, {names[1]} hollow.",
        alt=f"Similarity measures for each layer in the runs {names[0]} and {names[1]}, with error bars",
        figure=figure,
        columns=("measure", "layer", "kind", "run", "value", "low", "high"),
        rows=rows,
    )
