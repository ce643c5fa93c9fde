"""Two runs beside each other, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convergence.figures.style import KIND_COLOURS, KIND_WORDS, Drawing, drawing_style, new_figure
from convergence.similarity import MEASURES

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
