"""What a run folder holds, whoever wrote it and when: bits of arrays and weights, names of files, states of records."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

VOLATILE = ("provenance", "seconds", "finished", "git", "version", "time", "recorded")
"""Attributes, columns and datasets with one of these words in their names differ between equal runs."""


def fingerprint(folder: Path) -> dict[str, str]:
    """A hash or a value for each item of each file and folder below a folder, by path.

    HDF5 files are walked: name, type, shape and bytes of every dataset and attribute. Records have their digest, the
    names of their outputs, and whether they are finished. Files of a report count by name, since they print times.
    """
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            found[f"{name}/"] = "folder"
        elif path.suffix == ".h5":
            found |= {f"{name}:{item}": value for item, value in _hdf5(path).items()}
        elif path.suffix == ".json":
            found |= {f"{name}:{key}": value for key, value in _record(path).items()}
        elif path.suffix == ".csv" and "report" not in path.parts:
            found[name] = _table(path)
        else:
            found[name] = "file" if "report" in path.parts else hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Items that two fingerprints do not share, each with the reason."""
    return [
        f"{name}: {'missing' if name not in found else 'left over' if name not in expected else 'differs'}"
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]


def _hdf5(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}

    def visit(name: str, item: Any) -> None:
        for key, value in item.attrs.items():
            if not _is_volatile(key):
                found[f"{name}@{key}"] = _hash(value)
        if isinstance(item, h5py.Dataset) and not _is_volatile(name):
            found[name] = f"{item.dtype} {item.shape} {_hash(item[()])}"
        elif not isinstance(item, h5py.Dataset):
            found[f"{name}/"] = "group"

    with h5py.File(path, "r") as file:
        visit("", file)
        file.visititems(visit)
    return found


def _hash(value: Any) -> str:
    array = np.asarray(value)
    if array.dtype.kind == "O":
        return hashlib.sha256(repr(array.tolist()).encode()).hexdigest()
    if array.dtype == h5py.ref_dtype or (array.dtype.names and array.dtype.hasobject):
        return "references"
    return hashlib.sha256(array.tobytes()).hexdigest()


def _record(path: Path) -> dict[str, str]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {"": "damaged"}
    if path.name == "passed.json":  # a kept check, with measured times
        return {"digest": record["digest"], "content": record["content"]}
    if "outputs" not in record:
        return {"": json.dumps({key: value for key, value in record.items() if not _is_volatile(key)}, sort_keys=True)}
    return {
        "digest": str(record["digest"]),
        "outputs": json.dumps(sorted(record["outputs"])),
        "finished": str(record["finished"] is not None),
    }


def _table(path: Path) -> str:
    with path.open(encoding="utf-8", newline="") as file:
        rows = [{key: value for key, value in row.items() if not _is_volatile(key)} for row in csv.DictReader(file)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _is_volatile(name: str) -> bool:
    return any(word in name.lower() for word in VOLATILE)
