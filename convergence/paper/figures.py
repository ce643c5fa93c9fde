"""The paper's figures for one layer: loss against penalty in all readings; matrices and partners as in the report."""

from __future__ import annotations

from typing import Any

import numpy as np

from convergence.figures.partners import matched_units, matrices
from convergence.figures.style import ACCENT, NULL, SECOND, TRAINED, UNTRAINED, Drawing, drawing_style, new_figure
from convergence.paper.published import LAYERS, RECOVERED, Curve, PublishedLayer
from convergence.paper.readings import LayerReading, Prediction

ZERO_AT = 10**-5.7
"""Position of λ = 0 on the logarithmic axis."""
_SHORT = {"color": UNTRAINED, "marker": "^"}
_LONG = {"color": TRAINED, "linewidth": 4, "alpha": 0.4}
_EXACT = {"color": ACCENT, "marker": "o"}
_COLOURS = (UNTRAINED, TRAINED, SECOND, ACCENT, NULL)


def drawings(reading: LayerReading) -> list[Drawing]:
    """All figures of one layer and pair."""
    found = [matrices(reading.layer, reading.pair), matched_units(reading.layer, reading.pair)]
    return found if reading.prediction is None else [*found, losses_by_penalty(reading, reading.prediction)]


def losses_by_penalty(reading: LayerReading, p: Prediction) -> Drawing:
    """Prediction loss against λ: exact, by SGD as long as the original's and longer; and the published curves."""
    own = LAYERS.get(reading.name)
    published = [own] if own else list(LAYERS.values())
    figure, axes = new_figure(10.4, 3.9, 2)
    rows: list[tuple[Any, ...]] = []
    with drawing_style():
        error = np.nan_to_num(p.exact_error)
        axes[0].fill_between(
            _at(p.lambdas), p.exact - 2 * error, p.exact + 2 * error, color=ACCENT, alpha=0.2, linewidth=0
        )
        readings = (
            (f"SGD as in the original, {p.short_steps} steps", p.short, p.short_weights, _SHORT),
            (f"SGD, {p.long_steps} steps", p.long, p.long_weights, _LONG),
            ("exact LASSO", p.exact, p.exact_weights, _EXACT),
        )
        for label, losses, weights, style in readings:
            _line(axes[0], p.lambdas, losses, label, style)
            rows += [
                (reading.name, label, *row) for row in zip(p.lambdas.tolist(), losses.tolist(), weights, strict=True)
            ]
        axes[0].set_title(f"this run: {reading.name}, {reading.pair.x} to {reading.pair.y}")
        axes[0].set_ylabel("prediction loss ½ (1 − R²)")
        for k, layer in enumerate(published):
            rows += _draw_published(axes[1], layer, _COLOURS[k], alone=own is not None)
        axes[1].set_title(f"published: {own.name}" if own else "published: the paper's layers")
        for ax in axes:
            ax.axhline(0.5, color=NULL, linestyle=":", linewidth=1.2)
            ax.set_xscale("log")
            ax.set_xlim(ZERO_AT / 1.5, 0.15)
            ax.set_xticks([ZERO_AT, *(10.0**k for k in range(-5, 0))])
            ax.set_xticklabels(["0", *(rf"$10^{{{k}}}$" for k in range(-5, 0))])
            ax.tick_params(axis="x", which="minor", bottom=False)
            ax.set_xlabel("penalty λ")
            ax.set_ylim(0, 0.56)
            ax.legend(fontsize="small", loc="best")
    return Drawing(
        name=f"{reading.name}-penalty",
        title="Does a penalty lower the loss?",
        caption=f"Loss of predicting units of {reading.pair.y} from those of {reading.pair.x} by penalty λ (alpha = "
        f"{p.n_targets} λ; λ = 0 at the left edge; dotted: nothing explained). At the optimum it cannot fall as λ "
        f"grows. Without penalty {p.short_steps} steps of SGD leave {p.short[0]:.3f}, {p.long_steps} leave "
        f"{p.long[0]:.3f}, and the optimum is {p.exact[0]:.3f}. Band: ± 2 standard errors over image groups.",
        alt="Prediction loss against penalty, exact and by SGD, beside the published losses",
        figure=figure,
        columns=("layer", "reading", "lambda", "loss", "weights_above_0.01"),
        rows=rows,
    )


def _draw_published(ax: Any, layer: PublishedLayer, colour: str, alone: bool) -> list[tuple[Any, ...]]:
    """A layer's published losses: validation means, else Table 1; exact ones beside where known."""
    rows = []
    curves: list[tuple[str, Curve, dict[str, Any]]] = []
    if layer.last_500:
        words = "SGD, mean of last 500 steps" if alone else layer.name
        curves.append((f"{words} ({layer.last_500.source})", layer.last_500, {"color": colour, "marker": "^"}))
    else:
        words = "SGD, last minibatch" if alone else layer.name
        curves.append((f"{words} ({layer.table.source})", layer.table, {"color": colour, "marker": "^"}))
    if layer.name in RECOVERED:
        exact = RECOVERED[layer.name].loss
        words = "exact LASSO" if alone else f"{layer.name}, exact"
        style = {"color": ACCENT if alone else colour, "marker": "o", "linestyle": "--"}
        curves.append((f"{words} ({exact.source})", exact, style))
    for label, curve, style in curves:
        penalties = np.array(sorted(curve.by_lambda))
        losses = np.array([curve.by_lambda[value] for value in penalties])
        _line(ax, penalties, losses, label, style)
        rows += [(f"paper's {layer.name}", label, x, y, "") for x, y in zip(penalties.tolist(), losses, strict=True)]
    return rows


def _line(ax: Any, lambdas: Any, losses: Any, label: str, style: dict[str, Any]) -> None:
    ax.plot(_at(lambdas), losses, label=label, **{"markersize": 4, "linewidth": 1.4} | style)


def _at(lambdas: Any) -> Any:
    return np.where(np.asarray(lambdas) == 0, ZERO_AT, lambdas)
