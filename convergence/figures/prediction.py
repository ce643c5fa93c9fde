"""Prediction of a unit from few units of another net: the LASSO path, its refit, forward selection, kinds of codes."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import numpy as np

from convergence.figures.style import (
    KIND_COLOURS,
    KIND_WORDS,
    Drawing,
    draw_intervals,
    drawing_style,
    interval_legend,
    intervals_caption,
    new_figure,
)
from convergence.results import ComparisonResults, PairResults, SparsePrediction, Summary

CODE_WORDS = {"local": "one unit", "few": "a few", "distributed": "more", "unexplained": "not explained"}


def sparse_prediction(layer: ComparisonResults, pair: PairResults) -> Drawing | None:
    """Loss of predicting units from few units of another net: along the LASSO path and by number of units."""
    if pair.sparse_both is None:
        return None
    figure, axes = new_figure(12.4, 3.5, 3)
    rows: list[tuple[Any, ...]] = []
    facts = {}
    drawn: list[Summary] = []
    with drawing_style():
        for kind in layer.kinds:
            one, everything = layer.summary("one_unit_loss", kind), layer.summary("all_units_loss", kind)
            assert one is not None
            assert everything is not None
            colour, word, pairs = KIND_COLOURS[kind], KIND_WORDS[kind], layer.of_kind(kind)
            # Errors of different pairs come from the same images: averaged, not divided by the number of pairs.
            alphas, loss, error, units, refitted = (
                _mean(pairs, attrgetter(f"path.{name}"))
                for name in ("alpha", "loss", "loss_error", "n_nonzero", "refit_loss")
            )
            dense, forward = everything.value, _mean(pairs, attrgetter("forward.loss"))
            facts[kind] = (one, everything, forward)
            methods = ("LASSO", "LASSO refit", "forward selection") if kind == layer.kinds[0] else (None, None, None)
            axes[0].fill_between(alphas, loss - 2 * error, loss + 2 * error, color=colour, alpha=0.2, linewidth=0)
            axes[0].plot(alphas, loss, color=colour, linewidth=1.8, label=word)
            axes[0].axhline(dense, color=colour, linestyle=":", linewidth=1.4)
            axes[1].plot(alphas, units, color=colour, linewidth=1.8, label=word)
            axes[2].plot(units, loss, color=colour, linewidth=1.8, label=methods[0])
            axes[2].plot(units, refitted, color=colour, linestyle="--", linewidth=1.4, label=methods[1])
            steps = np.arange(1, len(forward) + 1)
            axes[2].plot(steps, forward, "o", color=colour, markersize=3.5, label=methods[2])
            rows += [
                (kind, "lasso", a, n, value, e, again)
                for a, n, value, e, again in zip(alphas, units, loss, error, refitted, strict=True)
            ]
            rows += [(kind, "forward", "", k, value, "", value) for k, value in enumerate(forward, start=1)]
            rank = _mean(pairs, attrgetter("rank"))
            draw_intervals(axes[2], 1 + 0.08 * (len(facts) - 1.5), one, colour)
            drawn.append(one)
            rows.append((kind, "one unit", "", 1, one.value, one.image_error, one.value))
            if np.isfinite(one.null):
                rows.append((kind, "one unit in another basis", "", 1, one.null, one.null_sd, one.null))
            rows.append((kind, "dense", 0.0, rank, dense, everything.image_error, dense))
        for ax in axes[:2]:
            ax.set_xscale("log")
            ax.set_xlabel("penalty alpha (dotted: no penalty)")
            ax.legend(fontsize="small")
        axes[0].set(title="prediction loss", ylabel="½ (1 − R²)", ylim=(0, 0.52))
        axes[1].set(title="units that a target uses", ylabel="mean number of units")
        axes[2].set(title="loss against units used", xlabel="mean number of units", ylim=(0, 0.66))
        axes[2].set_xlim(0, 1.15 * len(pair.sparse_both[0].forward.loss))
        interval_legend(axes[2], drawn, loc="upper right", handlelength=2.5)  # colours as in the other panels
    kind = layer.kinds[0]
    one, everything, forward = facts[kind]
    gap = max(s.path.kkt_gap.max() for one in layer.pairs for s in one.sparse_both or ())
    few = min(3, len(forward))
    chance = f" ({one.null:.3f} from one unit in another basis)" if np.isfinite(one.null) else ""
    return Drawing(
        name=f"{layer.name}-sparse",
        title="How few units predict one unit?",
        caption=f"Loss of predicting a unit of another net, mean over both directions of all pairs of "
        f"{KIND_WORDS[kind]}: {one} from one unit{chance}, "
        f"{forward[few - 1]:.3f} from {few} units, {everything} from all units. A loss of 0.5 explains nothing, 0 "
        "explains all variance. Fits are scored on the images they were fitted on. The largest KKT gap along the path "
        f"is {gap:.0e}. Bands: ± 2 standard errors over images, for these nets. {intervals_caption(drawn)}",
        alt="Prediction loss and number of units along the LASSO path, and loss against number of units",
        figure=figure,
        columns=("pairs", "method", "alpha", "n_units", "loss", "standard_error", "refit_loss"),
        rows=rows,
    )


def codes(layer: ComparisonResults, pair: PairResults) -> Drawing | None:
    """Share of units by the number of units that reach 90 % of what all explain; loss by number of units, held out."""
    if pair.sparse_both is None:
        return None
    figure, axes = new_figure(9.2, 3.5, 2)
    rows: list[tuple[Any, ...]] = []
    said = []
    with drawing_style():
        for k, kind in enumerate(layer.kinds):
            pairs, colour = layer.of_kind(kind), KIND_COLOURS[kind]
            shares = []
            for at, name in enumerate(CODE_WORDS):
                found = layer.summary(f"code_{name}", kind)
                held = np.mean(_of_directions(pairs, attrgetter(f"held_out_codes.{name}")))
                assert found is not None
                shares.append(found.value)
                x = at + 0.38 * (k - (len(layer.kinds) - 1) / 2)
                word = KIND_WORDS[kind] if at == 0 else None
                axes[0].bar(x, found.value, width=0.36, color=colour, label=word)
                rows.append((kind, name, found.value, "", held))
            said.append(f"{100 * shares[0]:.0f} % by one unit, {100 * shares[1]:.0f} % by a few ({KIND_WORDS[kind]})")
            for values, errors, name, line, word in (
                ("loss", "standard_error", "forward_loss", ":", "same images"),
                ("held_out_loss", "held_out_error", "held_out_forward_loss", "-", "held out"),
            ):
                loss, error = (
                    np.mean(_of_directions(pairs, attrgetter(f"forward.{column}")), axis=0)
                    for column in (values, errors)
                )
                steps = np.arange(1, len(loss) + 1)
                axes[1].fill_between(steps, loss - 2 * error, loss + 2 * error, color=colour, alpha=0.15, linewidth=0)
                axes[1].plot(steps, loss, line, color=colour, label=f"{KIND_WORDS[kind]}, {word}")
                rows += [(kind, f"{name}, {n} units", v, s, "") for n, v, s in zip(steps, loss, error, strict=True)]
        axes[0].set_xticks(range(len(CODE_WORDS)), list(CODE_WORDS.values()))
        axes[0].set(title="units that reach 90 % of the R² of all", ylabel="share of units", ylim=(0, 1.2))
        axes[0].legend(loc="upper right", ncols=2, fontsize="small")
        axes[1].set(title="loss by number of units", xlabel="units (forward selection, refitted)", ylabel="½ (1 − R²)")
        axes[1].set_ylim(0, 0.66)
        axes[1].legend(loc="upper right", ncols=2, fontsize="small")
    most = len(pair.sparse_both[0].forward.loss)
    return Drawing(
        name=f"{layer.name}-codes",
        title="Is the code local?",
        caption="Left: how many units of another net reach 90 % of the R² of all its units: "
        f"{'; '.join(said)}; forward selection adds at most {most} units. “Not explained”: all units together explain "
        "less than 5 % of the variance. These shares depend on the number of images and have no intervals. "
        "Right: mean loss on the images of the fit, and on the other half of the image groups; bands: ± 2 standard "
        "errors over image groups, for these nets.",
        alt="Shares of units with local, few-unit and distributed codes, and loss by number of units",
        figure=figure,
        columns=("pairs", "what", "value", "standard_error", "held_out"),
        rows=rows,
    )


def _mean(pairs: list[PairResults], number: Callable[[SparsePrediction], Any]) -> Any:
    """Mean over pairs of a number in each direction, then the mean of both directions."""
    forth, back = _of_directions(pairs, number)
    return (forth + back) / 2


def _of_directions(pairs: list[PairResults], number: Callable[[SparsePrediction], Any]) -> list[Any]:
    both = [pair.sparse_both for pair in pairs]
    return [np.mean([number(found[k]) for found in both if found is not None], axis=0) for k in (0, 1)]
