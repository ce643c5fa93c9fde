"""What ``functional/average.h5`` says, with repeats put together. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convergence.functional.scoring import Scores, mean_scores
from convergence.uncertainty import Estimate, mean_estimate

Tree = Mapping[str, Any]


@dataclass(frozen=True)
class Scored:
    """A kind of net, over repeats.

    Attributes
    ----------
    accuracy, loss : means over repeats; their intervals are over images
    lowest, highest : accuracies of the repeats, which differ in seeds and image order
    scores : mean sums of the repeats, for paired differences
    """

    accuracy: Estimate
    loss: Estimate
    lowest: float
    highest: float
    scores: Scores

    @classmethod
    def of(cls, repeats: Sequence[Tree]) -> Scored:
        """From what each repeat left."""
        accuracies = [Estimate(**one["accuracy"]) for one in repeats]
        return cls(
            mean_estimate(accuracies).within((0.0, 1.0)),
            mean_estimate([Estimate(**one["loss"]) for one in repeats]),
            min(e.value for e in accuracies),
            max(e.value for e in accuracies),
            mean_scores([Scores(**one["sums"]) for one in repeats]),
        )

    def minus(self, other: Scored) -> Estimate:
        """How much more accurate than another, on the same images."""
        return self.scores.accuracy_minus(other.scores)


@dataclass(frozen=True)
class Training:
    """Workers that met now and then, over repeats.

    Attributes
    ----------
    init, align : as in the settings
    every : steps between two averages; the whole training for ``whole``
    whole : whether there was one average, at the end
    rounds, sent : averages, and bytes that a worker sent
    moved : share of units that changed places before the first average, and the mean over later ones
    final : the last average
    first, before : the first average, and the workers just before it
    gain : accuracy of the first average minus that of the workers before it
    """

    init: str
    align: str
    every: int
    whole: bool
    rounds: int
    sent: float
    moved: tuple[float, float]
    final: Scored
    first: Scored
    before: Scored
    gain: Estimate


def trainings(tree: Tree) -> list[Training]:
    """All of them, by initial weights, alignment and steps between averages."""
    found = []
    for init, by_steps in tree["runs"].items():
        for steps, by_align in by_steps.items():
            for align, repeats in by_align.items():
                runs = [repeats[key] for key in sorted(repeats, key=int)]
                points = [[run["points"][key] for key in sorted(run["points"])] for run in runs]
                moved = [run["moved"] for run in runs]
                found.append(
                    Training(
                        init=init,
                        align=align,
                        every=int(runs[0]["steps"]) if steps == "whole" else int(steps),
                        whole=steps == "whole",
                        rounds=int(runs[0]["rounds"]),
                        sent=float(runs[0]["bytes"]),
                        moved=(
                            float(np.mean([m[0] for m in moved])),
                            float(np.mean([m[1:].mean() if len(m) > 1 else 0.0 for m in moved])),
                        ),
                        final=Scored.of([one[-1] for one in points]),
                        first=Scored.of([one[0] for one in points]),
                        before=Scored.of([one[0]["workers"] for one in points]),
                        gain=mean_estimate([Estimate(**one[0]["gain"]) for one in points]),
                    )
                )
    order = {name: k for k, name in enumerate(("same", "different", "none", "weight", "activation", "random"))}
    return sorted(found, key=lambda t: (order[t.init], order[t.align], t.every))


def references(tree: Tree) -> dict[str, Scored]:
    """Scores of "synchronous", "one_worker" and "ensemble"."""
    repeats = [tree["references"][key] for key in sorted(tree["references"], key=int)]
    return {name: Scored.of([one[name] for one in repeats]) for name in repeats[0]}


def synchronous_bytes(tree: Tree) -> float:
    """Bytes that a worker sends where gradients are averaged at each step."""
    return float(next(iter(tree["references"].values()))["synchronous"]["bytes"])
