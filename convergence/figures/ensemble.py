"""Figures of ensembles: what members add, and what a shared core costs and keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from convergence.figures.style import ACCENT, NULL, SECOND, TRAINED, UNTRAINED, Drawing, drawing_style, new_figure
from convergence.uncertainty import Estimate

Tree = dict[str, Any]
Point = tuple[str, str, float, Estimate]
MARKS = {
    "full": (TRAINED, "s"), "trunk": ("black", "o"), "least_squares": (ACCENT, "D"), "sparse": (SECOND, "^"),
    "one_to_one": (UNTRAINED, "v"), "permuted": (NULL, "x"),
}  # fmt: skip


def accuracy_by_size(members: Tree) -> Drawing:
    """Accuracy and loss of all ensembles of each size, their mean, and the one chosen by dissimilarity."""
    figure, axes = new_figure(8.0, 3.3, 2)
    rows: list[tuple[Any, ...]] = []
    sizes = [1, *sorted(int(m) for m in members["sizes"])]
    with drawing_style():
        for ax, number in zip(axes, ("accuracy", "loss"), strict=True):
            single = [members["single"][str(name)][number]["value"] for name in members["names"]]
            means = [Estimate(**members["mean_single"][number])]
            means += [Estimate(**members["sizes"][str(m)]["mean"][number]) for m in sizes[1:]]
            if number == "accuracy":
                for m in sizes:
                    values = single if m == 1 else members["sizes"][str(m)]["accuracies"]
                    ax.plot(np.full(len(values), m), values, "o", color=NULL, alpha=0.5, markersize=4,
                            label="each subset" if m == 1 else None)  # fmt: skip
            value, low, high = (np.array([getattr(e, key) for e in means]) for key in ("value", "low", "high"))
            ax.errorbar(sizes, value, [value - low, high - value], fmt="o-", color=TRAINED, capsize=3,
                        label="mean over subsets: members at random")  # fmt: skip
            rows += [
                ("mean over subsets", number, m, e.value, e.low, e.high) for m, e in zip(sizes, means, strict=True)
            ]
            chosen = {m: tree["chosen"] for m, tree in members["sizes"].items() if "n_subsets" in tree["chosen"]}
            for k, (m, tree) in enumerate(chosen.items()):
                e = Estimate(**tree[number])
                ax.errorbar(int(m) + 0.12, e.value, [[e.value - e.low], [e.high - e.value]], fmt="D", color=UNTRAINED,
                            capsize=3, label=None if k else "least alike (linear CKA)")  # fmt: skip
                rows.append(("least alike", number, int(m), e.value, e.low, e.high))
            best = Estimate(**members["best_single"][number])
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
        title="What members add",
        caption="Mean probabilities of all subsets of each size, with 95 % intervals over image groups. Members that "
        "are least alike, and the best single net, are chosen on one half of the image groups and scored on the other.",
        alt="Accuracy and loss of ensembles against the number of members",
        figure=figure,
        columns=("which", "number", "members", "value", "low", "high"),
        rows=rows,
    )


def accuracy_by_cost(layers: Sequence[tuple[str, Sequence[Point]]]) -> Drawing:
    """Accuracy against multiply–adds, a panel a layer at which the core ends.

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
        caption="Ensembles whose layers up to the one named are computed once, by one member, and mapped into the "
        "other members' tails; means over trunks, 95 % intervals over image groups. The full ensemble computes "
        "every net.",
        alt="Held-out accuracy against multiply–adds for shared cores, the full ensemble and a single net",
        figure=figure,
        columns=("core_up_to", "which", "cost", "accuracy", "standard_error", "low", "high"),
        rows=rows,
    )
