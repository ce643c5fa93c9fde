"""All nets of a comparison at once: consensus units and a map of the nets; several layers; several epochs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from convergence.figures.style import (
    ACCENT,
    KIND_COLOURS,
    KIND_WORDS,
    NULL,
    SECOND,
    TRAINED,
    UNTRAINED,
    Drawing,
    drawing_style,
    new_figure,
)
from convergence.inference import Estimate, mean_estimate
from convergence.results import (
    TRAINED_OR_NOT,
    ComparisonResults,
    Kind,
    LayerOverTime,
    NetMap,
    PairResults,
    Trajectory,
    title_of,
)

PREFERRED = ("linear_cka", "matching")
"""Measures of the layer map."""


def consensus(layer: ComparisonResults, pair: PairResults) -> Drawing | None:
    """In how many nets each consensus unit is present, how alike its members are, and how far apart the nets are."""
    kinds = {kind: found for kind, found in layer.consensus.items() if kind in KIND_COLOURS}
    there = layer.map
    if not kinds and not there:
        return None
    n_axes = 2 * bool(kinds) + bool(there)
    figure, axes = new_figure(4.1 * n_axes, 3.5, n_axes)
    rows: list[tuple[Any, ...]] = []
    said = []
    with drawing_style():
        for k, (kind, found) in enumerate(kinds.items()):
            colour = KIND_COLOURS[kind]
            shared = found.shared
            at = np.array(list(shared)) + 0.38 * (k - (len(kinds) - 1) / 2)
            axes[0].bar(at, [e.value for e in shared.values()], width=0.36, color=colour, label=KIND_WORDS[kind])
            axes[0].set_xticks(list(shared) or list(range(2, len(found.nets) + 1)))
            mean, cycles = found.mean_correlation, found.cycle_consistency
            order = np.argsort(-found.unit_correlation, kind="stable")
            value, error = found.unit_correlation[order], found.unit_correlation_error[order]
            axes[1].fill_between(
                np.arange(len(value)), value - 2 * error, value + 2 * error, color=colour, alpha=0.2, linewidth=0
            )
            axes[1].plot(value, color=colour, label=KIND_WORDS[kind])
            if np.isfinite(mean.null):
                axes[1].axhline(
                    mean.null, color=NULL, linestyle="--", label=f"one net in another basis: {mean.null:.2f}"
                )
            n_nets = len(found.nets)
            said.append(
                f"{100 * shared[n_nets].value:.0f} % of {len(value)} consensus units of {KIND_WORDS[kind]} are present "
                f"in all {n_nets} nets."
                if shared
                else f"No unit of {KIND_WORDS[kind]} is said to be present in a net: {found.null_reason}."
            )
            chance = f"; {mean.null:.3f} with one net in another basis" if np.isfinite(mean.null) else ""
            said.append(
                f"Their members correlate at {mean.value:.3f} ([{mean.low:.3f}, {mean.high:.3f}] over images, for "
                f"these nets{chance}), by {found.signed}. {100 * cycles.value:.0f} % of the "
                "paths through three nets by "
                f"their matchings return to the same unit ({100 * found.cycle_chance:.0f} % by chance)."
            )
            rows += [(kind, f"in at least {n} nets", e.value, "") for n, e in shared.items()]
            rows += [(kind, f"consensus unit {n}", *both) for n, both in enumerate(zip(value, error, strict=True))]
        if kinds:
            axes[0].set(title="presence of consensus units", xlabel="minimum number of nets", ylabel="share of units")
            axes[0].set_ylim(0, 1.05)
            axes[0].legend(fontsize="small")
            axes[1].set(
                title="correlation of members", xlabel="consensus units, best first", ylabel="mean r of members"
            )
            axes[1].set_ylim(min(0, axes[1].get_ylim()[0]), 1.02)
            axes[1].legend(fontsize="small")
        if there:
            _draw_map(axes[-1], layer, there)
            rows += [("map", net, *point) for net, point in zip(there.nets, there.points, strict=True)]
            said.append(
                "Map: classical scaling of the shape distances between nets; the plane keeps "
                f"{100 * there.explained:.0f} % of the squared distances."
            )
    return Drawing(
        name=f"{layer.name}-consensus",
        title="What do all nets have in common?",
        caption=" ".join(said)
        + " A unit is present in a net if its member there correlates with the mean of the other members more than "
        "95 % of the units of a net in another basis do." * bool(kinds),
        alt="Share of units by the number of nets that have them, their correlations, and a map of the nets",
        figure=figure,
        columns=("nets", "what", "value", "standard_error_or_second_axis"),
        rows=rows,
    )


def _draw_map(ax: Any, layer: ComparisonResults, there: NetMap) -> None:
    trained = dict(zip(layer.nets, layer.trained, strict=True))
    for net, (x, y) in zip(there.nets, there.points, strict=True):
        kind = "trained" if trained[net] else "untrained"
        ax.scatter(x, y, color=KIND_COLOURS[kind], s=36, marker="o" if trained[net] else "s")
        ax.annotate(net, (x, y), xytext=(5, 4), textcoords="offset points", fontsize="small")
    reach = 1.25 * max(float(np.abs(there.points).max()), 1e-3)
    ax.set(title="map of the nets (shape distance, rad)", xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")


def layer_map(layer: ComparisonResults) -> list[Drawing]:
    """One drawing for each state of training, [] unless a comparison joins several layers of one epoch."""
    if len(set(layer.layers)) < 2 or len(set(layer.epochs)) > 1:
        return []
    return [drawing for kind in TRAINED_OR_NOT if (drawing := _draw_layers(layer, kind)) is not None]


def _draw_layers(layer: ComparisonResults, kind: Kind) -> Drawing | None:
    names = list(dict.fromkeys(layer.layers))
    shown = [name for name in PREFERRED if name in layer.measures] or layer.measures[:1]
    found: dict[tuple[str, str, str], list[Estimate]] = {}
    place = {net: (of, where) for net, of, where in zip(layer.nets, layer.of_net, layer.layers, strict=True)}
    for pair in layer.of_kind(kind):
        (net_x, layer_x), (net_y, layer_y) = place[pair.x], place[pair.y]
        if net_x == net_y:
            continue
        for measure in shown:
            directions = pair.directions(measure)
            if directions:
                estimate = mean_estimate(directions)
                found.setdefault((measure, layer_x, layer_y), []).append(estimate)
                found.setdefault((measure, layer_y, layer_x), []).append(estimate)
    if not found:
        return None
    figure, axes = new_figure(4.6 * len(shown), 3.9, len(shown))
    rows: list[tuple[Any, ...]] = []
    said = []
    with drawing_style():
        for ax, measure in zip(axes, shown, strict=True):
            matrix = np.full((len(names), len(names)), np.nan)
            for (of, a, b), estimates in found.items():
                if of == measure:
                    mean = mean_estimate(estimates)
                    matrix[names.index(a), names.index(b)] = mean.value
                    group = " & ".join(sorted({a, b}, key=names.index))
                    summary = layer.summary(measure, kind, group=group)
                    ends = (summary.net_error, summary.low, summary.high) if summary else (np.nan,) * 3
                    rows.append((measure, a, b, mean.value, *ends, mean.standard_error, len(estimates)))
            image = ax.imshow(matrix, cmap="viridis", vmin=0, vmax=1)
            for a, b in np.ndindex(matrix.shape):
                if np.isfinite(matrix[a, b]):
                    colour = "white" if matrix[a, b] < 0.6 else "black"
                    ax.text(b, a, f"{matrix[a, b]:.2f}", ha="center", va="center", fontsize="small", color=colour)
            ax.set_xticks(range(len(names)), names, rotation=45, ha="right")
            ax.set_yticks(range(len(names)), names)
            ax.set_title(title_of(measure))
            ax.grid(False)
            figure.colorbar(image, ax=ax, shrink=0.8)
            if np.isfinite(matrix).all():
                right = int((matrix.argmax(axis=1) == np.arange(len(names))).sum())
                said.append(f"{right} of {len(names)} layers by {title_of(measure)}")
    return Drawing(
        name=f"{layer.name}-{kind}-layer-map",
        title=f"Which layers are similar, {kind} nets",
        caption=f"Mean similarity over pairs of different {kind} nets. The most similar layer of another net is the "
        f"same layer for {', '.join(said) or 'no measure with values for all layers'}.",
        alt="Similarity of every layer of one net with every layer of another",
        figure=figure,
        columns=("measure", "layer", "other_layer", "value", "net_error", "low", "high", "image_error", "n_pairs"),
        rows=rows,
    )


def over_time(layer: ComparisonResults) -> list[Drawing]:
    """One drawing a layer that is compared over epochs."""
    return [_draw_epochs(layer, found) for found in layer.over_time]


def _draw_epochs(layer: ComparisonResults, found: LayerOverTime) -> Drawing:
    epochs, name = found.epochs, found.layer
    at = np.arange(len(epochs))
    n_pairs = len(found.matched)
    figure, axes = new_figure(12.4 if n_pairs else 4.2, 3.5, 3 if n_pairs else 1)
    rows: list[tuple[Any, ...]] = []
    facts = ""

    def line(ax: Any, some: Iterable[Trajectory], what: str, colour: str, word: str) -> np.ndarray:
        some = list(some)
        value = np.mean([one.value for one in some], axis=0)
        error = np.mean([one.standard_error for one in some], axis=0)
        ax.fill_between(at, value - 2 * error, value + 2 * error, color=colour, alpha=0.2, linewidth=0)
        ax.plot(at, value, "o-", markersize=4, color=colour, label=word)
        rows.extend((what, int(e), v, s) for e, v, s in zip(epochs, value, error, strict=True))
        return np.asarray(value)

    with drawing_style():
        line(axes[0], found.own.values(), "own", TRAINED, "same unit, last epoch")
        axes[0].set(title="units and their last epoch", ylabel="mean correlation")
        if n_pairs:
            matched = line(axes[1], found.matched.values(), "matched", TRAINED, "matched at the epoch")
            line(axes[1], found.final_partner.values(), "final partner", ACCENT, "final partner")
            axes[1].set(title="two nets at equal epochs", ylabel="mean correlation")
            line(axes[2], found.same_partner.values(), "same partner", SECOND, "matched with final partner")
            first = np.concatenate(list(found.first_matched.values()))
            first = first[first >= 0]
            share = np.array([np.mean(first <= e) for e in epochs])
            axes[2].plot(at, share, "s--", markersize=4, color=UNTRAINED, label="… and from then on")
            rows += [("first matched", int(e), v, "") for e, v in zip(epochs, share, strict=True)]
            axes[2].set(title="when units find their partner", ylabel="share of units")
            half = epochs[np.argmax(share >= 0.5)]
            facts = (
                f" Matched units correlate at {matched[0]:.3f} at epoch {epochs[0]} and at {matched[-1]:.3f} at epoch "
                f"{epochs[-1]}. From epoch {half} on, half of the units keep their final partner."
            )
        for ax in axes:
            ax.set_xticks(at, [str(e) for e in epochs])
            ax.set_xlabel("epoch")
            ax.set_ylim(min(0, ax.get_ylim()[0]), 1.02)
            ax.legend(fontsize="small", loc="lower right")
    return Drawing(
        name=f"{layer.name}-{name}-over-time" if name != layer.name else f"{layer.name}-over-time",
        title=f"{name} over time",
        caption=f"Means over {len(found.own)} nets and {n_pairs} pairs of nets. The final partner of a unit is its "
        f"partner by matching at the last epoch.{facts} Bands: ± 2 standard errors over image groups, for these nets.",
        alt="Correlation of units with their end and with their partners, and share of units with their final partner, "
        "by epoch",
        figure=figure,
        columns=("what", "epoch", "value", "standard_error"),
        rows=rows,
    )
