"""Numbers as plain text in aligned columns, at most 110 characters wide: this run's, and the published ones beside."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from convergence.paper.published import (
    ACCURACIES,
    LAYERS,
    RECOVERED,
    TABLE_LAMBDAS,
    Curve,
    PublishedLayer,
    PublishedValue,
)
from convergence.paper.readings import N_SHOWN, WIDEST, AlignmentReading, LayerReading, Number

WIDTH = 110
GAP = 2
MISSING = "–"
Row = Sequence[str]


def text_table(header: Row, rows: Iterable[Row], width: int = WIDTH) -> str:
    """Columns as wide as they need to be, the first one to the left; those beyond ``width`` follow below.

    The first column is repeated before each part. A cell wider than a part is cut, with an ellipsis.
    """
    cells = [[*header], *([*row] for row in rows)]
    first = min(max(len(row[0]) for row in cells), width // 2)
    room = width - first - GAP
    widths = [min(max(len(row[k]) for row in cells), room) for k in range(1, len(header))]
    parts: list[list[int]] = [[]]
    for column, needed in enumerate(widths, start=1):
        if parts[-1] and sum(widths[k - 1] + GAP for k in parts[-1]) + needed > room:
            parts.append([])
        parts[-1].append(column)
    blocks = []
    for columns in parts:
        lines = []
        for row in cells:
            rest = (" " * GAP + _cut(row[k], widths[k - 1]).ljust(widths[k - 1]) for k in columns)
            lines.append((_cut(row[0], first).ljust(first) + "".join(rest)).rstrip())
        lines.insert(1, "-" * max(map(len, lines)))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def paragraph(text: str, indent: str = "") -> str:
    """Text filled to the width; lines after the first begin with ``indent``."""
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=True, break_on_hyphens=False)


def with_published(
    readings: Sequence[LayerReading],
    ours: Callable[[LayerReading], list[Row]],
    theirs: Callable[[PublishedLayer], list[Row]],
) -> list[Row]:
    """Rows of each layer with those of the paper's layer of that name; the paper's other layers at the end.

    The others are left out where each layer of the run has its namesake.
    """
    rows: list[Row] = []
    names = [reading.name for reading in readings]
    for reading in readings:
        rows += ours(reading)
        if reading.name in LAYERS:
            rows += theirs(LAYERS[reading.name])
    if not set(names) <= set(LAYERS):
        for name, layer in LAYERS.items():
            if name not in names:
                rows += theirs(layer)
    return rows


def alignment_table(readings: Sequence[LayerReading]) -> str:
    """Mean correlations with semi-matched and matched partners, and shares of units."""

    def ours(reading: LayerReading) -> list[Row]:
        pair, shown = reading.pair, reading.alignment
        widths = f"{len(pair.units_x)}, {len(pair.units_y)}"
        rows: list[Row] = [
            (
                reading.name, widths, number(shown.semi_matching), number(shown.matching),
                percent(shown.same_assignment), percent(shown.below_half),
            )
        ]  # fmt: skip
        if len(reading.others) > 1:

            def span(value: Callable[[AlignmentReading], float], share: bool = False) -> str:
                values = [value(other) for other in reading.others]
                if share:
                    return f"{100 * min(values):.0f}–{percent(max(values))}"
                return f"{min(values):.3f} … {max(values):.3f}"

            rows.append(
                (
                    f"  {len(reading.others)} trained pairs",
                    "",
                    span(lambda a: a.semi_matching.value),
                    span(lambda a: a.matching.value),
                    span(lambda a: a.same_assignment, share=True),
                    span(lambda a: a.below_half, share=True),
                )
            )
        return rows

    def theirs(layer: PublishedLayer) -> list[Row]:
        recovered = RECOVERED.get(layer.name)
        nulls = (recovered.semi_matching_null, recovered.matching_null) if recovered else (None, None)
        return [
            (
                f"  paper's {layer.name}", f"{layer.channels}, {layer.channels}",
                _published(layer.semi_matching, nulls[0]), _published(layer.matching, nulls[1]),
                f"{percent(layer.same_assignment.value)} {layer.same_assignment.source}",
                f"{percent(layer.below_half.value)} {layer.below_half.source}",
            )
        ]  # fmt: skip

    header = ("layer", "units", "semi-matching: mean r", "matching: mean r", "same", "r < .5")
    return text_table(header, with_published(readings, ours, theirs))


def prediction_table(readings: Sequence[LayerReading]) -> str:
    """Table 1: losses by penalty in three readings, and weights above 0.01 a target."""

    def ours(reading: LayerReading) -> list[Row]:
        p = reading.prediction
        if p is None:
            said = f"left out: more than {WIDEST} units"
            return [(reading.name, said, *[MISSING] * len(TABLE_LAMBDAS))]
        at = [int(np.flatnonzero(p.lambdas == value)[0]) for value in TABLE_LAMBDAS]
        rows: list[Row] = [(reading.name, "exact LASSO", *_decimals(p.exact[at], 4))]
        if np.isfinite(p.exact_error[at]).any():
            rows.append(("", "  ± jackknife error", *_decimals(p.exact_error[at], 4)))
        rows += [
            ("", f"SGD as the original, {p.short_steps} steps", *_decimals(p.short[at], 4)),
            ("", f"SGD, {p.long_steps} steps", *_decimals(p.long[at], 4)),
            ("", "weights, exact", *_decimals(p.exact_weights[at], 1)),
            ("", f"weights, SGD, {p.short_steps} steps", *_decimals(p.short_weights[at], 1)),
            ("", f"weights, SGD, {p.long_steps} steps", *_decimals(p.long_weights[at], 1)),
        ]
        return rows

    def theirs(layer: PublishedLayer) -> list[Row]:
        rows: list[Row] = [(f"  paper's {layer.name}", f"last minibatch {layer.table.source}", *_curve(layer.table, 3))]
        if layer.last_500:
            rows.append(("", f"mean of last 500 steps {layer.last_500.source}", *_curve(layer.last_500, 4)))
        if layer.weights_above:
            rows.append(("", f"weights {layer.weights_above.source}", *_curve(layer.weights_above, 1)))
        if layer.name in RECOVERED:
            loss = RECOVERED[layer.name].loss
            rows.append(("", f"exact LASSO {loss.source}", *_curve(loss, 3)))
        return rows

    header = ("layer", "reading", *(power(value) for value in TABLE_LAMBDAS))
    return text_table(header, with_published(readings, ours, theirs))


def information_table(readings: Sequence[LayerReading]) -> str:
    """Best and worst semi-matched pairs by mutual information, in nats."""

    def ours(reading: LayerReading) -> list[Row]:
        found = reading.information
        if found is None:
            return [(reading.name, "not counted: statistics.mutual_information.enabled is false", "", "", "")]
        best, worst = found.nats[: found.n_best], found.nats[-found.n_best :]
        error = max(found.errors.max(), 0.0)
        same = f"{found.same_best} of {found.n_best}"
        return [(reading.name, _listed(best), _listed(worst), f"{error:.3f}", same)]

    def theirs(layer: PublishedLayer) -> list[Row]:
        if not layer.information_best:
            return []
        same = layer.same_best_eight
        return [
            (
                f"  paper's {layer.name} N",
                _listed(layer.information_best),
                _listed(layer.information_worst),
                MISSING,
                f"{same.value:.0f} of {N_SHOWN} {same.source}" if same else MISSING,
            )
        ]

    header = ("layer", f"best {N_SHOWN}", f"worst {N_SHOWN}", "± up to", "same by r")
    return text_table(header, with_published(readings, ours, theirs))


def nets_table(readings: Sequence[LayerReading], nets: Sequence[dict[str, object]]) -> str:
    """Accuracy of every net, and mean activation of its most active unit in every layer."""
    rows: list[Row] = []
    for net in nets:
        name = str(net["name"])
        cells = []
        for reading in readings:
            at = reading.layer.nets.index(name) if name in reading.layer.nets else None
            cells.append(MISSING if at is None else number(reading.top_activations[at]))
        accuracy = float(str(net["held_out_accuracy"]))
        rows.append((name, f"{100 * accuracy:.2f} %" if np.isfinite(accuracy) else MISSING, *cells))
    namesakes = [LAYERS.get(reading.name) for reading in readings]
    for k, accuracy_value in enumerate(ACCURACIES):
        tops = [
            f"{layer.top_mean_activations[k]:.1f} N" if layer and layer.top_mean_activations else MISSING
            for layer in namesakes
        ]
        rows.append((f"paper's Net{k + 1}", f"{100 * accuracy_value.value:.2f} % {accuracy_value.source}", *tops))
    return text_table(("net", "accuracy", *(reading.name for reading in readings)), rows)


def published_activations(readings: Sequence[LayerReading]) -> str:
    """Top mean activations of the paper's layers that have no namesake in the run, as one sentence; "" if none."""
    names = [reading.name for reading in readings]
    phrases = [
        f"{layer.name} {', '.join(_decimals(layer.top_mean_activations, 1))}"
        for layer in LAYERS.values()
        if layer.top_mean_activations and layer.name not in names
    ]
    return f"The paper's top mean activations, Net1 to Net4 (N): {'; '.join(phrases)}." if phrases else ""


