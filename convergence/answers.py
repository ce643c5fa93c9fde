"""What came out, in words: the questions of the study, each with a verdict for this run and a table of its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convergence.summary import (
    SHARE,
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
    """A question, the answer in a sentence or two, and the numbers behind it.

    ``asks`` is the study's question that it belongs to: RQ1 how far nets trained apart learn the same features, RQ2
    whether single units can be aligned, RQ3 whether subspaces are shared, RQ4 whether the code is local, RQ5 whether
    activation statistics converge.
    """

    question: str
    verdict: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    asks: str


def answers(layers: Sequence[Layer]) -> list[Answer]:
    """Every question that the results say something about."""
    questions = (whole_layers, all_nets, same_units, another_measure, subspaces, local_code, activations)
    found = [question(layers) for question in questions]
    return [answer for answer in found if answer is not None]


def whole_layers(layers: Sequence[Layer]) -> Answer | None:
    """Linear CKA of whole layers, and the units with a partner that no rotated basis has."""
    more: list[tuple[str, str]] = []
    others: list[tuple[str, str]] = []
    rows = []
    for layer in layers:
        trained, untrained = measured(layer, "linear_cka", "trained"), measured(layer, "linear_cka", "untrained")
        if trained is None:
            continue
        better = untrained is None or trained.estimate.low > untrained.estimate.high
        against = "" if untrained is None else f" against {untrained}"
        (more if better else others).append((layer.name, f"{trained}{against}"))
        found = [pair.tree["alignment"] for pair in layer.of_kind("trained")]
        real = np.mean([(a["significant_xy"] + a["significant_yx"]) / 2 for a in found])
        rows.append((layer.name, str(trained), _quoted(untrained), _next_image(trained), f"{100 * real:.0f} %"))
    has_untrained = any(row[2] != "–" for row in rows)
    verdict = "; ".join(
        f"{words} {_cases(found)}"
        for words, found in (
            ("more alike than untrained ones in" if has_untrained else "alike by", more),
            ("no more alike than untrained ones in", others),
        )
        if found
    )
    return _answer(
        "RQ1",
        "How far do nets trained apart learn the same features?",
        f"As wholes, layers of trained nets are {verdict} (linear CKA: 0 nothing in common, 1 the same but for a "
        "rotation).",
        ("layer", "linear CKA, trained", "untrained nets", "next image", "partner beyond rotated bases"),
        rows,
    )


def same_units(layers: Sequence[Layer]) -> Answer | None:
    """One-to-one matched correlation beside what needs no shared learning."""
    verdicts: dict[str, list[tuple[str, str]]] = {}
    rows = []
    for layer in layers:
        trained, untrained = measured(layer, "matching", "trained"), measured(layer, "matching", "untrained")
        if trained is None:
            continue
        beside = [f"untrained nets {untrained}"] * (untrained is not None)
        beside += [f"rotated bases {_chance(trained)}"] * bool(np.isfinite(trained.estimate.null))
        numbers = "; ".join([str(trained), *beside])
        verdicts.setdefault(_standing(trained, untrained), []).append((layer.name, numbers))
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
    verdict = "; ".join(f"{words} in {_cases(found)}" for words, found in verdicts.items())
    return _answer(
        "RQ2",
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
        core, two, cycles = (
            Estimate(**e).within(SHARE)
            for e in (found["shared"][f"in {n_nets}"], found["shared"]["in 2"], found["cycle_consistency"])
        )
        mean = Estimate(**found["mean_correlation"]).within((-1.0, 1.0))
        shares.append((layer.name, f"{100 * core.value:.0f} % [{100 * core.low:.0f}, {100 * core.high:.0f}]"))
        rows.append(
            (
                layer.name,
                _interval(core),
                _interval(two),
                _interval(mean),
                f"{mean.null:.3f} ± {mean.null_sd:.3f}",
                _interval(cycles),
                f"{found['cycle_chance']:.3f}",
            )
        )
    return _answer(
        "RQ1",
        "Which units do all nets have?",
        f"Share of the units that are present in every trained net, all nets aligned at once: {_cases(shares)}. "
        "A unit is present where it correlates with its counterparts more than 95 % of members do in rotated bases.",
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
        same = [over_pairs(layer.of_kind(kind), ("information", "same_semi"), bounds=SHARE) for kind in TRAINED_OR_NOT]
        if same[0] is not None:
            pairs = layer.of_kind("trained")
            halves = float(np.mean([pair.tree["information"]["same_halves"] for pair in pairs]))
            guessed = np.mean([1 / len(pair.tree["units_y"]) for pair in pairs])
            e = same[0].estimate
            share = f"{100 * e.value:.0f} % [{100 * e.low:.0f}, {100 * e.high:.0f}]"
            shares.append((layer.name, f"{share}; {100 * halves:.0f} % between halves of the images"))
            rows.append((layer.name, *map(_quoted, same), f"{halves:.3f}", f"{guessed:.3f}"))
    return _answer(
        "RQ2",
        "Does the alignment survive another measure?",
        f"Share of the units whose best partner by mutual information is also the best by correlation: "
        f"{_cases(shares)}. Even by correlation alone, the two halves of the images choose the same partner no more "
        "often than that second number says, so agreement cannot be expected to go far beyond it. Intervals of such "
        "shares are rough: with other images a partner changes or it does not.",
        ("layer", "same partner, trained", "untrained nets", "same on both halves of the images", "by guessing"),
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
            more.append((layer.name, str(all_units) + (f" against {untrained}" if untrained else "")))
        rows.append((layer.name, str(all_units), _quoted(elsewhere), _quoted(untrained), _quoted(matched)))
    verdict = f"more than in untrained nets in {_cases(more)}" if more else "no more than in untrained nets anywhere"
    return _answer(
        "RQ3",
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
        share = (0.5 - one.estimate.value) / max(0.5 - everything.estimate.value, 1e-12)
        shares.append((layer.name, f"{100 * share:.0f} %: loss {one}, all units {everything}"))
        alone, few = (
            over_pairs(layer.of_kind("trained"), ("sparse_xy", "code", code), ("sparse_yx", "code", code), bounds=SHARE)
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
        "RQ4",
        "Is the code local, or spread over many units?",
        f"Share that the single best unit of another net explains of what all of its units explain: {_cases(shares)}. "
        "Losses are "
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
        trained = over_pairs(layer.of_kind("trained"), ("mean_activations",), bounds=(0.0, np.inf))
        untrained = over_pairs(layer.of_kind("untrained"), ("mean_activations",), bounds=(0.0, np.inf))
        if trained is None:
            continue
        if untrained is not None and trained.estimate.high < untrained.estimate.low:
            closer.append((layer.name, f"{trained} against {untrained}"))
        rows.append((layer.name, str(trained), _quoted(untrained)))
    verdict = f"closer than those of untrained nets in {_cases(closer)}" if closer else "no closer than untrained ones"
    return _answer(
        "RQ5",
        "Do activation statistics converge?",
        f"The sorted mean activations of two trained nets are {verdict}. Distances are relative to the mean "
        "activation; 0 says that the sorted curves coincide.",
        ("layer", "distance, trained", "untrained nets"),
        rows,
    )


def _answer(
    asks: str, question: str, verdict: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]
) -> Answer | None:
    """The answer without columns that nothing stands in; None without rows."""
    if not rows:
        return None
    kept = [k for k in range(len(columns)) if any(row[k] != "–" for row in rows)]
    shown = [tuple(row[k] for k in kept) for row in rows]
    return Answer(question, verdict, tuple(columns[k] for k in kept), shown, asks)


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


NAMED = 4
"""Layers that a sentence names with their numbers; of more it gives the first and the last."""


def _cases(found: Sequence[tuple[str, str]]) -> str:
    """Layers, each with its numbers in brackets; "" without any."""
    if not found:
        return ""
    if len(found) <= NAMED:
        return _listed([f"{name} ({numbers})" for name, numbers in found])
    (first, its), (last, lasts) = found[0], found[-1]
    between = ", ".join(name for name, _ in found[1:-1])
    return f"{first} ({its}), {between} and {last} ({lasts})"


def _next_image(summary: Summary) -> str:
    return f"{summary.estimate.shifted:.3f}" if np.isfinite(summary.estimate.shifted) else "–"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
