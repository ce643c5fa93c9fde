"""All layers in one figure: how similar nets are, beside nets that learnt nothing and a rotated basis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convergence.figures.style import KIND_COLOURS, KIND_WORDS, NULL, Drawing, drawing_style, new_figure
from convergence.similarity import MEASURES
from convergence.summary import Layer, kinds_of, measured

PANELS = ("matching", "semi_matching", "linear_cka")


def overview(layers: Sequence[Layer]) -> Drawing:
    """Mean of each shown measure over pairs of nets, layer by layer, with 95 % intervals and chance levels."""
    panels = [name for name in PANELS if any(name in layer.measures() for layer in layers)]
    panels = panels or layers[0].measures()[:3]
    figure, axes = new_figure(3.6 * len(panels) + 0.4, 3.3, len(panels))
    rows = []
    with drawing_style():
        for ax, name in zip(axes, panels, strict=True):
            ax.set_title(MEASURES.load(name).title)
            for offset, kind in enumerate(kinds_of(layers)):
                labelled = False
                for at, layer in enumerate(layers):
                    found = measured(layer, name, kind)
                    if found is None:
                        continue
                    e = found.estimate
                    rows.append(
                        (
                            name,
                            layer.name,
                            kind,
                            found.n_pairs,
                            e.value,
                            e.standard_error,
                            e.low,
                            e.high,
                            found.lowest,
                            found.highest,
                            e.null,
                            e.null_sd,
                        )
                    )
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
        caption="Mean over all pairs of nets; bars are 95 % jackknife intervals over image groups. Grey marks: the "
        "same measure after a random rotation of one net's basis, which keeps what the layer spans and destroys "
        "its units. Untrained nets say how much of the similarity needs no learning.",
        alt="Similarity measures for each layer, for pairs of trained and of untrained nets, with error bars",
        figure=figure,
        columns=(
            "measure",
            "layer",
            "kind",
            "n_pairs",
            "value",
            "standard_error",
            "low",
            "high",
            "lowest_pair",
            "highest_pair",
            "null",
            "null_sd",
        ),
        rows=rows,
    )
