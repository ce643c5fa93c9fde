"""``statistics.h5``: the sums, small enough to download, from which every answer comes. Format: docs/files.md."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import h5py
import numpy as np
import numpy.typing as npt

from convergence.errors import FileError, did_you_mean
from convergence.io import hdf5
from convergence.io.hdf5 import open_hdf5
from convergence.provenance import provenance
from convergence.statistics.histograms import UnitHistograms
from convergence.statistics.norms import NormSums
from convergence.statistics.top_images import TopImages

if TYPE_CHECKING:
    from convergence.statistics.collect import Collector

SCHEMA = "convergence-statistics"
VERSION = 3
MADE_BY = "convergence statistics CONFIG"
Array = npt.NDArray[Any]
MATRICES: dict[str, tuple[tuple[str, ...], str, str]] = {
    "group_products": (("group", "unit", "unit"), "", "sum over samples of (x - shift)(x - shift)^T, per image group"),
    "group_shifted_products": (
        ("group", "unit", "unit"), "", "the same of every image (rows) with the next image of the group (columns)",
    ),
    "mutual_information": (("unit", "unit"), "nat", "corrected for the bias of counting"),
    "mutual_information_without": (("block", "unit", "unit"), "nat", "the same without each block of image groups"),
}  # fmt: skip
"""Matrices of a comparison: axes, unit of measure, what they hold."""
TOP = {
    "value": "largest value of the unit over all positions of an image, largest images first; NaN for no image",
    "image": "index of the image, −1 for none",
    "position": "index of the position in the flattened map of the unit's own layer, −1 for none",
}
NORM_SUMS = ("sums", "products", "cross")


def prepare(collector: Collector, path: Path, nets: list[dict[str, Any]], config_text: str) -> None:
    """Make the file with all but its matrices, which have their room and no content yet.

    ``nets``: name, label, seed, trained, held_out_accuracy and weights_sha256 of every net that takes part.
    """
    attributes = {
        "digest": collector.digest,
        "config": config_text,
        "provenance": json.dumps(provenance()),
        "about": "Sums over evaluation images, per image group; see docs/files.md",
    }
    with hdf5.create(path, SCHEMA, VERSION, attributes) as file:
        place = file.create_group("images")
        place.attrs["manifest_sha256"] = collector.images.manifest_hash()
        place.attrs["n_images"] = collector.groups.n_images
        place.attrs["n_groups"] = len(collector.groups)
        about = "image group of every image, −1 for images that were not read"
        hdf5.write_array(place, "group_of_image", collector.groups.group_of_image, ("image",), about=about)
        if len(collector.subset):
            groups = collector.groups.group_of_image[collector.subset]
            hdf5.write_array(place, "subset", collector.subset, ("sample",), about="images whose activations are kept")
            hdf5.write_array(place, "subset_group", groups, ("sample",), about="image group of each of them")
        place = file.create_group("nets")
        for key in nets[0]:
            hdf5.write_array(place, key, np.array([net[key] for net in nets]), ("net",))
        comparisons = file.create_group("comparisons", track_order=True)
        for name in collector.joined:
            _prepare_comparison(collector, name, comparisons.create_group(name))


def _prepare_comparison(collector: Collector, name: str, place: h5py.Group) -> None:
    joined, n_groups, config = collector.joined[name], len(collector.groups), collector.config
    n_units, n_nets = joined.n_units, len(joined.nets)
    for key in ("nets", "of_net", "epochs", "layers", "sources"):
        place.attrs[key] = list(getattr(joined, key))
    place.attrs["pooled"] = joined.pooled
    place.attrs["rectified"] = list(joined.rectified)
    place.attrs["widths"] = list(joined.widths)
    place.attrs["map_shape"] = np.array(joined.map_shape, dtype=np.int64)
    n_sides = max(map(len, joined.map_shapes))
    place.attrs["map_shapes"] = np.array([(*shape, 0, 0)[:n_sides] for shape in joined.map_shapes], dtype=np.int64)
    place.attrs["positions"] = "all" if joined.pooled else str(config.positions)
    place.attrs["precision"] = config.precision
    unit_net = np.repeat(np.arange(n_nets, dtype=np.int32), joined.widths)
    unit_index = np.concatenate([np.arange(width, dtype=np.int32) for width in joined.widths])
    hdf5.write_array(place, "unit_net", unit_net, ("unit",), about="index into the attribute nets")
    hdf5.write_array(place, "unit_index", unit_index, ("unit",), about="index of the unit within its layer")

    shift = collector.read_shift(name)
    counts, sums = np.zeros(n_groups, np.int64), np.zeros((n_groups, n_units + n_nets))
    norm_products, norm_cross = np.zeros((n_groups, n_nets, n_nets)), np.zeros((n_groups, n_nets, n_units))
    for group in range(n_groups):
        counts[group], sums[group], norm_products[group], norm_cross[group] = collector.group_sums(group, name)
    for key, values, axes, about in (
        ("shift", shift[:n_units], ("unit",), "s, the point about which sums are taken"),
        ("group_count", counts, ("group",), "samples of each image group"),
        ("group_sums", sums[:, :n_units], ("group", "unit"), "sum over samples of x - s"),
        ("norm_shift", shift[n_units:], ("net",), "t, the point about which sums of q = ||x - s||^2 are taken"),
        ("group_norm_sums", sums[:, n_units:], ("group", "net"), "sum over samples of q - t"),
        ("group_norm_products", norm_products, ("group", "net", "net"), "sum over samples of (q - t)(q - t)^T"),
        ("group_norm_cross", norm_cross, ("group", "net", "unit"), "sum over samples of (q - t)(x - s)^T"),
    ):
        hdf5.write_array(place, key, values, axes, about=about)
    if len(collector.subset):
        about = "mean of the unit over all positions of its map, for each image of the subset"
        hdf5.write_array(place, "subset_samples", collector.subset_samples(name), ("sample", "unit"), about=about)
    top = collector.top_images(name)
    if top is not None:
        for key, array in top.to_arrays().items():
            hdf5.write_array(place, f"top_{key}", array, ("unit", "rank"), about=TOP[key])
    for matrix, shape in collector.matrices(name).items():
        matrix_axes, unit, about = MATRICES[matrix]
        hdf5.create_blocks(place, matrix, shape, matrix_axes, unit, about)

    histograms = collector.histograms(name)
    for key, array in histograms.to_arrays().items():
        hdf5.write_array(place, f"histogram/{key}", array)
    if config.mutual_information.enabled:
        edges = histograms.edges(config.mutual_information.bins)
        hdf5.write_array(place, "bin_edges", edges.edges, ("unit", "edge"), about="lower edges of bins 1, 2, …")
        hdf5.write_array(place, "effective_bins", edges.n_effective_bins, ("unit",))


def blocks(collector: Collector) -> list[tuple[str, hdf5.Index]]:
    """All blocks of all matrices of the file, in order: path of the dataset, and index within it."""
    return [
        (f"comparisons/{name}/{matrix}", index)
        for name in collector.joined
        for matrix, shape in collector.matrices(name).items()
        for index in hdf5.blocks(shape)
    ]


def block(collector: Collector, path: str, index: hdf5.Index) -> Array:
    """The content of one of :func:`blocks`."""
    _, name, matrix = path.split("/")
    return collector.block(name, matrix, index)


def seal(path: Path, digests: Iterable[tuple[str, bytes]]) -> None:
    """Set the checksums of the matrices from (path of the dataset, digest) of all blocks, in order."""
    of_dataset: dict[str, list[bytes]] = {}
    for dataset, digest in digests:
        of_dataset.setdefault(dataset, []).append(digest)
    with open_hdf5(path, "r+") as file:
        for dataset, found in of_dataset.items():
            hdf5.seal(file[dataset], found)


class Slices(Protocol):
    """Numbers of which contiguous ranges are read when asked for: an open HDF5 dataset, or an array."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, index: Any, /) -> Any: ...