def number(value: Number) -> str:
    """PublishedValue ± error (null ± its spread), where known."""
    text = _significant(value.value)
    if np.isfinite(value.error):
        text += f" ± {_significant(value.error)}"
    if np.isfinite(value.null):
        text += f" ({value.null:.3f} ± {value.null_sd:.3f})"
    return text


def power(penalty: float) -> str:
    """A penalty as the paper writes it: 1e-4, or 10^-2.6 between powers of ten."""
    if penalty == 0:
        return "0"
    exponent = round(float(np.log10(penalty)), 3)
    return f"1e{exponent:.0f}" if exponent == round(exponent) else f"10^{exponent:g}"


def percent(share: float) -> str:
    """A share as whole percent."""
    return f"{100 * share:.0f} %"


def _published(value: PublishedValue, null: PublishedValue | None) -> str:
    text = f"{value.value:.3f} {value.source}"
    return text if null is None else f"{text} ({null.value:.3f} ± {null.spread:.3f} {null.source})"


def _curve(curve: Curve, digits: int) -> list[str]:
    return [MISSING if value is None else f"{value:.{digits}f}" for value in curve.at(TABLE_LAMBDAS)]


def _decimals(values: Iterable[float], digits: int) -> list[str]:
    """Fixed decimals, no negative zero."""
    return [f"{value:.{digits}f}".replace(f"-{0:.{digits}f}", f"{0:.{digits}f}") if np.isfinite(value) else MISSING
            for value in values]  # fmt: skip


def _listed(values: Iterable[float]) -> str:
    """Two decimals each, without the zero before the point: .67 .65 …"""
    return " ".join(text.replace("0.", ".", 1) if abs(float(text)) < 1 else text for text in _decimals(values, 2))


def _significant(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
