"""The finding about causes: what sharing initial weights, image order or training images adds to matched units."""

from __future__ import annotations

from collections.abc import Sequence

from convergence.analysis.layout import ALL_IMAGES
from convergence.results.causes import CauseMean
from convergence.results.comparison import ComparisonResults
from convergence.results.finding import StudyFinding, study_finding
from convergence.results.populations import Excess
from convergence.results.sentences import MISSING, Sentences, Templates, number, signed

NOTHING = "nothing"


def causes(layers: Sequence[ComparisonResults]) -> StudyFinding | None:
    """Matched r of trained nets that share a cause, beside those that share nothing; None where all share the same."""
    said, rows = Sentences(), []
    found = {layer.name: _of_one_network(layer) for layer in layers}
    shown = dict.fromkeys(name for means in found.values() for name in means if name != NOTHING)
    for layer, means in found.items():
        if NOTHING not in means:
            continue
        effects = {name: _effect(mean) for name, mean in means.items() if name != NOTHING}
        for name, effect in effects.items():
            if " and " not in name:
                said.judge(_templates(name), effect, layer, signed(effect))
        rows.append((layer, number(_mean(means[NOTHING])),
                     *(signed(effects[name]) if name in effects else MISSING for name in shown)))  # fmt: skip
    return study_finding(
        "RQ1",
        "What makes nets similar: initial weights, image order or training images?",
        f"{said} Measure: mean correlation r of units matched one to one, of pairs that share one cause alone minus "
        "pairs that share nothing.",
        ("layer", "two nets share nothing", *(f"effect of {name}" for name in shown)),
        rows,
    )


def _of_one_network(layer: ComparisonResults) -> dict[str, CauseMean]:
    """By what two nets share; {} where the nets are of several networks, which have a table of their own."""
    wanted = "absolute_matching" if layer.signless else "matching"
    rows = [one for one in layer.causes if (one.measure, one.evaluation) == (wanted, ALL_IMAGES)]
    return {one.shared: one for one in rows} if len({one.network for one in rows}) == 1 else {}


def _mean(mean: CauseMean) -> Excess:
    return Excess(mean.value, mean.low, mean.high, mean.missing)


def _effect(mean: CauseMean) -> Excess:
    return Excess(mean.effect, mean.effect_low, mean.effect_high, mean.effect_missing)


def _templates(cause: str) -> Templates:
    return Templates(
        above=f"Matched units of nets with the same {cause} are more similar than those of nets that share nothing in "
        "{cases}.",
        below=f"Matched units of nets with the same {cause} are less similar than those of nets that share nothing in "
        "{cases}.",
        neither=f"No effect of the same {cause} on matched units was found in {{cases}}.",
        withheld=f"The effect of the same {cause} on matched units cannot be estimated in {{cases}}: {{reason}}.",
    )
