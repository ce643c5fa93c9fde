"""Files of every kind that the package reads, mutations of them, and readers whose numbers are compared."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.fuzz import Case, outcome
from convergence.analysis.file import open_analysis
from convergence.analysis.layout import MATRICES, TABLES
from convergence.cli import main as convergence
from convergence.cli.file_description import describe_file, file_text
from convergence.errors import FileError
from convergence.functional.file import read_results, write_results
from convergence.functional.merging.results import MergingResults
from convergence.io import hdf5
from convergence.io.files import CHECKPOINTS
from convergence.results.run import open as open_run
from convergence.runs.tasks import read_record
from convergence.statistics.file import open_statistics
from convergence.statistics.given_arrays import open_array
from convergence.statistics.subset import Selection, subset_statistics
from convergence.visualization.file import DATASETS, create_layer, create_pictures, open_pictures

Reader = Callable[[Path], str]
CONFIG = """
name = "small"
[activations]
root = "{root}"
[activations.nets]
net1 = {{ conv = "net1_conv.npy" }}
net2 = {{ conv = "net2_conv.npy" }}
[statistics]
comparisons = ["conv"]
groups = 3
subset = 10
threads = 1
mutual_information = {{ bins = 3, blocks = 3 }}
[analysis]
rotations = 2
sparse = {{ alphas = 3, max_units = 2 }}
"""
PACKED = """
name = "p"
data = {{ name = "image_folder", root = "{root}", resize = 20, crop = 16 }}
nets = [{{ network = {{ name = "small" }}, seeds = [1, 2] }}]
statistics = {{ comparisons = ["conv1"] }}
"""


@dataclass(frozen=True)
class Subject:
    """A kind of file.

    Attributes
    ----------
    name : of the kind
    path : a whole file; readers that look beside it find what belongs to it there
    readers : by name; each returns the numbers that it read, as a text
    is_sealed : whether any change of the numbers has to be noticed
    expected : what each reader returns for the whole file
    """

    name: str
    path: Path
    readers: Mapping[str, Reader]
    is_sealed: bool
    expected: Mapping[str, str]


def fingerprint(value: Any) -> str:
    """The values in nested dataclasses, dicts, sequences, tensors and arrays, hashed."""
    digest = hashlib.sha256()

    def add(item: Any) -> None:
        if is_dataclass(item) and not isinstance(item, type):
            for field in fields(item):
                add(getattr(item, field.name))
        elif isinstance(item, dict):
            for key in sorted(item, key=str):
                digest.update(str(key).encode())
                add(item[key])
        elif isinstance(item, list | tuple):
            for one in item:
                add(one)
        elif hasattr(item, "shape") and hasattr(item, "dtype"):
            array = np.asarray(item)
            digest.update(repr((array.shape, str(array.dtype))).encode())
            digest.update(repr(array.tolist()).encode() if array.dtype == object else array.tobytes())
        else:
            digest.update(repr(item).encode())

    add(value)
    return digest.hexdigest()


# ---- readers ----


def sums(path: Path) -> str:
    """Everything in a statistics file."""
    with open_statistics(path) as file:
        found: list[Any] = [file.nets, file.n_images, file.n_groups, file.digest]
        for name in file.comparisons:
            record = file.record(name)
            found += [record.attributes, {key: np.asarray(array) for key, array in record.arrays.items()}]
            found.append(file.sums(name).group_products[0, 1:3, :2])
        return fingerprint(found)


def show(path: Path, verify: bool = False) -> str:
    """``convergence show``, with the path left out."""
    return file_text(describe_file(path, verify))


def notebook(path: Path) -> str:
    """``convergence.open``: nets, correlations, units, and measures where there is an analysis."""
    run = open_run(path)
    found: list[Any] = [dict(run.nets.columns)] if isinstance(run.nets.columns, dict) else [repr(run.nets)]
    for view in run:
        found += [np.asarray(view.correlation(view.nets[0], view.nets[1])), view.trained, view.widths]
        found.append(repr(view.units(view.nets[0])))
        if run.analysis is not None:
            found.append(repr(view.measures()))
    return fingerprint(found)


def subset(path: Path) -> str:
    """``convergence subset`` to a file beside it."""
    target = path.with_name("subset-of-it.h5")
    target.unlink(missing_ok=True)
    subset_statistics(path, target, Selection(groups=(0, 1)))
    return sums(target)


def tables(path: Path) -> str:
    """Every table and matrix of an analysis."""
    with open_analysis(path) as file:
        found: list[Any] = [file.digest, file.statistics_digest]
        for name in file.comparisons:
            found += [file.table(name, table.name) for table in TABLES]
            found += [file.matrix(name, matrix.name) for matrix in MATRICES]
        return fingerprint(found)


def pictures(path: Path) -> str:
    """Every picture of every unit."""
    with open_pictures(path) as file:
        layers = [file.of(net, layer) for net in file.nets for layer in file.layers(net)]
        units = [layer.unit(k) for layer in layers for k in range(layer.n_units)]
        return fingerprint([units, [(layer.kind, layer.stride, layer.padding, layer.map) for layer in layers]])


def packed(path: Path) -> str:
    """Every image of a packed file, first whole and then in parts."""
    from convergence.data.packed import Packed, PackedImages

    source = Packed(name="packed", root=path.parent, train_file=path.name, test_file=path.name, crop=16)  # type: ignore[arg-type]
    images = PackedImages(source, path)
    everyone = np.arange(len(images.labels))
    return fingerprint([images.labels, images.class_names, images.whole(everyone), images.read(everyone)])


def checkpoint(path: Path) -> str:
    """The state that a resumed training starts from; "" for none."""
    from convergence.training.checkpoints import read

    return fingerprint(read(path))


def weights(path: Path) -> str:
    """The arrays of a file of weights."""
    from safetensors import SafetensorError

    from convergence.networks.weights import load_checked

    try:
        return fingerprint(load_checked(path))
    except (SafetensorError, OSError) as error:  # as load_net does
        raise FileError(str(error)) from error


def cifar(path: Path) -> str:
    """Images and labels of a batch of CIFAR-10."""
    from convergence.data.cifar10 import _read_pickle

    return fingerprint(_read_pickle(path, 10))


def activations(inside: str) -> Reader:
    """A reader of a given array."""
    return lambda path: fingerprint(open_array(path.parent, path.name + inside)[np.arange(0, 40, 3)])


# ---- whole files ----


def subjects(folder: Path, kinds: Sequence[str] = ()) -> list[Subject]:
    """A whole file of each kind (of all if none are named), in folders below ``folder``."""
    rng = np.random.default_rng(0)
    base = np.maximum(rng.standard_normal((60, 5, 2, 2)), 0)
    for k in (1, 2):
        values = np.maximum(base[:, rng.permutation(5)] + 0.3 * rng.standard_normal(base.shape), 0)
        np.save(folder / f"net{k}_conv.npy", values.astype(np.float32))
    (folder / "small.toml").write_text(CONFIG.format(root=folder.as_posix()), encoding="utf-8")
    statistics = folder / "runs" / "small" / "statistics.h5"
    if not kinds or {"statistics", "analysis", "record"} & set(kinds):
        words = [str(folder / "small.toml"), "--runs", str(folder / "runs")]
        if convergence(["statistics", *words]) or convergence(["analyze", *words, "--workers", "1"]):
            raise RuntimeError("the small run failed")
    made: dict[str, tuple[Callable[[], Path], dict[str, Reader], bool]] = {
        "statistics": (
            lambda: statistics,
            {"sums": sums, "show": show, "verify": lambda path: show(path, True), "open": notebook, "subset": subset},
            True,
        ),
        "analysis": (
            lambda: statistics.with_name("analysis.h5"),
            {"tables": tables, "show": show, "verify": lambda path: show(path, True)},
            True,
        ),
        "pictures": (lambda: _pictures(folder), {"pictures": pictures}, True),
        "functional": (lambda: _functional(folder), {"tables": lambda p: fingerprint(read_results(p).tables)}, True),
        "packed": (lambda: _packed(folder), {"images": packed}, True),
        "checkpoint": (lambda: _checkpoint(folder), {"state": checkpoint}, True),
        "weights": (lambda: _weights(folder), {"arrays": weights}, True),
        "record": (lambda: statistics.with_suffix(".json"), {"record": lambda p: fingerprint(read_record(p))}, False),
        "cifar": (lambda: _cifar(folder), {"batch": cifar}, False),
        "npy": (lambda: folder / "net1_conv.npy", {"array": activations("")}, False),
        "npz": (lambda: _array(folder, "a.npz"), {"array": activations(":fc")}, False),
        "gzip": (lambda: _array(folder, "a.h5"), {"array": activations(":fc")}, False),
    }
    unknown = set(kinds) - set(made)
    if unknown:
        raise ValueError(f"no kinds {sorted(unknown)}; known are {list(made)}")
    found = []
    for name, (make, readers, is_sealed) in made.items():
        if not kinds or name in kinds:
            alone = folder / "whole" / name
            alone.mkdir(parents=True)
            path = Path(shutil.copy(make(), alone))  # as a mutant, without the files beside it
            found.append(Subject(name, path, readers, is_sealed, {key: read(path) for key, read in readers.items()}))
    return found


def _pictures(folder: Path) -> Path:
    rng, path = np.random.default_rng(1), folder / "pictures.h5"
    shapes = {"unit": 3, "rank": 2, "axis": 2, "side": 4, "seed": 1, "y": 3, "x": 3, "channel": 1}
    with create_pictures(path, "0" * 64, "{}") as file:
        group = create_layer(file, "net1", "conv1", "conv", (3, 3), (1, 1), (1, 1), (8, 8))
        for name, (axes, about) in DATASETS.items():
            values = rng.integers(0, 2, [shapes[axis] for axis in axes])
            hdf5.write_array(group, name, values.astype(bool if name == "dead" else np.uint8), axes, about=about)
    return path


def _functional(folder: Path) -> Path:
    path = folder / "merge.h5"
    write_results(path, "merge", "d", "{}", MergingResults(), {"n_images": 60, "n_groups": 3})
    return path


def _packed(folder: Path) -> Path:
    from PIL import Image

    rng = np.random.default_rng(2)
    for split in ("train", "val"):
        for label in ("cats", "dogs"):
            place = folder / "images" / split / label
            place.mkdir(parents=True)
            for k in range(3):
                Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(place / f"{k}.png")
    text = PACKED.format(root=(folder / "images").as_posix())
    (folder / "packed.toml").write_text(text, encoding="utf-8")
    if convergence(["pack", str(folder / "packed.toml"), "--out", str(folder / "packed")]):
        raise RuntimeError("packing failed")
    return folder / "packed" / "train.h5"


def _checkpoint(folder: Path) -> Path:
    import torch

    from convergence.training.checkpoints import write

    path, values = folder / CHECKPOINTS[0], torch.arange(60.0).reshape(5, 12)
    write(path, {"module": {"w": values}, "epoch": 1, "step": 3, "sums": (0.5, 1, 2.0), "key": "k"})
    return path


def _weights(folder: Path) -> Path:
    import torch

    from convergence.networks.weights import save_weights, weights_path

    torch.manual_seed(0)
    save_weights(torch.nn.Linear(5, 7), folder)
    return weights_path(folder)


def _cifar(folder: Path) -> Path:
    path, rng = folder / "data_batch_1", np.random.default_rng(3)
    batch = {b"data": rng.integers(0, 256, (4, 3072), dtype=np.uint8), b"labels": [1, 2, 3, 0], b"batch_label": b"b"}
    path.write_bytes(pickle.dumps(batch, protocol=2))
    return path


def _array(folder: Path, name: str) -> Path:
    path, values = folder / name, np.maximum(np.random.default_rng(4).standard_normal((40, 6)), 0)
    if path.suffix == ".npz":
        np.savez_compressed(path, fc=values)
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("fc", data=values, chunks=(9, 2), compression="gzip", shuffle=True)
    return path


# ---- mutations ----


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
