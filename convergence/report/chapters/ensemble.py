"""Ensembles: what members add, whether dissimilar ones add more, and what can be computed once for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convergence.figures.ensemble import Point, accuracy_by_cost, accuracy_by_size
from convergence.functional.file import FunctionalResults
from convergence.report.matters import Chapter
from convergence.report.tables import MISSING, Table, interval
from convergence.uncertainty import Estimate, mean_estimate

TITLE = "Do nets that differ add up, and what of them can be shared?"
ABOUT = (
    "Members' probabilities are averaged (Lakshminarayanan et al. 2017), beside that their logits. All subsets of "
    "each size are scored. What is chosen (the best single net, members that are least alike by linear CKA) is chosen "
    "on one half of the image groups and scored on the other, both ways. A shared core is one member's first layers, "
    "mapped by an affine map into the tails of the others; the maps come from one half of the groups, scores from the "
    "other. Cost counts multiply–adds of products and convolutions. Docs: functional_ensemble.md."
)
FEW = 10
"""Subsets below which the rank of the chosen one says nothing: 1 in 6 is no evidence."""
Tree = dict[str, Any]


def chapter(results: FunctionalResults) -> Chapter:
    """The chapter of ``ensemble.h5``."""
    members = results.tree["members"]
    layers = cores(results.tree.get("core", {}))
    some = [layer for layer in layers if layer.trees]
    sentences = [_gain(members), *_logits(members), *_dissimilar(members), *(_core(layer) for layer in some)]
    if some:
        sentences.append(_worth(some))
    sentences += [sentence for layer in layers for sentence in layer.left_out]
    drawings = [accuracy_by_size(members)]
    if some:
        drawings.append(accuracy_by_cost([(layer.name, _points(layer)) for layer in some]))
    tables = [_sizes_table(members), _cores_table(some)]
    return Chapter(TITLE, tuple(sentences), ABOUT, tuple(t for t in tables if t.rows), tuple(drawings))


@dataclass(frozen=True, eq=False)
class Core:
    """A layer at which cores end: results of the trunks that could be shared, and a sentence for each other one."""

    name: str
    trees: tuple[Tree, ...]
    left_out: tuple[str, ...]

    def mean(self, name: str, number: str = "accuracy") -> Estimate | None:
        """A number of a system, mean over trunks and over the draws of a chance level."""
        found = [
            Estimate(**system[number])
            for tree in self.trees
            for key, system in tree["systems"].items()
            if key == name or (key.removeprefix(f"{name}_").isdigit() and key.startswith(f"{name}_"))
        ]
        if not found:
            return None
        mean = mean_estimate(found)
        return mean.within((0.0, 1.0)) if number == "accuracy" else mean

    def cost(self, name: str) -> float:
        """Multiply–adds relative to the trunk's net alone, mean over trunks."""
        return float(np.mean([
            system["cost"] / tree["systems"]["trunk"]["cost"]
            for tree in self.trees
            for key, system in tree["systems"].items()
            if key == name or (key.startswith(f"{name}_") and key.removeprefix(f"{name}_").isdigit())
        ]))  # fmt: skip

    def systems(self) -> list[str]:
        """Names of systems, draws taken together, in a fixed order."""
        found = dict.fromkeys(
            key.rpartition("_")[0] if key.startswith("permuted_") or "_random_" in key else key
            for key in (self.trees[0]["systems"] if self.trees else ())
        )
        order = ("trunk", "full", "least_squares", "sparse", "one_to_one", "permuted", "core")
        return sorted(found, key=lambda key: (next(k for k, start in enumerate(order) if key.startswith(start)), key))


def cores(tree: Tree) -> list[Core]:
    """The layers, in the order of the config."""
    found = []
    for name, trunks in tree.items():
        done = tuple(t for t in trunks.values() if "systems" in t)
        left_out = tuple(dict.fromkeys(f"No shared core: {t['left_out']}" for t in trunks.values() if "left_out" in t))
        found.append((int(done[0]["order"]) if done else 0, Core(name, done, left_out)))
    return [core for _, core in sorted(found, key=lambda item: item[0])]


def words(key: str) -> str:
    """What a system is called."""
    if key.startswith("sparse_"):
        return f"core, {key.removeprefix('sparse_')} units a target"
    if key.startswith("core_"):
        share = float(key.removeprefix("core_").removesuffix("_random"))
        how = "random" if key.endswith("_random") else "best shared"
        return f"core of the {100 * share:.0f} % {how} units"
    return {
        "trunk": "one net", "full": "full ensemble", "least_squares": "core, least squares",
        "one_to_one": "core, one-to-one", "permuted": "core, random partners",
    }[key]  # fmt: skip


def _clear(e: Estimate) -> str:
    return "" if e.low > 0 or e.high < 0 else ", not told from none"


def _gain(members: Tree) -> str:
    largest = max(members["sizes"], key=int)
    tree = members["sizes"][largest]["mean"]
    over, best = Estimate(**tree["accuracy_minus_single"]), Estimate(**tree["accuracy_minus_best"])
    loss = Estimate(**tree["loss_minus_single"])
    return (
        f"All {largest} members together reach an accuracy of {interval(Estimate(**tree['accuracy']))}: "
        f"{over.value:+.4f} [{over.low:+.4f}, {over.high:+.4f}] against single nets on average{_clear(over)}, "
        f"{best.value:+.4f} [{best.low:+.4f}, {best.high:+.4f}] against the single net that was best on other images"
        f"{_clear(best)}; the loss changes by {loss.value:+.4f} [{loss.low:+.4f}, {loss.high:+.4f}] nats"
        f"{_clear(loss)}. One net {len(members['names'])} times gains "
        f"{members['repeated']['accuracy_minus_single']['value']:.4f}."
        + (
            f" With {_count(members)} untrained nets among the members the accuracy is "
            f"{interval(Estimate(**members['with_untrained']['accuracy']))}, the loss "
            f"{interval(Estimate(**members['with_untrained']['loss']))} nats; alone these reach "
            f"{interval(Estimate(**members['untrained']['accuracy']))}."
            if "with_untrained" in members
            else ""
        )
    )


