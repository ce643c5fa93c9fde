"""Files of every kind that the package reads, mutations of them, and readers whose numbers are compared."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from convergence.analysis.file import open_analysis
from convergence.analysis.layout import MATRICES, TABLES
from convergence.cli import main as convergence
from convergence.cli.file_description import describe_file, file_text
from convergence.data.given_arrays import open_array
from convergence.errors import FileError
from convergence.functional.file import read_results, write_results
from convergence.functional.merging.results import MergingResults
from convergence.io import hdf5
from convergence.io.files import CHECKPOINTS
from convergence.results.run import open as open_run
from convergence.runs.tasks import read_record
from convergence.statistics.file import open_statistics
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


def image(path: Path) -> str:
    """Pixels of an image; an image that the inventory finds sound has to decode."""
    from convergence.data.files import hash_image
    from convergence.data.image_folder import FolderImages

    _, kind, detail = hash_image(str(path))
    if kind:
        raise FileError(f"{kind}: {detail}")
    try:
        return fingerprint(np.asarray(FolderImages._decode(str(path))))
    except FileError as error:
        raise ValueError("an image that the inventory found sound does not decode") from error


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
            {
                "tables": tables,
                "show": show,
                "verify": lambda path: show(path, True),
            },
            True,
        ),
        "pictures": (lambda: _pictures(folder), {"pictures": pictures}, True),
        "functional": (lambda: _functional(folder), {"tables": lambda p: fingerprint(read_results(p).tables)}, True),
        "packed": (lambda: _packed(folder), {"images": packed}, True),
        "checkpoint": (lambda: _checkpoint(folder), {"state": checkpoint}, True),
        "weights": (lambda: _weights(folder), {"arrays": weights}, True),
        "record": (lambda: statistics.with_suffix(".json"), {"record": lambda p: fingerprint(read_record(p))}, False),
        "png": (lambda: _image(folder, "image.png"), {"pixels": image}, False),
        "jpeg": (lambda: _image(folder, "image.jpg"), {"pixels": image}, False),
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


def _image(folder: Path, name: str) -> Path:
    from PIL import Image

    path, pixels = folder / name, np.random.default_rng(5).integers(0, 256, (24, 31, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


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