@dataclass(frozen=True)
class Sums:
    """The sums of one comparison, as in the file: small arrays in memory, matrices where they are.

    The matrices of an open file are its datasets: cut contiguous ranges out of them (``group_products[g, a:b, c:d]``),
    as long as it is open.

    Attributes
    ----------
    nets : names of the members, in order along the joined axis
    of_net, epochs : for each member its net, and the epoch of its weights (−1: the final ones, no epoch asked for)
    trained, layers, sources : for each member
    unit_net : (n_units,) the member of each unit; units of a member are contiguous
    shift : (n_units,); group_count : (n_groups,); group_sums : (n_groups, n_units)
    group_products, group_shifted_products : (n_groups, n_units, n_units); the latter None if they were not summed
    histograms : of the units' values over all groups; None in a slice of some groups
    mutual_information, mutual_information_without : (n_units, n_units), (n_blocks, n_units, n_units); None without
    pooled : whether a sample is the mean over the positions of an image
    subset_samples, subset_group : (N, n_units) means over the positions of N images, (N,) the group of each; None
        without
    norms : sums of the squared norms of each member's activations
    top_images : the images that excite each unit most; None without
    """

    name: str
    nets: tuple[str, ...]
    trained: tuple[bool, ...]
    layers: tuple[str, ...]
    sources: tuple[str, ...]
    map_shape: tuple[int, ...]
    unit_net: Array
    shift: Array
    group_count: Array
    group_sums: Array
    group_products: Slices
    group_shifted_products: Slices | None
    histograms: UnitHistograms | None
    mutual_information: Slices | None
    mutual_information_without: Slices | None
    of_net: tuple[str, ...] = ()
    epochs: tuple[int, ...] = ()
    pooled: bool = False
    subset_samples: Array | None = None
    subset_group: Array | None = None
    norms: NormSums | None = None
    top_images: TopImages | None = None

    def __post_init__(self) -> None:
        """Members that are not named otherwise are the nets with their final weights."""
        if not self.of_net:
            object.__setattr__(self, "of_net", self.nets)
        if not self.epochs:
            object.__setattr__(self, "epochs", (-1,) * len(self.nets))

    def units(self, net: str) -> Array:
        """Indices along the joined axis of a net's units."""
        return np.flatnonzero(self.unit_net == self.nets.index(net))


