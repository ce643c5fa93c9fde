"""Activation statistics: mean activations of every net, sorted, and distributions of activation."""

from __future__ import annotations

from typing import Any

import numpy as np

from convergence.figures.style import (
    KIND_COLOURS,
    KIND_WORDS,
    Drawing,
    draw_intervals,
    drawing_style,
    interval_legend,
    new_figure,
)
from convergence.results import ComparisonResults, Kind, PairResults, Summary

BARS = {
    "assigned": "best fit,\none-to-one",
    "matched": "matched by\ncorrelation",
    "any": "any two,\nbetween",
    "within": "any two,\nwithin",
}


def mean_activations(layer: ComparisonResults, pair: PairResults) -> Drawing:
    """Mean activations of every net's units relative to their mean, sorted, overlaid."""
    figure, axes = new_figure(6.4, 3.4)
    (ax,) = axes
    rows: list[tuple[Any, ...]] = []
    statistics = [layer.units(net) for net in layer.nets]
    of_values = [n for n in ("zero_fraction", "median", "percentile_99") if getattr(statistics[0], n) is not None]
    with drawing_style():
        for k, (net, units) in enumerate(zip(layer.nets, statistics, strict=True)):
            scale = float(np.abs(units.mean[units.active]).mean()) if units.active.any() else 1.0
            mean, error = units.mean / (scale or 1.0), units.mean_error / (scale or 1.0)
            order = np.argsort(-mean, kind="stable")
            kind = "trained" if layer.trained[k] else "untrained"
            style = "-" if layer.trained[k] else "--"
            colour, first = KIND_COLOURS[kind], layer.trained.index(layer.trained[k]) == k
            low, high = (mean - 2 * error)[order], (mean + 2 * error)[order]
            ax.fill_between(np.arange(len(mean)), low, high, color=colour, alpha=0.12, linewidth=0)
            ax.plot(mean[order], style, color=colour, alpha=0.85, label=KIND_WORDS[kind] if first else None)
            rows += [
                (
                    net, kind, int(i), mean[i], units.mean[i], units.mean_error[i],
                    *(getattr(units, name)[i] for name in of_values), units.inactive_reason[i],
                )
                for i in order
            ]  # fmt: skip
        ax.set(xlabel=f"units of {layer.name}, most active first", ylabel="mean activation / its mean over units")
        ax.legend()
    said = "; ".join(f"{KIND_WORDS[kind]} {_with_chance(layer, kind)}" for kind in layer.kinds)
    return Drawing(
        name=f"{layer.name}-mean-activations",
        title="Do mean activations converge although units differ?",
        caption="Mean activations of the units of each net, divided by the mean of their absolute values and sorted; "
        f"one curve a net. Distance of two nets: {said}; 95 % intervals are over nets and images. Chance: the units of "
        "both nets dealt at random to two nets. Bands: ± 2 standard errors over image groups, for these nets.",
        alt="Sorted mean activations of every net",
        figure=figure,
        columns=("net", "kind", "unit", "relative_mean", "mean", "standard_error", *of_values, "inactive_reason"),
        rows=rows,
    )


def _with_chance(layer: ComparisonResults, kind: Kind) -> str:
    found = layer.summary("mean_activation_distance", kind)
    return f"{found}, chance {found.estimate.null:.3f}" if found else "unknown"


def distributions(layer: ComparisonResults, pair: PairResults) -> Drawing | None:
    """Distance of units' distributions: partners, the best fit, and any two units, between nets and within."""
    if pair.distributions is None:
        return None
    figure, (ax,) = new_figure(6.4, 3.4)
    rows: list[tuple[Any, ...]] = []
    means: dict[str, dict[str, float]] = {}
    drawn: list[Summary] = []
    with drawing_style():
        for k, kind in enumerate(layer.kinds):
            found = [one.distributions for one in layer.of_kind(kind) if one.distributions is not None]
            mean = {
                name: float(np.mean([getattr(one, name) for one in found]))
                for name in ("assigned", "matched", "any", "within_x", "within_y", "sparsity")
            }
            values = {name: mean[name] for name in ("assigned", "matched", "any")}
            values["within"] = float(np.mean([mean["within_x"], mean["within_y"]]))
            means[kind] = values
            at = np.arange(len(BARS)) + 0.38 * (k - (len(layer.kinds) - 1) / 2)
            ax.bar(
                at, [values[n] for n in BARS], width=0.36, color=KIND_COLOURS[kind], alpha=0.75, label=KIND_WORDS[kind]
            )
            for x, name in zip(at.tolist(), BARS, strict=True):
                summary = layer.summary(f"distribution_{name}", kind)
                if summary is not None:
                    draw_intervals(ax, x, summary, "black")
                    drawn.append(summary)
            numbers = {**values, "sparsity": mean["sparsity"]}
            rows += [(kind, name, value, len(found)) for name, value in numbers.items()]
        ax.set_xticks(range(len(BARS)), list(BARS.values()))
        ax.set_ylabel("distance of distributions")
        interval_legend(ax, drawn)
    first = means[layer.kinds[0]]
    return Drawing(
        name=f"{layer.name}-distributions",
        title="Do units have the same distributions of activation?",
        caption="Wasserstein-1 distance of two units' activations, each divided by its standard deviation, mean over "
        f"pairs of nets. For {KIND_WORDS[layer.kinds[0]]} it is {first['matched']:.3f} for units matched by "
        f"correlation, {first['any']:.3f} for any two units of the two nets (chance), {first['within']:.3f} for any "
        f"two units of one net, and {first['assigned']:.3f} for units assigned by this distance. Bars: 95 % intervals "
        "over nets. Histograms cover all images together, so there is no error over images.",
        alt="Mean distances of activation distributions for partners and for any two units",
        figure=figure,
        columns=("pairs", "what", "distance", "n_pairs"),
        rows=rows,
    )
