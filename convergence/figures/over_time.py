"""A comparison over epochs: when units become what they end as, and when units of two nets first match."""

from __future__ import annotations

from typing import Any

import numpy as np

from convergence.figures.style import ACCENT, SECOND, TRAINED, UNTRAINED, Drawing, drawing_style, new_figure
from convergence.summary import Layer


def over_time(layer: Layer) -> list[Drawing]:
    """One drawing a layer that is compared over epochs."""
    return [_draw(layer, name, tree) for name, tree in layer.all_nets.get("over_time", {}).items()]


def _draw(layer: Layer, name: str, tree: dict[str, Any]) -> Drawing:
    epochs = np.asarray(tree["epochs"])
    at = np.arange(len(epochs))
    pairs = tree["pairs"]
    figure, axes = new_figure(12.4 if pairs else 4.2, 3.5, 3 if pairs else 1)
    rows: list[tuple[Any, ...]] = []
    facts = ""

    def line(ax: Any, found: list[dict[str, Any]], what: str, colour: str, word: str) -> np.ndarray:
        value = np.mean([f["value"] for f in found], axis=0)
        error = np.mean([f["standard_error"] for f in found], axis=0)
        ax.fill_between(at, value - 2 * error, value + 2 * error, color=colour, alpha=0.2, linewidth=0)
        ax.plot(at, value, "o-", markersize=4, color=colour, label=word)
        rows.extend((what, int(e), v, s) for e, v, s in zip(epochs, value, error, strict=True))
        return np.asarray(value)

    with drawing_style():
        line(axes[0], list(tree["own"].values()), "own", TRAINED, "same unit, last epoch")
        axes[0].set(title="a unit and what it ends as", ylabel="mean correlation")
        if pairs:
            matched = line(axes[1], [p["matched"] for p in pairs.values()], "matched", TRAINED, "matched at the epoch")
            line(axes[1], [p["with_final_partner"] for p in pairs.values()], "final partner", ACCENT, "final partner")
            axes[1].set(title="two nets at equal epochs", ylabel="mean correlation")
            line(
                axes[2],
                [p["same_partner"] for p in pairs.values()],
                "same partner",
                SECOND,
                "matched with final partner",
            )
            first = np.concatenate([p["first_matched"] for p in pairs.values()])
            first = first[first >= 0]
            share = np.array([np.mean(first <= e) for e in epochs])
            axes[2].plot(at, share, "s--", markersize=4, color=UNTRAINED, label="… and from then on")
            rows += [("first matched", int(e), v, "") for e, v in zip(epochs, share, strict=True)]
            axes[2].set(title="when units find their partner", ylabel="share of units")
            half = epochs[np.argmax(share >= 0.5)]
            facts = (
                f" Matched units correlate at {matched[0]:.3f} at epoch {epochs[0]} and at {matched[-1]:.3f} at epoch "
                f"{epochs[-1]}; half of the units have their final partner for good from epoch {half} on."
            )
        for ax in axes:
            ax.set_xticks(at, [str(e) for e in epochs])
            ax.set_xlabel("epoch")
            ax.set_ylim(min(0, ax.get_ylim()[0]), 1.02)
            ax.legend(fontsize="small", loc="lower right")
    return Drawing(
        name=f"{layer.name}-{name}-over-time" if name != layer.name else f"{layer.name}-over-time",
        title=f"{name} over time",
        caption=f"Means over {len(tree['own'])} nets and {len(pairs)} pairs of them; bands are ± 2 standard errors "
        f"over image groups. A unit's final partner is the one that matching gives it at the last epoch.{facts}",
        alt="Correlation of units with their end and with their partners, and share of units with their final partner, "
        "by epoch",
        figure=figure,
        columns=("what", "epoch", "value", "standard_error"),
        rows=rows,
    )
