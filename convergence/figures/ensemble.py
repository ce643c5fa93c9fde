"""Figures of ensembling: accuracy against the number of members, and accuracy against cost of shared cores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from convergence.figures.style import ACCENT, NULL, SECOND, TRAINED, UNTRAINED, Drawing, drawing_style, new_figure
from convergence.functional.ensembling.results import EnsemblingResults
from convergence.inference import Estimate

Point = tuple[str, str, float, Estimate]
MARKS = {
    "full": (TRAINED, "s"), "trunk": ("black", "o"), "least_squares": (ACCENT, "D"), "sparse": (SECOND, "^"),
    "one_to_one": (UNTRAINED, "v"), "permuted": (NULL, "x"),
}  # fmt: skip


def accuracy_by_size(results: EnsemblingResults) -> Drawing:
    """Accuracy and loss of ensembles by size: each, their mean, and the one chosen by dissimilarity."""
    figure, axes = new_figure(8.0, 3.3, 2)
    rows: list[tuple[Any, ...]] = []
    sizes = [1, *(size.members for size in results.sizes)]
    mean_single, best_single = results.reference("mean_single"), results.reference("best_single")
    assert mean_single is not None
    assert best_single is not None
    with drawing_style():
        for ax, number in zip(axes, ("accuracy", "loss"), strict=True):
            means: list[Estimate] = [getattr(row, number) for row in (mean_single, *results.sizes)]
            if number == "accuracy":
                for m in sizes:
                    values = (
                        [row.accuracy.value for row in results.members]
                        if m == 1
                        else [row.accuracy for row in results.subsets_of(m)]
                    )
                    ax.plot(np.full(len(values), m), values, "o", color=NULL, alpha=0.5, markersize=4,
                            label="each subset" if m == 1 else None)  # fmt: skip
            value, low, high = (np.array([getattr(e, key) for e in means]) for key in ("value", "low", "high"))
            ax.errorbar(sizes, value, [value - low, high - value], fmt="o-", color=TRAINED, capsize=3,
                        label="mean over subsets (random members)")  # fmt: skip
            rows += [
                ("mean over subsets", number, m, e.value, e.low, e.high) for m, e in zip(sizes, means, strict=True)
            ]
            for k, row in enumerate(results.chosen):
                e = getattr(row, number)
                bars = [[e.value - e.low], [e.high - e.value]]
                ax.errorbar(row.members + 0.12, e.value, bars, fmt="D", color=UNTRAINED, capsize=3,
                            label=None if k else "least similar (linear CKA)")  # fmt: skip
                rows.append(("least similar", number, row.members, e.value, e.low, e.high))
            best = getattr(best_single, number)
            ax.axhline(
                best.value, color="black", linewidth=1, linestyle="--", label="best single net of the other half"
            )
            rows.append(("best single", number, 1, best.value, best.low, best.high))
            ax.set_xticks(sizes)
            ax.set(xlabel="members", ylabel={"accuracy": "held-out accuracy", "loss": "loss (nats)"}[number])
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize="small")
    return Drawing(
        name="ensemble-sizes",
        title="Accuracy against the number of members",
        caption="Ensembles of mean probabilities, all subsets of each size, with 95 % intervals over image groups. The "
        "least similar members and the best single net are chosen on one half of the image groups and scored on the "
        "other.",
        alt="Accuracy and loss of ensembles against the number of members",
        figure=figure,
        columns=("which", "number", "members", "value", "low", "high"),
        rows=rows,
    )


def accuracy_by_cost(layers: Sequence[tuple[str, Sequence[Point]]]) -> Drawing:
    """Accuracy against multiply–adds, a panel per layer of the cut.

    ``layers``: name and points (key of the mark, words, multiply–adds relative to one net, accuracy).
    """
    figure, axes = new_figure(3.3 * len(layers) + 0.4, 3.7, len(layers))
    rows: list[tuple[Any, ...]] = []
    with drawing_style():
        for ax, (name, points) in zip(axes, layers, strict=True):
            ax.set_title(f"core up to {name}")
            for key, words, cost, e in points:
                colour, mark = MARKS[key]
                ax.errorbar(cost, e.value, [[e.value - e.low], [e.high - e.value]], fmt=mark, color=colour, capsize=3,
                            label=words)  # fmt: skip
                rows.append((name, words, cost, e.value, e.standard_error, e.low, e.high))
            lowest = min(e.low for _, points in layers for key, _, _, e in points if key != "permuted")
            ax.set(xlabel="multiply–adds, one net = 1", ylim=(max(0.0, lowest - 0.05), 1.005))
            if any(e.value < lowest - 0.05 for key, _, _, e in points if key == "permuted"):
                chance = next(e.value for key, _, _, e in points if key == "permuted")
                ax.annotate(f"random partners: {chance:.2f} ↓", (0.5, 0.02), xycoords="axes fraction", color=NULL,
                            ha="center", fontsize="small")  # fmt: skip
        axes[0].set_ylabel("held-out accuracy")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="small")
    return Drawing(
        name="ensemble-cost",
        title="Accuracy against cost",
        caption="One member computes the layers up to the named one, which are mapped into the tails of the others. "
        "Means over trunks, 95 % intervals over image groups. The full ensemble computes every net.",
        alt="Held-out accuracy against multiply–adds for shared cores, the full ensemble and a single net",
        figure=figure,
        columns=("core_up_to", "which", "cost", "accuracy", "standard_error", "low", "high"),
        rows=rows,
    )
