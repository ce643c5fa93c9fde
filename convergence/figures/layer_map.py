"""A comparison of several layers: every layer of one net with every layer of another."""

from __future__ import annotations

from typing import Any

import numpy as np

from convergence.figures.style import Drawing, drawing_style, new_figure
from convergence.similarity import MEASURES
from convergence.summary import TRAINED_OR_NOT, Kind, Layer
from convergence.uncertainty import Estimate, mean_estimate

PREFERRED = ("linear_cka", "matching")


def layer_map(layer: Layer) -> list[Drawing]:
    """One drawing for each state of training, [] unless a comparison joins several layers of one epoch."""
    if len(set(layer.layers)) < 2 or len(set(layer.epochs)) > 1:
        return []
    return [drawing for kind in TRAINED_OR_NOT if (drawing := _draw(layer, kind)) is not None]


def _draw(layer: Layer, kind: Kind) -> Drawing | None:
    names = list(dict.fromkeys(layer.layers))
    shown = [name for name in PREFERRED if name in layer.measures()] or layer.measures()[:1]
    found: dict[tuple[str, str, str], list[Estimate]] = {}
    place = {net: (of, where) for net, of, where in zip(layer.nets, layer.of_net, layer.layers, strict=True)}
    for pair in layer.of_kind(kind):
        (net_x, layer_x), (net_y, layer_y) = place[pair.x], place[pair.y]
        if net_x == net_y:
            continue
        for measure in shown:
            directions = pair.tree["measures"].get(measure, {})
            if directions:
                estimate = mean_estimate([Estimate(**e) for e in directions.values()])
                found.setdefault((measure, layer_x, layer_y), []).append(estimate)
                found.setdefault((measure, layer_y, layer_x), []).append(estimate)
    if not found:
        return None
    figure, axes = new_figure(4.6 * len(shown), 3.9, len(shown))
    rows: list[tuple[Any, ...]] = []
    said = []
    with drawing_style():
        for ax, measure in zip(axes, shown, strict=True):
            matrix = np.full((len(names), len(names)), np.nan)
            for (of, a, b), estimates in found.items():
                if of == measure:
                    mean = mean_estimate(estimates)
                    matrix[names.index(a), names.index(b)] = mean.value
                    rows.append((measure, a, b, mean.value, mean.standard_error, mean.low, mean.high, len(estimates)))
            image = ax.imshow(matrix, cmap="viridis", vmin=0, vmax=1)
            for a, b in np.ndindex(matrix.shape):
                if np.isfinite(matrix[a, b]):
                    colour = "white" if matrix[a, b] < 0.6 else "black"
                    ax.text(b, a, f"{matrix[a, b]:.2f}", ha="center", va="center", fontsize="small", color=colour)
            ax.set_xticks(range(len(names)), names, rotation=45, ha="right")
            ax.set_yticks(range(len(names)), names)
            ax.set_title(MEASURES.load(measure).title)
            ax.grid(False)
            figure.colorbar(image, ax=ax, shrink=0.8)
            if np.isfinite(matrix).all():
                right = int((matrix.argmax(axis=1) == np.arange(len(names))).sum())
                said.append(f"{right} of {len(names)} layers by {MEASURES.load(measure).title}")
    return Drawing(
        name=f"{layer.name}-{kind}-layer-map",
        title=f"Which layer is like which, {kind} nets",
        caption=f"Mean over pairs of different {kind} nets. A layer is most like the same layer of another net for "
        f"{', '.join(said) or 'no measure that is known for all'}.",
        alt="Similarity of every layer of one net with every layer of another",
        figure=figure,
        columns=("measure", "layer", "other_layer", "value", "standard_error", "low", "high", "n_pairs"),
        rows=rows,
    )
