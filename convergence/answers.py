"""What came out, in words: the questions of the study, each with a verdict for this run and a table of its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convergence.summary import (
    TRAINED_OR_NOT,
    Layer,
    Summary,
    dense_loss,
    held_out,
    measured,
    one_unit_loss,
    over_pairs,
)
from convergence.uncertainty import Estimate


@dataclass(frozen=True)
class Answer:
    """A question, the answer in a sentence or two, and the numbers behind it."""

    question: str
    verdict: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def answers(layers: Sequence[Layer]) -> list[Answer]:
    """Every question that the results say something about."""
    questions = (same_units, all_nets, another_measure, subspaces, local_code, activations)
    found = [question(layers) for question in questions]
    return [answer for answer in found if answer is not None]


def same_units(layers: Sequence[Layer]) -> Answer | None:
    """One-to-one matched correlation beside what needs no shared learning."""
    verdicts: dict[str, list[str]] = {}
    rows = []
    for layer in layers:
        trained, untrained = measured(layer, "matching", "trained"), measured(layer, "matching", "untrained")
        if trained is None:
            continue
        verdicts.setdefault(_standing(trained, untrained), []).append(layer.name)
        calibrated = trained.estimate.calibrated()
        rows.append(
            (
                layer.name,
                str(trained),
                _quoted(held_out(layer, "matching", "trained")),
                _quoted(untrained),
                _chance(trained),
                "–" if calibrated is None else _interval(calibrated),
            )
        )
    verdict = "; ".join(f"{words} in {_listed(names)}" for words, names in verdicts.items())
    return _answer(
        "Do nets trained apart learn the same units?",
        f"Matched one to one, units of trained nets correlate {verdict}.",
        ("layer", "matched r, trained", "held out", "untrained nets", "rotated basis", "calibrated"),
        rows,
    )


def all_nets(layers: Sequence[Layer]) -> Answer | None:
    """Units that every trained net has."""
    rows, shares = [], []
    for layer in layers:
        found = layer.all_nets.get("kinds", {}).get("trained")
        if found is None:
            continue
        n_nets = len(found["nets"])
        core, mean, cycles = (
            Estimate(**e)
            for e in (found["shared"][f"in {n_nets}"], found["mean_correlation"], found["cycle_consistency"])
        )
        shares.append(core.value)
        rows.append(
            (
                layer.name,
                _interval(core),
                _interval(Estimate(**found["shared"]["in 2"])),
                _interval(mean),
                f"{mean.null:.3f} ± {mean.null_sd:.3f}",
                _interval(cycles),
                f"{found['cycle_chance']:.3f}",
            )
        )
    return _answer(
        "Which units do all nets have?",
        f"Aligned all at once, {_percent(shares)} of the units are present in every trained net. A unit is present "
        "where it correlates with its counterparts more than 95 % of members do in rotated bases.",
        (
            "layer",
            "in all nets",
            "in two or more",
            "mean r of members",
            "rotated bases",
            "round three nets",
            "by chance",
        ),
        rows,
    )


def another_measure(layers: Sequence[Layer]) -> Answer | None:
    """Whether partners by mutual information are those by correlation."""
    rows, shares = [], []
    for layer in layers:
        same = [over_pairs(layer.of_kind(kind), ("information", "same_semi")) for kind in TRAINED_OR_NOT]
        if same[0] is not None:
            shares.append(same[0].estimate.value)
            guessed = np.mean([1 / len(pair.tree["units_y"]) for pair in layer.of_kind("trained")])
            rows.append((layer.name, *map(_quoted, same), f"{guessed:.3f}"))
    return _answer(
        "Does the alignment survive another measure?",
        f"In {_percent(shares)} of the units the best partner by mutual information is also the best by correlation. "
        "Intervals of such shares are rough: with other images a partner changes or it does not.",
        ("layer", "same partner, trained", "untrained nets", "by guessing"),
        rows,
    )


def subspaces(layers: Sequence[Layer]) -> Answer | None:
    """What all units of one net say of the other's together, beside the matched single ones."""
    rows = []
    more = []
    for layer in layers:
        all_units, untrained = measured(layer, "r_squared", "trained"), measured(layer, "r_squared", "untrained")
        matched, elsewhere = measured(layer, "matching", "trained"), held_out(layer, "r_squared", "trained")
        if all_units is None:
            continue
        if untrained is None or all_units.estimate.low > untrained.estimate.high:
            more.append(layer.name)
        rows.append((layer.name, str(all_units), _quoted(elsewhere), _quoted(untrained), _quoted(matched)))
    verdict = f"more than in untrained nets in {_listed(more)}" if more else "no more than in untrained nets anywhere"
    return _answer(
        "Are layers shared as a whole where single units are not?",
        f"All units of one trained net together predict the other's units {verdict}. The share of variance that they "
        "explain (R², also fitted on one half of the images and scored on the other) stands beside the correlation of "
        "matched single units.",
        ("layer", "R² from all units, trained", "held out", "untrained nets", "matched r, trained"),
        rows,
    )


