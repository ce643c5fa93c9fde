"""Mutations of files: bytes, values and structure of HDF5 files, keys of records."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.fuzz import Case, outcome
from benchmarks.fuzz_files import Subject
from convergence.io import hdf5


def flip(content: bytearray, rng: np.random.Generator) -> None:
    """Flip one to eight bits."""
    for _ in range(int(rng.integers(1, 9))):
        content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))


def cut(content: bytearray, rng: np.random.Generator) -> None:
    """Keep a part from the start."""
    del content[int(rng.integers(len(content))) :]


def zero(content: bytearray, rng: np.random.Generator) -> None:
    """Zero a block, as a lost page of a disk."""
    size = int(rng.choice([8, 64, 512, 4096]))
    start = int(rng.integers(len(content)))
    content[start : start + size] = bytes(len(content[start : start + size]))


def scramble(content: bytearray, rng: np.random.Generator) -> None:
    """Replace a block by random bytes."""
    start, size = int(rng.integers(len(content))), int(rng.integers(1, 100))
    content[start : start + size] = rng.bytes(len(content[start : start + size]))


def splice(content: bytearray, rng: np.random.Generator) -> None:
    """Insert a copy of another part."""
    start, at = (int(k) for k in rng.integers(len(content), size=2))
    content[at:at] = content[start : start + int(rng.integers(1, 600))]


BYTES = (flip, flip, cut, zero, scramble, splice)
VALUES: tuple[Any, ...] = (
    -1, 0, 2**62, 1e300, float("nan"), float("-inf"), True, "", "x" * 5000, "../../x", "\x1b[31m", b"\xff\xfe",
    np.zeros(0), np.arange(7), np.zeros((2, 2), "S3"), ["a", "b", "c"],
)  # fmt: skip


def edit(file: h5py.File, rng: np.random.Generator) -> str:
    """One change through h5py; returns what was changed."""
    groups: list[Any] = [file]
    datasets: list[Any] = []
    file.visititems(lambda _, item: (datasets if isinstance(item, h5py.Dataset) else groups).append(item))
    owners = [item for item in (*groups, *datasets) if len(item.attrs)]
    item = owners[int(rng.integers(len(owners)))]
    dataset = datasets[int(rng.integers(len(datasets)))]
    group = groups[int(rng.integers(len(groups)))]
    name = sorted(item.attrs)[int(rng.integers(len(item.attrs)))]
    value = VALUES[int(rng.integers(len(VALUES)))]
    kind = int(rng.integers(12))
    if kind < 4:
        item.attrs[name] = value
    elif kind == 4:
        del item.attrs[name]
    elif kind == 5:
        other = owners[int(rng.integers(len(owners)))]
        item.attrs[name] = other.attrs[sorted(other.attrs)[0]]
    elif kind == 6:
        _change(dataset, rng, fixed=False)
    elif kind == 7:
        _change(dataset, rng, fixed=True)
    elif kind == 8:
        place, key = dataset.parent, dataset.name.rsplit("/", 1)[-1]
        del place[key]
        hdf5.write_array(place, key, np.asarray(rng.standard_normal(rng.integers(0, 4, int(rng.integers(0, 4))))))
    elif kind == 9:
        place, key = dataset.parent, dataset.name.rsplit("/", 1)[-1]
        links = [h5py.SoftLink("/"), h5py.ExternalLink("/dev/zero", "/"), h5py.ExternalLink("other.h5", "/"), file]
        del place[key]
        place[key] = links[int(rng.integers(len(links)))]
    elif kind == 10:
        group.create_dataset("more", (10**9, 10**3), "f4", chunks=(100, 100), compression="gzip")
    else:
        other = datasets[int(rng.integers(len(datasets)))]
        content, wanted = other[()], dataset.name
        if wanted != other.name:
            del file[wanted]
            hdf5.write_array(file, wanted, content)
    return f"{kind} {item.name}@{name} {dataset.name}"


def _change(dataset: Any, rng: np.random.Generator, fixed: bool) -> None:
    """Change one value of a dataset, and its checksum with it if it is ``fixed``."""
    values = np.array(dataset[()])
    if values.dtype.kind in "fiu" and values.size:
        values.reshape(-1)[int(rng.integers(values.size))] = [0, 1, 77, 100][int(rng.integers(4))]
    elif values.dtype.kind == "V" and values.size:
        column = values.dtype.names[int(rng.integers(len(values.dtype.names)))]
        values[column][int(rng.integers(values.size))] = b"\xff\xfe" if values.dtype[column].kind == "S" else 77
    dataset[()] = values
    if fixed and "sha256_rows" in dataset.attrs:
        hdf5.write_checksum(dataset, (hdf5.block_digest(dataset[index]) for index in hdf5.blocks(dataset.shape)))
    elif fixed and values.dtype.kind != "O":
        dataset.attrs["sha256"] = hashlib.sha256(hdf5.little_endian(values).data).hexdigest()


def cases(made: Sequence[Subject], count: int, seed: int, folder: Path) -> list[Case]:
    """``count`` mutants, spread over the subjects."""
    return [_case(made[k % len(made)], k, seed, folder) for k in range(count)]


def _case(subject: Subject, number: int, seed: int, folder: Path) -> Case:
    rng = np.random.default_rng([seed, number])
    is_hdf5 = subject.path.suffix == ".h5"
    way = str(rng.choice(["bytes", "bytes", "unsealed", "forged", "forged"])) if is_hdf5 else "bytes"

    def read() -> list[tuple[str, str, str]]:
        place = folder / f"mutant{number}"
        place.mkdir()
        path = place / subject.path.name
        shutil.copy(subject.path, path)
        try:
            _mutate(path, subject, way, rng)
            forged = way == "forged" or not subject.is_sealed
            found = []
            for name, reader in subject.readers.items():
                kind, detail = outcome(lambda reader=reader: reader(path), None if forged else subject.expected[name])  # type: ignore[misc]
                found.append((name, kind, detail))
            return found
        finally:
            shutil.rmtree(place, ignore_errors=True)

    return f"{subject.name} {number} {way}", read


def _mutate(path: Path, subject: Subject, way: str, rng: np.random.Generator) -> None:
    if way == "bytes":
        content = bytearray(path.read_bytes())
        if subject.name == "record" and rng.random() < 0.5:
            record = json.loads(content)
            key = sorted(record)[int(rng.integers(len(record)))]
            others: list[Any] = [None, -1, 10**30, 1e400, "x", [], {}, {"a": None}, [[[[[]]]]], True]
            record[key] = others[int(rng.integers(len(others)))]
            content = bytearray(json.dumps(record).encode())
        else:
            BYTES[int(rng.integers(len(BYTES)))](content, rng)
        path.write_bytes(content)
        return
    try:
        with h5py.File(path, "r+") as file:
            edit(file, rng)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError):
        return  # h5py itself refuses the change
    if way == "forged":
        try:
            hdf5.seal_file(path, ["images"] if subject.name == "packed" else ())
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, AttributeError):
            return
    os.utime(path, (1, 1))
