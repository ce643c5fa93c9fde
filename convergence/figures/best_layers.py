"""Which layer of another net has a unit's best partner: a map of layers, and the correlation beside chance."""

from __future__ import annotations

from typing import Any

import numpy as np

from convergence.figures.style import KIND_COLOURS, NULL, Drawing, drawing_style, new_figure
from convergence.results import TRAINED_OR_NOT, ComparisonResults, Kind, MeanBestLayers, mean_best_layers

COLUMNS = (
    "kind", "layer", "layer_of_partner", "share", "share_null", "correlation", "null", "best", "best_null",
    "excess", "excess_low", "excess_high", "n_pairs",
)  # fmt: skip


def best_layers(layer: ComparisonResults) -> list[Drawing]:
    """One drawing for each state of training; [] unless a comparison joins several layers of every net."""
    found = ((kind, mean_best_layers(layer, kind)) for kind in TRAINED_OR_NOT)
    return [_draw(layer, kind, mean) for kind, mean in found if mean is not None]


def _draw(layer: ComparisonResults, kind: Kind, found: MeanBestLayers) -> Drawing:
    names, others = found.layers_x, found.layers_y
    side = 1.6 + 0.55 * max(len(names), len(others))
    figure, axes = new_figure(2 * max(side, 3.6) + 3.6, max(side, 3.2), 3, (1.15, 1.15, 1.0))
    with drawing_style():
        for ax, matrix, chance, title in (
            (axes[0], found.share, found.share_null, "share of units with the best partner there"),
            (axes[1], found.correlation, found.null, "correlation with the best partner there"),
        ):
            image = ax.imshow(matrix, cmap="viridis", vmin=0, vmax=1, aspect="auto")
            for a, b in np.ndindex(matrix.shape):
                if np.isfinite(matrix[a, b]):
                    colour = "white" if matrix[a, b] < 0.6 else "black"
                    beside = f"\n({chance[a, b]:.2f})" if np.isfinite(chance[a, b]) else ""
                    text = f"{matrix[a, b]:.2f}{beside}"
                    ax.text(b, a, text, ha="center", va="center", fontsize="small", color=colour)
            ax.set_xticks(range(len(others)), others, rotation=45, ha="right")
            ax.set_yticks(range(len(names)), names)
            ax.set(title=title, xlabel="layer of the other net")
            ax.grid(False)
            figure.colorbar(image, ax=ax, shrink=0.8)
        axes[0].set_ylabel("layer of the units")
        _draw_best(axes[2], kind, found)
    own = [name for k, name in enumerate(names) if name in others and others[int(found.share[k].argmax())] == name]
    beyond = "; ".join(f"{name} {e.value:.3f}{_ends(e.low, e.high)}" for name, e in found.excess_interval.items())
    missing = dict.fromkeys(e.missing for e in found.best_interval.values() if e.missing)
    return Drawing(
        name=f"{layer.name}-{kind}-best-layers",
        title=f"In which layer is a unit's best partner, {kind} nets",
        caption=f"Means over {found.n_pairs} pairs of {kind} nets, both directions. Most units have their best partner "
        f"in the same layer of the other net in {len(own)} of {len(names)} layers."
        + " In brackets: every layer of the other net in another basis." * bool(np.isfinite(found.null).any())
        + f" Correlation with the best partner in all layers above chance: {beyond}." * bool(beyond)
        + " Bars: 95 % intervals over nets."
        + "".join(f" {reason[0].upper()}{reason[1:]}." for reason in missing),
        alt="Share of units with their best partner in each layer of another net, and correlation with it",
        figure=figure,
        columns=COLUMNS,
        rows=_rows(kind, found),
    )


def _draw_best(ax: Any, kind: Kind, found: MeanBestLayers) -> None:
    at = np.arange(len(found.layers_x))
    ends = [found.best_interval[name] for name in found.layers_x]
    reach = np.nan_to_num([[max(e.value - e.low, 0.0) for e in ends], [max(e.high - e.value, 0.0) for e in ends]])
    ax.errorbar(at, found.best, reach, fmt="o", color=KIND_COLOURS[kind], capsize=3, label="in all layers")
    if np.isfinite(found.best_null).any():
        ax.plot(at, found.best_null, "_", color=NULL, markersize=16, markeredgewidth=2.5, label="chance level")
    ax.set_xticks(at, found.layers_x, rotation=45, ha="right")
    ax.set(title="correlation with the best partner", xlabel="layer of the units")
    ax.set_xlim(-0.5, len(at) - 0.5)
    ax.set_ylim(0, 1.02)
    ax.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=2)


def _ends(low: float, high: float) -> str:
    return f" [{low:.3f}, {high:.3f}]" if np.isfinite(low) else ""


def _rows(kind: Kind, found: MeanBestLayers) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for a, name in enumerate(found.layers_x):
        excess = found.excess_interval.get(name)
        numbers = (excess.value, excess.low, excess.high) if excess else (np.nan,) * 3
        for b, other in enumerate(found.layers_y):
            of_both = (getattr(found, part)[a, b] for part in ("share", "share_null", "correlation", "null"))
            rows.append((kind, name, other, *of_both, found.best[a], found.best_null[a], *numbers, found.n_pairs))
    return rows
