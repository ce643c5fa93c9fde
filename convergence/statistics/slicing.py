"""``convergence slice``: a statistics file cut to some comparisons, nets and image groups, and still one.

Sums are cut along their axes, block by block, so every number that a slice gives is that of the whole file for the same
units and images. What was pooled over image groups (histograms, bins, mutual information) belongs to no single group:
it is left out where groups are cut, and the slice says so.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from convergence.errors import FileError, UserError, did_you_mean
from convergence.io import hdf5
from convergence.io.files import check_writable
from convergence.statistics.file import MADE_BY, SCHEMA, VERSION, StatisticsFile, open_statistics

Indices = npt.NDArray[np.int64]
POOLED = (
    "histogram", "bin_edges", "effective_bins", "mutual_information", "mutual_information_without", "top_value",
    "top_image", "top_position",
)  # fmt: skip
"""What is known over all image groups only."""
OF_MEMBERS = ("nets", "of_net", "epochs", "layers", "sources", "rectified", "widths", "map_shapes")
"""Attributes of a comparison with an entry a member."""


@dataclass(frozen=True)
class Cut:
    """What a slice keeps; an empty tuple keeps all. ``nets`` are names of nets, or of members like ``net1@5``."""

    comparisons: tuple[str, ...] = ()
    nets: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Kept:
    """A cut, resolved: comparisons with their members' indices, and groups (None: all of them, none cut)."""

    members: dict[str, Indices]
    groups: Indices | None

    def describe(self, file: StatisticsFile, left_out: Sequence[str]) -> dict[str, Any]:
        about: dict[str, Any] = {
            "of": file.digest,
            "comparisons": {name: [file.members(name)[k] for k in members] for name, members in self.members.items()},
            "groups": "all" if self.groups is None else self.groups.tolist(),
            "left_out": list(left_out),
        }
        return about | ({"of_slice": file.slice} if file.slice else {})


def parse_groups(text: str) -> tuple[int, ...]:
    """``0-7,12`` as (0, 1, …, 7, 12), ascending; UserError for anything else."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or (dash and int(last) < int(first)):
            raise UserError(f"--groups {text}: give numbers and ranges that count from 0, for example 0-7 or 0,2,4-6.")
        found.update(range(int(first), int(last if dash else first) + 1))
    return tuple(sorted(found))


def slice_statistics(source: Path, target: Path, cut: Cut, overwrite: bool = False) -> bool:
    """Write the part ``cut`` of a statistics file to ``target``; False if it is there already.

    Memory holds a block of rows of one matrix at a time. What is kept is held against its checksums first.

    Raises
    ------
    UserError
        for unknown names and groups, fewer than two nets of a comparison or two groups, a target that is another file,
        too little room on the disk, and a source that is damaged.
    """
    with open_statistics(source) as file:
        kept = _resolve(file, cut)
        left_out = [] if kept.groups is None else [n for n in POOLED if any(n in file.raw(c) for c in kept.members)]
        about = kept.describe(file, left_out)
        digest = slice_digest(about)
        if target.exists():
            if target.samefile(source):
                raise UserError(f"{target}: a slice cannot take the place of its source. Give another path.")
            if _digest_of(target) == digest:
                return False
        if target.exists() and not overwrite:
            raise FileError(f"{target}: there is another file. Give another path, or --overwrite to replace it.")
        check_writable(target.parent, "Give another path")
        _check_space(file, kept, target.parent)
        for name in kept.members:
            file.verify(name)
        hdf5.verify(file.raw())
        attributes = {key: value for key, value in file.attributes.items() if key not in ("schema", "schema_version")}
        attributes |= {"digest": digest, "slice": json.dumps(about)}
        with hdf5.create(target, SCHEMA, VERSION, attributes) as out:
            _images(file, kept, out)
            _nets(file, kept, out)
            places = out.create_group("comparisons", track_order=True)
            for name, members in kept.members.items():
                _comparison(file.raw(name), places.create_group(name), members, kept.groups)
    return True


def slice_digest(about: dict[str, Any]) -> str:
    """Digest of a slice: of its source's and of what is kept, so that the same cut has the same digest."""
    chosen = [about["of"], list(about["comparisons"].items()), about["groups"]]
    return hashlib.sha256(json.dumps(["slice", *chosen]).encode()).hexdigest()


