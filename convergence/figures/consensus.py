"""All nets of a layer at once: units that several nets have, and the nets as points of a map."""

from __future__ import annotations

from typing import Any

import numpy as np

from convergence.figures.style import KIND_COLOURS, KIND_WORDS, NULL, Drawing, drawing_style, new_figure
from convergence.summary import SHARE, Layer, PairResult
from convergence.uncertainty import Estimate


def consensus(layer: Layer, pair: PairResult) -> Drawing | None:
    """In how many nets each consensus unit is present, how alike its members are, and how far apart the nets are."""
    kinds = {kind: tree for kind, tree in layer.all_nets.get("kinds", {}).items() if kind in KIND_COLOURS}
    there = layer.all_nets.get("map")
    if not kinds and not there:
        return None
    n_axes = 2 * bool(kinds) + bool(there)
    figure, axes = new_figure(4.1 * n_axes, 3.5, n_axes)
    rows: list[tuple[Any, ...]] = []
    said = []
    with drawing_style():
        for k, (kind, tree) in enumerate(kinds.items()):
            colour = KIND_COLOURS[kind]
            shared = {int(name.removeprefix("in ")): Estimate(**e).within(SHARE) for name, e in tree["shared"].items()}
            at = np.array(list(shared)) + 0.38 * (k - (len(kinds) - 1) / 2)
            axes[0].bar(
                at, [e.value for e in shared.values()], width=0.36, color=colour, capsize=3, label=KIND_WORDS[kind],
                yerr=[[e.value - e.low for e in shared.values()], [e.high - e.value for e in shared.values()]],
            )  # fmt: skip
            axes[0].set_xticks(list(shared))
            mean = Estimate(**tree["mean_correlation"])
            order = np.argsort(-tree["unit_correlation"], kind="stable")
            value, error = tree["unit_correlation"][order], tree["unit_correlation_error"][order]
            axes[1].fill_between(
                np.arange(len(value)), value - 2 * error, value + 2 * error, color=colour, alpha=0.2, linewidth=0
            )
            axes[1].plot(value, color=colour, label=KIND_WORDS[kind])
            axes[1].axhline(mean.null, color=NULL, linestyle="--", label=f"mean after rotation: {mean.null:.2f}")
            cycles = Estimate(**tree["cycle_consistency"])
            core = shared[max(shared)]
            said.append(
                f"Of {len(value)} consensus units of {KIND_WORDS[kind]}, {100 * core.value:.0f} % are in all "
                f"{max(shared)} nets; members correlate at {mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}] on "
                f"average ({mean.null:.3f} in rotated bases). Going round three nets by their matchings, "
                f"{100 * cycles.value:.0f} % of the units come back to themselves ({100 * tree['cycle_chance']:.0f} % "
                "by chance)."
            )
            rows += [(kind, f"in at least {n} nets", e.value, e.standard_error) for n, e in shared.items()]
            rows += [(kind, f"consensus unit {n}", *both) for n, both in enumerate(zip(value, error, strict=True))]
        if kinds:
            axes[0].set(title="consensus units present in …", xlabel="at least so many nets", ylabel="share of units")
            axes[0].set_ylim(0, 1.05)
            axes[0].legend(fontsize="small")
            axes[1].set(title="how alike members are", xlabel="consensus units, best first", ylabel="mean r of members")
            axes[1].set_ylim(min(0, axes[1].get_ylim()[0]), 1.02)
            axes[1].legend(fontsize="small")
        if there:
            _draw_map(axes[-1], layer, there)
            rows += [("map", net, *point) for net, point in zip(there["nets"], there["points"], strict=True)]
            said.append(
                "Map: nets placed so that distances between them are as near as a plane allows to their shape "
                f"distances ({100 * there['explained']:.0f} % explained)."
            )
    return Drawing(
        name=f"{layer.name}-consensus",
        title="What do all nets have in common?",
        caption=" ".join(said)
        + " A unit is present in a net if its member there correlates with the mean of the others more than 95 % of "
        "members do when all bases are rotated and aligned anew." * bool(kinds),
        alt="Share of units by the number of nets that have them, their correlations, and a map of the nets",
        figure=figure,
        columns=("nets", "what", "value", "standard_error_or_second_axis"),
        rows=rows,
    )


def _draw_map(ax: Any, layer: Layer, there: dict[str, Any]) -> None:
    points = there["points"]
    trained = dict(zip(layer.nets, layer.trained, strict=True))
    for net, (x, y) in zip(there["nets"], points, strict=True):
        kind = "trained" if trained[net] else "untrained"
        ax.scatter(x, y, color=KIND_COLOURS[kind], s=36, marker="o" if trained[net] else "s")
        ax.annotate(net, (x, y), xytext=(5, 4), textcoords="offset points", fontsize="small")
    reach = 1.25 * max(float(np.abs(points).max()), 1e-3)
    ax.set(title="map of the nets (shape distance, rad)", xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
