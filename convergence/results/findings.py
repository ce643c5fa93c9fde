"""Findings: the questions of the study, each with an answer for this run and a table of its numbers.

Verdicts use intervals over nets (:mod:`convergence.inference.populations`): a difference or an excess over chance whose
95 % interval excludes 0. A verdict that needs more nets, or a chance level that the run does not have, is withheld, and
the sentence says why. :mod:`convergence.results.sentences` has the sentences.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convergence.analysis.layout import HELD_OUT, WITHIN_CLASS
from convergence.results.causes_finding import causes
from convergence.results.comparison import ComparisonResults
from convergence.results.finding import StudyFinding, study_finding
from convergence.results.pair import CODES, Kind
from convergence.results.populations import Summary
from convergence.results.sentences import MISSING, Sentences, Templates, number, percent, signed

UNTRAINED: Kind = "untrained"
WORDS: dict[Kind, str] = {
    "trained": "trained nets",
    "untrained": "untrained nets",
    "mixed": "trained with untrained",
    "same_init": "one initialisation",
}
KINDS: tuple[Kind, ...] = ("trained", "untrained", "mixed", "same_init")
LABEL_MEASURES = {"matching": "matched r", "linear_cka": "linear CKA"}
NO_LEVEL = "there is no chance level"


def _templates(subject: str, more: str, less: str, than: str, neither: str, against: str) -> Templates:
    return Templates(
        above=f"{subject} are {more} {than} in {{cases}}.",
        below=f"{subject} are {less} {than} in {{cases}}.",
        neither=f"{neither} in {{cases}}.",
        withheld=f"{subject} cannot be compared with {against} in {{cases}}: {{reason}}.",
    )


WHOLE = _templates(
    "Layers of trained nets", "more similar", "less similar", "than layers of untrained nets",
    "No difference between layers of trained and of untrained nets was found", "those of untrained nets",
)  # fmt: skip
UNITS_CHANCE = _templates(
    "Matched units of trained nets", "more similar", "less similar", "than chance",
    "No difference between matched units of trained nets and chance was found", "chance",
)  # fmt: skip
UNITS_UNTRAINED = _templates(
    "Matched units of trained nets", "more similar", "less similar", "than those of untrained nets",
    "No difference between matched units of trained and of untrained nets was found", "those of untrained nets",
)  # fmt: skip
DIMENSIONS = Templates(
    above="Trained nets share more dimensions than untrained nets in {cases}.",
    below="Trained nets share fewer dimensions than untrained nets in {cases}.",
    neither="No difference in shared dimensions between trained and untrained nets was found in {cases}.",
    withheld="Shared dimensions of trained and of untrained nets cannot be compared in {cases}: {reason}.",
)
CODES_CHANCE = Templates(
    above="More units than by chance have a local code in {cases}.",
    below="Fewer units than by chance have a local code in {cases}.",
    neither="No difference between the share of local codes and chance was found in {cases}.",
    withheld="The share of local codes cannot be compared with chance in {cases}: {reason}.",
)
STATISTICS_CHANCE = Templates(
    above="Mean activations of two trained nets differ more than those of units dealt at random to two nets "
    "in {cases}.",
    below="Mean activations of two trained nets differ less than those of units dealt at random to two nets "
    "in {cases}.",
    neither="No difference between mean activations of two trained nets and of units dealt at random to two nets was "
    "found in {cases}.",
    withheld="Mean activations of trained nets cannot be compared with units dealt at random in {cases}: {reason}.",
)
STATISTICS_UNTRAINED = _templates(
    "Mean activations of trained nets", "farther apart", "closer", "than those of untrained nets",
    "No difference between the distances of mean activations of trained and of untrained nets was found",
    "those of untrained nets",
)  # fmt: skip
SIGNLESS = (
    "Signs of units are arbitrary in {cases}: the layer has no activation function, and units are matched by |r|."
)
UNPRIVILEGED = (
    "The basis of the units is not privileged in {cases}: linear maps write the layer, and only linear maps and norms "
    "read it. Numbers of single units depend on this arbitrary basis. Mean CCA and the CKA of raw units do not; linear "
    "CKA and SVCCA depend on it through the variances of the units alone."
)


def findings(layers: Sequence[ComparisonResults]) -> list[StudyFinding]:
    """Every question that the results answer."""
    questions = (
        whole_layers, label_only, all_nets, same_units, another_measure, causes, subspaces, clusters, local_code,
        activations,
    )  # fmt: skip
    found = [question(layers) for question in questions]
    return [finding for finding in found if finding is not None]


def whole_layers(layers: Sequence[ComparisonResults]) -> StudyFinding | None:
    """Linear CKA of whole layers of trained, untrained and mixed pairs."""
    said, rows = Sentences(), []
    for layer in layers:
        found = {kind: layer.summary("linear_cka", kind) for kind in KINDS}
        trained, untrained = found["trained"], found[UNTRAINED]
        if trained is None:
            continue
        difference = layer.difference("linear_cka", "trained", UNTRAINED)
        if untrained is None or difference is None:
            said.add("The linear CKA of two trained nets is {cases}. The run has no untrained nets to compare with.",
                     layer.name, number(trained))  # fmt: skip
        else:
            said.judge(WHOLE, difference, layer.name, _beside(trained, untrained))
        rows.append(
            (
                layer.name,
                *(number(found[kind]) for kind in KINDS),
                signed(difference),
                number(layer.summary("linear_cka", "trained", WITHIN_CLASS)),
                _next_image(trained),
            )
        )
    return study_finding(
        "RQ1",
        "Are layers of nets trained apart similar?",
        f"{said} Measure: linear CKA, 0 for layers with nothing in common and 1 for layers that are equal up to a "
        "rotation.",
        ("layer", *(f"linear CKA, {WORDS[kind]}" for kind in KINDS), "trained − untrained", "within classes",
         "next image"),
        rows,
    )  # fmt: skip


def label_only(layers: Sequence[ComparisonResults]) -> StudyFinding | None:
    """Matched correlation and linear CKA within the classes of the images."""
    said, rows = Sentences(), []
    for layer in layers:
        within = {name: layer.summary(name, "trained", WITHIN_CLASS) for name in LABEL_MEASURES}
        if all(found is None for found in within.values()):
            continue
        whole = {name: layer.summary(name, "trained") for name in LABEL_MEASURES}
        if within["matching"] is not None and whole["matching"] is not None:
            said.add(
                "Within the classes of the images, matched units of two trained nets correlate in {cases}.",
                layer.name, f"{number(within['matching'])}; over all images {number(whole['matching'])}",
            )  # fmt: skip
        rows.append((layer.name, *(number(one[name]) for name in LABEL_MEASURES for one in (whole, within))))
    titles = [f"{LABEL_MEASURES[name]}{ending}" for name in LABEL_MEASURES for ending in ("", ", within classes")]
    return study_finding(
        "RQ1",
        "Is the similarity only that of the labels?",
        f"{said} Units that represent only the label have no correlation within classes.",
        ("layer", *titles),
        rows,
    )


def all_nets(layers: Sequence[ComparisonResults]) -> StudyFinding | None:
    """Units that are present in every trained net."""
    said, rows = Sentences(), []
    for layer in layers:
        found = layer.consensus.get("trained")
        if found is None:
            continue
        n = len(found.nets)
        if not found.shared:
            said.add(f"Whether units are present in all {n} trained nets is not known in {{cases}}: {{reason}}.",
                     layer.name, reason=found.null_reason or NO_LEVEL)  # fmt: skip
        else:
            said.add(f"Share of units that are present in all {n} trained nets: {{cases}}.",
                     layer.name, f"{100 * found.shared[n].value:.0f} %")  # fmt: skip
        rows.append(
            (
                layer.name,
                *(f"{100 * found.shared[k].value:.0f} %" if found.shared else MISSING for k in dict.fromkeys((n, 2))),
                f"{found.mean_correlation.value:.3f}",
                _level(found.mean_correlation.null, found.mean_correlation.null_sd),
                f"{100 * found.cycle_consistency.value:.0f} %",
                f"{100 * found.cycle_chance:.0f} %",
            )
        )
    return study_finding(
        "RQ1",
        "Which units do all nets have?",
        f"{said} A unit is present in a net if it correlates with its counterparts in the other nets more than 95 % of "
        "the units of a net with pre-activations in a random basis do. These shares have no interval, since one "
        "alignment of all nets gives one share.",
        ("layer", "in all nets", "in two or more", "mean r of members", "in a random basis", "paths that return",
         "by chance"),
        rows,
    )  # fmt: skip


def same_units(layers: Sequence[ComparisonResults]) -> StudyFinding | None:
    """One-to-one matched correlation beside a net with pre-activations in a random basis, untrained and mixed pairs."""
    said, rows = Sentences(), []
    for layer in layers:
        measure = "absolute_matching" if layer.signless else "matching"
        found = {kind: layer.summary(measure, kind) for kind in KINDS}
        trained, untrained = found["trained"], found[UNTRAINED]
        if trained is None:
            continue
        if layer.signless:
            said.add(SIGNLESS, layer.name)
        if layer.unprivileged:
            said.add(UNPRIVILEGED, layer.name)
        if not np.isfinite(trained.excess):
            said.add("Matched units cannot be compared with chance in {cases}: {reason}.", layer.name,
                     number(trained), layer.null_reason or NO_LEVEL)  # fmt: skip
        else:
            level = _level(trained.null, trained.null_sd)
            said.judge(UNITS_CHANCE, trained.above_chance, layer.name, f"{number(trained)}; chance {level}")
        difference = layer.difference(measure, "trained", UNTRAINED)
        if untrained is not None and difference is not None:
            said.judge(UNITS_UNTRAINED, difference, layer.name, _beside(trained, untrained))
        rows.append(
            (
                layer.name,
                *(number(found[kind]) for kind in KINDS),
                number(layer.summary(measure, "trained", HELD_OUT)),
                _level(trained.null, trained.null_sd),
                signed(trained.above_chance),
                signed(difference),
                percent(layer.summary("significant", "trained")),
            )
        )
    return study_finding(
        "RQ2",
        "Do nets trained apart learn the same units?",
        f"{said} Measure: mean correlation r of units matched one to one. Chance: the same for a net with "
        "pre-activations in a random basis.",
        ("layer", *(f"matched r, {WORDS[kind]}" for kind in KINDS), "held out", "chance", "trained − chance",
         "trained − untrained", "units with a partner beyond chance"),
        rows,
    )  # fmt: skip


def another_measure(layers: Sequence[ComparisonResults]) -> StudyFinding | None:
    """Whether partners by mutual information are those by correlation."""
    said, rows = Sentences(), []
    for layer in layers:
        same, halves = (layer.summary(name, "trained") for name in ("same_partner_semi_matching", "same_halves"))
        if same is None:
            continue
        said.add(
            "Share of units with the same best partner by mutual information and by correlation: {cases}.",
            layer.name, f"{percent(same)}; on two halves of the images by correlation alone {percent(halves)}",
        )  # fmt: skip
        guessed = np.mean([1 / len(pair.units_y) for pair in layer.of_kind("trained")])
        untrained = layer.summary("same_partner_semi_matching", UNTRAINED)
        rows.append((layer.name, percent(same), percent(untrained), percent(halves), f"{100 * guessed:.0f} %"))
    return study_finding(
        "RQ2",
        "Do mutual information and correlation choose the same partners?",
        f"{said} Partners on two halves of the images differ because each half has fewer images.",
        ("layer", "same partner, trained nets", "untrained nets", "same on both halves of the images", "by guessing"),
        rows,
    )


WORSE_THAN_MEAN = (
    "Held-out R² is negative in {cases}: least squares on one half of the images predicts the other half worse than "
    "its mean, as with too few images for the number of units."
)


def subspaces(layers: Sequence[ComparisonResults]) -> StudyFinding | None:
    """Number of dimensions that two nets, and all nets, share on held-out images."""
    said, rows = Sentences(), []
    for layer in layers:
        found = {kind: layer.summary("shared_dimensions", kind, HELD_OUT) for kind in KINDS}
        trained, untrained = found["trained"], found[UNTRAINED]
        if trained is None:
            continue
        n = _mean_width(layer)
        said.add("Dimensions that two trained nets share: {cases}.", layer.name, f"{number(trained, 1)} of {n:.0f}")
        difference = layer.difference("shared_dimensions", "trained", UNTRAINED, HELD_OUT)
        if untrained is not None and difference is not None:
            said.judge(DIMENSIONS, difference, layer.name,
                       f"{number(trained, 1)}; untrained {number(untrained, 1)}")  # fmt: skip
        predicted = [layer.summary("r_squared", kind, HELD_OUT) for kind in ("trained", UNTRAINED)]
        if any(one is not None and one.value < 0 for one in predicted):
            said.add(WORSE_THAN_MEAN, layer.name, ", ".join(number(one) for one in predicted if one is not None))
        every = layer.consensus.get("trained")
        rows.append(
            (
                layer.name,
                f"{n:.0f}",
                *(number(found[kind], 1) for kind in KINDS),
                signed(difference, 1),
                MISSING if every is None else f"{every.dimensions.shared}",
                *(number(one) for one in predicted),
            )
        )
    return study_finding(
        "RQ3",
        "How many dimensions do nets trained apart share?",
        f"{said} A dimension is shared if its canonical correlation, fitted on one half of the images, is beyond "
        "chance and at least 0.5 on the other half.",
        ("layer", "units", *(f"shared dimensions, {WORDS[kind]}" for kind in KINDS), "trained − untrained",
         "shared by all trained nets", "held-out R² from all units, trained", "held-out R², untrained"),
        rows,
    )  # fmt: skip


def clusters(layers: Sequence[ComparisonResults]) -> StudyFinding | None:
    """Number of groups of units of two nets, and whether halves of the images give the same groups."""
    said, rows = Sentences(), []
    for layer in layers:
        found = [one for pair in layer.of_kind("trained") if (one := pair.clusters) is not None]
        if not found:
            continue
        beyond = sum(one.beyond_chance for one in found)
        n = len(found)
        median = float(np.median([one.n_clusters for one in found if one.beyond_chance])) if beyond else 0.0
        numbers = f"{beyond} of {n}" + (f"; median {median:.0f} groups" if beyond else "")
        said.add("Pairs of trained nets whose units form groups beyond chance: {cases}.", layer.name, numbers)
        agreement = np.mean([one.stability_halves for one in found]), np.mean([one.stability_null for one in found])
        rows.append((layer.name, f"{beyond} of {n}", f"{median:.0f}" if beyond else MISSING,
                     *(f"{value:.2f}" for value in agreement)))  # fmt: skip
    return study_finding(
        "RQ3",
        "Do units of two nets form groups?",
        f"{said} The number of groups is the one on which two halves of the images agree most beyond rotated bases.",
        ("layer", "pairs with groups beyond chance", "median number of groups",
         "agreement of two halves (adjusted Rand index)", "in rotated bases"),
        rows,
    )  # fmt: skip


def local_code(layers: Sequence[ComparisonResults]) -> StudyFinding | None:
    """Shares of units by the number of units of another net that predict them, on held-out images."""
    said, rows = Sentences(), []
    for layer in layers:
        found = {code: layer.summary(f"code_{code}", "trained", HELD_OUT) for code in CODES}
        local = found["local"]
        if local is None:
            continue
        numbers = f"local {percent(local)}, a few {percent(found['few'])}, distributed {percent(found['distributed'])}"
        said.add("Codes of units of one net in units of another, in per cent of the units: {cases}.", layer.name,
                 numbers)  # fmt: skip
        if not np.isfinite(local.excess):
            said.add("Local codes cannot be compared with chance in {cases}: {reason}.", layer.name,
                     reason=layer.null_reason or NO_LEVEL)  # fmt: skip
        else:
            said.judge(
                CODES_CHANCE, local.above_chance, layer.name, f"{percent(local)}; chance {100 * local.null:.0f} %"
            )
        one, every = (layer.summary(f"{of}_loss", "trained") for of in ("one_unit", "all_units"))
        rows.append(
            (
                layer.name,
                *(percent(found[code]) for code in CODES),
                *(_chance_share(found[code]) for code in CODES[:3]),
                percent(layer.summary("code_local", UNTRAINED, HELD_OUT)),
                number(one),
                number(every),
            )
        )
    return study_finding(
        "RQ4",
        "Is the code local, or spread over many units?",
        f"{said} Predictions are fitted on one half of the images and scored on the other. A unit has a local code if "
        "one unit of the other net reaches 90 % of the R² of all units, a code of a few if at most the tried number "
        "of units does, a distributed code otherwise. Chance: predictors of a net with pre-activations "
        "in a random basis.",
        ("layer", *CODES, "local, chance", "few, chance", "distributed, chance", "local, untrained",
         "loss from one unit", "loss from all units"),
        rows,
    )  # fmt: skip


def activations(layers: Sequence[ComparisonResults]) -> StudyFinding | None:
    """Distance of the distributions of mean activations beside units dealt at random."""
    said, rows = Sentences(), []
    for layer in layers:
        found = {kind: layer.summary("mean_activation_distance", kind) for kind in KINDS}
        trained, untrained = found["trained"], found[UNTRAINED]
        if trained is None:
            continue
        if np.isfinite(trained.excess):
            said.judge(STATISTICS_CHANCE, trained.above_chance, layer.name,
                       f"{number(trained)}; dealt at random {trained.null:.3f}")  # fmt: skip
        difference = layer.difference("mean_activation_distance", "trained", UNTRAINED)
        if untrained is not None and difference is not None:
            said.judge(STATISTICS_UNTRAINED, difference, layer.name, _beside(trained, untrained))
        rows.append((layer.name, *(number(found[kind]) for kind in KINDS), _level(trained.null, trained.null_sd),
                     signed(trained.above_chance), signed(difference)))  # fmt: skip
    return study_finding(
        "RQ5",
        "Do activation statistics converge?",
        f"{said} Measure: Wasserstein distance of the units' mean activations, each net's divided by their mean.",
        ("layer", *(f"distance, {WORDS[kind]}" for kind in KINDS), "units dealt at random", "trained − dealt",
         "trained − untrained"),
        rows,
    )  # fmt: skip


def _beside(trained: Summary, untrained: Summary) -> str:
    return f"{number(trained)}; untrained {number(untrained)}"


def _level(mean: float, deviation: float) -> str:
    """A chance level with its standard deviation over draws."""
    if not np.isfinite(mean):
        return MISSING
    return f"{mean:z.3f} ± {deviation:z.3f}" if np.isfinite(deviation) else f"{mean:z.3f}"


def _next_image(summary: Summary) -> str:
    return f"{summary.shifted:z.3f}" if np.isfinite(summary.shifted) else MISSING


def _chance_share(summary: Summary | None) -> str:
    return MISSING if summary is None or not np.isfinite(summary.null) else f"{100 * summary.null:z.0f} %"


def _mean_width(layer: ComparisonResults) -> float:
    """Mean number of active units of the narrower net of each trained pair."""
    return float(np.mean([min(len(pair.units_x), len(pair.units_y)) for pair in layer.of_kind("trained")]))
