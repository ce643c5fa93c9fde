"""Findings: the questions of the study, each with an answer for this run and a table of its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convergence.results.comparison import ComparisonResults
from convergence.results.pair import HELD_OUT, TRAINED_OR_NOT
from convergence.results.populations import SHARE, Summary, interval

MISSING = "–"
NAMED = 4
"""Layers that a sentence lists with their numbers; of more it gives the first and the last."""


@dataclass(frozen=True)
class StudyFinding:
    """A question, the answer in a sentence or two, and its numbers.

    Attributes
    ----------
    question, verdict : the question and its answer
    columns, rows : the numbers
    asks : question of the study. RQ1: do nets trained apart learn the same features? RQ2: can single units be aligned?
        RQ3: are subspaces shared? RQ4: is the code local? RQ5: do activation statistics converge?
    """

    question: str
    verdict: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    asks: str


def findings(layers: Sequence[ComparisonResults]) -> list[StudyFinding]:
    """Every question that the results answer."""
    questions = (whole_layers, all_nets, same_units, another_measure, subspaces, local_code, activations)
    found = [question(layers) for question in questions]
    return [finding for finding in found if finding is not None]


def whole_layers(layers: Sequence[ComparisonResults]) -> StudyFinding | None:
    """Linear CKA of whole layers, and the units with a partner beyond rotated bases."""
    more: list[tuple[str, str]] = []
    others: list[tuple[str, str]] = []
    rows = []
    for layer in layers:
        trained, untrained = (layer.summary("linear_cka", kind) for kind in TRAINED_OR_NOT)
        if trained is None:
            continue
        better = untrained is None or trained.estimate.low > untrained.estimate.high
        against = "" if untrained is None else f", untrained {untrained}"
        (more if better else others).append((layer.name, f"{trained}{against}"))
        real = np.mean([(pair.significant_xy + pair.significant_yx) / 2 for pair in layer.of_kind("trained")])
        beyond = f"{100 * real:.0f} %" if np.isfinite(real) else MISSING
        rows.append((layer.name, str(trained), _quoted(untrained), _next_image(trained), beyond))
    has_untrained = any(row[2] != MISSING for row in rows)
    sentences = [
        f"{words} in {_cases(found)}."
        for words, found in (
            ("Layers of trained nets are more similar than those of untrained nets" if has_untrained
             else "Layers of trained nets are similar", more),
            ("Layers of trained nets are not more similar than those of untrained nets", others),
        )
        if found
    ]  # fmt: skip
    return _finding(
        "RQ1",
        "How far do nets trained apart learn the same features?",
        " ".join([*sentences, "Measure: linear CKA (0: nothing in common, 1: equal up to a rotation)."]),
        ("layer", "linear CKA, trained", "untrained nets", "next image", "partner beyond rotated bases"),
        rows,
    )


def same_units(layers: Sequence[ComparisonResults]) -> StudyFinding | None:
    """One-to-one matched correlation beside its chance levels."""
    verdicts: dict[str, list[tuple[str, str]]] = {}
    rows = []
    for layer in layers:
        trained, untrained = (layer.summary("matching", kind) for kind in TRAINED_OR_NOT)
        if trained is None:
            continue
        beside = [f"untrained nets {untrained}"] * (untrained is not None)
        beside += [f"rotated bases {_chance(trained)}"] * bool(np.isfinite(trained.estimate.null))
        numbers = "; ".join([str(trained), *beside])
        verdicts.setdefault(_against_chance(trained, untrained), []).append((layer.name, numbers))
        calibrated = trained.calibrated
        rows.append(
            (
                layer.name,
                str(trained),
                _quoted(layer.summary("matching", "trained", HELD_OUT)),
                _quoted(untrained),
                _chance(trained),
                MISSING if calibrated is None else interval(calibrated),
            )
        )
    verdict = " ".join(f"Matched units of trained nets are {words} in {_cases(f)}." for words, f in verdicts.items())
    return _finding(
        "RQ2",
        "Do nets trained apart learn the same units?",
        f"{verdict} Measure: mean correlation r of units matched one to one.",
        ("layer", "matched r, trained", "held out", "untrained nets", "rotated basis", "calibrated"),
        rows,
    )


def all_nets(layers: Sequence[ComparisonResults]) -> StudyFinding | None:
    """Units that every trained net has."""
    rows, shares = [], []
    for layer in layers:
        found = layer.consensus.get("trained")
        if found is None or not found.shared:
            continue
        core, two = found.shared[len(found.nets)].within(SHARE), found.shared[2].within(SHARE)
        cycles, mean = found.cycle_consistency.within(SHARE), found.mean_correlation.within((-1.0, 1.0))
        shares.append((layer.name, f"{100 * core.value:.0f} %"))
        rows.append(
            (
                layer.name,
                interval(core),
                interval(two),
                interval(mean),
                f"{mean.null:.3f} ± {mean.null_sd:.3f}",
                interval(cycles),
                f"{found.cycle_chance:.3f}",
            )
        )
    columns = (
        "layer", "in all nets", "in two or more", "mean r of members", "rotated bases", "paths that return",
        "by chance",
    )  # fmt: skip
    return _finding(
        "RQ1",
        "Which units do all nets have?",
        f"Share of units present in every trained net: {_cases(shares)}. All nets are aligned together. A unit is "
        "present in a net if it correlates with its counterparts more than 95 % of the units of a net in another basis "
        "do.",
        columns,
        rows,
    )


def another_measure(layers: Sequence[ComparisonResults]) -> StudyFinding | None:
    """Whether partners by mutual information are those by correlation."""
    rows, shares = [], []
    for layer in layers:
        same = [layer.summary("same_partner_semi_matching", kind) for kind in TRAINED_OR_NOT]
        if same[0] is not None:
            pairs = layer.of_kind("trained")
            halves = float(np.mean([pair.same_halves for pair in pairs]))
            guessed = np.mean([1 / len(pair.units_y) for pair in pairs])
            share = f"{100 * same[0].value:.0f} %"
            shares.append((layer.name, f"{share}; {100 * halves:.0f} % between halves of the images"))
            rows.append((layer.name, *map(_quoted, same), f"{halves:.3f}", f"{guessed:.3f}"))
    return _finding(
        "RQ2",
        "Does the alignment survive another measure?",
        f"Share of units with the same best partner by mutual information and by correlation: {_cases(shares)}. The "
        "second number is the agreement of the two halves of the images by correlation alone, the most that can be "
        "expected.",
        ("layer", "same partner, trained", "untrained nets", "same on both halves of the images", "by guessing"),
        rows,
    )


def subspaces(layers: Sequence[ComparisonResults]) -> StudyFinding | None:
    """Prediction from all units of another net, beside matched single units."""
    rows = []
    more = []
    for layer in layers:
        all_units, untrained = (layer.summary("r_squared", kind) for kind in TRAINED_OR_NOT)
        matched, elsewhere = layer.summary("matching", "trained"), layer.summary("r_squared", "trained", HELD_OUT)
        if all_units is None:
            continue
        if untrained is None or all_units.estimate.low > untrained.estimate.high:
            more.append((layer.name, str(all_units) + (f", untrained {untrained}" if untrained else "")))
        rows.append((layer.name, str(all_units), _quoted(elsewhere), _quoted(untrained), _quoted(matched)))
    verdict = f"explain more variance than in untrained nets in {_cases(more)}" if more else (
        "explain no more variance than in untrained nets in any layer"
    )  # fmt: skip
    return _finding(
        "RQ3",
        "Are layers shared as a whole where single units are not?",
        f"All units of one trained net together {verdict}. Measure: share of variance explained by least squares (R²), "
        "on all images and fitted on one half of the images and scored on the other.",
        ("layer", "R² from all units, trained", "held out", "untrained nets", "matched r, trained"),
        rows,
    )


def local_code(layers: Sequence[ComparisonResults]) -> StudyFinding | None:
    """Loss from one unit and from all."""
    rows = []
    shares = []
    for layer in layers:
        one, everything = (layer.summary(f"{of}_loss", "trained") for of in ("one_unit", "all_units"))
        if one is None or everything is None:
            continue
        share = (0.5 - one.estimate.value) / max(0.5 - everything.estimate.value, 1e-12)
        shares.append((layer.name, f"{100 * share:.0f} %: loss {one}, all units {everything}"))
        rows.append(
            (
                layer.name,
                str(one),
                _chance(one),
                str(everything),
                _quoted(layer.summary("one_unit_loss", "untrained")),
                *(_quoted(layer.summary(f"code_{code}", "trained")) for code in ("local", "few")),
            )
        )
    columns = (
        "layer", "loss from one unit", "one unit of a rotated basis", "loss from all units", "one unit, untrained",
        "local codes", "codes of a few",
    )  # fmt: skip
    return _finding(
        "RQ4",
        "Is the code local, or spread over many units?",
        "Variance explained by the best single unit of another net, as a share of that explained by all units: "
        f"{_cases(shares)}. Losses are ½(1 − R²): 0.5 explains nothing, 0 explains all. A unit has a local code if one "
        "unit reaches 90 % of the R² of all units, and a code of a few if a few units do.",
        columns,
        rows,
    )


def activations(layers: Sequence[ComparisonResults]) -> StudyFinding | None:
    """Distance of the sorted mean activations."""
    rows, closer = [], []
    for layer in layers:
        trained, untrained = (layer.summary("mean_activation_distance", kind) for kind in TRAINED_OR_NOT)
        if trained is None:
            continue
        if untrained is not None and trained.estimate.high < untrained.estimate.low:
            closer.append((layer.name, f"{trained}, untrained {untrained}"))
        rows.append((layer.name, str(trained), _quoted(untrained)))
    verdict = f"closer than those of untrained nets in {_cases(closer)}" if closer else (
        "not closer than those of untrained nets"
    )  # fmt: skip
    return _finding(
        "RQ5",
        "Do activation statistics converge?",
        f"Sorted mean activations of two trained nets are {verdict}. Distances are relative to the mean activation; 0 "
        "means equal curves.",
        ("layer", "distance, trained", "untrained nets"),
        rows,
    )


def _finding(
    asks: str, question: str, verdict: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]
) -> StudyFinding | None:
    """The finding without empty columns; None without rows."""
    if not rows:
        return None
    kept = [k for k in range(len(columns)) if any(row[k] != MISSING for row in rows)]
    shown = [tuple(row[k] for k in kept) for row in rows]
    return StudyFinding(question, verdict, tuple(columns[k] for k in kept), shown, asks)


def _against_chance(trained: Summary, untrained: Summary | None) -> str:
    """How a measure compares with its chance levels, by whether intervals overlap."""
    e = trained.estimate
    above_rotated = e.low > e.null + 2 * e.null_sd
    above_untrained = untrained is None or e.low > untrained.estimate.high
    if above_rotated and above_untrained:
        return "more similar than in untrained nets and rotated bases" if untrained else (
            "more similar than in rotated bases"
        )  # fmt: skip
    if above_rotated:
        return "more similar than in rotated bases but not than in untrained nets"
    if above_untrained and untrained:
        return "more similar than in untrained nets but not than in rotated bases"
    return "not more similar than chance"


def _quoted(summary: Summary | None) -> str:
    return MISSING if summary is None else str(summary)


def _chance(summary: Summary) -> str:
    e = summary.estimate
    return f"{e.null:.3f} ± {e.null_sd:.3f}" if np.isfinite(e.null) else MISSING


def _next_image(summary: Summary) -> str:
    return f"{summary.estimate.shifted:.3f}" if np.isfinite(summary.estimate.shifted) else MISSING


def _cases(found: Sequence[tuple[str, str]]) -> str:
    """Layers, each with its numbers in brackets; "" without any."""
    if not found:
        return ""
    if len(found) <= NAMED:
        return _listed([f"{name} ({numbers})" for name, numbers in found])
    (first, its), (last, lasts) = found[0], found[-1]
    between = ", ".join(name for name, _ in found[1:-1])
    return f"{first} ({its}), {between} and {last} ({lasts})"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
