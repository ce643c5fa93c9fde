"""Partners of units: correlation matrices before and after alignment, partners by correlation and by information."""

from __future__ import annotations

from typing import Any

import numpy as np

from convergence.figures.style import (
    ACCENT,
    KIND_COLOURS,
    NULL,
    TRAINED,
    UNTRAINED,
    Drawing,
    drawing_style,
    new_figure,
    printing,
    show_matrix,
)
from convergence.inference import Estimate
from convergence.results import ComparisonResults, PairResults


def matrices(layer: ComparisonResults, pair: PairResults) -> Drawing:
    """Correlations within and between two nets, in natural order and with matched units on the diagonal."""
    between = layer.correlation(pair.x, pair.y)
    order_x, order_y = (pair.semi_matching(direction).matched_order for direction in ("xy", "yx"))
    figure, axes = new_figure(12.4, 3.5, 4, narrowest=1.4)
    with drawing_style():
        show_matrix(axes[0], layer.correlation(pair.x, pair.x), f"within {pair.x}", "unit", "unit")
        show_matrix(axes[1], layer.correlation(pair.y, pair.y), f"within {pair.y}", "unit", "unit")
        show_matrix(axes[2], between, "between, natural order", f"unit of {pair.y}", f"unit of {pair.x}")
        image = show_matrix(
            axes[3], between[np.ix_(order_x, order_y)], "between, matched", f"its match of {pair.y}",
            f"unit of {pair.x}",
        )  # fmt: skip
        figure.colorbar(
            image, ax=list(axes), shrink=0.8, label="correlation r", location="bottom" if printing() else "right"
        )
    rows = [(i, *row) for i, row in enumerate(np.round(between, 6).tolist())]
    return Drawing(
        name=f"{layer.name}-matrices",
        title=f"Correlations of {pair.x} and {pair.y}",
        caption=f"Correlations of the units of {pair.x} and {pair.y} in {layer.name}: within each net, between the "
        "nets in natural order, and between the nets with units matched one to one, strongest pair first. Matching "
        "maximises the sum of correlations. A visible diagonal shows units that both nets have learned.",
        alt=f"Correlation matrices of {pair.x} and {pair.y} before and after alignment",
        figure=figure,
        columns=(f"unit_{pair.x}", *(f"{pair.y}_{j}" for j in range(between.shape[1]))),
        rows=rows,
    )


def matched_units(layer: ComparisonResults, pair: PairResults) -> Drawing:
    """Correlation of every unit with its partner, sorted: semi-matching and matching, trained and untrained."""
    figure, axes = new_figure(12.4, 3.5, 3)
    rows: list[tuple[Any, ...]] = []
    shown = [("trained", pair), *(("untrained", other) for other in layer.of_kind("untrained")[:1])]
    if pair.kind != "trained":
        shown = [(pair.kind, pair)]
    with drawing_style():
        for ax, measure, title in (
            (axes[0], "semi_matching", "semi-matching: best partner"),
            (axes[1], "matching", "matching: one-to-one partner"),
        ):
            for kind, one in shown:
                found: Any = one.matching if measure == "matching" else one.semi_matching("xy")
                partner = found.unit_y if measure == "matching" else found.partner
                r, error, colour = found.correlation, found.standard_error, KIND_COLOURS[kind]
                order = np.argsort(-r, kind="stable")
                x = np.arange(len(r))
                ax.fill_between(x, (r - 2 * error)[order], (r + 2 * error)[order], color=colour, alpha=0.2, linewidth=0)
                ax.plot(x, r[order], color=colour, linewidth=1.8, label=f"{one.x} to {one.y} ({kind})")
                rows += [(measure, one.x, one.y, one.units_x[i], partner[i], r[i], error[i]) for i in order]
                if measure == "matching":
                    part = one.partial_matching
                    mass, mean, wide = part.share, part.mean_correlation, part.standard_error
                    axes[2].fill_between(mass, mean - 2 * wide, mean + 2 * wide, color=colour, alpha=0.2, linewidth=0)
                    axes[2].plot(mass, mean, "o-", markersize=4, color=colour, label=f"{one.x} to {one.y} ({kind})")
                    rows += [("partial", one.x, one.y, m, "", v, e) for m, v, e in zip(mass, mean, wide, strict=True)]
            estimate = pair.measure(measure)
            if estimate is not None and np.isfinite(estimate.null):
                label = f"mean with {pair.y} in another basis: {estimate.null:.2f}"
                ax.axhline(estimate.null, color=NULL, linestyle="--", label=label)
            ax.set_title(title)
            ax.set_xlabel(f"units of {layer.name}, best first")
            ax.set_ylim(min(0, ax.get_ylim()[0]), 1.02)
            ax.legend(loc="lower left", fontsize="small")
        axes[0].set_ylabel("correlation with the partner")
        axes[2].set(title="partial matching", xlabel="share of the units matched", ylim=(0, 1.02))
        axes[2].legend(loc="lower left", fontsize="small")
    semi, matching = pair.semi_matching("xy"), pair.matching
    return Drawing(
        name=f"{layer.name}-matched",
        title="How well does each unit match its partner?",
        caption=f"{pair.x} to {pair.y}: {100 * pair.same_partner:.0f} % of the units have the same partner by both "
        f"methods; {pair.never_chosen} units of {pair.y} are no unit's best partner. With partners chosen on one half "
        f"of the images and scored on the other, mean correlations are {semi.held_out.mean():.3f} (semi-matching) and "
        f"{matching.held_out[matching.unit_y >= 0].mean():.3f} (matching). {_significant(pair)}"
        " Right: mean correlation where only a share of the units is matched (partial soft matching). Bands: ± 2 "
        "standard errors over image groups.",
        alt="Sorted correlation of each unit with its semi-matched and matched partner",
        figure=figure,
        columns=("alignment", "net_x", "net_y", "unit_x", "unit_y", "correlation", "standard_error"),
        rows=rows,
    )