class StatisticsFile:
    """An open ``statistics.h5``."""

    def __init__(self, file: h5py.File) -> None:
        self._file = self.raw_file = file
        self.path = Path(file.filename)
        self.digest = str(file.attrs["digest"])
        self.version = int(file.attrs["schema_version"])
        self.config_text = str(file.attrs["config"])
        self.provenance: dict[str, str] = json.loads(file.attrs["provenance"])
        self.slice: dict[str, Any] = json.loads(file.attrs.get("slice", "{}"))
        self.n_images = int(file["images"].attrs["n_images"])
        self.n_groups = int(file["images"].attrs["n_groups"])
        self.comparisons = list(file["comparisons"])
        self.nets = [
            dict(zip(file["nets"], values, strict=True))
            for values in zip(*(hdf5.read_array(file["nets"], key) for key in file["nets"]), strict=True)
        ]

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the file, as they are."""
        return dict(self._file.attrs)

    def members(self, name: str) -> list[str]:
        """Names of a comparison's members."""
        return [str(member) for member in self._comparison(name).attrs["nets"]]

    def nets_of_members(self, name: str) -> list[str]:
        """The net of each member of a comparison."""
        attributes = self._comparison(name).attrs
        return [str(net) for net in attributes.get("of_net", attributes["nets"])]

    def raw(self, name: str | None = None) -> h5py.Group:
        """The HDF5 group of a comparison; without a name, that of the images."""
        return self._file["images"] if name is None else self._comparison(name)

    @property
    def images_digest(self) -> str:
        """The same for two files whose image groups hold the same images."""
        place = self._file["images"]
        return f"{place.attrs['manifest_sha256']} {place['group_of_image'].attrs['sha256']}"

    def unit_members(self, name: str) -> tuple[tuple[str, ...], Array]:
        """Names of a comparison's members, and (n_units,) the member of each unit."""
        place = self._comparison(name)
        return tuple(str(net) for net in place.attrs["nets"]), hdf5.read_array(place, "unit_net")

    def sums(self, name: str) -> Sums:
        """One comparison. All but its matrices is read and held against its checksum, see :meth:`verify` for those.

        Raises
        ------
        FileError
            for an unknown comparison, a dataset that is missing, and one that is damaged.
        """
        place = self._comparison(name)
        nets = tuple(str(net) for net in place.attrs["nets"])
        of_net = tuple(str(net) for net in place.attrs.get("of_net", nets))
        epochs = tuple(int(epoch) for epoch in place.attrs.get("epochs", [-1] * len(nets)))
        trained = {str(net["name"]): bool(net["trained"]) for net in self.nets}
        has_information = "mutual_information" in place
        has_subset = "subset_samples" in place
        return Sums(
            name=name,
            nets=nets,
            trained=tuple(trained[net] and epoch != 0 for net, epoch in zip(of_net, epochs, strict=True)),
            layers=tuple(map(str, place.attrs["layers"])),
            sources=tuple(map(str, place.attrs["sources"])),
            map_shape=tuple(int(n) for n in place.attrs["map_shape"]),
            unit_net=hdf5.read_array(place, "unit_net"),
            shift=hdf5.read_array(place, "shift"),
            group_count=hdf5.read_array(place, "group_count"),
            group_sums=hdf5.read_array(place, "group_sums"),
            group_products=_matrix(place, "group_products"),
            group_shifted_products=(
                _matrix(place, "group_shifted_products") if "group_shifted_products" in place else None
            ),
            histograms=(
                UnitHistograms.from_arrays(
                    {key: hdf5.read_array(place["histogram"], key) for key in place["histogram"]}
                )
                if "histogram" in place
                else None
            ),
            mutual_information=_matrix(place, "mutual_information") if has_information else None,
            mutual_information_without=_matrix(place, "mutual_information_without") if has_information else None,
            of_net=of_net,
            epochs=epochs,
            pooled=bool(place.attrs.get("pooled", False)),
            subset_samples=hdf5.read_array(place, "subset_samples") if has_subset else None,
            subset_group=hdf5.read_array(self._file["images"], "subset_group") if has_subset else None,
            norms=NormSums(
                *(hdf5.read_array(place, key) for key in ("norm_shift", *(f"group_norm_{k}" for k in NORM_SUMS)))
            ),
            top_images=self.top_images(name),
        )

    def widths(self, name: str) -> tuple[int, ...]:
        """Units of each member of a comparison."""
        return tuple(int(width) for width in self._comparison(name).attrs["widths"])

    def top_images(self, name: str) -> TopImages | None:
        """The images that excite each unit of a comparison most, alone; None if the file does not have them."""
        place = self._comparison(name)
        if "top_value" not in place:
            return None
        return TopImages.from_arrays({key: hdf5.read_array(place, f"top_{key}") for key in TOP})

    def verify(self, name: str | None = None) -> None:
        """Hold every dataset of a comparison, or of the file, against its checksum, in blocks of rows.

        Raises
        ------
        FileError
            for the first dataset that is damaged.
        """
        try:
            hdf5.verify(self._file if name is None else self._comparison(name))
        except OSError as error:
            raise FileError(f"{self.path} could not be read ({error}). Copy the file again or make it anew.") from error

    def _comparison(self, name: str) -> Any:
        if name not in self.comparisons:
            raise FileError(f'{self.path} has no comparison "{name}"; {did_you_mean(name, self.comparisons)}.')
        return self._file["comparisons"][name]


def _matrix(place: h5py.Group, name: str) -> Slices:
    """A dataset that is read when it is sliced; FileError if it is missing."""
    if name not in place:
        raise FileError(
            f"{place.file.filename}: {place.name}/{name} is missing: the file is incomplete. Remove it and make it "
            "anew."
        )
    dataset: Slices = place[name]
    return dataset


@contextmanager
def open_statistics(path: str | Path) -> Iterator[StatisticsFile]:
    """Open a statistics file for as long as the block lasts; FileError says what is wrong with an unusable one."""
    with hdf5.open_checked(Path(path), SCHEMA, VERSION, MADE_BY) as file:
        yield StatisticsFile(file)
