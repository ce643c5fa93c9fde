"""Compare ``functional/*.h5`` of schema version 1 (trees) with version 2 (tables): every old number, bit for bit.

``python benchmarks/same_functional.py OLD_FOLDER NEW_FOLDER`` with the two ``functional`` folders. :func:`as_version_1`
gives the datasets of version 1, by path, from a file of version 2.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from convergence.functional.averaging.results import AveragingResults
from convergence.functional.compression.results import CompressionResults
from convergence.functional.ensembling.results import EnsemblingResults, SharedSystem
from convergence.functional.file import read_results
from convergence.functional.merging.results import MergingResults
from convergence.functional.scores import Scores
from convergence.functional.stitching.results import StitchingResults
from convergence.inference import Estimate

Pairs = Iterator[tuple[str, Any]]
Tree = dict[str, Any]


def estimate(found: Estimate | None) -> Tree:
    """An estimate as a group of version 1."""
    return {} if found is None else found.as_dict()


def sums(scores: Scores) -> Tree:
    """Scores as a group of version 1."""
    return dict(zip(("count", "correct", "loss"), scores.sums, strict=True))


def scored(row: Any, scores: str = "scores") -> Tree:
    """Accuracy, loss and sums of a row."""
    return {"accuracy": estimate(row.accuracy), "loss": estimate(row.loss), scores: sums(row.scores)}


def put(tree: Tree, path: str, value: Any) -> None:
    """Set a leaf or a group of a tree."""
    *parents, last = path.split("/")
    for name in parents:
        tree = tree.setdefault(name, {})
    if isinstance(value, dict):
        tree.setdefault(last, {}).update(value)
    else:
        tree[last] = value


def collect(tree: Tree, path: str, value: Any) -> None:
    """Append to an array of a tree."""
    *parents, last = path.split("/")
    for name in parents:
        tree = tree.setdefault(name, {})
    tree.setdefault(last, []).append(value)


def stitch(found: StitchingResults) -> Tree:
    """The tree of ``stitch.h5``."""
    tree: Tree = {}

    def at(row: Any) -> str:
        return f"{row.comparison}/{row.a}|{row.b}"

    for pair in found.pairs:
        names = ("order", "layer", "source", "bypassing", "n_a", "n_b", "dead_a", "a_trained", "b_trained")
        put(tree, f"{at(pair)}/stitched", {name: getattr(pair, name) for name in names})
    for row in found.maps:
        differences = {name: estimate(getattr(row, name)) for name in ("accuracy_minus_own", "loss_minus_own")}
        put(tree, f"{at(row)}/stitched/maps/{row.map}", scored(row) | differences | {"explained": row.explained})
    for draw in found.draws:
        collect(tree, f"{at(draw)}/stitched/maps/{draw.map}/draws", draw.accuracy)
    for layer in found.transplanted_layers:
        own = sums(layer.own)
        numbers = {"n_units": layer.n_matched, "own_correct": own["correct"], "count": own["count"]}
        put(tree, f"{at(layer)}/transplants", numbers | {"own_loss": own["loss"]})
    for unit in found.unit_replacements:
        place = f"{at(unit)}/transplants"
        collect(tree, f"{place}/correct/{unit.kind}", unit.scores.correct)
        for name, value in (("loss", unit.scores.loss), ("gain", unit.gain), ("error", unit.error)):
            collect(tree, f"{place}/kinds/{unit.kind}/{name}", value)
        if unit.kind == "transplanted":
            for name, value in (("units", unit.unit), ("strength", unit.strength), ("felt", unit.felt)):
                collect(tree, f"{place}/{name}", value)
    for effect in found.effects:
        numbers = {"mean": estimate(effect.mean), "of_ablation": estimate(effect.of_ablation)}
        put(tree, f"{at(effect)}/transplants/kinds/{effect.kind}", numbers)
    for rank in found.ranks:
        numbers = {"n_units": rank.n_units} | ({"p": rank.p, **estimate(rank.rank)} if rank.rank else {})
        put(tree, f"{at(rank)}/transplants/ranks/{rank.kind}", numbers)
    for step in found.cumulative:
        place = f"{at(step)}/cumulative"
        put(tree, f"{place}/n_units", step.n_units)
        if step.order == "best":
            collect(tree, f"{place}/numbers", step.units)
        for part in ("value", "low", "high"):
            collect(tree, f"{place}/{step.order}/{part}", getattr(step.accuracy, part))
        collect(tree, f"{place}/{step.order}/loss", step.loss.value)
    for skipped in found.skipped:
        put(tree, f"{at(skipped)}/{skipped.part}/left_out", skipped.reason)
    return tree


def merge(found: MergingResults) -> Tree:
    """The tree of ``merge.h5``."""
    tree: Tree = {}

    def columns(path: str, row: Any) -> None:
        for name in ("accuracy", "loss"):
            for part in ("value", "low", "high"):
                collect(tree, f"{path}/{name}/{part}", getattr(getattr(row, name), part))

    def both(row: Any) -> Tree:
        return {"accuracy": estimate(row.accuracy), "loss": estimate(row.loss)}

    for alignment in found.alignments:
        put(tree, f"pairs/{alignment.name}/{alignment.method}/distance", alignment.distance)
    for unit in found.permutations:
        collect(tree, f"pairs/{unit.name}/{unit.method}/orders/{unit.group}", unit.unit)
    for average in found.averages:
        barriers = {name: estimate(getattr(average, name)) for name in ("barrier", "accuracy_barrier")}
        numbers = {"merged": both(average), "merged_fit_loss": average.fit_loss}
        put(tree, f"pairs/{average.name}/{average.method}/{average.kind}", barriers | numbers)
    for point in found.lines:
        place = f"pairs/{point.name}/{point.method}/{point.kind}"
        collect(tree, f"{place}/steps", point.step)
        columns(place, point)
    for draw in found.random:
        place = f"pairs/{draw.name}/random/{draw.kind}"
        for name, value in (("barrier", draw.barrier), ("accuracy_barrier", draw.accuracy_barrier),
                            ("merged_accuracy", draw.accuracy)):  # fmt: skip
            collect(tree, f"{place}/{name}", value)
        points = [p for p in found.random_lines if (p.name, p.kind, p.draw) == (draw.name, draw.kind, draw.draw)]
        collect(tree, f"{place}/accuracy", [p.accuracy for p in points])
        collect(tree, f"{place}/loss", [p.loss for p in points])
    for zipped in found.zipped:
        put(tree, f"pairs/{zipped.name}/zip", {"merged": both(zipped), "merged_fit_loss": zipped.fit_loss})
        groups = [g for g in found.zipped_groups if g.name == zipped.name]
        put(tree, f"pairs/{zipped.name}/zip/spaces", "\n".join(g.group for g in groups))
        put(tree, f"pairs/{zipped.name}/zip/within", [g.within for g in groups])
    for depth in found.zip_depths:
        collect(tree, f"pairs/{depth.name}/zip/depths", depth.depth)
        columns(f"pairs/{depth.name}/zip", depth)
    for refused in found.not_zipped:
        put(tree, f"pairs/{refused.name}/zip/refused", refused.reason)
    for merged in found.merged:
        differences = {name: estimate(getattr(merged, name)) for name in ("minus_ends", "minus_ensemble")}
        texts = {"method": merged.method, "folder": merged.folder, "fit_loss": merged.fit_loss}
        put(tree, f"pairs/{merged.name}/merged", texts | differences)
    for score in found.merged_scores:
        put(tree, f"pairs/{score.name}/merged/{score.net}", both(score))
    for one in found.all_nets:
        put(tree, "together/names", one.nets.replace(", ", "\n"))
        is_reference = one.alignment in ("single", "ensemble")
        put(tree, f"together/{one.alignment if is_reference else f'ways/{one.alignment}/{one.kind}'}", both(one))
    return tree


def compress(found: CompressionResults) -> Tree:
    """The tree of ``compress.h5``."""
    tree: Tree = {}

    def cost(row: Any) -> Tree:
        return {name: getattr(row, name) for name in ("units", "parameters", "multiply_adds")}

    for net in found.nets:
        put(tree, f"{net.net}/about/whole", scored(net) | cost(net))
        put(tree, f"{net.net}/about/n_learning", net.n_learning)
        groups = [g for g in found.groups if g.net == net.net]
        put(tree, f"{net.net}/about/order_of_spaces", "\n".join(g.group for g in groups))
        skipped = [f"{s.group}: {s.reason}" for s in found.skipped if s.net == net.net]
        put(tree, f"{net.net}/about/left_out", "\n".join(skipped))
        for group in groups:
            numbers = {"units": group.units, "dead": group.dead, "readers": group.consumers}
            put(tree, f"{net.net}/about/spaces/{group.group}", numbers)
    for unit in found.eliminations:
        collect(tree, f"{unit.net}/about/spaces/{unit.group}/order", unit.unit)
        collect(tree, f"{unit.net}/about/spaces/{unit.group}/loss", unit.loss)
    shares: dict[tuple[str, str], list[float]] = {}

    def at(row: Any, layer: str) -> str:
        known = shares.setdefault((row.net, layer), [])
        if row.share not in known:
            known.append(row.share)
        return f"{row.net}/{f'layers/{layer}' if layer else 'all'}/{known.index(row.share):02d}"

    for pruned in found.pruned:
        place = at(pruned, pruned.layer)
        put(tree, f"{place}/share", pruned.share)
        put(tree, f"{place}/methods/{pruned.method}", scored(pruned) | cost(pruned))
    for draw in found.draws:
        collect(tree, f"{at(draw, draw.layer)}/methods/{draw.method}/draws", draw.accuracy)
    for minus in found.differences:
        put(tree, f"{at(minus, '')}/methods/{minus.method}/minus/{minus.against}", estimate(minus.accuracy_minus))
    return tree


def ensemble(found: EnsemblingResults) -> Tree:
    """The tree of ``ensemble.h5``."""
    tree: Tree = {}
    names = [row.net for row in found.members]
    put(tree, "members/names", names)
    for row in found.single:
        put(tree, f"members/single/{row.net}", scored(row) | {"calibration": estimate(row.calibration)})
    for one in found.references:
        more = {"calibration": one.calibration, "accuracy_minus_single": one.accuracy_minus_single}
        put(tree, f"members/{one.name}", scored(one) | {k: estimate(v) for k, v in more.items() if v is not None})

    def numbers(nets: str) -> list[int]:
        return [names.index(net) for net in nets.split("+")]

    for size in found.sizes:
        place, subsets = f"members/sizes/{size.members}", found.subsets_of(size.members)
        put(tree, f"{place}/subsets", [numbers(s.nets) for s in subsets])
        put(tree, f"{place}/n_possible", size.n_possible)
        put(tree, f"{place}/accuracies", [s.accuracy for s in subsets])
        put(tree, f"{place}/calibration", [s.calibration for s in subsets])
        differences = ("accuracy_minus_single", "accuracy_minus_best", "loss_minus_single")
        put(tree, f"{place}/mean", scored(size) | {name: estimate(getattr(size, name)) for name in differences})
        logits = {"accuracy": estimate(size.logit_accuracy), "loss": estimate(size.logit_loss)}
        more = {"scores": sums(size.logit_scores), "loss_minus_probabilities": estimate(size.logit_loss_minus)}
        put(tree, f"{place}/logits", logits | more)
        if chosen := found.chosen_of(size.members):
            for half in (0, 1):
                put(tree, f"{place}/chosen/subset_{half}", numbers(getattr(chosen, f"nets_{half}")))
                put(tree, f"{place}/chosen/rank_{half}", getattr(chosen, f"rank_{half}"))
                put(tree, f"{place}/chosen/similarity_{half}", [getattr(s, f"similarity_{half}") for s in subsets])
            differences = ("accuracy_minus_random", "loss_minus_random")
            more = {name: estimate(getattr(chosen, name)) for name in differences}
            put(tree, f"{place}/chosen", scored(chosen) | more | {"n_subsets": chosen.n_subsets})
    put(tree, "members/calibration_single", [row.calibration.value for row in found.members])
    cka = [s.cka for s in found.similarities]
    put(tree, "members/similarity", np.reshape(cka, (2, len(names), len(names))))
    for core in found.cores:
        texts = ("order", "source", "n_units", "front_cost", "tail_cost")
        put(tree, f"core/{core.comparison}/{core.trunk}", {name: getattr(core, name) for name in texts})
    system: SharedSystem
    for system in found.systems:
        more = {name: estimate(getattr(system, name)) for name in
                ("calibration", "accuracy_minus_full", "accuracy_minus_trunk")}  # fmt: skip
        place = f"core/{system.comparison}/{system.trunk}/systems/{system.system}"
        put(tree, place, scored(system) | more | {"cost": system.cost})
    for skipped in found.skipped:
        put(tree, f"core/{skipped.comparison}/{skipped.trunk}/left_out", skipped.reason)
    return tree


def average(found: AveragingResults) -> Tree:
    """The tree of ``average.h5``."""
    tree: Tree = {"about": dict(vars(found.study[0]))}

    def at(row: Any) -> str:
        return f"runs/{row.init}/{row.interval}/{row.align}/{row.repeat}"

    for training in found.trainings:
        names = ("steps", "rounds", "bytes", "bytes_alignment")
        put(tree, at(training), {name: getattr(training, name) for name in names})
    for moved in found.moved:
        collect(tree, f"{at(moved)}/moved", moved.share)
    for point in found.averages:
        place = f"{at(point)}/points/{point.round:06d}"
        put(tree, place, scored(point, "sums") | {"round": point.round, "bytes": point.bytes})
        if point.workers_scores is not None:
            put(tree, f"{place}/gain", estimate(point.gain))
            put(tree, f"{place}/gain_loss", estimate(point.gain_loss))
            own = {"accuracy": estimate(point.workers_accuracy), "loss": estimate(point.workers_loss)}
            put(tree, f"{place}/workers", own | {"sums": sums(point.workers_scores)})
    for worker in found.workers:
        collect(tree, f"{at(worker)}/points/{worker.round:06d}/each_worker", worker.accuracy)
    for row in found.references:
        more = {"rounds": row.rounds, "bytes": row.bytes} if row.name == "synchronous" else {}
        put(tree, f"references/{row.repeat}/{row.name}", scored(row, "sums") | more)
    return tree


TREES: dict[str, Callable[[Any], Tree]] = {
    "stitch": stitch, "merge": merge, "compress": compress, "ensemble": ensemble, "average": average,
}  # fmt: skip


def leaves(tree: Tree, path: str = "") -> Pairs:
    """Paths and values of a tree."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}/{name}")
        else:
            yield f"{path}/{name}", value


