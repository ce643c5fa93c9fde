"""``pictures.h5``: images of units, and their activations and positions. Format: docs/files.md.

Images are unsigned bytes with the channels last, as drawing libraries expect. Large arrays are read a unit at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from convergence.errors import FileError, did_you_mean
from convergence.io import hdf5
from convergence.io.names import check_label, check_name
from convergence.provenance import PICTURES_SCHEMA_VERSION, provenance

SCHEMA = "convergence-pictures"
VERSION = PICTURES_SCHEMA_VERSION
MADE_BY = "convergence pictures CONFIG"
Array = npt.NDArray[Any]
IMAGE = ("y", "x", "channel")
SMALL: dict[str, tuple[tuple[str, ...], str]] = {
    "top_value": (("unit", "rank"), "activation at the best position of an image, largest first; NaN for no image"),
    "top_image": (("unit", "rank"), "index of the image in the evaluation split, −1 for none"),
    "top_position": (("unit", "rank", "axis"), "row and column of the position in the layer's map"),
    "top_box": (("unit", "rank", "side"), "y0, x0, y1, x1 of the receptive field in pixels of the image, not clipped"),
    "deconvolution_scale": (("unit", "rank"), "largest absolute value before the image was made of it"),
    "guided_scale": (("unit", "rank"), "largest absolute value before the image was made of it"),
    "maximization_value": (("unit", "seed"), "activation of the stored image"),
    "maximization_best_real": (("unit",), "largest activation over the evaluation images, at the same place"),
    "filters_scale": (("unit",), "largest absolute weight of the filter"),
    "dead": (("unit",), "whether the unit is dead: never above zero, constant, or not finite"),
}
"""Arrays of a layer that are read whole: axes and description."""
IMAGES: dict[str, tuple[tuple[str, ...], str]] = {
    "patches": (("unit", "rank", *IMAGE), "receptive fields in the top images; the mean colour beyond the border"),
    "deconvolution": (("unit", "rank", *IMAGE), "Zeiler & Fergus 2014; 128 is zero, 1 and 255 are −scale and +scale"),
    "guided": (("unit", "rank", *IMAGE), "Springenberg et al. 2015; 128 is zero, 1 and 255 are −scale and +scale"),
    "maximization": (("unit", "seed", *IMAGE), "images found by gradient ascent on the unit's activation"),
    "filters": (("unit", *IMAGE), "weights of the first convolution; 128 is zero, 1 and 255 are −scale and +scale"),
}
"""Arrays of a layer that are read a unit at a time."""
DATASETS = SMALL | IMAGES


@contextmanager
def create_pictures(
    path: Path, digest: str, config_text: str, about: Mapping[str, Any] | None = None
) -> Iterator[h5py.File]:
    """A new file with its attributes, and an empty group ``nets``; ``about`` are further attributes."""
    attributes = {
        "digest": digest,
        "config": config_text,
        "provenance": json.dumps(provenance()),
        "about": "Pictures of units; see docs/files.md",
        **(about or {}),
    }
    with hdf5.create(path, SCHEMA, VERSION, attributes) as file:
        file.create_group("nets", track_order=True)
        yield file


def create_layer(
    file: h5py.File,
    net: str,
    layer: str,
    kind: str,
    receptive_field: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    map_shape: tuple[int, int],
) -> h5py.Group:
    """The group of a layer with its geometry, to be filled with some of ``DATASETS``.

    The receptive field of position (i, j) begins at pixel (i · stride − padding, j · stride − padding).
    """
    nets = file["nets"]
    place = nets[net] if net in nets else nets.create_group(net, track_order=True)
    group = place.create_group(layer)
    group.attrs["kind"] = kind
    for name, value in (
        ("receptive_field", receptive_field),
        ("stride", stride),
        ("padding", padding),
        ("map", map_shape),
    ):
        group.attrs[name] = np.array(value, np.int64)
    return group


class UnitPictures:
    """The pictures of the units of one layer, while the file is open.

    Every name of ``SMALL`` is an attribute: an array, read and verified on first access. Every name of ``IMAGES`` is an
    attribute: an array that is verified once and read when it is sliced (``patches[unit]``). Missing arrays are None.

    Attributes
    ----------
    net, layer : names
    kind : "conv" for a layer with receptive fields smaller than the image, else "whole"
    receptive_field, stride, padding, map : pairs (y, x); a position's field begins at position · stride − padding
    n_units : number of units
    """

    def __init__(self, group: h5py.Group, net: str, layer: str) -> None:
        self._group, self._read, self._parts = group, dict[str, Array](), dict[str, hdf5.LargeArray]()
        self.net, self.layer = net, layer
        self.kind = str(group.attrs["kind"])
        pairs = [tuple(int(n) for n in group.attrs[name]) for name in ("receptive_field", "stride", "padding", "map")]
        self.receptive_field, self.stride, self.padding, self.map = pairs
        self.n_units = int(group["dead"].shape[0])

    def __getattr__(self, name: str) -> Any:
        if name not in DATASETS:
            raise AttributeError(f"pictures of units have no {name!r}")
        if name not in self._group:
            return None
        if name in IMAGES:
            if name not in self._parts:
                self._parts[name] = hdf5.large_array(self._group, name)
            return self._parts[name]
        if name not in self._read:
            self._read[name] = hdf5.read_array(self._group, name)
        return self._read[name]

    def unit(self, index: int) -> dict[str, Array | None]:
        """All arrays of one unit by name, without the unit axis; None for missing arrays.

        Raises
        ------
        FileError
            for a unit that the layer does not have.
        """
        if not 0 <= index < self.n_units:
            raise FileError(
                f"{self._group.file.filename}: {self.net}.{self.layer} has no unit {index}. Valid are 0 … "
                f"{self.n_units - 1}."
            )
        found: dict[str, Array | None] = {}
        for name in DATASETS:
            array = getattr(self, name)
            found[name] = None if array is None else np.asarray(array[index])
        return found


def _check_layer(group: Any) -> None:
    """Raise FileError for a layer whose attributes and arrays are not those of ``create_layer`` and ``DATASETS``."""
    n_units = group["dead"].shape[0]
    pairs = [group.attrs[name] for name in ("receptive_field", "stride", "padding", "map")]
    named = [(group[name].shape, axes) for name, (axes, _) in DATASETS.items() if name in group]
    if (
        group.attrs["kind"] not in ("conv", "whole")
        or any(len(pair) != 2 for pair in pairs)
        or any(len(shape) != len(axes) or shape[0] != n_units for shape, axes in named)
    ):
        raise FileError(f"{group.file.filename}: {group.name} does not fit its arrays. Make it again with: {MADE_BY}.")


class PicturesFile:
    """An open ``pictures.h5``."""

    def __init__(self, file: h5py.File) -> None:
        self._file = self.raw_file = file
        self.path = Path(file.filename)
        self.digest = str(file.attrs["digest"])
        self.config_text = str(file.attrs["config"])
        self.provenance: dict[str, str] = json.loads(file.attrs["provenance"])
        self.nets = tuple(check_name(net, "net", self.path) for net in file["nets"])
        for net in self.nets:
            for layer in file["nets"][net]:
                check_label(layer, "layer", self.path)
                _check_layer(file["nets"][net][layer])

    def layers(self, net: str) -> tuple[str, ...]:
        """Layers of a net that have pictures; FileError for a net that is not in the file."""
        if net not in self.nets:
            raise FileError(f'{self.path} has no pictures of the net "{net}"; {did_you_mean(net, self.nets)}.')
        return tuple(self._file["nets"][net])

    def of(self, net: str, layer: str) -> UnitPictures:
        """The pictures of a layer; FileError for one that is not in the file."""
        layers = self.layers(net)
        if layer not in layers:
            raise FileError(f'{self.path} has no pictures of "{layer}" of {net}; {did_you_mean(layer, layers)}.')
        return UnitPictures(self._file["nets"][net][layer], net, layer)

    def verify(self) -> None:
        """Verify the checksum of every dataset; FileError for the first damaged one."""
        hdf5.verify(self._file)


@contextmanager
def open_pictures(path: str | Path) -> Iterator[PicturesFile]:
    """Open a file of pictures; FileError for a file that is missing, damaged or of another kind."""
    with hdf5.open_checked(Path(path), SCHEMA, VERSION, MADE_BY) as file:
        with hdf5.reading(path, made_by=MADE_BY):
            found = PicturesFile(file)
        yield found
