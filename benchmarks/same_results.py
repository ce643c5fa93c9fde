"""Compare a run of the old file layout with one of the new layout, dataset by dataset.

``python -m benchmarks.same_results OLD NEW`` takes two run folders. ``analysis.h5`` is compared through a mapping of
old paths to tables, rows and columns; other files by path, with the renames of :data:`RENAMED`. Prints how many
datasets are compared, identical, different (with the largest difference) and missing.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

RENAMED: tuple[tuple[str, str, str], ...] = ()
"""Files (a glob), a regular expression on old paths, and its replacement."""


class Missing(Exception):
    """There is no new place for an old dataset."""


class NewComparison:
    """Tables of a comparison of the new file, by columns."""

    def __init__(self, group: h5py.Group) -> None:
        self._group = group
        self._tables: dict[str, Any] = {}

    def rows(self, table: str, **keys: Any) -> Any:
        """Indices of the rows with these values."""
        found = self._read(table)
        kept = np.ones(len(found), dtype=bool)
        for name, value in keys.items():
            kept &= found[name] == (value.encode() if isinstance(value, str) else value)
        return np.flatnonzero(kept)

    def column(self, table: str, column: str, **keys: Any) -> Any:
        """A column of these rows; texts are decoded."""
        values = self._read(table)[self.rows(table, **keys)][column]
        return np.array([v.decode() for v in values]) if values.dtype.kind == "S" else values

    def one(self, table: str, column: str, **keys: Any) -> Any:
        """The value of the only such row."""
        values = self.column(table, column, **keys)
        if len(values) != 1:
            raise Missing(f"{table} {keys}: {len(values)} rows")
        return values[0]

    def matrix(self, matrix: str, table: str, width: int | None = None, **keys: Any) -> Any:
        """The rows of a matrix that belong to rows of a table."""
        return self._read(matrix)[self.rows(table, **keys)][:, :width]

    def estimate(self, table: str, level: str, **keys: Any) -> Any:
        """A number of an estimate, or its replicates."""
        if level == "without":
            n = int(self.one(table, "n_replicates", **keys))
            return self.matrix(f"{table}_without", table, n, **keys)[0]
        return self.one(table, level, **keys)

    def _read(self, name: str) -> Any:
        if name not in self._tables:
            self._tables[name] = self._group[name][()]
        return self._tables[name]


def new_value(new: NewComparison, path: str) -> Any:
    """What the new file holds for an old path below a comparison."""
    parts = path.split("/")
    if path == "correlation":
        return new._read("correlation")
    if parts[0] == "units":
        return _units(new, parts[1])
    if parts[0] == "pairs":
        x, y = parts[1].split("|")
        return _pair(new, {"x": x, "y": y}, parts[2:])
    if parts[:2] == ["all_nets", "kinds"]:
        return _kind(new, parts[2], parts[3:])
    if parts[:2] == ["all_nets", "map"]:
        return _map(new, parts[2])
    if parts[:2] == ["all_nets", "over_time"]:
        return _over_time(new, parts[2], parts[3:])
    raise Missing(path)


def _units(new: NewComparison, name: str) -> Any:
    if name == "net":
        order = new.column("members", "member").tolist()
        return np.array([order.index(member) for member in new.column("units", "member").tolist()])
    names = {"alive": "active", "left_out_because": "inactive_reason"}
    return new.column("units", names.get(name, name))


def _pair(new: NewComparison, pair: dict[str, str], rest: list[str]) -> Any:
    head, tail = rest[0], rest[1:]
    if head in ("n_x", "n_y"):
        return new.one("pairs", head, **pair)
    if head == "nothing_because":
        return new.one("pairs", "skip_reason", **pair)
    if head in ("units_x", "units_y"):
        member = pair[head[-1]]
        return new.column("units", "unit", member=member)[new.column("units", "active", member=member)]
    if head in ("measures", "held_out"):
        evaluation = "all_images" if head == "measures" else "held_out"
        return new.estimate(
            "measures", tail[2], **pair, measure=tail[0], direction=tail[1], evaluation=evaluation, family="similarity"
        )
    if head == "unavailable":
        return new.one("unavailable", "reason", **pair, measure=tail[0])
    if head == "mean_activations":
        return new.estimate("measures", tail[0], **pair, measure="mean_activation_distance")
    if head == "distributions":
        name = "sparsity" if tail[0] == "sparsity" else f"distribution_{tail[0]}"
        return new.one("pairs", name, **pair)
    if head == "alignment":
        return _alignment(new, pair, tail)
    if head == "information":
        return _information(new, pair, tail)
    if head.startswith("sparse_"):
        return _sparse(new, pair, head[-2:], tail)
    if head == "clusters":
        return _clusters(new, pair, tail)
    raise Missing("/".join(rest))


def _alignment(new: NewComparison, pair: dict[str, str], tail: list[str]) -> Any:
    name = tail[0]
    scalars = {"same_assignment": "same_partner", "same_assignment_error": "same_partner_error"}
    if name in ("same_absolute", "mutual_best", "never_chosen", "significant_xy", "significant_yx") or name in scalars:
        return new.one("pairs", scalars.get(name, name), **pair)
    if name.startswith("below_half_"):
        return new.estimate("measures", tail[1], **pair, measure="below_half", direction=name[-2:])
    if name.startswith("partial_"):
        column = {"mass": "share", "mean": "mean_correlation", "error": "standard_error"}[name.removeprefix("partial_")]
        return new.column("partial_matching", column, **pair)
    matching = {
        "matching": "unit_y", "matching_correlation": "correlation", "matching_error": "standard_error",
        "matching_held_out": "held_out", "absolute_matching": "absolute_unit_y",
    }  # fmt: skip
    if name in matching:
        return new.column("matching", matching[name], **pair)
    if name == "in_degree":
        return new.column("semi_matching", "times_chosen", **pair, direction="yx")
    if name == "mutual_x":
        keys = {**pair, "direction": "xy"}
        return new.column("semi_matching", "unit", **keys)[new.column("semi_matching", "mutual", **keys)]
    if name == "mutual_y":  # in the order of x
        keys = {**pair, "direction": "xy"}
        return new.column("semi_matching", "partner", **keys)[new.column("semi_matching", "mutual", **keys)]
    if name.startswith(("order_", "cycle_")):
        keys = {**pair, "direction": "xy" if name[-1] == "x" else "yx"}
        rank = new.column("semi_matching", "matched_rank" if name[0] == "o" else "cycle_rank", **keys)
        return new.column("semi_matching", "unit", **keys)[np.argsort(rank)]
    found = re.fullmatch(r"(absolute_)?semi_(xy|yx)(?:_(\w+))?", name)
    if found is None:
        raise Missing(name)
    column = "absolute_partner" if found[1] else {None: "partner", "error": "standard_error"}.get(found[3], found[3])
    return new.column("semi_matching", column, **pair, direction=found[2])


def _information(new: NewComparison, pair: dict[str, str], tail: list[str]) -> Any:
    columns = {
        "semi_xy": "best_unit_y", "semi_xy_nats": "best_nats", "semi_xy_error": "best_error",
        "matching": "matched_unit_y", "matching_nats": "matched_nats", "matching_error": "matched_error",
    }  # fmt: skip
    if tail[0] in columns:
        return new.column("mutual_information", columns[tail[0]], **pair)
    if tail[0] == "same_halves":
        return new.one("pairs", "same_halves", **pair)
    measure = {
        "mean_semi": "mean_information_semi_matching", "mean_matching": "mean_information_matching",
        "same_semi": "same_partner_semi_matching", "same_matching": "same_partner_matching",
    }[tail[0]]  # fmt: skip
    return new.estimate("measures", tail[1], **pair, measure=measure)


def _sparse(new: NewComparison, pair: dict[str, str], direction: str, tail: list[str]) -> Any:
    keys, name = {**pair, "direction": direction}, tail[0]
    if name in ("chosen", "rank"):
        return new.one("sparse", name, **keys)
    if name == "held_out_code":
        return new.one("sparse", f"held_out_{tail[1]}", **keys)
    if name in ("one_unit", "dense", "held_out_dense"):
        measure = "one_unit_loss" if name == "one_unit" else "all_units_loss"
        evaluation = "held_out" if name.startswith("held_out") else "all_images"
        return new.estimate("measures", tail[1], **keys, measure=measure, evaluation=evaluation)
    if name == "code":
        return new.estimate("measures", tail[2], **keys, measure=f"code_{tail[1]}")
    paths = {"alphas": "alpha", "n_above_0.01": "n_above_001"} | {
        n: n for n in ("paper_lambda", "loss", "loss_error", "refit_loss", "n_nonzero", "kkt_gap", "held_out_loss",
                       "held_out_error", "held_out_refit_loss", "held_out_refit_error")
    }  # fmt: skip
    if name in paths:
        return new.column("sparse_paths", paths[name], **keys)
    forward = {
        "forward_loss": "loss", "forward_error": "standard_error", "held_out_forward_loss": "held_out_loss",
        "held_out_forward_error": "held_out_error",
    }  # fmt: skip
    if name in forward:
        return new.column("forward", forward[name], **keys)
    targets = {
        "dense_unit_loss": "dense_loss", "units_for_90": "units_for_90",
        "held_out_best_unit_loss": "held_out_best_loss", "held_out_units_for_90": "held_out_units_for_90",
    }  # fmt: skip
    if name in targets:
        return new.column("sparse_targets", targets[name], **keys)
    if name == "unit_loss":
        return new.matrix("sparse_losses", "sparse_targets", len(new.rows("sparse_paths", **keys)), **keys).T
    if name in ("forward_units", "forward_unit_loss"):
        matrix, width = {"forward_unit_loss": "forward_losses"}.get(name, name), len(new.rows("forward", **keys))
        return new.matrix(matrix, "sparse_targets", width, **keys)
    if name in ("recipe_units", "recipe_weights"):
        found = new.matrix(name, "sparse_targets", **keys)
        return found if name == "recipe_units" else found[:, np.isfinite(found).all(axis=0)]
    raise Missing(name)


def _clusters(new: NewComparison, pair: dict[str, str], tail: list[str]) -> Any:
    method = {"hierarchical": "hierarchical", "of_weights": "sparse_weights"}.get(tail[0], "spectral")
    if tail[0] == "sweep":
        if tail[1].startswith("labels_"):
            keys = {**pair, "member": pair[tail[1][-1]]}
            return new.matrix("sweep_labels", "cluster_units", len(new.rows("cluster_sweep", **pair)), **keys).T
        column = {"ks": "n_clusters", "eigengaps": "eigengap", "normalised_cuts": "normalised_cut"}[tail[1]]
        return new.column("cluster_sweep", column, **pair)
    if tail[0] == "subspaces":
        return _subspaces(new, pair, tail[1:])
    name, keys = tail[-1], {**pair, "method": method}
    if name.startswith("labels_"):
        return new.column("cluster_units", method, **pair, member=pair[name[-1]])
    if name in ("n_clusters", "eigengap", "stability", "limit", "same_as_spectral"):
        return new.one("clusterings", name, **keys)
    if name == "stability_without":
        return new.matrix("stability_without", "clusterings", **keys)[0]
    if name == "eigenvalues":
        return new.column("eigenvalues", "eigenvalue", **pair)
    columns = {
        "sizes": ("n_x", "n_y"), "mean_similarity": ("within_x", "within_y", "between"),
        "mean_similarity_error": ("within_x_error", "within_y_error", "between_error"),
        "n_pairs": ("n_pairs_x", "n_pairs_y", "n_pairs_between"),
    }  # fmt: skip
    if name in columns:
        return np.stack([new.column("clusters", column, **keys) for column in columns[name]], axis=1)
    if name == "too_large":
        return new.column("clusters", "cluster", **keys)[new.column("clusters", "too_large", **keys)]
    if name.startswith("tree_"):
        column = {"parent": "parent", "size": "n_units", "label": "cluster"}[name.removeprefix("tree_")]
        return new.column("hierarchy", column, **pair)
    if name == "linkage":
        names = ("first", "second", "distance", "n_units")
        return np.stack([new.column("linkage", column, **pair) for column in names], axis=1)
    rank = new.column("cluster_units", "leaf_rank", **pair)
    if name == "linked":
        return np.flatnonzero(rank >= 0)
    if name == "order":
        return np.argsort(rank, kind="stable")[(rank < 0).sum() :]
    raise Missing(name)


def _subspaces(new: NewComparison, pair: dict[str, str], tail: list[str]) -> Any:
    if tail[0] == "clusters":
        return new.column("subspaces", "cluster", **pair)
    if tail[0] == "sizes":
        return np.stack([new.column("subspaces", name, **pair) for name in ("n_x", "n_y")], axis=1)
    ending = {
        "value": "", "standard_error": "_error", "chance": "_chance", "chance_sd": "_chance_sd", "rotated": "_rotated",
        "rotated_sd": "_rotated_sd",
    }[tail[1]]  # fmt: skip
    return new.column("subspaces", f"{tail[0]}{ending}", **pair)


def _kind(new: NewComparison, kind: str, tail: list[str]) -> Any:
    name = tail[0]
    nets = list(dict.fromkeys(new.column("unit_cycles", "member", kind=kind).tolist()))
    if name == "nets":
        return np.array(nets)
    if name in ("members", "strength", "stays"):
        column = {"members": "unit", "strength": "strength", "stays": "present"}[name]
        return new.column("consensus_members", column, kind=kind).reshape(-1, len(nets))
    if name in ("unit_correlation", "unit_correlation_error", "n_nets"):
        column = {"unit_correlation": "mean_correlation", "unit_correlation_error": "standard_error"}.get(name, name)
        return new.column("consensus_units", column, kind=kind)
    if name in ("threshold", "cycle_chance", "cycle_paths", "held_out_mean_correlation"):
        return new.one("consensus", name, kind=kind)
    if name in ("mean_correlation", "cycle_consistency"):
        return new.estimate("consensus_measures", tail[1], kind=kind, measure=name)
    if name == "shared":
        n = int(tail[1].removeprefix("in "))
        return new.estimate("consensus_measures", tail[2], kind=kind, measure="present", n_nets=n)
    if name == "unit_cycles":
        return new.column("unit_cycles", "share", kind=kind, member=tail[1])
    raise Missing(name)


def _map(new: NewComparison, name: str) -> Any:
    if name == "nets":
        return new.column("map", "member")
    if name == "points":
        return np.stack([new.column("map", axis) for axis in ("first", "second")], axis=1)
    return new._read("map_distances") if name == "distances" else new.column("map", "explained")[0]


def _over_time(new: NewComparison, layer: str, tail: list[str]) -> Any:
    names = new.column("over_time", "x", layer=layer, measure="own").tolist()
    nets = list(dict.fromkeys(names))
    if tail[0] == "nets":
        return np.array(nets)
    if tail[0] == "epochs":
        return new.column("over_time", "epoch", layer=layer, measure="own", x=nets[0])
    if tail[0] == "own":
        return new.column("over_time", tail[2], layer=layer, measure="own", x=tail[1])
    x, y = tail[1].split("|")
    if tail[2] in ("partner", "first_matched"):
        return new.column("over_time_units", tail[2], layer=layer, x=x, y=y)
    measure = {"with_final_partner": "final_partner"}.get(tail[2], tail[2])
    return new.column("over_time", tail[3], layer=layer, measure=measure, x=x, y=y)


class Counts:
    """What was compared."""

    def __init__(self) -> None:
        self.identical = 0
        self.different: list[tuple[str, str]] = []
        self.missing: list[str] = []

    def compare(self, name: str, old: Any, new: Any) -> None:
        """Count one dataset; NaN equals NaN, texts equal their bytes, integers of any width each other."""
        old, new = (_plain(values) for values in (old, new))
        if old.shape == new.shape and old.dtype.kind in "US" and new.dtype.kind in "US":
            same = bool((old == new).all())
        elif old.shape != new.shape:
            self.different.append((name, f"shapes {old.shape} and {new.shape}"))
            return
        else:
            same = np.array_equal(old, new, equal_nan=True)
        if same:
            self.identical += 1
        elif old.dtype.kind in "fiub":
            apart = np.abs(old.astype(float) - new.astype(float))
            self.different.append((name, f"largest difference {np.nanmax(apart):.3g}"))
        else:
            self.different.append((name, "texts differ"))

    def __str__(self) -> str:
        n = self.identical + len(self.different) + len(self.missing)
        return f"{n} compared, {self.identical} identical, {len(self.different)} different, {len(self.missing)} missing"


def _plain(values: Any) -> Any:
    array = np.asarray(values)
    if array.dtype == object:
        texts = [v.decode() if isinstance(v, bytes) else str(v) for v in array.ravel().tolist()]
        return np.array(texts, dtype=np.str_).reshape(array.shape)
    return array


def datasets(file: h5py.Group, below: str = "") -> Iterator[tuple[str, h5py.Dataset]]:
    """All datasets with their paths."""
    for name, item in file.items():
        path = f"{below}/{name}" if below else name
        if isinstance(item, h5py.Group):
            yield from datasets(item, path)
        else:
            yield path, item


def compare_analysis(old: Path, new: Path, counts: Counts) -> None:
    """Compare every dataset of an old ``analysis.h5`` with its rows of the new one."""
    with h5py.File(old, "r") as before, h5py.File(new, "r") as after:
        for name in before["comparisons"]:
            if name not in after["comparisons"]:
                counts.missing.append(name)
                continue
            found = NewComparison(after["comparisons"][name])
            for path, dataset in datasets(before["comparisons"][name]):
                try:
                    counts.compare(f"{name}/{path}", dataset[()], new_value(found, path))
                except (Missing, KeyError, IndexError, ValueError) as error:
                    counts.missing.append(f"{name}/{path}: {error}")


def compare_hdf5(old: Path, new: Path, counts: Counts) -> None:
    """Compare datasets of the same path, or of the path that it is renamed to."""
    with h5py.File(old, "r") as before, h5py.File(new, "r") as after:
        for path, dataset in datasets(before):
            there = _renamed(old, path)
            if there not in after:
                counts.missing.append(f"{old.name}/{path}")
            else:
                counts.compare(f"{old.name}/{path}", dataset[()], after[there][()])


def _renamed(file: Path, path: str) -> str:
    for glob, pattern, replacement in RENAMED:
        if file.match(glob):
            path = re.sub(pattern, replacement, path)
    return path


def compare_weights(old: Path, new: Path, counts: Counts) -> None:
    """Compare the tensors of two safetensors files."""
    from safetensors.numpy import load_file

    before, after = load_file(old), load_file(new)
    for name, values in before.items():
        if name in after:
            counts.compare(f"{old.parent.name}/{old.name}/{name}", values, after[name])
        else:
            counts.missing.append(f"{old}: {name}")


TIMES = re.compile(r"second|time|images_per")


def compare_metrics(old: Path, new: Path, counts: Counts) -> None:
    """Compare columns of ``metrics.csv`` but for times."""
    tables = []
    for path in (old, new):
        with path.open(newline="", encoding="utf-8") as file:
            tables.append(list(csv.DictReader(file)))
    for column in tables[0][0] if tables[0] else ():
        if not TIMES.search(column):
            before, after = ([row.get(column, "") for row in table] for table in tables)
            counts.compare(f"{old.parent.name}/{old.name}/{column}", before, after)


def main(old: Path, new: Path) -> int:
    """Compare all files of two run folders; 0 if everything is identical."""
    wanted: list[tuple[str, Callable[[Path, Path, Counts], None]]] = [
        ("analysis.h5", compare_analysis), ("statistics.h5", compare_hdf5), ("pictures.h5", compare_hdf5),
        ("functional/*.h5", compare_hdf5), ("nets/*/weights.safetensors", compare_weights),
        ("nets/*/metrics.csv", compare_metrics),
    ]  # fmt: skip
    failed = 0
    for glob, compare in wanted:
        counts = Counts()
        for path in sorted(old.glob(glob)):
            there = new / path.relative_to(old)
            if there.exists():
                compare(path, there, counts)
            else:
                counts.missing.append(str(there))
        print(f"{glob}: {counts}")
        for name, what in counts.different[:20]:
            print(f"  different: {name}: {what}")
        for name in counts.missing[:20]:
            print(f"  missing: {name}")
        failed += len(counts.different) + len(counts.missing)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
