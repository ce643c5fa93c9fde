"""Results of ensembling as tables, and each shared core's means over trunks. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convergence.functional.scores import RANGE, Scores
from convergence.inference import Estimate, mean_estimate

FULL, SINGLE = "full", "trunk"


@dataclass(frozen=True)
class SingleNet:
    """Held-out scores of one net; ``member`` is false for untrained nets."""

    net: str
    member: bool
    accuracy: Estimate
    loss: Estimate
    calibration: Estimate
    scores: Scores


@dataclass(frozen=True)
class Reference:
    """Held-out scores that ensembles are compared with.

    "mean_single", "best_single" (chosen on the other half of the image groups), "repeated" (one net several times),
    "with_untrained" and "untrained".
    """

    name: str
    accuracy: Estimate
    loss: Estimate
    calibration: Estimate | None
    accuracy_minus_single: Estimate | None
    scores: Scores


@dataclass(frozen=True)
class EnsembleSize:
    """Mean scores over subsets of one size, with mean probabilities and (``logit_…``) with mean logits."""

    members: int
    n_possible: int
    accuracy: Estimate
    loss: Estimate
    accuracy_minus_single: Estimate
    accuracy_minus_best: Estimate
    loss_minus_single: Estimate
    scores: Scores
    logit_accuracy: Estimate
    logit_loss: Estimate
    logit_loss_minus: Estimate
    logit_scores: Scores


@dataclass(frozen=True)
class EnsembleSubset:
    """Scores of one subset, and the mean linear CKA of its members on each half of the image groups."""

    members: int
    nets: str
    accuracy: float
    calibration: float
    similarity_0: float
    similarity_1: float


@dataclass(frozen=True)
class ChosenSubset:
    """Scores of the least similar subset, chosen on one half (0, 1) of the image groups and scored on the other.

    ``rank_h`` is its rank by accuracy among all subsets, 1 the best; ties share their mean rank.
    """

    members: int
    n_subsets: int
    nets_0: str
    nets_1: str
    rank_0: float
    rank_1: float
    accuracy: Estimate
    loss: Estimate
    accuracy_minus_random: Estimate
    loss_minus_random: Estimate
    scores: Scores


@dataclass(frozen=True)
class MemberSimilarity:
    """Linear CKA of two members at the layer of ``dissimilarity``, from one half of the image groups."""

    half: int
    net: str
    other: str
    cka: float


@dataclass(frozen=True)
class SharedCore:
    """A trunk's cut at a layer, with multiply–adds per image; ``order`` is the comparison's place in the config."""

    comparison: str
    trunk: str
    order: int
    source: str
    n_units: int
    front_cost: int
    tail_cost: int


@dataclass(frozen=True)
class SharedSystem:
    """Scores and cost of one way to share a trunk; "full" is the whole ensemble, "trunk" the trunk's net alone."""

    comparison: str
    trunk: str
    system: str
    cost: int
    accuracy: Estimate
    loss: Estimate
    calibration: Estimate
    accuracy_minus_full: Estimate
    accuracy_minus_trunk: Estimate
    scores: Scores


@dataclass(frozen=True)
class SkippedCore:
    """Why no core can be shared at a layer."""

    comparison: str
    trunk: str
    reason: str


@dataclass(frozen=True)
class EnsemblingResults:
    """The tables of ``functional/ensemble.h5``."""

    single: tuple[SingleNet, ...] = ()
    references: tuple[Reference, ...] = ()
    sizes: tuple[EnsembleSize, ...] = ()
    subsets: tuple[EnsembleSubset, ...] = ()
    chosen: tuple[ChosenSubset, ...] = ()
    similarities: tuple[MemberSimilarity, ...] = ()
    cores: tuple[SharedCore, ...] = ()
    systems: tuple[SharedSystem, ...] = ()
    skipped: tuple[SkippedCore, ...] = ()

    @property
    def members(self) -> list[SingleNet]:
        """The nets that may be members."""
        return [row for row in self.single if row.member]

    def reference(self, name: str) -> Reference | None:
        """A reference by name; None if it was not scored."""
        return next((row for row in self.references if row.name == name), None)

    def subsets_of(self, members: int) -> list[EnsembleSubset]:
        """Subsets of one size."""
        return [row for row in self.subsets if row.members == members]

    def chosen_of(self, members: int) -> ChosenSubset | None:
        """The subset chosen by dissimilarity; None for a size with a single subset."""
        return next((row for row in self.chosen if row.members == members), None)

    def core_layers(self) -> list[CoreLayer]:
        """The layers with a shared core, in the order of the config."""
        order = {core.comparison: core.order for core in self.cores}
        found = (CoreLayer(name, [s for s in self.systems if s.comparison == name]) for name in order)
        return sorted(found, key=lambda layer: order[layer.name])


@dataclass(frozen=True, eq=False)
class CoreLayer:
    """The systems of one layer; numbers are means over trunks and over the draws of a null."""

    name: str
    all_systems: Sequence[SharedSystem]

    def of(self, name: str) -> list[SharedSystem]:
        """The rows of a system, its draws together."""
        return [row for row in self.all_systems if _without_draw(row.system) == name]

    def accuracy(self, name: str) -> Estimate:
        """Held-out accuracy."""
        return mean_estimate([row.accuracy for row in self.of(name)]).within(RANGE)

    def loss(self, name: str) -> Estimate:
        """Held-out loss in nats."""
        return mean_estimate([row.loss for row in self.of(name)])

    def minus_full(self, name: str) -> Estimate:
        """Accuracy minus that of the full ensemble."""
        return mean_estimate([row.accuracy_minus_full for row in self.of(name)])

    def minus_trunk(self, name: str) -> Estimate:
        """Accuracy minus that of the trunk's net alone."""
        return mean_estimate([row.accuracy_minus_trunk for row in self.of(name)])

    def cost(self, name: str) -> float:
        """Multiply–adds relative to the trunk's net alone."""
        alone = {row.trunk: row.cost for row in self.of(SINGLE)}
        return float(np.mean([row.cost / alone[row.trunk] for row in self.of(name)]))

    def systems(self) -> list[str]:
        """Names of systems in a fixed order."""
        order = (SINGLE, FULL, "least_squares", "sparse", "one_to_one", "permuted", "core")
        names = dict.fromkeys(_without_draw(row.system) for row in self.all_systems)
        return sorted(names, key=lambda key: (next(k for k, start in enumerate(order) if key.startswith(start)), key))


def _without_draw(system: str) -> str:
    """The name of a system without the number of a draw: "permuted_2" is "permuted"."""
    return system.rpartition("_")[0] if system.startswith("permuted_") or "_random_" in system else system