def local_code(layers: Sequence[Layer]) -> Answer | None:
    """Loss from one unit and from all."""
    rows = []
    shares = []
    for layer in layers:
        one, everything = one_unit_loss(layer, "trained"), dense_loss(layer, "trained")
        if one is None or everything is None:
            continue
        shares.append((0.5 - one.estimate.value) / max(0.5 - everything.estimate.value, 1e-12))
        alone, few = (
            over_pairs(layer.of_kind("trained"), ("sparse_xy", "code", code), ("sparse_yx", "code", code))
            for code in ("local", "few")
        )
        rows.append(
            (
                layer.name,
                str(one),
                _chance(one),
                str(everything),
                _quoted(one_unit_loss(layer, "untrained")),
                _quoted(alone),
                _quoted(few),
            )
        )
    return _answer(
        "Is the code local, or spread over many units?",
        f"The single best unit of another net explains {_percent(shares)} of what all of its units explain. Losses are "
        "½(1 − R²): 0.5 says that nothing is explained, 0 all. A unit's code is local, or of a few units, where one, "
        "or a few, reach 90 % of what all explain.",
        (
            "layer", "loss from one unit", "one unit of a rotated basis", "loss from all units", "one unit, untrained",
            "local codes", "codes of a few",
        ),
        rows,
    )  # fmt: skip


def activations(layers: Sequence[Layer]) -> Answer | None:
    """Distance of the sorted mean activations."""
    rows, closer = [], []
    for layer in layers:
        trained = over_pairs(layer.of_kind("trained"), ("mean_activations",))
        untrained = over_pairs(layer.of_kind("untrained"), ("mean_activations",))
        if trained is None:
            continue
        if untrained is not None and trained.estimate.high < untrained.estimate.low:
            closer.append(layer.name)
        rows.append((layer.name, str(trained), _quoted(untrained)))
    verdict = f"closer than those of untrained nets in {_listed(closer)}" if closer else "no closer than untrained ones"
    return _answer(
        "Do activation statistics converge?",
        f"The sorted mean activations of two trained nets are {verdict}. Distances are relative to the mean "
        "activation; 0 says that the sorted curves coincide.",
        ("layer", "distance, trained", "untrained nets"),
        rows,
    )


def _answer(question: str, verdict: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Answer | None:
    """The answer without columns that nothing stands in; None without rows."""
    if not rows:
        return None
    kept = [k for k in range(len(columns)) if any(row[k] != "–" for row in rows)]
    return Answer(question, verdict, tuple(columns[k] for k in kept), [tuple(row[k] for k in kept) for row in rows])


def _standing(trained: Summary, untrained: Summary | None) -> str:
    """Where a measure stands to its chance levels, by intervals that do or do not overlap."""
    e = trained.estimate
    above_rotated = e.low > e.null + 2 * e.null_sd
    above_untrained = untrained is None or e.low > untrained.estimate.high
    if above_rotated and above_untrained:
        return "more than untrained nets and rotated bases do" if untrained else "more than rotated bases do"
    if above_rotated:
        return "more than rotated bases but no more than untrained nets do"
    if above_untrained and untrained:
        return "more than untrained nets but no more than rotated bases do"
    return "no more than chance does"


def _interval(e: Estimate) -> str:
    return f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]"


def _quoted(summary: Summary | None) -> str:
    return "–" if summary is None else str(summary)


def _chance(summary: Summary) -> str:
    e = summary.estimate
    return f"{e.null:.3f} ± {e.null_sd:.3f}" if np.isfinite(e.null) else "–"


def _percent(shares: Sequence[float]) -> str:
    """Shares of several layers as one phrase."""
    if not shares:
        return ""
    low, high = round(100 * min(shares)), round(100 * max(shares))
    return f"{low} %" if low == high else f"{low} to {high} %"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