def as_version_1(path: Path) -> dict[str, Any]:
    """The datasets of version 1, by path, from a file of version 2."""
    results = read_results(path)
    return dict(leaves(TREES[results.experiment](results.tables)))


def old_datasets(path: Path) -> dict[str, Any]:
    """All datasets of a file of version 1, by path."""
    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            values = item.asstr()[()] if item.dtype.kind == "O" else item[()]
            found[f"/{name}"] = values

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def same(old: Any, new: Any) -> bool:
    """Whether two values have the same bits, lists as arrays; NaN is NaN."""
    a, b = np.asarray(old), np.asarray(new)
    if a.dtype.kind in "OUS":
        return a.shape == b.shape and a.astype(str).tolist() == b.astype(str).tolist()
    b = b.astype(a.dtype)
    if a.shape != b.shape:
        return False
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") and np.array_equal(np.signbit(a), np.signbit(b)))


def main(old: Path, new: Path) -> int:
    """Print what differs; 0 if nothing does."""
    wrong = 0
    for path in sorted(old.glob("*.h5")):
        before, now = old_datasets(path), as_version_1(new / path.name)
        missing, added = sorted(before.keys() - now.keys()), sorted(now.keys() - before.keys())
        differ = [name for name in before.keys() & now.keys() if not same(before[name], now[name])]
        with h5py.File(new / path.name) as file:
            n_new = len(file)
        print(f"{path.name}: {len(before)} datasets in {n_new} now; {len(differ)} differ, {len(missing)} missing, "
              f"{len(added)} added")  # fmt: skip
        for word, names in (("differs", sorted(differ)), ("missing", missing), ("added", added)):
            for name in names[:12]:
                print(f"  {word}: {name}: {before.get(name)!r} -> {now.get(name)!r}"[:300])
        wrong += len(differ) + len(missing) + len(added)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