def _resolve(file: StatisticsFile, cut: Cut) -> _Kept:
    for name in cut.comparisons:
        if name not in file.comparisons:
            raise UserError(
                f"--comparison {name}: {file.path} has no such one; {did_you_mean(name, file.comparisons)}."
            )
    chosen = [name for name in file.comparisons if not cut.comparisons or name in cut.comparisons]
    known = {net for name in chosen for net in (*file.members(name), *file.nets_of_members(name))}
    for net in cut.nets:
        if net not in known:
            raise UserError(f"--net {net}: {file.path} has no such net; {did_you_mean(net, known)}.")
    members: dict[str, Indices] = {}
    for name in chosen:
        both = zip(file.members(name), file.nets_of_members(name), strict=True)
        found = [k for k, (member, net) in enumerate(both) if not cut.nets or member in cut.nets or net in cut.nets]
        if len(found) >= 2:
            members[name] = np.array(found)
        elif cut.comparisons:
            raise UserError(f'--net: of "{name}" {len(found)} nets are left, and a comparison needs two or more.')
    if not members:
        raise UserError(f"--net {' '.join(cut.nets)}: no comparison has two of these nets.")
    groups = None
    if cut.groups and cut.groups != tuple(range(file.n_groups)):
        if cut.groups[-1] >= file.n_groups:
            raise UserError(f"--groups: there is no group {cut.groups[-1]}; {file.path} has 0 to {file.n_groups - 1}.")
        if len(cut.groups) < 2:
            raise UserError("--groups: one group has no error bars; give two or more.")
        groups = np.array(cut.groups)
    return _Kept(members, groups)


def _images(file: StatisticsFile, kept: _Kept, out: h5py.File) -> None:
    place = file.raw().file["images"]
    if kept.groups is None:
        out.copy(place, "images")
        return
    there = out.create_group("images")
    there.attrs.update(place.attrs)
    number = np.full(file.n_groups + 1, -1, np.int32)  # the last one for −1, images that were not read
    number[kept.groups] = np.arange(len(kept.groups))
    group_of_image = number[hdf5.read_array(place, "group_of_image")]
    there.attrs["n_images"], there.attrs["n_groups"] = int((group_of_image >= 0).sum()), len(kept.groups)
    _like(place["group_of_image"], there, group_of_image)
    if "subset" in place:
        group = number[hdf5.read_array(place, "subset_group")]
        _like(place["subset"], there, hdf5.read_array(place, "subset")[group >= 0])
        _like(place["subset_group"], there, group[group >= 0])


def _nets(file: StatisticsFile, kept: _Kept, out: h5py.File) -> None:
    used = {file.nets_of_members(name)[k] for name, members in kept.members.items() for k in members}
    there = out.create_group("nets")
    place = file.raw().file["nets"]
    rows = [k for k, net in enumerate(file.nets) if str(net["name"]) in used]
    for key in place:
        _like(place[key], there, hdf5.read_array(place, key)[rows])


def _comparison(place: h5py.Group, there: h5py.Group, members: Indices, groups: Indices | None) -> None:
    for key, value in place.attrs.items():
        there.attrs[key] = np.asarray(value)[members] if key in OF_MEMBERS else value
    unit_net = hdf5.read_array(place, "unit_net")
    number = np.full(len(place.attrs["nets"]), -1, np.int32)
    number[members] = np.arange(len(members))
    kept: dict[str, Indices] = {"unit": np.flatnonzero(number[unit_net] >= 0), "net": members}
    if groups is not None:
        kept["group"] = groups
        if "subset_samples" in place:
            kept["sample"] = np.flatnonzero(np.isin(hdf5.read_array(place.file["images"], "subset_group"), groups))
    for name, item in place.items():
        if name in POOLED and groups is not None:
            continue
        if name == "unit_net":
            _like(item, there, number[unit_net[kept["unit"]]])
        elif isinstance(item, h5py.Group):
            for array in item.values():  # histograms have units along their first axis, and no labels
                _copy(array, there.require_group(name), [kept["unit"]][: array.ndim])
        else:
            _copy(item, there, [kept.get(dimension.label) for dimension in item.dims])


