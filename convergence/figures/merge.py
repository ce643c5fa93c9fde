"""Figures of merging: scores on the line between two nets, heights of the barrier, and depth of zipping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from convergence.figures.style import ACCENT, NULL, SECOND, TRAINED, UNTRAINED, Drawing, drawing_style, new_figure
from convergence.functional.merging.results import MergingResults
from convergence.inference import Estimate

COLOURS = {"random": NULL, "none": UNTRAINED, "activation": TRAINED, "weights": ACCENT}
WORDS = {
    "random": "random permutation",
    "none": "not aligned",
    "activation": "aligned by activations",
    "weights": "aligned by weights",
}
KINDS = {"plain": "averaged", "repaired": "averaged and repaired"}
PERCENT = 100


def line_drawing(name: str, results: MergingResults) -> Drawing:
    """Accuracy and loss on the line between two nets, by alignment."""
    rows: list[tuple[Any, ...]] = []
    figure, axes = new_figure(11.4, 3.5, 4)
    with drawing_style():
        for k, (what, kind) in enumerate(
            [("accuracy", "plain"), ("accuracy", "repaired"), ("loss", "plain"), ("loss", "repaired")]
        ):
            ax, scale = axes[k], PERCENT if what == "accuracy" else 1
            for method, colour in COLOURS.items():
                steps, middle, low, high = _curve(results, name, method, kind, what)
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
        caption="Weighted means of the weights of two nets, from the first (0) to the aligned second (1). Bands are 95 "
        "% jackknife intervals over image groups; for random permutations, the range of the draws. A flat curve means "
        "that both nets are in one basin.",
        alt=f"Accuracy and loss along the line between {name}, by alignment",
        figure=figure,
        columns=("quantity", "merged", "alignment", "share_of_second", "value", "low", "high"),
        rows=rows,
    )


def _curve(results: MergingResults, name: str, method: str, kind: str, what: str) -> npt.NDArray[np.float64]:
    """(4, n_steps): steps, values, and the ends of their intervals; of random permutations mean and range."""
    if method == "random":
        found: dict[float, list[float]] = {}
        for one in results.random_lines:
            if (one.name, one.kind) == (name, kind):
                found.setdefault(one.step, []).append(getattr(one, what))
        return np.array([[step, np.mean(v), np.min(v), np.max(v)] for step, v in found.items()]).T
    points = [p for p in results.lines if (p.name, p.method, p.kind) == (name, method, kind)]
    estimates: list[Estimate] = [getattr(point, what) for point in points]
    return np.array([[p.step, e.value, e.low, e.high] for p, e in zip(points, estimates, strict=True)]).T


def barrier_drawing(
    barriers: Mapping[tuple[str, str, str], Estimate], chance: Mapping[tuple[str, str], npt.NDArray[Any]]
) -> Drawing:
    """The height of the barrier by alignment, mean over pairs.

    Parameters
    ----------
    barriers : by quantity ("barrier", "accuracy_barrier"), kind and method
        Means over the pairs of nets.
    chance : by quantity and kind
        Barriers of all random permutations of all pairs.
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
            ax.set_xticks(range(4), ["random\npermutation", "not\naligned", "by\nactivations", "by\nweights"])
            ax.set_title("barrier of the loss in nats" if quantity == "barrier" else "barrier of the accuracy in %")
            ax.set_ylim(bottom=0)
        axes[1].legend(loc="upper right", fontsize="small")
    return Drawing(
        name="merge-barrier",
        title="Height of the barrier",
        caption="The largest rise of the loss (left) and of the error rate (right) above the straight line between the "
        "two nets; mean over pairs, 95 % jackknife intervals over image groups. Open grey marks: random permutations "
        "of the units, one mark per draw.",
        alt="Barriers of loss and accuracy by alignment, before and after repair, and for random permutations",
        figure=figure,
        columns=("quantity", "merged", "alignment", "value", "low", "high"),
        rows=rows,
    )


def zip_drawing(results: MergingResults) -> Drawing:
    """Accuracy of two nets that share their first layers, by the number of permutation groups zipped."""
    rows: list[tuple[Any, ...]] = []
    figure, (ax,) = new_figure(5.2, 3.2)
    with drawing_style():
        pairs = list(dict.fromkeys(row.name for row in results.zip_depths))
        for name, colour in zip(pairs, (TRAINED, ACCENT, SECOND, UNTRAINED) * len(pairs), strict=False):
            found = [row for row in results.zip_depths if row.name == name]
            depths = [row.depth for row in found]
            value, low, high = (
                PERCENT * np.array([getattr(row.accuracy, key) for row in found]) for key in ("value", "low", "high")
            )
            ax.plot(depths, value, "o-", color=colour, markersize=4, label=name)
            ax.fill_between(depths, low, high, color=colour, alpha=0.14, linewidth=0)
            rows += [
                (name, int(d), v / 100, l / 100, h / 100) for d, v, l, h in zip(depths, value, low, high, strict=True)
            ]
        names = [row.group for row in results.zipped_groups if row.name == pairs[0]]
        short = len(names) < 6
        ax.set_xticks(depths, [(["nothing", *names][d] if short else str(d)) for d in depths])
        ax.set_xlabel("zipped up to" if short else "permutation groups zipped")
        ax.set_ylabel("accuracy in %")
        ax.legend(loc="lower left", fontsize="small")
    return Drawing(
        name="merge-zip",
        title="Accuracy of zipped nets",
        caption="Units are merged with the most similar unit of either net up to a layer; later layers are those of "
        "each net, and logits are averaged. Left: the ensemble of both nets; right: one net. Bands are 95 % jackknife "
        "intervals over image groups.",
        alt="Accuracy of zipped nets by depth",
        figure=figure,
        columns=("nets", "groups_zipped", "accuracy", "low", "high"),
        rows=rows,
    )
