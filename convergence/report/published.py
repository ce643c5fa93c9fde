"""Published values of Li et al. 2016 beside those of the run; ``convergence paper`` trains mapping layers as well."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from convergence.paper.published import LAYERS, RECOVERED, SOURCES, TABLE_LAMBDAS, PublishedLayer
from convergence.paper.readings import N_SHOWN, alignment, top_activations
from convergence.paper.tables import number, percent, power
from convergence.report.tables import MISSING, Table
from convergence.results import ComparisonResults, PairResults

Rows = list[list[str]]
SOURCES_SAID = "; ".join(f"{letter}: {words}" for letter, words in SOURCES.items())


def published_tables(shown: Sequence[tuple[ComparisonResults, PairResults]]) -> list[tuple[str, str, Table]]:
    """Title, explanation and table of every number that both the paper and the run have."""
    makers = (_alignment, _prediction, _information, _activations)
    return [(title, about, table) for title, about, table in (maker(shown) for maker in makers) if table.rows]


def _beside(
    shown: Sequence[tuple[ComparisonResults, PairResults]],
    ours: Callable[[ComparisonResults, PairResults], Rows],
    theirs: Callable[[PublishedLayer], Rows],
) -> Rows:
    """Rows of each layer with those of the paper's namesake; its other layers below, unless all have a namesake."""
    rows: Rows = []
    names = [layer.name for layer, _ in shown]
    for layer, pair in shown:
        rows += ours(layer, pair)
        if layer.name in LAYERS:
            rows += theirs(LAYERS[layer.name])
    if not set(names) <= set(LAYERS):
        for name, published in LAYERS.items():
            if name not in names:
                rows += theirs(published)
    return rows


def _alignment(shown: Sequence[tuple[ComparisonResults, PairResults]]) -> tuple[str, str, Table]:
    def ours(layer: ComparisonResults, pair: PairResults) -> Rows:
        found = alignment(pair)
        units = f"{len(pair.units_x)}, {len(pair.units_y)}"
        return [
            [
                layer.name, units, number(found.semi_matching), number(found.matching), percent(found.same_assignment),
                percent(found.below_half),
            ]
        ]  # fmt: skip

    def theirs(p: PublishedLayer) -> Rows:
        values = [f"{v.value:.3f} {v.source}" for v in (p.semi_matching, p.matching)]
        shares = [f"{percent(v.value)} {v.source}" for v in (p.same_assignment, p.below_half)]
        if p.name in RECOVERED:
            nulls = (RECOVERED[p.name].semi_matching_null, RECOVERED[p.name].matching_null)
            values = [f"{v} ({n.value:.3f} ± {n.spread:.3f} {n.source})" for v, n in zip(values, nulls, strict=True)]
        return [[f"paper’s {p.name}", f"{p.channels}, {p.channels}", *values, *shares]]

    columns = ("layer", "units", "best partner, mean r", "matched, mean r", "same partner by both", "best r below .5")
    return (
        "Alignment of single units",
        "Mean correlation ± its jackknife error (mean with the second net in another basis ± its spread).",
        Table.of("Alignment of single units beside the paper's", columns, _beside(shown, ours, theirs)),
    )


def _prediction(shown: Sequence[tuple[ComparisonResults, PairResults]]) -> tuple[str, str, Table]:
    def ours(layer: ComparisonResults, pair: PairResults) -> Rows:
        sparse = pair.sparse("xy")
        if sparse is None:
            return []
        n_targets, path = len(sparse.target), sparse.path
        rising = np.argsort(path.alpha)
        known = np.log(path.alpha[rising])
        cells = []
        for value in TABLE_LAMBDAS:
            if value == 0:
                cells.append(f"{pair.need('all_units_loss').value:.4f}")
                continue
            loss = np.interp(np.log(value * n_targets), known, path.loss[rising], left=np.nan, right=np.nan)
            cells.append(f"{loss:.4f}" if np.isfinite(loss) else MISSING)
        return [[layer.name, "exact LASSO", *cells]]

    def theirs(p: PublishedLayer) -> Rows:
        def curve(values: Sequence[float | None], digits: int) -> list[str]:
            return [MISSING if value is None else f"{value:.{digits}f}" for value in values]

        rows = [[f"paper’s {p.name}", f"SGD, last minibatch {p.table.source}", *curve(p.table.at(TABLE_LAMBDAS), 3)]]
        if p.name in RECOVERED:
            loss = RECOVERED[p.name].loss
            rows.append([f"paper’s {p.name}", f"exact LASSO {loss.source}", *curve(loss.at(TABLE_LAMBDAS), 3)])
        return rows

    rows = _beside(shown, ours, theirs) if any(pair.sparse_both for _, pair in shown) else []
    return (
        "Prediction from few units (the paper's Table 1)",
        "Loss ½ (1 − R²) by penalty λ: .5 explains nothing, 0 explains all. Losses of this run are the exact optimum, "
        "interpolated between the penalties of the analysis. The paper trained mapping layers by SGD, which do not "
        "reach the optimum. “convergence paper RUN” trains such layers for this run.",
        Table.of(
            "Prediction losses beside the paper's",
            ("layer", "by", *(f"λ = {power(value)}" for value in TABLE_LAMBDAS)),
            rows,
        ),
    )


def _information(shown: Sequence[tuple[ComparisonResults, PairResults]]) -> tuple[str, str, Table]:
    def listed(values: Iterable[float]) -> str:
        return " ".join(f"{value:.2f}".replace("0.", ".", 1) for value in values)

    def ours(layer: ComparisonResults, pair: PairResults) -> Rows:
        found = pair.mutual_information
        if found is None:
            return []
        nats = -np.sort(-found.best_nats)
        return [[layer.name, listed(nats[:N_SHOWN]), listed(nats[-N_SHOWN:]), percent(pair.same_halves)]]

    def theirs(p: PublishedLayer) -> Rows:
        if not p.information_best:
            return []
        return [[f"paper’s {p.name}", listed(p.information_best), listed(p.information_worst), MISSING]]

    rows = _beside(shown, ours, theirs) if any(pair.mutual_information for _, pair in shown) else []
    return (
        "Mutual information of the best partners",
        "Nats, less the bias of few images. Same on both halves: share of units with the same best partner by "
        "correlation on both halves of the images.",
        Table.of(
            "Mutual information beside the paper's",
            ("layer", f"best {N_SHOWN}", f"worst {N_SHOWN}", "same on both halves"),
            rows,
        ),
    )


def _activations(shown: Sequence[tuple[ComparisonResults, PairResults]]) -> tuple[str, str, Table]:
    def ours(layer: ComparisonResults, pair: PairResults) -> Rows:
        kept = [n for n, trained in zip(top_activations(layer), layer.trained, strict=True) if trained]
        return [[layer.name, ", ".join(number(n) for n in kept)]] if kept else []

    def theirs(p: PublishedLayer) -> Rows:
        values = ", ".join(f"{value:.1f}" for value in p.top_mean_activations)
        return [[f"paper’s {p.name}", values]] if values else []

    return (
        "Mean activation of the most active unit",
        "Of each trained net, ± its jackknife error; the paper's of Net1 to Net4.",
        Table.of(
            "Top mean activations beside the paper's", ("layer", "trained nets in order"), _beside(shown, ours, theirs)
        ),
    )