def _copy(dataset: h5py.Dataset, there: h5py.Group, kept: Sequence[Indices | None]) -> None:
    """Copy a dataset, of every axis the indices ``kept`` (None, or no entry: all), block by block."""
    name = dataset.name.rsplit("/", 1)[-1]
    chosen = [*kept, *[None] * (dataset.ndim - len(kept))]
    indices = [np.arange(n) if some is None else some for n, some in zip(dataset.shape, chosen, strict=True)]
    shape = tuple(map(len, indices))
    if dataset.ndim < 2:
        values = hdf5.read_array(dataset.parent, name)
        _like(dataset, there, values[indices[0]] if indices else values)
        return
    in_blocks = "sha256_rows" in dataset.attrs
    new = hdf5.create_blocks(there, name, shape) if in_blocks else there.create_dataset(name, shape, dataset.dtype)
    whole, digests = hashlib.sha256(), []
    for index in hdf5.blocks(shape):
        parts = [axis[np.atleast_1d(k)] for axis, k in zip(indices[:-2], index[:-1], strict=True)]  # type: ignore[arg-type]
        parts += [indices[-2][index[-1]], indices[-1]]
        values = _gather(dataset, parts).reshape(len(parts[-2]), len(parts[-1]))
        new[index] = values
        if in_blocks:
            digests.append(hdf5.block_digest(values))
        else:
            whole.update(hdf5.little_endian(values).data)
    if in_blocks:
        hdf5.seal(new, digests)
    else:
        new.attrs["sha256"] = whole.hexdigest()
    _describe(dataset, new)


def _gather(dataset: h5py.Dataset, indices: Sequence[Indices]) -> npt.NDArray[Any]:
    """What is at ascending indices of every axis, read in contiguous runs."""
    out = np.empty(tuple(map(len, indices)), dataset.dtype)
    for runs in itertools.product(*map(_runs, indices)):
        out[tuple(here for here, _ in runs)] = dataset[tuple(there for _, there in runs)]
    return out


def _runs(indices: Indices) -> list[tuple[slice, slice]]:
    """Contiguous runs of ascending indices: where they go, and where they are."""
    breaks = [0, *(np.flatnonzero(np.diff(indices) != 1) + 1).tolist(), len(indices)]
    return [
        (slice(a, b), slice(int(indices[a]), int(indices[b - 1]) + 1)) for a, b in itertools.pairwise(breaks) if a < b
    ]


def _like(dataset: h5py.Dataset, there: h5py.Group, values: npt.NDArray[Any]) -> None:
    """Write an array under the name of ``dataset``, described as that is."""
    if values.dtype.kind not in "OU":
        values = values.astype(dataset.dtype, copy=False)
    _describe(dataset, hdf5.write_array(there, dataset.name.rsplit("/", 1)[-1], values))


def _describe(dataset: h5py.Dataset, new: h5py.Dataset) -> None:
    for axis, dimension in enumerate(dataset.dims):
        new.dims[axis].label = dimension.label
    for key in ("unit", "about"):
        if key in dataset.attrs:
            new.attrs[key] = dataset.attrs[key]


def _digest_of(path: Path) -> str | None:
    try:
        with hdf5.open_checked(path, SCHEMA, VERSION, MADE_BY) as file:
            return str(file.attrs["digest"])
    except FileError:
        return None


def _check_space(file: StatisticsFile, kept: _Kept, folder: Path) -> None:
    """Refuse to begin a file that cannot be finished."""
    needed = 0
    for name, members in kept.members.items():
        place = file.raw(name)
        widths = np.asarray(place.attrs["widths"])
        share = widths[members].sum() / widths.sum()
        of_groups = 1.0 if kept.groups is None else len(kept.groups) / file.n_groups
        for key in ("group_products", "group_shifted_products", "mutual_information", "mutual_information_without"):
            if key in place and (kept.groups is None or key not in POOLED):
                needed += int(8 * math.prod(place[key].shape) * share**2 * of_groups)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise FileError(f"{folder}: the slice needs about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free.")
