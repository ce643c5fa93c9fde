"""Mutual information with the partner, and its agreement with correlation."""

from __future__ import annotations

from typing import Any

import numpy as np

from convergence.figures.style import ACCENT, TRAINED, UNTRAINED, Drawing, drawing_style, new_figure
from convergence.summary import Layer, PairResult


def information(layer: Layer, pair: PairResult) -> Drawing | None:
    """Mutual information with the partner against correlation: does the answer survive a change of measure?"""
    if "information" not in pair.tree:
        return None
    found, alignment = pair.tree["information"], pair.tree["alignment"]
    figure, axes = new_figure(9.2, 3.5, 2)
    with drawing_style():
        baseline = [other for other in layer.of_kind("untrained") if other is not pair][:1]
        for one, line in ((pair, "-"), *((other, "--") for other in baseline)):
            nats = one.tree["information"]
            for key, colour, word in (("semi_xy", TRAINED, "semi-matching"), ("matching", ACCENT, "matching")):
                order = np.argsort(-nats[f"{key}_nats"], kind="stable")
                value, error = nats[f"{key}_nats"][order], nats[f"{key}_error"][order]
                x = np.arange(len(value))
                axes[0].fill_between(x, value - 2 * error, value + 2 * error, color=colour, alpha=0.15, linewidth=0)
                axes[0].plot(x, value, line, color=colour, linewidth=1.8, label=f"{word}, {one.x} to {one.y}")
        axes[0].set(title="mutual information with the partner", xlabel=f"units of {layer.name}, best first")
        axes[0].set_ylabel("nats")
        axes[0].set_ylim(bottom=min(0, axes[0].get_ylim()[0]))
        axes[0].legend(fontsize="small")
        same = found["semi_xy"] == alignment["semi_xy"]
        for chosen, colour, word in (
            (same, TRAINED, f"same partner by both ({same.sum()})"),
            (~same, UNTRAINED, f"another partner ({(~same).sum()})"),
        ):
            axes[1].scatter(
                alignment["semi_xy_correlation"][chosen],
                found["semi_xy_nats"][chosen],
                s=16,
                color=colour,
                label=word,
            )
        axes[1].set(title="best partner by each measure", xlabel="correlation", ylabel="mutual information (nats)")
        axes[1].legend(loc="upper left", fontsize="small")
    besides = "".join(
        f"; {other.tree['information']['mean_semi']['value']:.3f} and "
        f"{other.tree['information']['mean_matching']['value']:.3f} between the untrained {other.x} and {other.y}"
        for other in baseline
    )
    rows = [
        (
            pair.tree["units_x"][i],
            found["semi_xy"][i],
            found["semi_xy_nats"][i],
            found["semi_xy_error"][i],
            found["matching"][i],
            found["matching_nats"][i],
            found["matching_error"][i],
            alignment["semi_xy"][i],
            alignment["semi_xy_correlation"][i],
        )
        for i in range(len(same))
    ]
    return Drawing(
        name=f"{layer.name}-information",
        title="Does mutual information agree with correlation?",
        caption=f"{pair.x} to {pair.y}: {_percent(found['same_semi'])} of the units have the same "
        "best partner by mutual information as by correlation, "
        f"{_percent(found['same_matching'])} the same matched one. Mean mutual "
        f"information {_plus_minus(found['mean_semi'])} nats (semi-matching) and "
        f"{_plus_minus(found['mean_matching'])} (matching), corrected for the bias of counting"
        f"{besides}. Bands are ± 2 standard errors over image groups.",
        alt="Mutual information per unit, and scatter of mutual information against correlation",
        figure=figure,
        columns=(
            "unit_x",
            "semi_unit_y",
            "semi_nats",
            "semi_nats_error",
            "matched_unit_y",
            "matched_nats",
            "matched_nats_error",
            "semi_unit_y_by_correlation",
            "semi_correlation",
        ),
        rows=rows,
    )


def _plus_minus(estimate: dict[str, Any]) -> str:
    return f"{estimate['value']:.3f} ± {estimate['standard_error']:.3f}"


def _percent(estimate: dict[str, Any]) -> str:
    return f"{100 * estimate['value']:.0f} ± {100 * estimate['standard_error']:.0f} %"
