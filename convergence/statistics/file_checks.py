"""Check that an open statistics file has the layout of the schema, before anything is computed from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from convergence.errors import FileError
from convergence.io.names import check_label, check_name
from convergence.statistics.schema import (
    DATASETS,
    FILE,
    IMAGE_DATASETS,
    IMAGES,
    MADE_BY,
    MEMBERS,
    NET_DATASETS,
    Attribute,
    Dataset,
)

NULL_KINDS = {"pre-activations", "sums", ""}
"""Values of the attribute ``null_kind``."""
KINDS = {"text": "O", "bool": "b", "counts": "u", "float64": "f"}
"""Kinds of numpy's types by the schema's name of a type; other types have to be equal."""


def check_layout(file: h5py.File) -> None:
    """Check the attributes, types, shapes and names of a statistics file.

    Raises
    ------
    FileError
        for a part that is missing, of another type, or of a length that does not fit the other parts.
    """
    path = Path(file.filename)
    for name in ("images", "nets", "comparisons"):
        if not isinstance(file.get(name), h5py.Group):
            raise _unlike(path, f"the group {name} is missing")
    _check_attributes(path, file, FILE, {"selection"})
    _check_attributes(path, file["images"], IMAGES)
    n_groups = int(file["images"].attrs["n_groups"])
    sizes = {"group": n_groups}
    _check_datasets(path, file["images"], IMAGE_DATASETS, sizes)
    n_samples = sizes.get("sample", 0)
    _check_datasets(path, file["nets"], NET_DATASETS, {})
    nets = [check_name(str(net), "net", path) for net in file["nets/name"].asstr()[:]]
    if n_groups < 1 or not len(file["comparisons"]):
        raise _unlike(path, "it has no image groups or no comparisons")
    for name in file["comparisons"]:
        _check_comparison(path, file["comparisons"][check_name(name, "comparison", path)], nets, n_groups, n_samples)


def _check_comparison(path: Path, place: Any, nets: Sequence[str], n_groups: int, n_samples: int) -> None:
    if not isinstance(place, h5py.Group):
        raise _unlike(path, f"{place.name} is no group")
    _check_attributes(path, place, MEMBERS)
    about = place.attrs
    widths, members = np.asarray(about["widths"]), [str(name) for name in about["nets"]]
    if not members or len(set(members)) < len(members) or (widths < 1).any():
        raise _unlike(path, f"{place.name} has no members, members of one name, or members without units")
    for member, net in zip(members, map(str, about["of_net"]), strict=True):
        check_label(member, "member", path)
        if net not in nets or not member.startswith(net):
            raise _unlike(path, f"the member {member[:80]!r} of {place.name} belongs to no net of the file")
    sizes = {"net": len(members), "unit": int(widths.sum()), "group": n_groups, "sample": n_samples, "half": 2}
    _check_datasets(path, place, DATASETS, sizes)
    kinds = [str(kind) for kind in about["null_kind"]]
    if set(kinds) - NULL_KINDS or ("pre-activations" in kinds) != ("null_products" in place):
        raise _unlike(path, f"the attribute null_kind of {place.name} does not fit its datasets")
    if "null_own" in place and place["null_own"].shape[3] < widths.max():
        raise _unlike(path, f"{place.name}/null_own does not fit the widths of the members")
    unit_net = place["unit_net"][:]
    if not np.array_equal(unit_net, np.repeat(np.arange(len(members)), widths)):
        raise _unlike(path, f"{place.name}/unit_net does not fit the widths of the members")
    if (place["group_count"][:] < 0).any() or not place["group_count"][:].any():
        raise _unlike(path, f"{place.name}/group_count has negative numbers, or no samples")


def _check_attributes(
    path: Path, place: Any, attributes: Sequence[Attribute], optional: set[str] | None = None
) -> None:
    sizes: dict[str, int] = {}
    for attribute in attributes:
        if attribute.name not in place.attrs:
            if attribute.name in (optional or ()):
                continue
            raise _unlike(path, f"the attribute {attribute.name} of {place.name} is missing")
        value = np.asarray(place.attrs[attribute.name])
        kind = KINDS.get(attribute.dtype, "i")
        is_text = kind == "O" and all(isinstance(item, str) for item in value.ravel().tolist())
        if value.ndim != len(attribute.axes) or not (is_text or (kind != "O" and value.dtype.kind == kind)):
            raise _unlike(path, f"the attribute {attribute.name} of {place.name} has another type or shape")
        _check_lengths(path, f"the attribute {attribute.name} of {place.name}", attribute.axes, value.shape, sizes)


def _check_datasets(path: Path, place: Any, datasets: Sequence[Dataset], sizes: dict[str, int]) -> None:
    for dataset in datasets:
        found = place.get(dataset.path)
        if found is None and (dataset.needs or dataset.all_groups):
            continue
        if not isinstance(found, h5py.Dataset):
            raise _unlike(path, f"{place.name}/{dataset.path} is missing, so the file is incomplete")
        kind = None if dataset.dtype == "float64" else KINDS.get(dataset.dtype)
        is_kind = found.dtype.kind == kind if kind else found.dtype == np.dtype(dataset.dtype)
        if found.ndim != len(dataset.axes) or not is_kind:
            raise _unlike(path, f"{found.name} has another type or number of axes")
        own = dict(sizes) if dataset.path.startswith("histogram/") else sizes  # each has its own buckets
        _check_lengths(path, str(found.name), dataset.axes, found.shape, own)


def _check_lengths(path: Path, what: str, axes: Sequence[str], shape: Sequence[int], sizes: dict[str, int]) -> None:
    for axis, length in zip(axes, shape, strict=True):
        if sizes.setdefault(axis, int(length)) != length:
            raise _unlike(path, f"{what} has {length:,} entries along the axis {axis}, and {sizes[axis]:,} are needed")


def _unlike(path: Path, what: str) -> FileError:
    return FileError(f"{path}: {what}. Copy the file again, or remove it and remake it with: {MADE_BY}.")
