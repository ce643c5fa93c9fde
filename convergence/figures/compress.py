"""Figures of compression: accuracy of pruned nets against remaining units and multiply–adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from convergence.figures.style import ACCENT, NULL, SECOND, TRAINED, UNTRAINED, Drawing, drawing_style, new_figure
from convergence.inference import Estimate

WORDS = {
    "redundancy": "redundant units, folded into all others",
    "few": "redundant units, folded into few others",
    "one": "redundant units, folded into one other",
    "redundancy_unfolded": "redundant units, not folded",
    "magnitude_folded": "smallest weights, folded into all others",
    "magnitude": "smallest weights, not folded",
    "random_folded": "random units, folded into all others",
    "random": "random units, not folded",
    "subspace": "principal components",
}
"""Names of the methods, in the order of figures and tables."""
LOOKS = {
    "redundancy": (TRAINED, "-", "o"),
    "few": (ACCENT, "-", "s"),
    "one": (ACCENT, ":", "s"),
    "redundancy_unfolded": (TRAINED, ":", "o"),
    "magnitude_folded": (UNTRAINED, "-", "^"),
    "magnitude": (UNTRAINED, ":", "^"),
    "random_folded": (NULL, "-", "v"),
    "random": (NULL, ":", "v"),
    "subspace": (SECOND, "--", "D"),
}
"""Colour by the choice of units; dotted lines without folding."""


@dataclass(frozen=True)
class Point:
    """A method at a share of units removed, mean over nets.

    Attributes
    ----------
    method, share : as in the settings
    left, multiply_adds : remaining shares of units and of multiply–adds
    accuracy : of the pruned nets
    """

    method: str
    share: float
    left: float
    multiply_adds: float
    accuracy: Estimate


COLUMNS = ("method", "share_removed", "units_left", "multiply_adds_left", "accuracy", "low", "high", "null", "null_sd")


def curves(points: Sequence[Point], whole: Estimate, n_nets: int) -> Drawing:
    """Accuracy against the share of units removed and against remaining multiply–adds."""
    figure, (by_units, by_cost) = new_figure(10.4, 5.0, 2)
    with drawing_style():
        for method, label in WORDS.items():
            mine = sorted((p for p in points if p.method == method), key=lambda p: p.share)
            if not mine:
                continue
            colour, line, marker = LOOKS[method]
            for ax, places in ((by_units, [100 * p.share for p in mine]),
                               (by_cost, [100 * p.multiply_adds for p in mine])):  # fmt: skip
                if method == "subspace" and ax is by_units:
                    ax.plot([], [], color=colour, linestyle=line, marker=marker, markersize=4.5, label=label)
                    continue
                values = [p.accuracy.value for p in mine]
                bars = [[v - p.accuracy.low for v, p in zip(values, mine, strict=True)],
                        [p.accuracy.high - v for v, p in zip(values, mine, strict=True)]]  # fmt: skip
                ax.errorbar(
                    places, values, bars, color=colour, linestyle=line, marker=marker, markersize=4.5, linewidth=1.5,
                    capsize=2, elinewidth=0.9, label=label,
                )  # fmt: skip
        for ax in (by_units, by_cost):
            ax.axhspan(whole.low, whole.high, color="#000000", alpha=0.08, linewidth=0)
            ax.axhline(whole.value, color="#000000", linewidth=1.0, label="whole nets")
            ax.set_ylim(0, 1.02)
        by_units.set_title("By units")
        by_units.set_xlabel("units removed from every layer (%)")
        by_units.set_ylabel("held-out accuracy")
        figure.legend(*by_units.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
        by_cost.set_title("By multiply–adds")
        by_cost.set_xlabel("remaining multiply–adds (%)")
        by_cost.invert_xaxis()
    return Drawing(
        name="compress-curves",
        title="Accuracy of pruned nets",
        caption=f"Mean of {n_nets} net{'s' * (n_nets > 1)}; bars are 95 % jackknife intervals over image groups. Solid "
        "lines: the weights of removed units are folded into the kept units. Dotted lines: they are not (green: folded "
        "into one unit). Units and multiply–adds are counted from the pruned nets.",
        alt="Accuracy falls with the share of units removed: last for redundant units whose weights are folded into "
        "others, first for random ones"
        if points
        else "No points",
        figure=figure,
        columns=COLUMNS,
        rows=[_row(p) for p in points],
    )


def by_layer(points: Mapping[str, Sequence[Point]], whole: Estimate) -> Drawing:
    """Accuracy with a share of the units of one layer removed."""
    shares = sorted({p.share for several in points.values() for p in several})
    figure, axes = new_figure(max(3.4 * len(shares) + 0.4, 5.0), 3.8, len(shares))
    methods = [m for m in ("redundancy", "few", "magnitude_folded", "magnitude", "random_folded", "random")
               if any(p.method == m for several in points.values() for p in several)]  # fmt: skip
    with drawing_style():
        for ax, share in zip(axes, shares, strict=True):
            for k, method in enumerate(methods):
                colour, line, marker = LOOKS[method]
                found = [(at, p) for at, several in enumerate(points.values()) for p in several
                         if p.method == method and p.share == share]  # fmt: skip
                values = [p.accuracy.value for _, p in found]
                ax.errorbar(
                    [at + 0.11 * (k - (len(methods) - 1) / 2) for at, _ in found], values,
                    [[v - p.accuracy.low for v, (_, p) in zip(values, found, strict=True)],
                     [p.accuracy.high - v for v, (_, p) in zip(values, found, strict=True)]],
                    linestyle="none", marker=marker, color=colour, capsize=2, markersize=5,
                    markerfacecolor="white" if line == ":" else colour, label=WORDS[method],
                )  # fmt: skip
            ax.axhline(whole.value, color="#000000", linewidth=1.0)
            ax.set_title(f"{100 * share:.0f} % of one layer removed")
            ax.set_xticks(range(len(points)), list(points), rotation=0 if len(points) < 5 else 60)
            ax.set_ylim(0, 1.02)
        axes[0].set_ylabel("held-out accuracy")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    return Drawing(
        name="compress-layers",
        title="One layer at a time",
        caption="Units removed from one layer only. Filled marks: the weights of removed units are folded into the "
        "kept units; open marks: they are not. Bars are 95 % intervals over image groups; the line is the whole nets.",
        alt="Accuracy for each layer and method, with error bars",
        figure=figure,
        columns=("layer", *COLUMNS),
        rows=[(layer, *_row(p)) for layer, several in points.items() for p in several],
    )


def _row(p: Point) -> tuple[object, ...]:
    e = p.accuracy
    return p.method, p.share, p.left, p.multiply_adds, e.value, e.low, e.high, e.null, e.null_sd