def _significant(pair: PairResults) -> str:
    """The share of units with a partner beyond chance, or why it is unknown."""
    if pair.null_reason_xy:
        return f"There are no p-values: {pair.null_reason_xy}."
    return (
        f"{100 * pair.significant_xy:.0f} % of the units have a better partner than the best unit of {pair.y} in "
        "another basis, at a false-discovery rate of 5 %."
    )


def information(layer: ComparisonResults, pair: PairResults) -> Drawing | None:
    """Mutual information with the partner, and its agreement with correlation."""
    found, semi = pair.mutual_information, pair.semi_matching("xy")
    if found is None:
        return None
    figure, axes = new_figure(9.2, 3.5, 2)
    baseline = [other for other in layer.of_kind("untrained") if other is not pair][:1]
    with drawing_style():
        for one, line in ((pair, "-"), *((other, "--") for other in baseline)):
            nats = one.mutual_information
            if nats is None:
                continue
            for values, errors, colour, word in (
                (nats.best_nats, nats.best_error, TRAINED, "semi-matching"),
                (nats.matched_nats, nats.matched_error, ACCENT, "matching"),
            ):
                order = np.argsort(-values, kind="stable")
                value, error = values[order], errors[order]
                x = np.arange(len(value))
                axes[0].fill_between(x, value - 2 * error, value + 2 * error, color=colour, alpha=0.15, linewidth=0)
                axes[0].plot(x, value, line, color=colour, linewidth=1.8, label=f"{word}, {one.x} to {one.y}")
        axes[0].set(title="mutual information with the partner", xlabel=f"units of {layer.name}, best first")
        axes[0].set_ylabel("nats")
        axes[0].set_ylim(bottom=min(0, axes[0].get_ylim()[0]))
        axes[0].legend(fontsize="small")
        same = found.best_unit_y == semi.partner
        for chosen, colour, word in (
            (same, TRAINED, f"same partner by both ({same.sum()})"),
            (~same, UNTRAINED, f"another partner ({(~same).sum()})"),
        ):
            axes[1].scatter(semi.correlation[chosen], found.best_nats[chosen], s=16, color=colour, label=word)
        axes[1].set(title="best partner by each measure", xlabel="correlation", ylabel="mutual information (nats)")
        axes[1].legend(loc="upper left", fontsize="small")
    besides = "".join(
        f"; {other.need('mean_information_semi_matching').value:.3f} and "
        f"{other.need('mean_information_matching').value:.3f} between the untrained {other.x} and {other.y}"
        for other in baseline
    )
    rows = list(
        zip(
            found.unit_x, found.best_unit_y, found.best_nats, found.best_error, found.matched_unit_y,
            found.matched_nats, found.matched_error, semi.partner, semi.correlation, strict=True,
        )
    )  # fmt: skip
    return Drawing(
        name=f"{layer.name}-information",
        title="Does mutual information agree with correlation?",
        caption=f"{pair.x} to {pair.y}: {_percent(pair.need('same_partner_semi_matching'))} of the units have the same "
        "best partner by mutual information and by correlation, "
        f"{_percent(pair.need('same_partner_matching'))} the same matched partner. Mean mutual information is "
        f"{_plus_minus(pair.need('mean_information_semi_matching'))} nats (semi-matching) and "
        f"{_plus_minus(pair.need('mean_information_matching'))} nats (matching), less the bias of few images"
        f"{besides}. Bands: ± 2 standard errors over image groups.",
        alt="Mutual information per unit, and scatter of mutual information against correlation",
        figure=figure,
        columns=(
            "unit_x", "semi_unit_y", "semi_nats", "semi_nats_error", "matched_unit_y", "matched_nats",
            "matched_nats_error", "semi_unit_y_by_correlation", "semi_correlation",
        ),
        rows=rows,
    )  # fmt: skip


def _plus_minus(e: Estimate) -> str:
    return f"{e.value:.3f} ± {e.standard_error:.3f}"


def _percent(e: Estimate) -> str:
    return f"{100 * e.value:.0f} ± {100 * e.standard_error:.0f} %"
