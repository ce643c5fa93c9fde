"""Given activations: one array per net and layer, and optionally the pre-activations, read batch by batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from convergence.config.schema import ActivationsConfig, Experiment
from convergence.data.given_arrays import GivenArray, open_array, open_mask, read_column
from convergence.data.images import ImageSet
from convergence.data.manifest import KnownFiles, make_manifest
from convergence.errors import FileError
from convergence.networks import PRE_ACTIVATIONS
from convergence.statistics.activation_source import ActivationSource, LayerShape, Maps, joined_units
from convergence.statistics.nonlinearities import NONLINEARITIES
from convergence.statistics.sampling import Bools, Float32, Indices

AGREEMENT = 1e-3
"""Largest difference of given activations from the nonlinearity of given pre-activations, relative to the largest."""


@dataclass(frozen=True)
class ArraysInMemory:
    """Given activations of this process instead of files.

    Attributes
    ----------
    nets, pre : activations and pre-activations by net and layer, of the shapes of :class:`ArraySource`
    images : number, labels and families of the images
    """

    nets: Mapping[str, Mapping[str, npt.NDArray[Any]]]
    pre: Mapping[str, Mapping[str, npt.NDArray[Any]]]
    images: ImageSet

    def array(self, net: str, layer: str, pre: bool = False) -> GivenArray:
        """The activations or pre-activations of a layer."""
        values = (self.pre if pre else self.nets)[net][layer]
        name = Path(f"{'pre-activations of ' if pre else ''}{net}.{layer}")
        return GivenArray(name, "", values.shape, values.dtype, values, None)


class ArraySource(ActivationSource):
    """Given activations: one array per net and layer, read batch by batch.

    Arrays are (n_images, units), (n_images, units, height, width) or (n_images, tokens, units), with the same images in
    the same order. They may exceed the memory, see :mod:`convergence.data.given_arrays`.

    Raises
    ------
    FileError
        for an array that is missing, not numeric, of another shape, or of another number of images.
    """

    def __init__(self, experiment: Experiment, memory: ArraysInMemory | None = None) -> None:
        """Open the arrays of a config; ``memory`` has those whose names in the config are no files."""
        super().__init__(experiment)
        config = experiment.activations
        assert config is not None
        self._stored = {
            (net, layer): memory.array(net, layer)
            if memory is not None
            else open_array(config.root, config.nets[net][layer])
            for net, layers in self.layers.items()
            for layer in layers
        }
        self._given_pre = {
            (net, layer): memory.array(net, layer, pre=True)
            if memory is not None
            else open_array(config.root, config.pre[net][layer])
            for net, layer in (self._stored if experiment.statistics.null.draws else ())
            if layer in config.pre.get(net, {})
        }
        for (net, layer), array in self._given_pre.items():
            if array.shape != self._stored[net, layer].shape:
                raise FileError(
                    f"activations.pre.{net}.{layer} has shape {array.shape}, and the activations have shape "
                    f"{self._stored[net, layer].shape}. Give the pre-activations of the same images and units."
                )
            self.nonlinearities[net, layer] = NONLINEARITIES[config.nonlinearity_of(layer)]
        counts = {f"{net}.{layer}": len(array) for (net, layer), array in self._stored.items()}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{name}: {n:,}" for name, n in counts.items())
            raise FileError(
                f"activations are not of the same images: {listed}. Image k has to be the same in all arrays."
            )
        self.images = memory.images if memory is not None else UnknownImages(config, next(iter(counts.values())))
        self.joined = joined_units(
            experiment,
            {
                (net, layer): LayerShape(
                    array.shape[2] if array.ndim == 3 else array.shape[1],
                    tuple(array.shape[2:]) if array.ndim == 4 else (array.shape[1],) if array.ndim == 3 else (),
                    config.nets[net][layer],
                    config.nonlinearity_of(layer) not in ("", "none"),
                    *_null_kind(config, net, layer, experiment.statistics.null.draws),
                    privileged=config.nonlinearity_of(layer) != "none",
                )
                for (net, layer), array in self._stored.items()
            },
        )

    def prepare(self, folder: Path) -> None:
        for array in (*self._stored.values(), *self._given_pre.values()):
            array.unpack(folder)

    def maps(self, images: npt.NDArray[np.float32], indices: Indices) -> Maps:
        found = {key: _as_maps(array[indices]) for key, array in self._stored.items()}
        for net, layer in self._stored:
            if (net, layer) in self._given_pre:
                found[net, PRE_ACTIVATIONS + layer] = _as_maps(self._given_pre[net, layer][indices])
        return found

    def check_pre_activations(self, weights: str, layer: str, maps: Maps) -> None:
        given = maps[weights, layer]
        with np.errstate(invalid="ignore", over="ignore"):
            found = self.nonlinearities[weights, layer](maps[weights, PRE_ACTIVATIONS + layer])
            difference = np.abs(np.nan_to_num(found - given, nan=0.0)).max()
        if difference > AGREEMENT * np.abs(np.nan_to_num(given, posinf=0.0, neginf=0.0)).max():
            raise FileError(
                f"activations.pre.{weights}.{layer}: the nonlinearity of the pre-activations differs from the "
                f"activations by up to {difference:.3g}. Check activations.nonlinearity, and that both arrays are of "
                "the same images and units in the same order."
            )


class UnknownImages(ImageSet):
    """The images of given activations: their number, and labels, families and masks if these are given."""

    def __init__(self, config: ActivationsConfig, n_images: int) -> None:
        self._config = config
        self._n_images = n_images
        self.image_shape = (0, 0, 0)
        if config.labels is not None:
            classes, self.labels = np.unique(
                read_column(config.root, config.labels, n_images, "iu"), return_inverse=True
            )
            self.class_names = tuple(map(str, classes))
        self._mask = None if config.mask is None else open_mask(config.root, config.mask, n_images)
        if config.families is not None:
            given = read_column(config.root, config.families, n_images, "iuUS")
            self.families = np.unique(given, return_inverse=True)[1].astype(np.int64)

    def __len__(self) -> int:
        return self._n_images

    def position_mask(self, indices: Indices) -> Bools | None:
        return None if self._mask is None else self._mask[indices]

    def read(self, indices: Indices, augment_seed: int | None = None) -> npt.NDArray[np.float32]:
        return np.empty((len(indices), *self.image_shape), np.float32)

    def manifest_hash(self) -> str:
        """SHA-256 of the files of the arrays, which are read unless they were checked."""
        config = self._config
        return (config.manifest or make_manifest(config, config.list_parts(), KnownFiles())).content


def _null_kind(config: ActivationsConfig, net: str, layer: str, draws: int) -> tuple[str, str]:
    """The kind of chance level of given activations, and the reason if there is none."""
    name, has_pre = config.nonlinearity_of(layer), layer in config.pre.get(net, {})
    if name == "none":
        return "sums", ""
    if not has_pre:
        return "", "the activations are given without pre-activations"
    return ("pre-activations", "") if draws else ("", "statistics.null.draws = 0")


def _as_maps(values: npt.NDArray[Any]) -> Float32:
    """(n_images, n_units, n_positions) float32."""
    if values.ndim == 3:
        values = values.transpose(0, 2, 1)
    return np.asarray(values.reshape(*values.shape[:2], -1), dtype=np.float32)
