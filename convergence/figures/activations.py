"""Mean activations of every net, sorted."""

from __future__ import annotations

from typing import Any

import numpy as np

from convergence.figures.style import KIND_COLOURS, KIND_WORDS, Drawing, drawing_style, new_figure
from convergence.summary import Layer, PairResult, over_pairs


def mean_activations(layer: Layer, pair: PairResult) -> Drawing:
    """Mean activations of every net's units, sorted, overlaid."""
    figure, axes = new_figure(6.4, 3.4)
    (ax,) = axes
    rows: list[tuple[Any, ...]] = []
    of_values = [name for name in ("zero_fraction", "median", "percentile_99") if name in layer.units]
    with drawing_style():
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
                    *(layer.units[name][units[i]] for name in of_values),
                    layer.units["left_out_because"][units[i]],
                )
                for i in order
            ]
        ax.set(xlabel=f"units of {layer.name}, most active first", ylabel="mean activation")
        ax.legend()
    said = " and ".join(
        f"{over_pairs(layer.of_kind(kind), ('mean_activations',))} between {KIND_WORDS[kind]}" for kind in layer.kinds
    )
    return Drawing(
        name=f"{layer.name}-mean-activations",
        title="Do mean activations converge although units differ?",
        caption="One curve a net: its units' mean activations, sorted. Mean distance of two curves, relative to the "
        f"mean activation: {said}. Bands are ± 2 standard errors over image groups.",
        alt="Sorted mean activations of every net",
        figure=figure,
        columns=(
            "net",
            "kind",
            "unit",
            "mean",
            "standard_error",
            *of_values,
            "left_out_because",
        ),
        rows=rows,
    )
