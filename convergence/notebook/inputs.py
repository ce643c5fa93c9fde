"""Inputs of live nets: arrays, tensors, data sets and loaders become images that are read by index.

Arrays and tensors are used in place. A loader or a data set is read once, from its first batch to its last one: the
passes over the images then read what was kept, so random augmentation and slow decoding do no harm. Inputs that need
more than :data:`IN_MEMORY` bytes are kept in a scratch file.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from convergence.data.images import Batch, Bools, ImageSet, Indices
from convergence.errors import ConfigError

IN_MEMORY = 1 << 30
"""Bytes of inputs that are kept in memory."""
Array = npt.NDArray[Any]


class GivenImages(ImageSet):
    """Inputs (n_images, …) of live nets, or only the number of images whose activations are given.

    Rows of integers are tokens, of which negative ones are padding; all other inputs are read as float32.

    Attributes
    ----------
    values : (n_images, …); None for given activations
    """

    def __init__(self, n_images: int, values: Array | None, labels: Any, families: Any, mask: Any) -> None:
        self._n_images, self.values = n_images, values
        self.image_shape = (0, 0, 0) if values is None else tuple(values.shape[1:])
        if values is not None and values.ndim == 2 and values.dtype.kind in "iu":
            self.dtype = np.dtype(np.int64)
        if labels is not None:
            classes, self.labels = np.unique(_column(labels, n_images, "labels"), return_inverse=True)
            self.class_names = tuple(map(str, classes))
        if families is not None:
            self.families = np.unique(_column(families, n_images, "families"), return_inverse=True)[1]
        self._mask = None if mask is None else _mask(mask, n_images)
        if self._mask is None and values is not None and self.dtype == np.int64 and (values < 0).any():
            self._mask = values >= 0

    def __len__(self) -> int:
        return self._n_images

    def position_mask(self, indices: Indices) -> Bools | None:
        return None if self._mask is None else self._mask[indices]

    def read(self, indices: Indices, augment_seed: int | None = None) -> Batch:
        if self.values is None:
            return np.empty((len(indices), *self.image_shape), np.float32)
        values = np.asarray(self.values[indices], self.dtype)
        return np.maximum(values, 0) if self.dtype == np.int64 else values

    def manifest_hash(self) -> str:
        digest = hashlib.sha256()
        for array in (self.values, self.labels, self.families, self._mask):
            digest.update(b"none")
            if array is not None:
                add_array(digest, array)
        return digest.hexdigest()


def add_array(digest: Any, array: Array) -> None:
    """Add type, shape and bytes of an array to a digest, a thousand rows at a time."""
    digest.update(repr((array.dtype.str, array.shape)).encode())
    for start in range(0, len(array), 1000):
        digest.update(np.ascontiguousarray(array[start : start + 1000]).tobytes())


def as_array(values: Any) -> Array | None:
    """A numpy array or a tensor as an array, without a copy where possible; None for anything else."""
    if isinstance(values, np.ndarray):
        return values
    if not all(hasattr(values, name) for name in ("detach", "cpu", "dtype", "shape")):
        return None
    values = values.detach().cpu()
    return np.asarray((values.float() if values.dtype.is_floating_point else values).numpy())


def read_images(data: Any, labels: Any, families: Any, mask: Any, batch_size: int, scratch: Path) -> GivenImages:
    """The images in what a user calls data: an array, a tensor, a map-style data set, or a loader.

    ``labels`` and ``families`` are (n_images,), ``mask`` is (n_images, positions), in the order of the images. Without
    ``labels``, those of a loader are used where its batches are pairs (images, labels). ``scratch`` is a folder for
    inputs that exceed the memory.

    Raises
    ------
    ConfigError
        for data of another kind, of length zero, with values that are not finite, and for a loader whose order changes.
    """
    values = as_array(data)
    if values is None:
        values, found = _read_once(_loader(data, batch_size), scratch)
        labels = found if labels is None else labels
    if values.ndim < 2 or values.dtype.kind not in "biuf":
        raise ConfigError(
            f"data: an array of shape {values.shape} and type {values.dtype}; valid are numbers (n_images, …): images "
            "(n, channels, height, width), vectors (n, features) or tokens (n, length)."
        )
    if not len(values):
        raise ConfigError("data: there are no images; give at least 4.")
    for start in range(0, len(values) if values.dtype.kind == "f" else 0, 1000):
        finite = np.isfinite(values[start : start + 1000]).reshape(-1, values[0].size).all(axis=1)
        if not finite.all():
            image = start + int(np.argmin(finite))
            raise ConfigError(f"data: image {image} has values that are not finite (NaN or infinity); leave it out.")
    return GivenImages(len(values), values, labels, families, mask)


def _column(values: Any, n_images: int, what: str) -> Array:
    found = as_array(values)
    column = np.asarray(values) if found is None else found
    if column.shape != (n_images,) or column.dtype.kind not in "biuUS":
        raise ConfigError(
            f"{what}: an array of shape {column.shape} and type {column.dtype}; valid are {n_images:,} integers or "
            "texts, one for each image, in the order of the images."
        )
    return column


def _mask(values: Any, n_images: int) -> Bools:
    found = as_array(values)
    if found is None or found.ndim != 2 or len(found) != n_images or found.dtype.kind not in "biu":
        given = "no array" if found is None else f"an array of shape {found.shape} and type {found.dtype}"
        raise ConfigError(f"mask: {given}; valid are booleans ({n_images:,} images, positions), False for padding.")
    return found.astype(bool)


def _loader(data: Any, batch_size: int) -> Any:
    """An iterable of batches; a map-style data set gets a loader."""
    if isinstance(data, str | bytes | dict | list | tuple) or data is None:
        raise ConfigError(
            f"data: a {type(data).__name__}; valid are an array or a tensor (n_images, …), a map-style data set, and a "
            "DataLoader. Stack single images with numpy.stack or torch.stack."
        )
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not hasattr(data, "batch_sampler"):
        from torch.utils.data import DataLoader

        return DataLoader(data, batch_size=batch_size, shuffle=False)
    if not hasattr(data, "__iter__"):
        raise ConfigError(
            f"data: a {type(data).__name__}, which has no images; valid are an array or a tensor (n_images, …), a "
            "map-style data set, and a DataLoader."
        )
    _check_order(data)
    return data


def _check_order(loader: Any) -> None:
    """Raise ConfigError for a loader whose sampler gives another order each time; reads no image."""
    sampler = getattr(loader, "batch_sampler", None) or getattr(loader, "sampler", None)
    if (
        sampler is None
        or not hasattr(sampler, "__iter__")
        or not hasattr(getattr(loader, "dataset", None), "__getitem__")
    ):
        return
    import torch

    generator: Any = getattr(loader, "generator", None)
    state = None if generator is None else generator.get_state()
    with torch.random.fork_rng(devices=[]):
        first, second = list(sampler), list(sampler)
    if state is not None:
        generator.set_state(state)
    if first != second:
        raise ConfigError(
            "data: the loader gives the images in another order each time (shuffle=True), so image groups, labels and "
            "families could not be repeated. Give a loader with shuffle=False, or the data set itself."
        )


def _read_once(loader: Any, scratch: Path) -> tuple[Array, Array | None]:
    """All inputs of a loader, and the labels where batches are pairs with integers."""
    inputs: list[Array] = []
    labels: list[Array | None] = []
    n_bytes, spilled = 0, None
    for k, batch in enumerate(_batches(loader)):
        x, y = _pair(batch)
        if inputs and x.shape[1:] != inputs[0].shape[1:]:
            raise ConfigError(
                f"data: batch {k} has images of shape {x.shape[1:]}, and the first batch {inputs[0].shape[1:]}; resize "
                "or pad them to one shape."
            )
        labels.append(y)
        if spilled is None:
            inputs.append(np.array(x))  # a loader may use its memory again
            n_bytes += x.nbytes
            if n_bytes > IN_MEMORY:
                spilled = scratch / "inputs"
                with spilled.open("wb") as file:
                    for one in inputs:
                        one.tofile(file)
                del inputs[1:]
        else:
            with spilled.open("ab") as file:
                np.ascontiguousarray(x, inputs[0].dtype).tofile(file)
    if not inputs:
        raise ConfigError("data: the loader gives no batches; give at least 4 images.")
    known = [y for y in labels if y is not None]
    column = np.concatenate(known) if len(known) == len(labels) else None
    if spilled is None:
        return np.concatenate(inputs), column
    return np.memmap(spilled, inputs[0].dtype, "r").reshape(-1, *inputs[0].shape[1:]), column


def _batches(loader: Any) -> Iterator[Any]:
    try:
        yield from loader
    except TypeError as error:
        raise ConfigError(
            f"data: the loader could not make a batch ({error}). Give the data set a transform that returns tensors."
        ) from error


def _pair(batch: Any) -> tuple[Array, Array | None]:
    """Inputs and labels of a batch: of a tensor, or of (images, labels, …)."""
    parts = list(batch) if isinstance(batch, tuple | list) else [batch]
    arrays = [as_array(part) for part in itertools.islice(parts, 2)]
    if not arrays or arrays[0] is None or arrays[0].ndim < 2:
        raise ConfigError(
            f"data: a batch is a {type(batch).__name__}"
            + (f" of {type(parts[0]).__name__}" if parts and parts[0] is not batch else "")
            + "; valid are a tensor (n_images, …), or (images, labels) with such a tensor first. Give a loader whose "
            "collate_fn returns these."
        )
    labels = arrays[1] if len(arrays) > 1 else None
    fits = labels is not None and labels.shape == arrays[0].shape[:1] and labels.dtype.kind in "biu"
    return arrays[0], labels if fits else None
