"""Figures of stitching: accuracy by layer and map, by units per target, and effects of single units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from convergence.figures.style import ACCENT, NULL, SECOND, TRAINED, UNTRAINED, Drawing, drawing_style, new_figure
from convergence.functional.stitching.results import StitchedLayer

WORDS = {
    "own": "own layer",
    "least_squares": "least squares",
    "orthogonal": "orthogonal",
    "affine_penultimate": "affine, fitted at the penultimate layer",
    "orthogonal_penultimate": "orthogonal, fitted at the penultimate layer",
    "one_to_one": "one-to-one",
    "one_to_one_slope": "one-to-one, slope of least squares",
    "soft": "soft matching",
    "mean": "means only",
    "permuted": "random partners",
    "permuted_slope": "random partners, slope of least squares",
    "rotated": "one-to-one, random basis",
}
"""Names of the maps, in the order of tables."""
SHOWN = (
    ("least_squares", TRAINED, "o"), ("one_to_one", ACCENT, "D"), ("soft", SECOND, "^"),
    ("rotated", NULL, "x"), ("permuted", NULL, "s"), ("mean", NULL, "."),
)  # fmt: skip
KINDS = (("trained", "from another trained net"), ("untrained", "from an untrained net"))


def accuracy_by_layer(layers: Sequence[StitchedLayer]) -> Drawing:
    """Accuracy of stitched nets for each layer and map, beside chance levels."""
    kinds = [(kind, words) for kind, words in KINDS if any(layer.pairs(kind) for layer in layers)]
    figure, axes = new_figure(2.2 + 1.3 * len(layers) * len(kinds), 3.5, len(kinds))
    rows: list[tuple[Any, ...]] = []
    with drawing_style():
        for ax, (kind, words) in zip(axes, kinds, strict=True):
            ax.set_title(words)
            shown = [item for item in SHOWN if any(layer.accuracy(item[0], kind) for layer in layers)]
            for at, layer in enumerate(layers):
                own = layer.accuracy("own", kind)
                if own is None:
                    continue
                ax.plot([at - 0.4, at + 0.4], [own.value] * 2, color="black", linewidth=1, zorder=1)
                rows.append((layer.name, kind, "own", own.value, own.standard_error, own.low, own.high))
                for k, (name, colour, marker) in enumerate(shown):
                    e = layer.accuracy(name, kind)
                    if e is None:
                        continue
                    rows.append((layer.name, kind, name, e.value, e.standard_error, e.low, e.high))
                    ax.errorbar(
                        at + 0.13 * (k - (len(shown) - 1) / 2), e.value, [[e.value - e.low], [e.high - e.value]],
                        fmt=marker, color=colour, capsize=2.5, markersize=6, label=WORDS[name] if at == 0 else None,
                    )  # fmt: skip
            ax.set_xticks(range(len(layers)), [layer.name for layer in layers])
            ax.set_xlim(-0.5, len(layers) - 0.5)
            ax.set_ylim(0, 1.02)
        axes[0].set_ylabel("held-out accuracy")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize="small")
    return Drawing(
        name="stitch-accuracy",
        title="Accuracy of stitched nets",
        caption="Accuracy with one layer computed from another net by an affine map, mean over pairs. Black lines: the "
        "net with its own layer. Grey: one-to-one matching with a random basis (×), random partners (squares), and "
        "unit means (dots). Maps are fitted on one half of the image groups and scored on the other; bars are 95 % "
        "intervals over image groups.",
        alt="Held-out accuracy of stitched nets by layer, for several maps and chance levels, with error bars",
        figure=figure,
        columns=("layer", "from", "map", "accuracy", "standard_error", "low", "high"),
        rows=rows,
    )


def accuracy_by_units(layers: Sequence[StitchedLayer]) -> Drawing | None:
    """Accuracy against the largest number of units per target."""
    numbers = {layer.name: layer.units_per_target() for layer in layers}
    if not any(numbers.values()):
        return None
    figure, axes = new_figure(3.3 * len(layers) + 0.4, 3.1, len(layers))
    rows: list[tuple[Any, ...]] = []
    with drawing_style():
        for ax, layer in zip(axes, layers, strict=True):
            ax.set_title(layer.name)
            for kind, colour in (("trained", TRAINED), ("untrained", UNTRAINED)):
                found = [(k, e) for k in numbers[layer.name] if (e := layer.accuracy(f"sparse_{k}", kind))]
                if not found:
                    continue
                x, values = [k for k, _ in found], np.array([e.value for _, e in found])
                low, high = (np.array([getattr(e, end) for _, e in found]) for end in ("low", "high"))
                label = f"from {'a trained' if kind == 'trained' else 'an untrained'} net"
                errors = [values - low, high - values]
                ax.errorbar(x, values, errors, fmt="o-", color=colour, capsize=2.5, markersize=5, label=label)
                rows += [(layer.name, kind, k, e.value, e.standard_error, e.low, e.high) for k, e in found]
                if (dense := layer.accuracy("least_squares", kind)) is not None:
                    ax.axhline(dense.value, color=colour, linestyle=":", linewidth=1.4)
                    rows.append((layer.name, kind, "all", dense.value, dense.standard_error, dense.low, dense.high))
            if (own := layer.accuracy("own", layer.kinds[0])) is not None:
                ax.axhline(own.value, color="black", linewidth=1)
            ax.set_xscale("log", base=2)
            ax.set_xticks(numbers[layer.name], [str(k) for k in numbers[layer.name]])
            ax.set(ylim=(0, 1.02), xlabel="units per target")
        axes[0].set_ylabel("held-out accuracy")
        axes[-1].legend(loc="lower right", fontsize="small")
    return Drawing(
        name="stitch-units",
        title="Accuracy against units per target",
        caption="Each unit of the layer is predicted from at most k units of the other net (forward selection). "
        "Dotted: from all units (least squares). Black: the net with its own layer. Bars are 95 % intervals over image "
        "groups.",
        alt="Held-out accuracy of stitched nets against the number of units per target, by layer",
        figure=figure,
        columns=("layer", "from", "units", "accuracy", "standard_error", "low", "high"),
        rows=rows,
    )


def effect_by_strength(layers: Sequence[StitchedLayer]) -> Drawing | None:
    """Rise of the loss by replacing single units against the strength of their match."""
    some = [layer for layer in layers if layer.replacements("transplanted", "trained")]
    if not some:
        return None
    figure, axes = new_figure(3.3 * len(some) + 0.4, 3.6, len(some))
    rows: list[tuple[Any, ...]] = []
    with drawing_style():
        for ax, layer in zip(axes, some, strict=True):
            for kind, colour, marker, words in (
                ("ablated", NULL, "_", "ablated (its mean)"),
                ("shuffled", SECOND, ".", "shuffled: same correlation, error of the next image"),
                ("transplanted", TRAINED, "o", "partner"),
            ):
                for k, (pair, units) in enumerate(layer.replacements(kind, "trained")):
                    gain, r = [u.gain for u in units], [u.strength for u in units]
                    ax.plot(r, gain, marker, color=colour, markersize=5 if marker != "." else 6,
                            alpha=0.75, label=None if k else words)  # fmt: skip
                    rows += [(layer.name, pair.a, pair.b, u.unit, kind, u.strength, u.gain, u.error) for u in units]
            ax.set_yscale("symlog", linthresh=1e-3)
            ax.axhline(0, color="black", linewidth=0.8)
            rank = layer.rank("transplanted", "trained")
            ax.set_title(layer.name if rank is None else f"{layer.name}: Spearman {rank.value:+.2f}")
            ax.set_xlabel("correlation with the partner, held out")
        axes[0].set_ylabel("rise of the loss (nats)")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    return Drawing(
        name="stitch-transplants",
        title="Rise of the loss by replacing single units",
        caption="One mark per unit, replaced alone by its one-to-one partner in another trained net (blue), by its "
        "mean (grey), or by a signal of the same correlation with the error of the next image (pink). The vertical "
        "axis is linear below 0.001 nats. Spearman: rank correlation of match strength and the partner's effect, mean "
        "over pairs.",
        alt="Rise of the loss against match strength for each unit replaced alone, by layer",
        figure=figure,
        columns=("layer", "a", "b", "unit", "replaced_by", "correlation", "loss_rise", "standard_error"),
        rows=rows,
    )


def accuracy_by_share(layers: Sequence[StitchedLayer]) -> Drawing | None:
    """Accuracy with more and more units replaced by their partners, in three orders."""
    some = [layer for layer in layers if layer.cumulative("best", "trained")]
    if not some:
        return None
    figure, axes = new_figure(3.3 * len(some) + 0.4, 3.1, len(some))
    rows: list[tuple[Any, ...]] = []
    with drawing_style():
        for ax, layer in zip(axes, some, strict=True):
            ax.set_title(layer.name)
            for order, colour, words in (
                ("best", TRAINED, "best matches first"), ("random", NULL, "random order"),
                ("worst", UNTRAINED, "worst matches first"),
            ):  # fmt: skip
                for k, (pair, steps) in enumerate(layer.cumulative(order, "trained")):
                    share, found = [s.units / s.n_units for s in steps], [s.accuracy for s in steps]
                    ax.plot(share, [e.value for e in found], "o-", color=colour, markersize=3.5, linewidth=1.4,
                            label=None if k else words)  # fmt: skip
                    low, high = [e.low for e in found], [e.high for e in found]
                    ax.fill_between(share, low, high, color=colour, alpha=0.12, linewidth=0)
                    rows += [
                        (layer.name, pair.a, pair.b, order, s.units, e.value, e.low, e.high)
                        for s, e in zip(steps, found, strict=True)
                    ]
            ax.set(ylim=(0, 1.02), xlabel="share of matched units replaced")
        axes[0].set_ylabel("held-out accuracy")
        axes[0].legend(loc="lower left", fontsize="small")
    return Drawing(
        name="stitch-cumulative",
        title="Accuracy with several units replaced by their partners",
        caption="Units of the layer replaced together by their one-to-one partners; one line per pair of trained nets, "
        "with 95 % intervals over image groups.",
        alt="Held-out accuracy against the share of units replaced, for best, worst and random matches first",
        figure=figure,
        columns=("layer", "a", "b", "order", "units", "accuracy", "low", "high"),
        rows=rows,
    )
