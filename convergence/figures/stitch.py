"""Figures of stitched nets: accuracy by layer and map, by units a target may use, and what single units do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from convergence.figures.style import ACCENT, NULL, SECOND, TRAINED, UNTRAINED, Drawing, drawing_style, new_figure
from convergence.report.stitched import WORDS, StitchedLayer

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
        title="Accuracy of nets with one layer computed by another net",
        caption="The front of one net, a map from unit to unit, the back of the other. Black: the net with its own "
        "layer. Maps are fitted on one half of the image groups and the stitched net is scored on the other; bars are "
        "95 % intervals over image groups, means over pairs. Grey: one-to-one after a random rotation of the giving "
        "net's basis (×), with random partners (squares), and every unit at its mean (dots).",
        alt="Held-out accuracy of stitched nets by layer, for several maps and chance levels, with error bars",
        figure=figure,
        columns=("layer", "from", "map", "accuracy", "standard_error", "low", "high"),
        rows=rows,
    )


def accuracy_by_units(layers: Sequence[StitchedLayer]) -> Drawing | None:
    """Accuracy against the number of units that a target may use."""
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
            ax.set(ylim=(0, 1.02), xlabel="units a target may use")
        axes[0].set_ylabel("held-out accuracy")
        axes[-1].legend(loc="lower right", fontsize="small")
    return Drawing(
        name="stitch-units",
        title="Accuracy against the units that a target may use",
        caption="Each unit of the layer is predicted from at most so many units of the other net (forward selection, "
        "refitted). Dotted: from all of them (least squares). Black: the net with its own layer.",
        alt="Held-out accuracy of stitched nets against the number of units a target may use, by layer",
        figure=figure,
        columns=("layer", "from", "units", "accuracy", "standard_error", "low", "high"),
        rows=rows,
    )


def effect_by_strength(layers: Sequence[StitchedLayer]) -> Drawing | None:
    """Each unit's transplant: what it does to the loss against how well it matches."""
    some = [layer for layer in layers if layer.transplants("trained")]
    if not some:
        return None
    figure, axes = new_figure(3.3 * len(some) + 0.4, 3.6, len(some))
    rows: list[tuple[Any, ...]] = []
    with drawing_style():
        for ax, layer in zip(axes, some, strict=True):
            for kind, colour, marker, words in (
                ("ablated", NULL, "_", "taken away (its mean)"),
                ("shuffled", SECOND, ".", "as correlated, the rest of the next image"),
                ("transplanted", TRAINED, "o", "its partner"),
            ):
                for k, (a, b, tree) in enumerate(layer.transplants("trained")):
                    gain, r = tree["kinds"][kind]["gain"], tree["strength"]
                    ax.plot(r, gain, marker, color=colour, markersize=5 if marker != "." else 6,
                            alpha=0.75, label=None if k else words)  # fmt: skip
                    columns = (tree["units"], [kind] * len(r), r, gain, tree["kinds"][kind]["error"])
                    rows += [(layer.name, a, b, *row) for row in zip(*columns, strict=True)]
            ax.set_yscale("symlog", linthresh=1e-3)
            ax.axhline(0, color="black", linewidth=0.8)
            rank = layer.rank("transplanted", "trained")
            ax.set_title(layer.name if rank is None else f"{layer.name}: Spearman {rank.value:+.2f}")
            ax.set_xlabel("correlation with the partner, held out")
        axes[0].set_ylabel("loss gained (nats)")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    return Drawing(
        name="stitch-transplants",
        title="Does a strong match do less harm?",
        caption="Each dot is a unit that is replaced alone by its one-to-one partner in another trained net (blue), "
        "by its mean (grey), or by something that is as correlated with it but takes the rest from the next image "
        "(pink). The vertical axis is linear below 0.001 nats. Spearman: mean over pairs, of the partner's effect with "
        "the correlation.",
        alt="Gain in loss against match strength for each unit that is replaced alone, by layer",
        figure=figure,
        columns=("layer", "a", "b", "unit", "replaced_by", "correlation", "loss_gain", "standard_error"),
        rows=rows,
    )


def accuracy_by_share(layers: Sequence[StitchedLayer]) -> Drawing | None:
    """Accuracy with ever more units transplanted, in three orders."""
    some = [layer for layer in layers if layer.cumulative("trained")]
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
                for k, (a, b, tree) in enumerate(layer.cumulative("trained")):
                    share, found = tree["numbers"] / tree["n_units"], tree[order]
                    ax.plot(share, found["value"], "o-", color=colour, markersize=3.5, linewidth=1.4,
                            label=None if k else words)  # fmt: skip
                    ax.fill_between(share, found["low"], found["high"], color=colour, alpha=0.12, linewidth=0)
                    columns = (tree["numbers"], found["value"], found["low"], found["high"])
                    rows += [(layer.name, a, b, order, *row) for row in zip(*columns, strict=True)]
            ax.set(ylim=(0, 1.02), xlabel="share of matched units replaced")
        axes[0].set_ylabel("held-out accuracy")
        axes[0].legend(loc="lower left", fontsize="small")
    return Drawing(
        name="stitch-cumulative",
        title="Ever more units replaced by their partners",
        caption="Units of the layer replaced together by their one-to-one partners, with 95 % intervals over image "
        "groups; a line a pair of trained nets.",
        alt="Held-out accuracy against the share of units replaced, for best, worst and random matches first",
        figure=figure,
        columns=("layer", "a", "b", "order", "units", "accuracy", "low", "high"),
        rows=rows,
    )
