"""How similarity grows with the width of a layer and with training time, each point with its own chance level."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convergence.figures.overview import PANELS
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
    new_figure,
    slug,
)
from convergence.results import ComparisonResults, Growth, growths_across, growths_within
from convergence.results.growth import COLUMNS, EPOCH, WIDTH
from convergence.similarity import MEASURES

AXES = {WIDTH: "width of the layer (units)", EPOCH: "epoch"}
"""What the axis says of a quantity."""


def growth(layer: ComparisonResults) -> list[Drawing]:
    """A drawing a layer and quantity in which groups of nets of a comparison differ; [] without such groups."""
    return _drawings(layer.name, growths_within(layer, _measures([layer])))


def growth_across(layers: Sequence[ComparisonResults]) -> list[Drawing]:
    """The same where the nets of each width have a comparison of their own."""
    return _drawings("", growths_across(layers, _measures(layers)))


def _measures(layers: Sequence[ComparisonResults]) -> list[str]:
    return [name for name in PANELS if any(name in layer.measures for layer in layers)]


def _drawings(name: str, found: Sequence[Growth]) -> list[Drawing]:
    together: dict[tuple[str, str], list[Growth]] = {}
    for one in found:
        together.setdefault((one.along, one.of), []).append(one)
    return [_draw(name, along, of, lines) for (along, of), lines in together.items()]


def _draw(name: str, along: str, of: str, lines: Sequence[Growth]) -> Drawing:
    """A panel a measure, a line a kind of pairs of nets."""
    panels = list(dict.fromkeys(line.measure for line in lines))
    places = sorted({at for line in lines for at, _ in line.points})
    figure, axes = new_figure(3.6 * len(panels) + 0.4, 3.5, len(panels))
    drawn, rows = [], []
    kinds = list(dict.fromkeys(line.kind for line in lines))
    with drawing_style():
        for ax, measure in zip(axes, panels, strict=True):
            own = [line for line in lines if line.measure == measure]
            nulls = 0
            for line in own:
                shift = 0.1 * (kinds.index(line.kind) - (len(kinds) - 1) / 2)
                at = np.array([places.index(value) for value, _ in line.points]) + shift
                summaries = [summary for _, summary in line.points]
                colour = KIND_COLOURS[line.kind]
                ax.plot(at, [s.value for s in summaries], color=colour, linewidth=1.2)
                for k, (x, summary) in enumerate(zip(at, summaries, strict=True)):
                    word = None if k else KIND_WORDS[line.kind]
                    draw_intervals(ax, x, summary, colour, KIND_MARKERS[line.kind], word)
                null, spread = (np.array([getattr(s, part) for s in summaries]) for part in ("null", "null_sd"))
                if np.isfinite(null).any():
                    ax.plot(at, null, "_--", color=NULL, markersize=9, label=None if nulls else "chance level")
                    ax.fill_between(at, null - 2 * spread, null + 2 * spread, color=NULL, alpha=0.15, linewidth=0)
                    nulls += 1
                drawn += summaries
                rows += list(line.rows())
            ax.set_title(MEASURES.load(measure).title)
            ax.set_xticks(range(len(places)), [f"{value:g}" for value in places])
            ax.set_xlim(-0.4, len(places) - 0.6)
            lowest = min(level for s in drawn for level in (s.value, s.null) if np.isfinite(level))
            ax.set_ylim(min(0.0, lowest - 0.05), 1.02)
            ax.set_xlabel(AXES.get(along, along))
        axes[0].set_ylabel("similarity of two nets")
        interval_legend(axes[0], drawn, below=True)
    chance = f" Grey: the chance level of each {along}, ± 2 standard deviations over draws."
    start = " Epoch 0: the initial weights." if along == EPOCH and places[0] == 0 else ""
    return Drawing(
        name=slug("-".join(part for part in (name, "growth", along, of) if part)),
        title=f"Similarity against {along}, {of}",
        caption=f"Means over the pairs of nets of each {along}.{start} {intervals_caption(drawn)}"
        + chance * any(np.isfinite(summary.null) for summary in drawn),
        alt=f"Similarity of two nets against {AXES.get(along, along)}, with error bars and chance levels",
        figure=figure,
        columns=COLUMNS,
        rows=rows,
    )
