"""Figure of the causes of similarity: pairs of trained nets by what their trainings share."""

from __future__ import annotations

import numpy as np

from convergence.figures.style import KIND_COLOURS, NULL, TRAINED, Drawing, drawing_style, new_figure
from convergence.results import ALL_IMAGES, ComparisonResults, PairResults
from convergence.similarity import MEASURES

PANELS = ("matching", "linear_cka", "r_squared")
NOTHING = "nothing"


def causes(layer: ComparisonResults, pair: PairResults | None = None) -> Drawing | None:
    """Mean similarity by what nets share, with 95 % intervals over nets; None where all pairs share the same."""
    rows = [row for row in layer.causes if row.evaluation == ALL_IMAGES and row.measure in PANELS]
    if not rows:
        return None
    panels = [name for name in PANELS if any(row.measure == name for row in rows)]
    labels = list(dict.fromkeys((row.network, row.shared) for row in rows))
    figure, axes = new_figure(2.6 * len(panels) + 1.6, 0.42 * len(labels) + 1.2, len(panels))
    with drawing_style():
        for ax, name in zip(axes, panels, strict=True):
            ax.set_title(MEASURES.load(name).title)
            for row in rows:
                if row.measure != name:
                    continue
                at = labels.index((row.network, row.shared))
                known = bool(np.isfinite(row.low))
                ax.errorbar(
                    row.value,
                    at,
                    xerr=[[row.value - row.low], [row.high - row.value]] if known else None,
                    fmt="o" if known else "D",
                    color=KIND_COLOURS["same_init"] if row.same_init else NULL if row.shared == NOTHING else TRAINED,
                    capsize=3,
                )
            words = [f"{shared}{f' ({network})' if network else ''}" for network, shared in labels]
            ax.set_yticks(range(len(labels)), words if ax is axes[0] else [""] * len(labels))
            ax.set_ylim(len(labels) - 0.5, -0.5)
        axes[0].set_ylabel("two nets share")
    return Drawing(
        name=f"{layer.name}-causes",
        title="What makes trained nets similar",
        caption="Mean similarity of pairs of trained nets by what their trainings share; bars: 95 % intervals over "
        "initialisations and images, diamonds: too few initialisations for an interval. Pairs that share the initial "
        "weights are the ceiling of pairs that do not.",
        alt="Similarity of pairs of trained nets, by whether they share initial weights, image order and images",
        figure=figure,
        columns=(
            "network", "measure", "shared", "n_pairs", "n_initialisations", "value", "low", "high", "effect",
            "effect_low", "effect_high", "effect_p",
        ),
        rows=[
            (
                row.network, row.measure, row.shared, row.n_pairs, row.n_initialisations, row.value, row.low, row.high,
                row.effect, row.effect_low, row.effect_high, row.effect_p,
            )
            for row in rows
        ],
    )  # fmt: skip
