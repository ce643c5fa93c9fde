"""All layers in one figure, beside untrained nets and nets in another basis; two runs side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convergence.figures.style import (
    KIND_COLOURS,
    KIND_MARKERS,
    KIND_WORDS,
    NULL,
    Drawing,
    draw_intervals,
    drawing_style,
    interval_legend,
    intervals_caption,
    name_ticks,
    new_figure,
)
from convergence.results import KINDS, ComparisonResults, Summary, kinds_of, title_of

PANELS = ("matching", "semi_matching", "linear_cka")
NUMBERS = (
    "value", "net_error", "low", "high", "image_error", "image_low", "image_high", "lowest", "highest", "null",
    "null_sd",
)  # fmt: skip
"""Columns of a summary that go with the figure."""


def overview(layers: Sequence[ComparisonResults]) -> Drawing:
    """Mean of each shown measure over pairs of nets, layer by layer, with 95 % intervals and chance levels."""
    panels = [name for name in PANELS if any(name in layer.measures for layer in layers)]
    panels = panels or layers[0].measures[:3]
    figure, axes = new_figure(3.6 * len(panels) + 0.4, 3.5, len(panels))
    kinds = kinds_of(layers)
    rows, drawn = [], []
    with drawing_style():
        for ax, name in zip(axes, panels, strict=True):
            ax.set_title(title_of(name))
            nulls = 0
            for offset, kind in enumerate(kinds):
                labelled = False
                for at, layer in enumerate(layers):
                    found = layer.summary(name, kind)
                    if found is None:
                        continue
                    drawn.append(found)
                    rows.append((name, layer.name, kind, found.n_pairs, *(getattr(found, of) for of in NUMBERS)))
                    x = at + 0.17 * (offset - (len(kinds) - 1) / 2)
                    word = None if labelled else KIND_WORDS[kind]
                    draw_intervals(ax, x, found, KIND_COLOURS[kind], KIND_MARKERS[kind], word)
                    labelled = True
                    if np.isfinite(found.null):
                        word = None if nulls else "another basis"
                        ax.plot([x - 0.07, x + 0.07], [found.null] * 2, color=NULL, linewidth=2.0, label=word)
                        nulls += 1
            name_ticks(ax, [layer.name for layer in layers])
            ax.set_xlim(-0.5, len(layers) - 0.5)
            ax.set_ylim(0, 1.02)
        axes[0].set_ylabel("similarity of two nets")
        interval_legend(axes[0], drawn, below=True)
    return Drawing(
        name="overview",
        title="Every layer at a glance",
        caption=f"Mean over all pairs of nets. {intervals_caption(drawn)} Grey marks: chance, the same measure for a "
        "net with pre-activations in a random basis, whose units keep their means and variances. "
        "Untrained nets show the similarity without learning.",
        alt="Similarity measures for each layer, by kind of pairs of nets, with error bars",
        figure=figure,
        columns=("measure", "layer", "kind", "n_pairs", *NUMBERS),
        rows=rows,
    )


def two_runs(
    names: tuple[str, str], layers: Sequence[str], found: Sequence[tuple[str, str, Summary]]
) -> Drawing | None:
    """Measures with their intervals, the first run full and the second one hollow.

    ``found`` are (layer, run, summary); None without any.
    """
    panels = list(dict.fromkeys(summary.measure for _, _, summary in found))
    if not panels:
        return None
    kinds: list[str] = [kind for kind in KINDS if any(summary.kind == kind for _, _, summary in found)]
    figure, axes = new_figure(3.6 * len(panels) + 0.4, 3.5, len(panels))
    with drawing_style():
        for ax, measure in zip(axes, panels, strict=True):
            labelled = set()
            for layer, run, summary in found:
                if summary.measure != measure:
                    continue
                second, kind = run != names[0], kinds.index(summary.kind)
                word, colour = f"{run}, {KIND_WORDS[summary.kind]}", KIND_COLOURS[summary.kind]
                at = layers.index(layer) + 0.4 * (second - 0.5) + 0.12 * (kind - (len(kinds) - 1) / 2)
                draw_intervals(ax, at, summary, colour)
                ax.plot(
                    at, summary.value, KIND_MARKERS[summary.kind], color=colour, markersize=5.5, zorder=4,
                    markerfacecolor="white" if second else colour, label=None if word in labelled else word,
                )  # fmt: skip
                labelled.add(word)
            ax.set_title(title_of(measure))
            name_ticks(ax, layers)
            ax.set_xlim(-0.5, len(layers) - 0.5)
            ax.set_ylim(0, 1.02)
        axes[0].set_ylabel("similarity of two nets")
        interval_legend(axes[0], (summary for _, _, summary in found), below=True)
    return Drawing(
        name="two-runs",
        title=f"{names[0]} and {names[1]}",
        caption=f"Means over pairs of nets: {names[0]} full, {names[1]} hollow. "
        f"{intervals_caption(summary for _, _, summary in found)}",
        alt=f"Similarity measures for each layer in the runs {names[0]} and {names[1]}, with error bars",
        figure=figure,
        columns=("measure", "layer", "kind", "run", *NUMBERS),
        rows=[(s.measure, layer, s.kind, run, *(getattr(s, of) for of in NUMBERS)) for layer, run, s in found],
    )
