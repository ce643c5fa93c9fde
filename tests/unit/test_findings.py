"""Every branch of the sentences of findings, with planted summaries."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from convergence.results import findings as questions
from convergence.results.populations import Excess
from convergence.results.sentences import Sentences, cases, number, percent, signed, verdict_of

NAN = float("nan")
FEW = "2 untrained nets; 3 are needed for an interval over nets"
ABOVE, BELOW, NEITHER = (0.1, 0.3), (-0.3, -0.1), (-0.1, 0.1)
WITHHELD = (NAN, NAN)


def summary(value: float, ends: tuple[float, float] = WITHHELD, excess: tuple[float, float] | None = None) -> Any:
    """A mean over pairs with its interval, and the interval of its excess over a chance level if there is one."""
    missing = "" if np.isfinite(ends[0]) else FEW
    above = NAN if excess is None else 0.2
    return SimpleNamespace(
        value=value, low=ends[0], high=ends[1], missing=missing, null=NAN if excess is None else value - 0.2,
        null_sd=0.01, shifted=0.05, excess=above, above_chance=Excess(above, *(excess or WITHHELD), missing),
    )  # fmt: skip


def difference(ends: tuple[float, float]) -> Any:
    """A difference with its interval."""
    return SimpleNamespace(
        value=NAN if ends is WITHHELD else float(np.mean(ends)), low=ends[0], high=ends[1],
        missing=FEW if ends is WITHHELD else "",
    )  # fmt: skip


@dataclass
class Layer:
    """A comparison with planted results."""

    name: str = "conv1"
    summaries: dict[tuple[str, ...], Any] = field(default_factory=dict)
    differences: dict[str, Any] = field(default_factory=dict)
    consensus: dict[str, Any] = field(default_factory=dict)
    signless: bool = False
    unprivileged: bool = False
    null_reason: str = ""
    pairs: tuple[Any, ...] = ()
    causes: tuple[Any, ...] = ()

    def summary(self, measure: str, kind: str, evaluation: str = "all_images") -> Any:
        return self.summaries.get((measure, kind, evaluation))

    def difference(self, measure: str, first: str, second: str, evaluation: str = "all_images") -> Any:
        return self.differences.get(measure)

    def of_kind(self, kind: str) -> list[Any]:
        return list(self.pairs)


def whole(ends: tuple[float, float] | None) -> Layer:
    found = {("linear_cka", "trained", "all_images"): summary(0.8, (0.7, 0.9))}
    if ends is None:
        return Layer(summaries=found)
    found["linear_cka", "untrained", "all_images"] = summary(0.5, WITHHELD if ends is WITHHELD else (0.4, 0.6))
    return Layer(summaries=found, differences={"linear_cka": difference(ends)})


@pytest.mark.parametrize(
    ("ends", "sentence"),
    [
        (ABOVE, "Layers of trained nets are more similar than layers of untrained nets in conv1 (0.800 [0.700, 0.900]; "
                "untrained 0.500 [0.400, 0.600])."),
        (BELOW, "Layers of trained nets are less similar than layers of untrained nets in conv1"),
        (NEITHER, "No difference between layers of trained and of untrained nets was found in conv1"),
        (WITHHELD, "Layers of trained nets cannot be compared with those of untrained nets in conv1 (0.800 [0.700, "
                   f"0.900]; untrained 0.500): {FEW}."),
        (None, "The linear CKA of two trained nets is conv1 (0.800 [0.700, 0.900])."),
    ],
)  # fmt: skip
def test_whole_layers_sentence_of_every_verdict(ends: Any, sentence: str) -> None:
    found = questions.whole_layers([whole(ends)])  # type: ignore[list-item]
    assert found is not None
    assert found.verdict.startswith(sentence)
    assert "nan" not in found.verdict


def units(
    chance: tuple[float, float] | None, untrained: tuple[float, float] | None, signs: bool = False, basis: bool = False
) -> Layer:
    measure = "absolute_matching" if signs else "matching"
    found = {(measure, "trained", "all_images"): summary(0.6, (0.5, 0.7), chance)}
    differences = {}
    if untrained is not None:
        found[measure, "untrained", "all_images"] = summary(0.3, (0.2, 0.4))
        differences[measure] = difference(untrained)
    return Layer(
        summaries=found, differences=differences, signless=signs, unprivileged=basis, null_reason="no pre-activations"
    )


@pytest.mark.parametrize(
    ("chance", "sentence"),
    [
        (ABOVE, "Matched units of trained nets are more similar than chance in conv1 (0.600 [0.500, 0.700]; chance "
                "0.400 ± 0.010)."),
        (BELOW, "Matched units of trained nets are less similar than chance in conv1"),
        (NEITHER, "No difference between matched units of trained nets and chance was found in conv1"),
        (None, "Matched units cannot be compared with chance in conv1 (0.600 [0.500, 0.700]): no pre-activations."),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("untrained", "second"),
    [
        (ABOVE, "Matched units of trained nets are more similar than those of untrained nets in conv1"),
        (BELOW, "Matched units of trained nets are less similar than those of untrained nets in conv1"),
        (NEITHER, "No difference between matched units of trained and of untrained nets was found in conv1"),
        (WITHHELD, f"untrained 0.300 [0.200, 0.400]): {FEW}."),
        (None, ""),
    ],
)
def test_same_units_sentences_of_every_verdict(chance: Any, sentence: str, untrained: Any, second: str) -> None:
    found = questions.same_units([units(chance, untrained)])  # type: ignore[list-item]
    assert found is not None
    assert found.verdict.startswith(sentence)
    assert second in found.verdict
    assert "nan" not in found.verdict


def test_same_units_of_a_layer_without_activation_function_are_matched_without_signs() -> None:
    found = questions.same_units([units(ABOVE, None, signs=True)])  # type: ignore[list-item]
    assert found is not None
    assert found.verdict.startswith("Signs of units are arbitrary in conv1: ")
    assert "The basis of the units" not in found.verdict


def test_same_units_of_an_arbitrary_basis_say_so_and_name_other_measures() -> None:
    found = questions.same_units([units(ABOVE, None, signs=True, basis=True)])  # type: ignore[list-item]
    assert found is not None
    assert "The basis of the units is not privileged in conv1: linear maps write the layer" in found.verdict
    assert "Mean CCA and the CKA of raw units do not" in found.verdict


def test_layers_of_one_verdict_share_a_sentence() -> None:
    layers = [units(ABOVE, None), units(NEITHER, None), units(ABOVE, None)]
    for layer, name in zip(layers, ("conv1", "conv2", "fc1"), strict=True):
        layer.name = name
    found = questions.same_units(layers)  # type: ignore[arg-type]
    assert found is not None
    assert "more similar than chance in conv1 (" in found.verdict
    assert ") and fc1 (" in found.verdict
    assert "chance was found in conv2 (" in found.verdict


@pytest.mark.parametrize(
    ("chance", "sentence"),
    [
        (ABOVE, "More units than by chance have a local code in conv1 (30 % [20, 40]; chance 10 %)."),
        (BELOW, "Fewer units than by chance have a local code in conv1"),
        (NEITHER, "No difference between the share of local codes and chance was found in conv1"),
        (None, "Local codes cannot be compared with chance in conv1: no pre-activations."),
    ],
)
def test_local_code_sentence_of_every_verdict(chance: Any, sentence: str) -> None:
    found = {
        (f"code_{code}", "trained", "held_out"): summary(share, (share - 0.1, share + 0.1), chance)
        for code, share in zip(("local", "few", "distributed", "unexplained"), (0.3, 0.4, 0.2, 0.1), strict=True)
    }
    answer = questions.local_code([Layer(summaries=found, null_reason="no pre-activations")])  # type: ignore[list-item]
    assert answer is not None
    assert sentence in answer.verdict
    assert "local 30 % [20, 40], a few 40 % [30, 50], distributed 20 % [10, 30]" in answer.verdict


@pytest.mark.parametrize(
    ("ends", "sentence"),
    [
        (ABOVE, "differ more than those of units dealt at random to two nets in conv1"),
        (BELOW, "differ less than those of units dealt at random to two nets in conv1"),
        (NEITHER, "No difference between mean activations of two trained nets and of units dealt at random"),
    ],
)
def test_activations_sentence_of_every_verdict(ends: Any, sentence: str) -> None:
    found = {("mean_activation_distance", "trained", "all_images"): summary(0.4, (0.3, 0.5), ends)}
    answer = questions.activations([Layer(summaries=found)])  # type: ignore[list-item]
    assert answer is not None
    assert sentence in answer.verdict


def test_share_of_units_in_all_nets_is_withheld_without_a_chance_level() -> None:
    numbers = {
        "nets": ("a", "b", "c"), "mean_correlation": SimpleNamespace(value=0.5, null=NAN, null_sd=NAN),
        "cycle_consistency": SimpleNamespace(value=0.4), "cycle_chance": 0.05,
    }  # fmt: skip
    withheld = SimpleNamespace(**numbers, shared={}, null_reason="no pre-activations")
    present = SimpleNamespace(**numbers, shared={2: summary(0.6), 3: summary(0.25)}, null_reason="")
    verdicts = []
    for consensus in (withheld, present):
        answer = questions.all_nets([Layer(consensus={"trained": consensus})])  # type: ignore[list-item]
        assert answer is not None
        verdicts.append(answer.verdict)
    assert verdicts[0].startswith(
        "Whether units are present in all 3 trained nets is not known in conv1: no pre-activations."
    )
    assert verdicts[1].startswith("Share of units that are present in all 3 trained nets: conv1 (25 %).")


@pytest.mark.parametrize("value", [0.4, -1.9])
def test_predictions_that_are_worse_than_the_mean_are_named(value: float) -> None:
    found = {("shared_dimensions", "trained", "held_out"): summary(8.0, (6.0, 10.0)),
             ("r_squared", "trained", "held_out"): summary(value, (value - 0.1, value + 0.1))}  # fmt: skip
    pair = SimpleNamespace(units_x=range(20), units_y=range(16))
    answer = questions.subspaces([Layer(summaries=found, pairs=(pair,))])  # type: ignore[list-item]
    assert answer is not None
    assert answer.verdict.startswith("Dimensions that two trained nets share: conv1 (8.0 [6.0, 10.0] of 16).")
    said = (
        "Held-out R² is negative in conv1 (-1.900 [-2.000, -1.800]): least squares on one half of the images predicts"
    )
    assert (said in answer.verdict) == (value < 0)


def cause(shared: str, effect: tuple[float, float] | None = None, network: str = "") -> Any:
    """Pairs that share something, with the interval of the difference from pairs that share nothing."""
    ends = WITHHELD if effect is None else effect
    return SimpleNamespace(
        measure="matching", evaluation="all_images", network=network, shared=shared, value=0.5, low=0.4, high=0.6,
        missing="", effect=float(np.mean(ends)), effect_low=ends[0], effect_high=ends[1],
        effect_missing=FEW if ends is WITHHELD else "",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("effect", "sentence"),
    [
        (ABOVE, "Matched units of nets with the same initial weights are more similar than those of nets that share "
                "nothing in conv1 (+0.200 [0.100, 0.300])."),
        (BELOW, "Matched units of nets with the same initial weights are less similar than those of nets that share"),
        (NEITHER, "No effect of the same initial weights on matched units was found in conv1 (+0.000 [-0.100, 0.100])"),
        (WITHHELD, f"The effect of the same initial weights on matched units cannot be estimated in conv1 (–): {FEW}."),
    ],
)  # fmt: skip
def test_causes_of_similarity_have_a_sentence_of_every_verdict(effect: Any, sentence: str) -> None:
    both = cause("initial weights and image order", ABOVE)
    answer = questions.causes([Layer(causes=(cause("nothing"), cause("initial weights", effect), both))])  # type: ignore[list-item]
    assert answer is not None
    assert answer.verdict.startswith(sentence)
    assert answer.verdict.count("initial weights") == 1, "pairs that share two causes are in the table alone"
    assert answer.rows[0][:2] == ("conv1", "0.500 [0.400, 0.600]")
    assert answer.rows[0][-1] == "+0.200 [0.100, 0.300]"


def test_causes_need_pairs_that_share_nothing_and_one_network() -> None:
    alone = Layer(causes=(cause("image order"), cause("initial weights and image order")))
    two = Layer(causes=(cause("nothing", network="a"), cause("nothing", network="b")))
    assert questions.causes([alone, two, Layer()]) is None  # type: ignore[list-item]


def test_questions_without_results_have_no_finding() -> None:
    assert questions.findings([Layer()]) == []  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("ends", "verdict"), [(ABOVE, "above"), (BELOW, "below"), (NEITHER, "neither"), (WITHHELD, "withheld")]
)
def test_verdict_is_whether_the_interval_excludes_zero(ends: Any, verdict: str) -> None:
    assert verdict_of(difference(ends)) == verdict


def test_numbers_as_text() -> None:
    assert number(summary(0.5, (0.4, 0.6))) == "0.500 [0.400, 0.600]"
    assert number(summary(0.5)) == "0.500"
    assert number(None) == signed(None) == percent(None) == "–"
    assert signed(difference(ABOVE)) == "+0.200 [0.100, 0.300]"
    assert signed(difference(BELOW)) == "-0.200 [-0.300, -0.100]"
    assert percent(summary(0.5, (0.25, 0.75))) == "50 % [25, 75]"


def test_many_layers_are_listed_with_the_numbers_of_the_first_and_the_last() -> None:
    assert cases([(name, "1") for name in "abcde"]) == "a (1), b, c, d and e (1)"
    assert cases([]) == ""
    said = Sentences()
    said.add("One of {cases}.", "a", "1")
    said.add("Two of {cases}: {reason}.", "b", reason="why")
    assert str(said) == "One of a (1). Two of b: why."
