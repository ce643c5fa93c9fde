"""Parts of a statistics file that are statistics files themselves, made by ``convergence subset``.

Sums are selected along their axes, so every result from a subset equals that of the whole file for the same units and
images. Datasets over all image groups together (histograms, bins, mutual information, top images) are omitted where
groups are selected, and the attribute ``selection`` lists them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from convergence.errors import FileError, UserError, did_you_mean
from convergence.io import hdf5
from convergence.io.files import atomic_write, check_writable
from convergence.statistics.file import ComparisonRecord, Matrix, StatisticsFile, StatisticsHeader, open_statistics
from convergence.statistics.schema import DATASETS, MEMBERS
from convergence.statistics.writer import StatisticsWriter

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Selection:
    """What to keep of a file; an empty tuple keeps all. ``nets`` are names of nets, or of members like ``net1@5``."""

    comparisons: tuple[str, ...] = ()
    nets: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()


def parse_groups(text: str) -> tuple[int, ...]:
    """Parse ``0-7,12`` to (0, 1, …, 7, 12), ascending; UserError for anything else."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or (dash and int(last) < int(first)):
            raise UserError(f"--groups {text}: give numbers and ranges that count from 0, for example 0-7 or 0,2,4-6.")
        found.update(range(int(first), int(last if dash else first) + 1))
    return tuple(sorted(found))


def subset_statistics(source: Path, target: Path, selection: Selection, overwrite: bool = False) -> bool:
    """Write the selected part of a statistics file to ``target``; False if ``target`` has it already.

    Matrices are read and written in blocks of rows. The checksums of the source are verified first.

    Raises
    ------
    UserError
        for unknown names and groups, fewer than two nets of a comparison or two groups, another file at ``target``, too
        little space on the disk, and a damaged source.
    """
    with open_statistics(source) as file:
        kept = _Kept.of(file, selection)
        about = kept.describe(file)
        digest = subset_digest(about)
        if target.exists():
            if target.samefile(source):
                raise UserError(f"{target}: a subset cannot replace its source. Give another path.")
            if _digest_of(target) == digest:
                return False
        if target.exists() and not overwrite:
            raise FileError(f"{target}: there is another file. Give another path, or --overwrite to replace it.")
        check_writable(target.parent, "Give another path")
        for name in kept.members:
            file.verify(name)
        hdf5.verify(file.raw_file["images"])
        header = replace(kept.header(file), digest=digest, selection=json.dumps(about))
        matrices = {name: _matrices(kept.select(file, name, only_matrices=True)) for name in kept.members}
        with atomic_write(target) as temporary:
            writer = StatisticsWriter(temporary, matrices)
            n_subset = 0 if header.subset is None else len(header.subset)
            writer.check_space(n_subset, target.parent, "Make room, or give another path")
            writer.create(header, (kept.select(file, name) for name in kept.members))
            writer.write_blocks()
    return True


def subset_digest(about: dict[str, Any]) -> str:
    """Digest of the source's digest and of what is kept: equal for equal selections."""
    chosen = [about["of"], list(about["comparisons"].items()), about["groups"]]
    return hashlib.sha256(json.dumps(["subset", *chosen]).encode()).hexdigest()


def _digest_of(path: Path) -> str | None:
    try:
        with open_statistics(path) as file:
            return file.digest
    except FileError:
        return None


def _matrices(record: ComparisonRecord) -> dict[str, Matrix | None]:
    return {dataset.path: record.arrays[dataset.path] for dataset in DATASETS if dataset.path in record.arrays}


