"""Figures of merging: what happens on the line between two nets, how high the barrier is, and how far nets zip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from convergence.figures.style import ACCENT, NULL, SECOND, TRAINED, UNTRAINED, Drawing, drawing_style, new_figure
from convergence.uncertainty import Estimate

Tree = Mapping[str, Any]
COLOURS = {"random": NULL, "none": UNTRAINED, "activation": TRAINED, "weights": ACCENT}
WORDS = {
    "random": "random order",
    "none": "not aligned",
    "activation": "aligned by activations",
    "weights": "aligned by weights",
}
KINDS = {"plain": "averaged", "repaired": "averaged and repaired"}
PERCENT = 100


def line_drawing(name: str, pair: Tree) -> Drawing:
    """Accuracy and loss of the nets on the line between two nets, with intervals, for each way of aligning them."""
    rows: list[tuple[Any, ...]] = []
    figure, axes = new_figure(11.4, 3.5, 4)
    with drawing_style():
        for k, (what, kind) in enumerate(
            [("accuracy", "plain"), ("accuracy", "repaired"), ("loss", "plain"), ("loss", "repaired")]
        ):
            ax, scale = axes[k], PERCENT if what == "accuracy" else 1
            steps = np.asarray(pair["none"][kind]["steps"])
            for method, colour in COLOURS.items():
                found = pair[method][kind][what]
                if method == "random":
                    draws = np.asarray(found)
                    middle, low, high = draws.mean(axis=0), draws.min(axis=0), draws.max(axis=0)
                else:
                    middle, low, high = (np.asarray(found[key]) for key in ("value", "low", "high"))
                style = "--" if method == "random" else "-"
                ax.plot(
                    steps, scale * middle, style, color=colour, linewidth=1.8, label=WORDS[method] if k == 0 else None
                )
                ax.fill_between(steps, scale * low, scale * high, color=colour, alpha=0.16, linewidth=0)
                rows += [(what, kind, method, *map(float, r)) for r in zip(steps, middle, low, high, strict=True)]
            ax.set_title(f"{'accuracy in %' if what == 'accuracy' else 'loss in nats'}, {KINDS[kind]}")
            ax.set_xlabel("share of the second net")
        for first, second in ((0, 1), (2, 3)):
            limits = [*axes[first].get_ylim(), *axes[second].get_ylim()]
            for ax in (axes[first], axes[second]):
                ax.set_ylim(min(limits), max(limits))
        figure.legend(loc="outside lower center", ncols=len(COLOURS), fontsize="small")
    return Drawing(
        name="merge-line",
        title=f"On the line between {name}",
        caption="Weights are mixed from all of the first net (0) to all of the second (1), whose units were put in the "
        "order of the first before. Bands are 95 % jackknife intervals over image groups; of random orders, the range "
        "of the draws. A curve that stays as flat as its ends says that both nets lie in one basin.",
        alt=f"Accuracy and loss along the line between {name}, by method of alignment",
        figure=figure,
        columns=("quantity", "merged", "alignment", "share_of_second", "value", "low", "high"),
        rows=rows,
    )


def barrier_drawing(
    barriers: Mapping[tuple[str, str, str], Estimate], chance: Mapping[tuple[str, str], npt.NDArray[Any]]
) -> Drawing:
    """The height of the barrier by method, mean over pairs.

    Parameters
    ----------
    barriers : by quantity ("barrier", "accuracy_barrier"), kind and method
        Means over the pairs of nets.
    chance : by quantity and kind
        Barriers of all random orders of all pairs.
    """
    methods = ("none", "activation", "weights")
    rows: list[tuple[Any, ...]] = []
    figure, axes = new_figure(8.4, 3.2, 2)
    with drawing_style():
        for ax, quantity in zip(axes, ("barrier", "accuracy_barrier"), strict=True):
            scale = 1 if quantity == "barrier" else PERCENT
            for offset, (kind, colour, marker) in enumerate((("plain", TRAINED, "o"), ("repaired", SECOND, "s"))):
                draws = scale * np.asarray(chance[quantity, kind])
                x = -0.12 + 0.24 * offset
                ax.plot(x + np.zeros(len(draws)), draws, marker, color=NULL, markersize=4, alpha=0.7, fillstyle="none")
                rows += [(quantity, kind, "random", float(d) / scale, np.nan, np.nan) for d in draws]
                for at, method in enumerate(methods, start=1):
                    e = barriers[quantity, kind, method]
                    rows.append((quantity, kind, method, e.value, e.low, e.high))
                    ax.errorbar(
                        at + x,
                        scale * e.value,
                        [[scale * (e.value - e.low)], [scale * (e.high - e.value)]],
                        fmt=marker,
                        color=colour,
                        capsize=3,
                        label=KINDS[kind] if at == 1 else None,
                    )
            ax.set_xticks(range(4), ["random\norder", "not\naligned", "by\nactivations", "by\nweights"])
            ax.set_title("barrier of the loss in nats" if quantity == "barrier" else "barrier of the accuracy in %")
            ax.set_ylim(bottom=0)
        axes[1].legend(loc="upper right", fontsize="small")
    return Drawing(
        name="merge-barrier",
        title="How high the barrier is",
        caption="How far the loss (left) and the error rate (right) rise above the straight line between the two nets "
        "at the worst point between them; mean over pairs, 95 % jackknife intervals over image groups. Open grey "
        "marks: random orders of the units, a mark a draw.",
        alt="Barriers of loss and accuracy by alignment, before and after repair, beside random orders",
        figure=figure,
        columns=("quantity", "merged", "alignment", "value", "low", "high"),
        rows=rows,
    )


def zip_drawing(zips: Mapping[str, Tree]) -> Drawing:
    """Accuracy of two nets that share their first layers, by how many of their unit spaces are zipped."""
    rows: list[tuple[Any, ...]] = []
    figure, (ax,) = new_figure(5.2, 3.2)
    with drawing_style():
        for (name, tree), colour in zip(zips.items(), (TRAINED, ACCENT, SECOND, UNTRAINED) * len(zips), strict=False):
            depths = np.asarray(tree["depths"])
            value, low, high = (PERCENT * np.asarray(tree["accuracy"][key]) for key in ("value", "low", "high"))
            ax.plot(depths, value, "o-", color=colour, markersize=4, label=name)
            ax.fill_between(depths, low, high, color=colour, alpha=0.14, linewidth=0)
            rows += [
                (name, int(d), v / 100, l / 100, h / 100) for d, v, l, h in zip(depths, value, low, high, strict=True)
            ]
        names = next(iter(zips.values()))["spaces"].split("\n")
        short = len(names) < 6
        ax.set_xticks(depths, [(["nothing", *names][d] if short else str(d)) for d in depths])
        ax.set_xlabel("zipped up to" if short else "unit spaces zipped")
        ax.set_ylabel("accuracy in %")
        ax.legend(loc="lower left", fontsize="small")
    return Drawing(
        name="merge-zip",
        title="How far two nets can share their layers",
        caption="Units are merged with those most like them, of either net, up to a layer; the nets keep their own "
        "layers after it and answer by the mean of their logits. On the left the ensemble of both; on the right one "
        "net. Bands are 95 % jackknife intervals.",
        alt="Accuracy of zipped nets by depth",
        figure=figure,
        columns=("nets", "spaces_zipped", "accuracy", "low", "high"),
        rows=rows,
    )
