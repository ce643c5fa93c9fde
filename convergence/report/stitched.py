"""Results of stitching, layer by layer, with means over pairs of nets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from convergence.functional.file import FunctionalResults
from convergence.uncertainty import Estimate, mean_estimate

WORDS = {
    "own": "its own layer",
    "least_squares": "least squares",
    "one_to_one": "one-to-one",
    "one_to_one_slope": "one-to-one, slope of least squares",
    "soft": "soft matching",
    "mean": "means only",
    "permuted": "random partners",
    "permuted_slope": "random partners, slope of least squares",
    "rotated": "one-to-one, rotated basis",
}
Tree = dict[str, Any]


@dataclass(frozen=True, eq=False)
class StitchedLayer:
    """A comparison.

    Attributes
    ----------
    name : of the comparison
    found : (a, b, results) of every pair of nets that could be stitched
    left_out : a sentence for each other pair
    """

    name: str
    found: tuple[tuple[str, str, Tree], ...]
    left_out: tuple[str, ...]

    def pairs(self, kind: str) -> list[tuple[str, str, Tree]]:
        """Pairs of two trained nets ("trained"), or those with an untrained one, by default the one that gives."""
        return [
            (a, b, tree)
            for a, b, tree in self.found
            if bool(tree["stitched"]["a_trained"] and tree["stitched"]["b_trained"]) == (kind == "trained")
        ]

    @property
    def kinds(self) -> list[str]:
        """Those of which there are pairs."""
        return [kind for kind in ("trained", "untrained") if self.pairs(kind)] or ["trained"]

    def accuracy(self, name: str, kind: str) -> Estimate | None:
        """Accuracy through a map, mean over pairs."""
        return self._mean(kind, "stitched", "maps", name, "accuracy", bounds=(0.0, 1.0))

    def loss(self, name: str, kind: str) -> Estimate | None:
        """Cross-entropy through a map, mean over pairs."""
        return self._mean(kind, "stitched", "maps", name, "loss")

    def names(self) -> list[str]:
        """Names of the maps of the first pair."""
        return list(self.found[0][2]["stitched"]["maps"]) if self.found else []

    def units_per_target(self) -> list[int]:
        """Numbers of units that targets were predicted from."""
        return sorted(int(name.removeprefix("sparse_")) for name in self.names() if name.startswith("sparse_"))

    def transplants(self, kind: str) -> list[tuple[str, str, Tree]]:
        """Effects of single units."""
        return [
            (a, b, tree["transplants"]) for a, b, tree in self.pairs(kind) if "kinds" in tree.get("transplants", {})
        ]

    def cumulative(self, kind: str) -> list[tuple[str, str, Tree]]:
        """Accuracies with ever more units replaced."""
        return [
            (a, b, tree["cumulative"]) for a, b, tree in self.pairs(kind) if "numbers" in tree.get("cumulative", {})
        ]

    def rank(self, name: str, kind: str) -> Estimate | None:
        """Spearman's correlation of an effect with the strength of the match, mean over pairs."""
        return self._mean(kind, "transplants", "ranks", name, bounds=(-1.0, 1.0))

    def effect(self, name: str, kind: str, number: str = "mean") -> Estimate | None:
        """Mean gain in loss of a replacement, or ``of_ablation``: as a share of that of taking units away."""
        return self._mean(kind, "transplants", "kinds", name, number)

    def _with(self, part: str, key: str, kind: str) -> list[tuple[str, str, Tree]]:
        return [(a, b, tree[part]) for a, b, tree in self.pairs(kind) if key in tree.get(part, {})]

    def _mean(self, kind: str, *path: str, bounds: tuple[float, float] | None = None) -> Estimate | None:
        estimates = []
        for _, _, tree in self.pairs(kind):
            here: Any = tree
            for name in path:
                here = here.get(name, {})
            if "value" in here:
                estimates.append(Estimate(**{k: v for k, v in here.items() if k in Estimate.__dataclass_fields__}))
        if not estimates or len(estimates) < len(self.pairs(kind)):  # never a mean of those pairs alone that have it
            return None
        mean = mean_estimate(estimates)
        return mean.within(bounds) if bounds else mean


def layers_of(results: FunctionalResults) -> list[StitchedLayer]:
    """The layers, in the order of the config."""
    layers = []
    for name, pairs in results.tree.items():
        found, left_out, order = [], [], 0
        for key, tree in pairs.items():
            a, b = key.split("|")
            if "maps" in tree["stitched"]:
                found.append((a, b, tree))
                order = int(tree["stitched"]["order"])
            else:
                left_out.append(f"{a} and {b} are left out: {tree['stitched']['left_out']}")
        layers.append((order, StitchedLayer(name, tuple(found), tuple(left_out))))
    return [layer for _, layer in sorted(layers, key=lambda item: item[0])]
