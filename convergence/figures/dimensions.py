"""How many dimensions two nets share, and all nets of a kind: held-out correlations by dimension."""

from __future__ import annotations

from typing import Any

import numpy as np

from convergence.figures.style import (
    KIND_COLOURS,
    KIND_WORDS,
    NULL,
    Drawing,
    drawing_style,
    new_figure,
    printing,
)
from convergence.results import ComparisonResults, PairResults
from convergence.results.groups import SharedDimensions


def shared_dimensions(layer: ComparisonResults, pair: PairResults) -> Drawing | None:
    """Held-out canonical correlations of each pair of nets, and generalised ones of all nets of a kind."""
    shown = pair.shared_dimensions
    if shown is None:
        return None
    kinds = {kind: found.dimensions for kind, found in layer.consensus.items() if kind in KIND_COLOURS}
    figure, axes = new_figure(9.4 if kinds else 5.2, 3.6, 2 if kinds else 1)
    rows: list[tuple[Any, ...]] = []
    with drawing_style():
        _draw_pairs(axes[0], layer, rows)
        at = np.arange(1, shown.n_dimensions + 1)
        own = KIND_COLOURS.get(pair.kind, NULL)
        axes[0].plot(at, shown.correlation, color=own, linewidth=2.2, label=f"{pair.x}, {pair.y}")
        _band(axes[0], shown)
        axes[0].set(title="pairs of nets", xlabel="dimension", ylabel="correlation on other images")
        for kind, found in kinds.items():
            place, colour = np.arange(1, found.n_dimensions + 1), KIND_COLOURS[kind]
            error = 2 * found.standard_error
            axes[1].fill_between(
                place, found.correlation - error, found.correlation + error, color=colour, alpha=0.2, linewidth=0
            )
            axes[1].plot(place, found.correlation, color=colour, label=KIND_WORDS[kind])
            rows += _numbers("all nets", kind, "", found)
        if kinds:
            _band(axes[1], next(iter(kinds.values())))
            axes[1].set(title="all nets at once", xlabel="dimension", ylabel="mean correlation of two nets")
        for ax in axes:
            ax.axhline(0.5, color=NULL, linewidth=0.8, linestyle=":")
            ax.set_ylim(min(-0.05, ax.get_ylim()[0]), 1.04)
            ax.legend(fontsize="small", loc="upper right", ncols=1 if printing() else 2)
    together = " ".join(f"All {KIND_WORDS[kind]} together: {_sentence(found)}" for kind, found in kinds.items())
    return Drawing(
        name=f"{layer.name}-shared-dimensions",
        title="How many dimensions do nets share?",
        caption=f"{pair.x} and {pair.y}: {_sentence(shown)} {together}{' ' if together else ''}"
        "Canonical directions are fitted on one half of the image groups and scored on the other. A dimension counts "
        "as shared if its correlation is beyond chance and at least 0.5: then a common cause explains half of its "
        "variance in each net. Grey: correlations that a dimension that is not shared stays below with probability "
        "0.95. Thin lines: the other pairs.",
        alt="Held-out canonical correlations by dimension, for each pair of nets and for all nets of a kind",
        figure=figure,
        columns=("nets", "x_or_kind", "y", "dimension", "correlation", "standard_error", "null"),
        rows=rows,
    )


def _draw_pairs(ax: Any, layer: ComparisonResults, rows: list[tuple[Any, ...]]) -> None:
    labelled: set[str] = set()
    for one in layer.pairs:
        found = one.shared_dimensions
        if found is None:
            continue
        rows += _numbers("pair", one.x, one.y, found)
        if one.kind in KIND_COLOURS:
            label = None if one.kind in labelled else KIND_WORDS[one.kind]
            labelled.add(one.kind)
            at = np.arange(1, found.n_dimensions + 1)
            ax.plot(at, found.correlation, color=KIND_COLOURS[one.kind], linewidth=0.7, alpha=0.6, label=label)


def _band(ax: Any, found: SharedDimensions) -> None:
    """Shade the correlations of dimensions that are not shared."""
    at = np.arange(1, found.n_dimensions + 1)
    ax.fill_between(at, -found.null, found.null, color=NULL, alpha=0.25, linewidth=0, label="chance")


def _sentence(found: SharedDimensions) -> str:
    return (
        f"{found.shared} of {found.n_dimensions} dimensions are shared, {found.beyond_chance} are beyond chance; the "
        f"squared correlations sum to {found.effective:.1f} ± {found.effective_error:.1f}."
    )


def _numbers(nets: str, x: str, y: str, found: SharedDimensions) -> list[tuple[Any, ...]]:
    columns = (found.correlation, found.standard_error, found.null)
    return [(nets, x, y, k + 1, *values) for k, values in enumerate(zip(*columns, strict=True))]
