"""The paper's numbers (Net1 and Net2 of four AlexNets, ILSVRC-2012 validation images), each with where it comes from.

Sources: N printed by the authors' own notebook or logged by their own runs; P recalled from the paper's text; D derived
from N and checked: exact solutions and chance levels on the conv1 correlations recovered from the authors' figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Source = Literal["N", "P", "D"]
SOURCES: dict[Source, str] = {
    "N": "printed by the authors' notebook or logged by their runs",
    "P": "recalled from the paper's text",
    "D": "derived from N and checked",
}
TABLE_LAMBDAS = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Penalties λ of the paper's Table 1."""


@dataclass(frozen=True)
class PublishedValue:
    """A published number; ``spread`` is a standard deviation, where there is one."""

    value: float
    source: Source
    spread: float | None = None


@dataclass(frozen=True, eq=False)
class Curve:
    """Losses, or weights a target, by penalty λ."""

    by_lambda: Mapping[float, float]
    source: Source

    def at(self, lambdas: Sequence[float]) -> list[float | None]:
        """The value at each penalty; None where none was published."""
        return [self.by_lambda.get(float(value)) for value in lambdas]


@dataclass(frozen=True, eq=False)
class PublishedLayer:
    """Published numbers of one layer.

    Attributes
    ----------
    channels : units of the layer
    semi_matching, matching : mean correlation with the partner
    same_assignment, below_half : shares of units with the same partner by both, with semi-matched r below 0.5
    matching_seconds : the authors' time for the matching
    table : Table 1, loss of one minibatch of 32 images at the last step
    last_500 : mean validation loss over the last 500 steps; ``weights_above`` 0.01 a target
    information_best, information_worst : eight semi-matched pairs each, nats
    top_mean_activations : of the most active unit of Net1 to Net4
    """

    name: str
    channels: int
    semi_matching: PublishedValue
    matching: PublishedValue
    same_assignment: PublishedValue
    below_half: PublishedValue
    matching_seconds: PublishedValue
    table: Curve
    last_500: Curve | None = None
    weights_above: Curve | None = None
    information_best: tuple[float, ...] = ()
    information_worst: tuple[float, ...] = ()
    same_best_eight: PublishedValue | None = None
    top_mean_activations: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class RecoveredLayer:
    """Values computed from a layer's recovered correlations, all of source D.

    Attributes
    ----------
    loss, n_weights : exact LASSO solutions by λ, and their weights that are not zero; ``original_weights`` of the
        authors' solutions beside them, counted by some threshold below 0.01
    forward : loss of forward selection with refit, by number of units
    semi_matching_null, matching_null : after random rotation of Net2's basis
    never_chosen, mutual_best : units that semi-matching never chooses, pairs that are each other's best
    smallest_signed_eigenvalue : of the Laplacian D − C of the signed joint correlations
    """

    loss: Curve
    n_weights: Curve
    original_weights: Curve
    forward: Mapping[int, float]
    semi_matching_null: PublishedValue
    matching_null: PublishedValue
    linear_cka: float
    procrustes: float
    mean_cca: float
    never_chosen: int
    mutual_best: int
    smallest_signed_eigenvalue: float
    source: Source = field(default="D")


def _table(source: Source, *losses: float) -> Curve:
    return Curve(dict(zip(TABLE_LAMBDAS, losses, strict=True)), source)


