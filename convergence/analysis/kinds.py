"""Kinds of nets and of pairs: trained or not, and what the trainings of two nets have in common.

Nets trained from the same initial weights are not independent of each other. A pair of them is of a kind of its own,
and the nets of a kind that are aligned together are one of each initialisation.
"""

from __future__ import annotations

from typing import Literal

from convergence.statistics.file import ComparisonSums
from convergence.statistics.schema import UNKNOWN

PairKind = Literal["trained", "untrained", "mixed", "same_init"]


def network_of(initialisation: str) -> str:
    """The network in an initialisation of :attr:`convergence.config.schema.Net.initialisation`; "" if unknown."""
    return initialisation.rpartition(", seed ")[0]


class PairKinds:
    """Kinds of the pairs of a comparison's members."""

    def __init__(self, sums: ComparisonSums) -> None:
        self._trained = dict(zip(sums.nets, sums.trained, strict=True))
        self._of_net = dict(zip(sums.nets, sums.of_net, strict=True))
        self._initialisation = dict(zip(sums.nets, sums.initialisations, strict=True))
        self._order = dict(zip(sums.nets, sums.order_seeds, strict=True))
        self._subset = dict(zip(sums.nets, sums.subset_seeds, strict=True))

    def kind(self, x: str, y: str) -> PairKind:
        """Kind of a pair of members; members of one net are "trained" or "untrained" like those of other nets."""
        if self._trained[x] != self._trained[y]:
            return "mixed"
        if not self._trained[x]:
            return "untrained"
        apart = self._of_net[x] == self._of_net[y] or self._initialisation[x] != self._initialisation[y]
        return "trained" if apart else "same_init"

    def shared(self, x: str, y: str) -> dict[str, bool]:
        """What two members have in common: initial weights, image order, training images; false where unknown."""
        return {
            "same_init": self._initialisation[x] == self._initialisation[y],
            "same_order": self._order[x] == self._order[y] != UNKNOWN,
            "same_data": self._subset[x] == self._subset[y] != UNKNOWN,
        }


def kinds_of_nets(sums: ComparisonSums) -> dict[str, list[str]]:
    """Members of a comparison by kind: "trained" and "untrained", with layer and epoch where these differ.

    Of members of one kind and one initialisation only the first is listed: nets of the same initial weights are not
    independent, and would make units look shared by more nets than learn them apart.
    """
    kinds: dict[str, dict[str, str]] = {}
    many_layers, many_epochs = len(set(sums.layers)) > 1, len(set(sums.epochs)) > 1
    for net, trained, layer, epoch, start in zip(
        sums.nets, sums.trained, sums.layers, sums.epochs, sums.initialisations, strict=True
    ):
        words = ["trained" if trained else "untrained"]
        words += [layer] if many_layers else []
        words += [f"epoch {epoch}"] if many_epochs and epoch >= 0 else []
        kinds.setdefault(" ".join(words), {}).setdefault(start, net)
    return {kind: [*nets.values()] for kind, nets in kinds.items()}