@dataclass(frozen=True)
class _Kept:
    """A selection with names resolved: members' indices by comparison, and groups (None: all)."""

    members: dict[str, Indices]
    groups: Indices | None

    @classmethod
    def of(cls, file: StatisticsFile, selection: Selection) -> _Kept:
        """Resolve a selection; UserError for one that keeps too little."""
        for name in selection.comparisons:
            if name not in file.comparisons:
                raise UserError(
                    f"--comparison {name}: {file.path} has no such comparison; {did_you_mean(name, file.comparisons)}."
                )
        chosen = [name for name in file.comparisons if not selection.comparisons or name in selection.comparisons]
        known = {net for name in chosen for net in (*file.members(name), *file.nets_of_members(name))}
        for net in selection.nets:
            if net not in known:
                raise UserError(f"--net {net}: {file.path} has no such net; {did_you_mean(net, known)}.")
        members: dict[str, Indices] = {}
        for name in chosen:
            both = zip(file.members(name), file.nets_of_members(name), strict=True)
            nets = selection.nets
            found = [k for k, (member, net) in enumerate(both) if not nets or member in nets or net in nets]
            if len(found) >= 2:
                members[name] = np.array(found)
            elif selection.comparisons:
                raise UserError(
                    f'--net: the selection keeps {len(found)} nets of "{name}", and a comparison needs at least 2.'
                )
        if not members:
            raise UserError(f"--net {' '.join(selection.nets)}: no comparison has two of these nets. Give more nets.")
        groups = selection.groups
        if not groups or groups == tuple(range(file.n_groups)):
            return cls(members, None)
        if groups[-1] >= file.n_groups:
            raise UserError(f"--groups: there is no group {groups[-1]}; {file.path} has 0 to {file.n_groups - 1}.")
        if len(groups) < 2:
            raise UserError("--groups: one group has no error bars; give two or more.")
        return cls(members, np.array(groups))

    def describe(self, file: StatisticsFile) -> dict[str, Any]:
        """The attribute ``selection`` of the subset."""
        omitted = [
            dataset.path
            for dataset in DATASETS
            if self.groups is not None
            and dataset.all_groups
            and any(dataset.path in file.raw(name) for name in self.members)
        ]
        about: dict[str, Any] = {
            "of": file.digest,
            "comparisons": {name: [file.members(name)[k] for k in members] for name, members in self.members.items()},
            "groups": "all" if self.groups is None else self.groups.tolist(),
            "omitted": list(dict.fromkeys(path.partition("/")[0] for path in omitted)),
        }
        return about | ({"of_selection": file.selection} if file.selection else {})

    def header(self, file: StatisticsFile) -> StatisticsHeader:
        """Images and nets of the subset: groups are renumbered, unused nets dropped."""
        header = file.header()
        used = {file.nets_of_members(name)[k] for name, members in self.members.items() for k in members}
        header = replace(header, nets=[net for net in header.nets if str(net["name"]) in used])
        if self.groups is None:
            return header
        number = np.full(file.n_groups + 1, -1, np.int32)  # the last entry is for −1, images that were not read
        number[self.groups] = np.arange(len(self.groups))
        group_of_image = number[header.group_of_image]
        subset = None if header.subset is None else header.subset[group_of_image[header.subset] >= 0]
        return replace(header, group_of_image=group_of_image, n_groups=len(self.groups), subset=subset)

    def select(self, file: StatisticsFile, name: str, only_matrices: bool = False) -> ComparisonRecord:
        """The kept part of a comparison; matrices are read when they are indexed."""
        place, members = file.raw(name), self.members[name]
        number = np.full(len(place.attrs["nets"]), -1, np.int32)
        number[members] = np.arange(len(members))
        unit_net = number[hdf5.read_array(place, "unit_net")]
        kept: dict[str, Indices] = {"unit": np.flatnonzero(unit_net >= 0), "net": members}
        if self.groups is not None:
            kept["group"] = self.groups
            if "subset" in file.raw_file["images"]:
                subset_group = hdf5.read_array(file.raw_file["images"], "subset_group")
                kept["sample"] = kept["stored"] = np.flatnonzero(np.isin(subset_group, self.groups))
        attributes = {
            name: np.asarray(place.attrs[name])[members] if axes[:1] == ("net",) else place.attrs[name]
            for name, axes, _, _ in MEMBERS
        }
        has_pseudo = [str(kind) == "pre-activations" for kind in attributes["null_kind"]]
        if self.groups is not None:
            attributes |= _without_pseudo_nets(attributes, has_pseudo) | {"bin_error": math.nan}
        arrays: dict[str, Any] = {}
        for dataset in DATASETS:
            if dataset.path not in place or (dataset.all_groups and self.groups is not None):
                continue
            if dataset.needs == "null" and not any(has_pseudo):
                continue
            if dataset.is_matrix:
                stored = hdf5.large_array(place, dataset.path)
                axes = zip(stored.shape, dataset.axes, strict=True)
                arrays[dataset.path] = SelectedMatrix(stored, [kept.get(axis, np.arange(n)) for n, axis in axes])
            elif not only_matrices:
                values = hdf5.read_array(place, dataset.path)
                for k, axis in enumerate(dataset.axes):
                    values = np.take(values, kept[axis], axis=k) if axis in kept else values
                arrays[dataset.path] = unit_net[unit_net >= 0] if dataset.path == "unit_net" else values
        return ComparisonRecord(name, attributes, arrays)


def _without_pseudo_nets(attributes: dict[str, Any], has_pseudo: list[bool]) -> dict[str, list[str]]:
    """The attributes of the chance level without its sums, which are of all groups together."""
    kinds = [str(kind) for kind in attributes["null_kind"]]
    reasons = [str(reason) for reason in attributes["null_reason"]]
    for k in np.flatnonzero(has_pseudo):
        kinds[k], reasons[k] = "", "pseudo-nets are summed over all image groups"
    return {"null_kind": kinds, "null_reason": reasons}


class SelectedMatrix:
    """A dataset at ascending indices of each axis; a block of rows is read when it is indexed."""

    def __init__(self, dataset: hdf5.LargeArray, indices: Sequence[Indices]) -> None:
        self._dataset, self._indices = dataset, indices
        self.shape = tuple(map(len, indices))

    def __getitem__(self, index: hdf5.Index) -> npt.NDArray[Any]:
        *matrix, rows = index
        chosen = [axis[np.atleast_1d(k)] for axis, k in zip(self._indices[:-2], matrix, strict=True)]  # type: ignore[arg-type]
        chosen += [self._indices[-2][rows], self._indices[-1]]
        out = np.empty(tuple(map(len, chosen)), self._dataset.dtype)
        for runs in itertools.product(*map(_runs, chosen)):
            out[tuple(here for here, _ in runs)] = self._dataset[tuple(there for _, there in runs)]
        return out.reshape(len(chosen[-2]), len(chosen[-1]))


def _runs(indices: Indices) -> Iterator[tuple[slice, slice]]:
    """Contiguous runs of ascending indices: their places in the result and in the dataset."""
    breaks = [0, *(np.flatnonzero(np.diff(indices) != 1) + 1).tolist(), len(indices)]
    for a, b in itertools.pairwise(breaks):
        if a < b:
            yield slice(a, b), slice(int(indices[a]), int(indices[b - 1]) + 1)