CONV1 = PublishedLayer(
    name="conv1",
    channels=96,
    semi_matching=PublishedValue(0.70299, "N"),
    matching=PublishedValue(0.662868, "N"),
    same_assignment=PublishedValue(0.729167, "N"),
    below_half=PublishedValue(0.17, "P"),
    matching_seconds=PublishedValue(11, "N"),
    table=_table("N", 0.170, 0.169, 0.162, 0.172, 0.484, 0.517),
    last_500=Curve(
        {
            0.0: 0.1690, 1e-5: 0.1681, 1e-4: 0.1612, 1e-3: 0.1689, 10**-2.8: 0.1934, 10**-2.6: 0.2334,
            10**-2.4: 0.3030, 10**-2.2: 0.4050, 1e-2: 0.4927,
        },
        "N",
    ),
    weights_above=Curve({1e-3: 14.4, 10**-2.6: 4.1}, "N"),
    information_best=(1.08, 1.04, 0.97, 0.92, 0.87, 0.83, 0.83, 0.83),
    information_worst=(0.11, 0.10, 0.10, 0.09, 0.08, 0.08, 0.07, 0.04),
    same_best_eight=PublishedValue(7, "N"),
    top_mean_activations=(98.4, 130.3, 108.6, 109.6),
)  # fmt: skip
CONV2 = PublishedLayer(
    name="conv2",
    channels=256,
    semi_matching=PublishedValue(0.55595, "N"),
    matching=PublishedValue(0.50739, "N"),
    same_assignment=PublishedValue(0.578125, "N"),
    below_half=PublishedValue(0.37, "P"),
    matching_seconds=PublishedValue(208, "N"),
    table=_table("N", 0.372, 0.368, 0.337, 0.392, 0.518, 0.514),
    last_500=Curve(
        {
            0.0: 0.3747, 1e-5: 0.3701, 1e-4: 0.3387, 10**-3.8: 0.3259, 10**-3.6: 0.3146, 10**-3.4: 0.3132,
            10**-3.2: 0.3355, 1e-3: 0.3865, 10**-2.8: 0.4483, 10**-2.6: 0.4981,
        },
        "N",
    ),
    weights_above=Curve({1e-3: 6.7, 10**-2.8: 1.9}, "N"),
    information_best=(0.46, 0.39, 0.34, 0.34, 0.33, 0.32, 0.30, 0.30),
    information_worst=(0.04, 0.04, 0.04, 0.04, 0.04, 0.03, 0.03, 0.02),
    top_mean_activations=(121.8, 49.0, 46.8, 110.8),
)  # fmt: skip
CONV3 = PublishedLayer(
    name="conv3",
    channels=384,
    semi_matching=PublishedValue(0.477509, "N"),
    matching=PublishedValue(0.445778, "N"),
    same_assignment=PublishedValue(0.617188, "N"),
    below_half=PublishedValue(0.63, "P"),
    matching_seconds=PublishedValue(689, "N"),
    table=_table("P", 0.434, 0.427, 0.383, 0.462, 0.497, 0.496),
)
CONV4 = PublishedLayer(
    name="conv4",
    channels=384,
    semi_matching=PublishedValue(0.368536, "N"),
    matching=PublishedValue(0.341896, "N"),
    same_assignment=PublishedValue(0.580729, "N"),
    below_half=PublishedValue(0.92, "P"),
    matching_seconds=PublishedValue(702, "N"),
    table=_table("P", 0.478, 0.470, 0.423, 0.477, 0.489, 0.488),
)
CONV5 = PublishedLayer(
    name="conv5",
    channels=256,
    semi_matching=PublishedValue(0.41557, "N"),
    matching=PublishedValue(0.38489, "N"),
    same_assignment=PublishedValue(0.644531, "N"),
    below_half=PublishedValue(0.75, "P"),
    matching_seconds=PublishedValue(205, "N"),
    table=_table("P", 0.484, 0.478, 0.439, 0.436, 0.478, 0.477),
)
LAYERS = {layer.name: layer for layer in (CONV1, CONV2, CONV3, CONV4, CONV5)}

RECOVERED = {
    "conv1": RecoveredLayer(
        loss=Curve({0.0: 0.107, 1e-4: 0.115, 1e-3: 0.157, 10**-2.6: 0.213}, "D"),
        n_weights=Curve({1e-4: 41, 1e-3: 6.1, 10**-2.6: 2.7}, "D"),
        original_weights=Curve({1e-4: 92, 1e-3: 19, 10**-2.6: 4.7}, "D"),
        forward={1: 0.226, 2: 0.176, 3: 0.158, 5: 0.141},
        semi_matching_null=PublishedValue(0.363, "D", 0.008),
        matching_null=PublishedValue(0.289, "D", 0.010),
        linear_cka=0.864,
        procrustes=0.824,
        mean_cca=0.673,
        never_chosen=24,
        mutual_best=59,
        smallest_signed_eigenvalue=-9.96,
    )
}
ACCURACIES = tuple(PublishedValue(value, "P") for value in (0.5865, 0.5873, 0.5879, 0.5884))
"""Top-1 of Net1 to Net4."""
BINS = 10
"""Bins of a unit in the paper's mutual information."""
