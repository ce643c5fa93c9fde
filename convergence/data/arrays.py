"""Arrays as a data set: images, vectors, series or tokens of one file, with optional labels, families and mask.

Arrays are mapped into memory and never read whole, see :mod:`convergence.data.given_arrays`.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from convergence.data.files import Part, file_and_array, hash_file, list_files
from convergence.data.given_arrays import FORMS, GivenArray, open_array, open_mask, read_column
from convergence.data.images import Batch, Bools, DataSource, Floats, ImageSet, Indices, Splits
from convergence.data.manifest import FAMILIES, KnownFiles, make_manifest
from convergence.errors import FileError
from convergence.settings import PLACE_ONLY, PathSetting, expand_path

INPUTS = "floats (n, C, H, W), (n, C, L) or (n, D), or integers (n, T)"
CHUNK_BYTES = 1 << 26
"""Bytes that are checked for NaN at a time."""


class Arrays(DataSource):
    """Inputs of nets in arrays: ``file.npy``, ``file.npz:name``, ``file.safetensors:name`` or ``file.h5:name``."""

    name: Literal["arrays"]
    root: PathSetting = Field(PathSetting("."), description="Folder of the files.", json_schema_extra=PLACE_ONLY)
    inputs: str = Field(
        description="Held-out inputs: floats (n, C, H, W), (n, C, L) or (n, D) as the nets read them, or tokens "
        "(n, T), integers of which negative ones are padding.",
        json_schema_extra=PLACE_ONLY,
    )
    labels: str | None = Field(None, description="Classes of the inputs: n integers.", json_schema_extra=PLACE_ONLY)
    families: str | None = Field(
        None,
        description="Families of the inputs, n integers or texts: inputs of one family stay in one image group. "
        "Default: every input is a family.",
        json_schema_extra=PLACE_ONLY,
    )
    mask: str | None = Field(
        None,
        description="Valid positions of the inputs, (n, positions) booleans, False for what no sum may contain.",
        json_schema_extra=PLACE_ONLY,
    )
    train_inputs: str | None = Field(None, description="Training inputs.", json_schema_extra=PLACE_ONLY)
    train_labels: str | None = Field(None, description="Their classes.", json_schema_extra=PLACE_ONLY)

    @model_validator(mode="after")
    def _complete(self) -> Arrays:
        if self.train_labels is not None and self.train_inputs is None:
            raise ValueError("data.train_labels are given without data.train_inputs; add them")
        if self.train_inputs is not None and (self.labels is None) != (self.train_labels is None):
            given, missing = ("labels", "train_labels") if self.train_labels is None else ("train_labels", "labels")
            raise ValueError(f"data.{given} are given without data.{missing}; give both or neither")
        return self

    def list_parts(self) -> dict[str, Part]:
        """The files of each split, by what they hold, so that renamed files are the same data."""
        parts: dict[str, dict[str, str | None]] = {
            "train": {"inputs": self.train_inputs, "labels": self.train_labels} if self.reads_train else {},
            "test": {"inputs": self.inputs, "labels": self.labels, "mask": self.mask},
            FAMILIES: {"families": self.families},
        }
        remedy = f"Give arrays as {FORMS}, below data.root."
        listed = {}
        for key, arrays in parts.items():
            files = []
            for role, source in arrays.items():
                if source is not None:
                    file, inside = file_and_array(source)
                    files.append((f"{role}:{inside}" if inside else role, self.root / expand_path(file)))
            if files:
                listed[key] = list_files(f"the {key} arrays", files, remedy)
        return listed

    def hash_content(self, path: str) -> tuple[str, str, str]:
        """SHA-256 of a file; its inputs are checked for values that are not finite, if they need no unpacking."""
        found = hash_file(path)
        for source in (self.inputs, self.train_inputs):
            if source is not None and not found[1] and path == str(self.root / expand_path(file_and_array(source)[0])):
                array = self._open(source)
                if array.is_plain and array.dtype.kind == "f":
                    step = max(1, CHUNK_BYTES * len(array) // max(1, array.dtype.itemsize * int(np.prod(array.shape))))
                    for start in range(0, len(array), step):
                        check_finite(array[start : start + step], array, np.arange(start, start + step))
        return found

    def _open(self, source: str) -> GivenArray:
        array = open_array(self.root, source, (2, 3, 4), "fiu", INPUTS)
        if array.dtype.kind != "f" and array.ndim != 2:
            raise FileError(
                f"{array.named()}: integers of shape {array.shape}; needed are {INPUTS}. Convert pixels to float32, "
                "scaled and normalised as the nets read them."
            )
        return array

    def load(self) -> Splits:
        given = {"train": self.train_labels, "test": self.labels}
        arrays = {"test": self._open(self.inputs)}
        if self.train_inputs is not None and self.reads_train:
            arrays["train"] = self._open(self.train_inputs)
            shapes = {key: (array.shape[1:], array.dtype.kind == "f") for key, array in arrays.items()}
            if shapes["train"] != shapes["test"]:
                raise FileError(
                    f"{arrays['train'].named()} has inputs of shape {shapes['train'][0]}, {arrays['test'].named()} of "
                    f"{shapes['test'][0]}, or another type. Both need the same shape and type."
                )
        labels = {
            key: read_column(self.root, source, len(arrays[key]), "iu")
            for key, source in given.items()
            if source is not None and key in arrays
        }
        classes = np.unique(np.concatenate(list(labels.values()))) if labels else np.empty(0, np.int64)
        images = {key: ArrayInputs(self, key, array, labels.get(key), classes) for key, array in arrays.items()}
        if "train" not in images:
            return Splits.only_test(
                images["test"], "the arrays have no training inputs. Give data.train_inputs and data.train_labels."
            )
        return Splits(images["train"], images["test"])


class ArrayInputs(ImageSet):
    """One split of :class:`Arrays`; integers are read as int64, other numbers as float32."""

    def __init__(self, source: Arrays, part: str, array: GivenArray, labels: Indices | None, classes: Indices) -> None:
        self.source, self._part, self._array = source, part, array
        self.image_shape = array.shape[1:]
        self.dtype = np.dtype(np.float32 if array.dtype.kind == "f" else np.int64)
        if labels is not None:
            self.labels = np.searchsorted(classes, labels).astype(np.int64)
            self.class_names = tuple(map(str, classes))
        self._mask = None
        if source.mask is not None and part == "test":
            self._mask = open_mask(source.root, source.mask, len(array))

    def __len__(self) -> int:
        return len(self._array)

    @cached_property
    def families(self) -> Indices | None:  # type: ignore[override]
        """(n,) families by ``data.families``."""
        if self.source.families is None or self._part != "test":
            return None
        given = read_column(self.source.root, self.source.families, len(self), "iuUS")
        return np.asarray(np.unique(given, return_inverse=True)[1], np.int64)

    @cached_property
    def _ids(self) -> tuple[int, int]:
        """The smallest and the largest token id."""
        step = max(1, CHUNK_BYTES // (8 * self.image_shape[0]))
        found = [(part.min(), part.max()) for part in (self._array[k : k + step] for k in range(0, len(self), step))]
        return int(min(low for low, _ in found)), int(max(high for _, high in found))

    def n_tokens(self) -> int:
        return 1 + self._ids[1] if self.dtype.kind == "i" else 0

    def position_mask(self, indices: Indices) -> Bools | None:
        is_padded = self.dtype.kind == "i" and self._array.dtype.kind == "i" and self._ids[0] < 0
        if not is_padded:
            return None if self._mask is None else self._mask[indices]
        tokens: Bools = self._array[indices] >= 0
        if self._mask is None:
            return tokens
        if self._mask.shape[1] != tokens.shape[1]:
            raise FileError(
                f"{self._mask.named()} has {self._mask.shape[1]} positions, and {self._array.named()} has "
                f"{tokens.shape[1]} tokens an input. Give a mask of the same length."
            )
        return tokens & self._mask[indices]

    def read(self, indices: Indices, augment_seed: int | None = None) -> Batch:
        values = self._array[indices]
        if self.dtype.kind == "f":
            check_finite(values, self._array, indices)
        return np.ascontiguousarray(values, self.dtype)

    def pixel_range(self) -> tuple[Floats, Floats]:
        """The smallest and the largest value of some inputs."""
        some = self.read(np.linspace(0, len(self) - 1, min(len(self), 256)).round().astype(np.int64))
        ones = np.ones(self.image_shape[0], np.float32)
        return ones * some.min(), ones * some.max()

    def manifest_hash(self) -> str:
        source = self.source
        manifest = source.manifest or make_manifest(source, source.list_parts(), KnownFiles())
        return manifest.parts[self._part].sha256


def check_finite(values: np.ndarray[Any, Any], array: GivenArray, indices: Indices) -> None:
    """Raise FileError that names the first input with a value that is not finite."""
    if np.isfinite(values).all():
        return
    rows = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
    raise FileError(
        f"{array.named()}: input {indices[rows[0]]:,} holds NaN or infinite values. Replace them, or leave it out."
    )
