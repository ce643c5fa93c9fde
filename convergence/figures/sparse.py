"""Few-to-one prediction: the LASSO path, its refit, forward selection."""

from __future__ import annotations

from typing import Any

import numpy as np

from convergence.figures.style import KIND_COLOURS, KIND_WORDS, Drawing, drawing_style, new_figure
from convergence.summary import Layer, PairResult, dense_loss, mean_over, one_unit_loss


def sparse_prediction(layer: Layer, pair: PairResult) -> Drawing | None:
    """Loss of predicting units from few units of another net: along the LASSO path and by number of units."""
    if "sparse_xy" not in pair.tree:
        return None
    figure, axes = new_figure(12.4, 3.5, 3)
    rows: list[tuple[Any, ...]] = []
    facts = {}
    with drawing_style():
        for kind in layer.kinds:
            pairs = layer.of_kind(kind)
            one, everything = one_unit_loss(layer, kind), dense_loss(layer, kind)
            assert one is not None
            assert everything is not None
            colour, word = KIND_COLOURS[kind], KIND_WORDS[kind]

            def both(name: str, pairs: list[PairResult] = pairs) -> Any:
                return (mean_over(pairs, "sparse_xy", name) + mean_over(pairs, "sparse_yx", name)) / 2

            # Errors of different pairs come from the same images: averaged, not divided by the number of pairs.
            alphas, loss, error = both("alphas"), both("loss"), both("loss_error")
            dense = everything.estimate.value
            units, refitted, forward = both("n_nonzero"), both("refit_loss"), both("forward_loss")
            facts[kind] = (one, everything, forward)
            axes[0].fill_between(alphas, loss - 2 * error, loss + 2 * error, color=colour, alpha=0.2, linewidth=0)
            axes[0].plot(alphas, loss, color=colour, linewidth=1.8, label=word)
            axes[0].axhline(dense, color=colour, linestyle=":", linewidth=1.4)
            axes[1].plot(alphas, units, color=colour, linewidth=1.8, label=word)
            axes[2].plot(units, loss, color=colour, linewidth=1.8, label=f"LASSO, {word}")
            axes[2].plot(units, refitted, color=colour, linestyle="--", linewidth=1.4, label=f"LASSO refit, {word}")
            axes[2].plot(
                np.arange(1, len(forward) + 1),
                forward,
                "o",
                color=colour,
                markersize=3.5,
                label=f"forward, {word}",
            )
            rows += [
                (kind, "lasso", a, n, value, e, again)
                for a, n, value, e, again in zip(alphas, units, loss, error, refitted, strict=True)
            ]
            rows += [(kind, "forward", "", k, value, "", value) for k, value in enumerate(forward, start=1)]
            e = one.estimate
            rows.append((kind, "one unit", "", 1, e.value, e.standard_error, e.value))
            rows.append((kind, "one unit of a rotated basis", "", 1, e.null, e.null_sd, e.null))
            rows += [(kind, "dense", 0.0, both("rank"), dense, everything.estimate.standard_error, dense)]
        for ax in axes[:2]:
            ax.set_xscale("log")
            ax.set_xlabel("penalty alpha (dotted: no penalty)")
            ax.legend(fontsize="small")
        axes[0].set(title="prediction loss", ylabel="½ (1 − R²)", ylim=(0, 0.52))
        axes[1].set(title="units that a target uses", ylabel="mean number of units")
        axes[2].set(title="loss against units used", xlabel="mean number of units", ylim=(0, 0.52))
        axes[2].set_xlim(0, 1.15 * pair.tree["sparse_xy"]["forward_loss"].size)
        axes[2].legend(fontsize="small")
    kind = layer.kinds[0]
    one, everything, forward = facts[kind]
    gap = max(p.tree[d]["kkt_gap"].max() for p in layer.pairs for d in ("sparse_xy", "sparse_yx"))
    return Drawing(
        name=f"{layer.name}-sparse",
        title="How few units predict one unit?",
        caption=f"Mean over both directions of all pairs of {KIND_WORDS[kind]}: one unit leaves a loss of {one} "
        f"(one unit of a rotated basis: {one.estimate.null:.3f}), {min(3, len(forward))} units "
        f"{forward[min(2, len(forward) - 1)]:.3f}, all units {everything}; 0.5 means that nothing is explained, 0 all. "
        f"Fitted and scored on the same images. Every point of the path is optimal to {gap:.0e} (KKT gap).",
        alt="Prediction loss and number of units along the LASSO path, and loss against number of units",
        figure=figure,
        columns=("pairs", "method", "alpha", "n_units", "loss", "standard_error", "refit_loss"),
        rows=rows,
    )