def _count(members: Tree) -> int:
    return len(members["single"]) - len(members["names"])


def _logits(members: Tree) -> list[str]:
    largest = max(members["sizes"], key=int)
    e = Estimate(**members["sizes"][largest]["logits"]["loss_minus_probabilities"])
    what = "lowers" if e.high < 0 else "raises" if e.low > 0 else "does not clearly change"
    return [
        f"Averaging logits in place of probabilities {what} the loss ({e.value:+.4f} [{e.low:+.4f}, {e.high:+.4f}] "
        "nats)."
    ]


def _dissimilar(members: Tree) -> list[str]:
    said, clear, few = [], 0, False
    for m, tree in sorted(members["sizes"].items(), key=lambda item: int(item[0])):
        chosen = tree["chosen"]
        if "n_subsets" not in chosen:
            continue
        e = Estimate(**chosen["accuracy_minus_random"])
        few |= chosen["n_subsets"] < FEW
        clear += e.low > 0
        said.append(
            f"of {m}: {e.value:+.4f} [{e.low:+.4f}, {e.high:+.4f}], places {chosen['rank_0']:g} and "
            f"{chosen['rank_1']:g} of {chosen['n_subsets']}"
        )
    if not said:
        return []
    sentence = f"Members that are least alike against members at random, {'; '.join(said)}."
    if few:
        sentence += (
            " The intervals are over images; with so few subsets of one set of nets it does not follow that dissimilar "
            "members are better."
        )
    elif not clear:
        sentence += " Choosing by dissimilarity does not clearly help."
    return [sentence]


def _core(layer: Core) -> str:
    full, shared = layer.mean("full"), layer.mean("least_squares")
    less, more = layer.mean("least_squares", "accuracy_minus_full"), layer.mean("least_squares", "accuracy_minus_trunk")
    chance = layer.mean("permuted")
    assert full is not None
    assert shared is not None
    assert less is not None
    assert more is not None
    assert chance is not None
    return (
        f"Core up to {layer.name}: {layer.cost('least_squares'):.2f} times the multiply–adds of one net (all nets: "
        f"{layer.cost('full'):.2f}), accuracy {interval(shared)}, {less.value:+.3f} [{less.low:+.3f}, "
        f"{less.high:+.3f}] against the full ensemble and {more.value:+.3f} [{more.low:+.3f}, "
        f"{more.high:+.3f}] against the trunk's net alone; random partners {chance.value:.3f}."
    )


def _worth(layers: Sequence[Core]) -> str:
    better = [
        layer.name
        for layer in layers
        if any(
            (e := layer.mean(key, "accuracy_minus_trunk")) is not None and e.low > 0
            for key in layer.systems()
            if key not in ("trunk", "full")
        )
    ]
    if better:
        return f"A shared core is clearly more accurate than its trunk's net alone at {', '.join(better)}."
    return (
        "No shared core is clearly more accurate than its trunk's net alone, which is cheaper: here a core is not "
        "worth its cost."
    )


def _points(layer: Core) -> list[Point]:
    found = []
    for key in layer.systems():
        if key.startswith("core_"):
            continue
        e = layer.mean(key)
        assert e is not None
        found.append((key.split("_")[0] if key.startswith("sparse_") else key, words(key), layer.cost(key), e))
    return found


def _sizes_table(members: Tree) -> Table:
    single = f"{members['calibration_single'].mean():.4f}"
    rows = [("1", str(len(members["names"])), *_cells(members["mean_single"]), single, MISSING, MISSING)]
    for m, tree in sorted(members["sizes"].items(), key=lambda item: int(item[0])):
        chosen = tree["chosen"]
        e = Estimate(**chosen["accuracy_minus_random"]) if "n_subsets" in chosen else None
        rows.append((
            m, f"{len(tree['subsets'])} of {tree['n_possible']}", *_cells(tree["mean"]),
            f"{tree['calibration'].mean():.4f}", interval(Estimate(**tree["logits"]["loss"])),
            f"{e.value:+.4f} [{e.low:+.4f}, {e.high:+.4f}]" if e else MISSING,
        ))  # fmt: skip
    columns = ("members", "subsets", "accuracy", "loss, nats", "calibration error", "loss with mean logits",
               "least alike against random, accuracy")  # fmt: skip
    return Table.of("Ensembles by size, mean over subsets", columns, rows, wide=True)


def _cells(tree: Tree) -> tuple[str, str]:
    return interval(Estimate(**tree["accuracy"])), interval(Estimate(**tree["loss"]))


def _cores_table(layers: Sequence[Core]) -> Table:
    rows = []
    for layer in layers:
        for key in layer.systems():
            accuracy, loss = layer.mean(key), layer.mean(key, "loss")
            less = layer.mean(key, "accuracy_minus_full")
            assert accuracy is not None
            assert loss is not None
            assert less is not None
            rows.append((layer.name, words(key), f"{layer.cost(key):.2f}", interval(accuracy), interval(loss),
                         interval(less) if key != "full" else MISSING))  # fmt: skip
    columns = (
        "core up to",
        "which",
        "cost, one net = 1",
        "accuracy",
        "loss, nats",
        "accuracy against the full ensemble",
    )
    return Table.of("Shared cores, mean over trunks", columns, rows, wide=True)
