"""Activations that are there already: one array a net and layer, read a group at a time, without torch.

Arrays are (n_images, units), (n_images, units, height, width) or (n_images, tokens, units), image k of one being image
k of all. ``.npy`` files and HDF5 datasets may be larger than the memory; an array of an ``.npz`` file is read whole.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from convergence.config.schema import ActivationsConfig, Experiment
from convergence.data.images import ImageSet
from convergence.errors import FileError, did_you_mean
from convergence.statistics.groups import Indices
from convergence.statistics.joining import Joiner, Layer, Samples

SHAPES = "(n_images, units), (n_images, units, height, width) or (n_images, tokens, units)"


class ArrayJoiner(Joiner):
    """The arrays that take part in an experiment's comparisons.

    Raises
    ------
    FileError
        for an array that is missing, of another kind of shape, no numbers, or of another number of images.
    """

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment)
        config = experiment.activations
        assert config is not None
        self._arrays = {
            (net, layer): open_array(config.root, config.nets[net][layer])
            for net, layers in self.layers.items()
            for layer in layers
        }
        counts = {f"{net}.{layer}": len(array) for (net, layer), array in self._arrays.items()}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{name}: {n:,}" for name, n in counts.items())
            raise FileError(
                f"activations are not of the same images: {listed}. Image k has to be the same in all arrays."
            )
        self.images = ArrayOfImages(config, next(iter(counts.values())))
        self.joined = self.describe(
            {
                (net, layer): Layer(
                    array.shape[2] if array.ndim == 3 else array.shape[1],
                    tuple(array.shape[2:]) if array.ndim == 4 else (array.shape[1],) if array.ndim == 3 else (),
                    config.nets[net][layer],
                    False,
                )
                for (net, layer), array in self._arrays.items()
            }
        )

    def outputs(self, images: npt.NDArray[np.float32], indices: Indices) -> dict[str, dict[str, Samples]]:
        return {
            net: {layer: _as_maps(self._arrays[net, layer][indices]) for layer in layers}
            for net, layers in self.layers.items()
        }


class ArrayOfImages(ImageSet):
    """Images of which nothing is known but their number."""

    def __init__(self, config: ActivationsConfig, n_images: int) -> None:
        self._config = config
        self.labels = np.zeros(n_images, np.int64)
        self.class_names = ()
        self.image_shape = (0, 0, 0)

    def read(self, indices: Indices, augment_seed: int | None = None) -> npt.NDArray[np.float32]:
        return np.empty((len(indices), *self.image_shape), np.float32)

    def manifest_hash(self) -> str:
        """Of the arrays' names, sizes and times: to read them all would take as long as the statistics."""
        return hashlib.sha256(repr(self._config.files()).encode()).hexdigest()


def open_array(root: Path, source: str) -> Any:
    """Open ``file.npy``, ``file.npz:name`` or ``file.h5:path/in/file`` without reading it (but for ``.npz``)."""
    name, inside = source.rsplit(":", 1) if ":" in source[2:] else (source, "")  # C: is a drive, no array
    path = root / name
    if not path.is_file():
        raise FileError(f"{path}: there is no such file. Arrays are given as file.npy, file.npz:name or file.h5:name.")
    try:
        if path.suffix == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                array = _member(archive, path, inside)[...]
        else:
            array = _member(h5py.File(path, "r"), path, inside)
    except (OSError, ValueError) as error:
        raise FileError(f"{path}: no array could be read ({error}).") from error
    if array.ndim not in (2, 3, 4) or array.dtype.kind not in "fiu" or not all(array.shape):
        raise FileError(f"{path}: an array of shape {array.shape} and type {array.dtype}; needed are numbers {SHAPES}.")
    return array


def _member(archive: Any, path: Path, name: str) -> Any:
    if name not in archive or not hasattr(archive[name], "shape"):
        raise FileError(f'{path} has no array "{name}"; {did_you_mean(name, archive)}. Write it as {path.name}:name.')
    return archive[name]


def _as_maps(values: npt.NDArray[Any]) -> Samples:
    """(n_images, n_units, n_positions) float32."""
    if values.ndim == 3:
        values = values.transpose(0, 2, 1)
    return np.asarray(values.reshape(*values.shape[:2], -1), dtype=np.float32)
