"""The sums of a comparison, and the reader of statistics.h5: the file that all results are computed from."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import numpy.typing as npt

from convergence.errors import FileError, did_you_mean
from convergence.io import hdf5
from convergence.statistics.bin_edges import BinEdges
from convergence.statistics.file_checks import check_layout
from convergence.statistics.histograms import UnitHistograms
from convergence.statistics.null_sums import NullSums
from convergence.statistics.schema import DATASETS, MADE_BY, MEMBERS, SCHEMA, UNKNOWN, VERSION
from convergence.statistics.top_images import TopImages

Array = npt.NDArray[Any]


class Matrix(Protocol):
    """A matrix that is read when it is indexed: an open HDF5 dataset, or an array."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, index: Any, /) -> Any: ...


@dataclass(frozen=True)
class ComparisonRecord:
    """A comparison as the file stores it: attributes and arrays by their names in the schema."""

    name: str
    attributes: dict[str, Any]
    arrays: dict[str, Array | Matrix]


@dataclass(frozen=True)
class ComparisonSums:
    """The sums of one comparison: small arrays in memory, matrices where they are.

    The matrices of an open file are its datasets. While the file is open, index contiguous ranges of them
    (``group_products[g, a:b, c:d]``).

    Attributes
    ----------
    name : name of the comparison
    nets : names of the members, in order along the unit axis
    of_net, epochs : for each member its net, and the epoch of its weights (−1: the final weights)
    initialisations, order_seeds, subset_seeds : for each member the initial weights, image order and training subset
        of its net, see :data:`~.schema.NET_DATASETS`
    trained, layers, sources, rectified, privileged : for each member, see
        :class:`~.activation_source.JoinedUnits`
    map_shape, map_shapes : grid of the sampled positions; for each member the size of its maps
    pooled : whether a sample is the mean over the positions of an image
    positions, precision : sampled positions per image, "all" or a number; type of the products
    unit_net : (n_units,) the member of each unit; units of a member are contiguous
    shift, group_count, group_sums : (n_units,); (n_groups,); (n_groups, n_units)
    group_products, group_shifted_products : (n_groups, n_units, n_units); the latter None if not computed
    histograms : of the units' values over all groups; None in a subset of the groups
    mutual_information, mutual_information_without : (n_units, n_units), (n_blocks, n_units, n_units); None if absent
    subset_samples, subset_group : (N, n_units) means over positions of N images, (N,) their groups; None if absent
    subset_family : (N,) families of these images; None: every image is a family
    top_images : the images that excite each unit most; None if absent
    bins : the bins of mutual information; None if absent
    bin_error : largest relative difference of a bin's number of values from equal numbers, over units with continuous
        values; NaN without bins or without such units
    class_count, class_sums : (n_groups, n_classes) samples of each class, and (n_groups, n_classes, n_units) their sums
        about ``shift``; None without labels
    image_gram : (n_members, N, N) inner products of the flattened maps of the stored images; None if absent
    null : sums of pseudo-nets; None if no member has them
    null_kind : for each member "pre-activations" (it has pseudo-nets), "sums" (a linear layer: rotating the sums gives
        its chance level), or ""
    null_reason : for each member of kind "" the reason that it has no chance level; "" for others
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
    group_products: Matrix
    group_shifted_products: Matrix | None
    histograms: UnitHistograms | None
    mutual_information: Matrix | None
    mutual_information_without: Matrix | None
    of_net: tuple[str, ...] = ()
    epochs: tuple[int, ...] = ()
    initialisations: tuple[str, ...] = ()
    order_seeds: tuple[int, ...] = ()
    subset_seeds: tuple[int, ...] = ()
    rectified: tuple[bool, ...] = ()
    privileged: tuple[bool, ...] = ()
    map_shapes: tuple[tuple[int, ...], ...] = ()
    pooled: bool = False
    positions: str = "all"
    precision: str = "float64"
    subset_samples: Array | None = None
    subset_group: Array | None = None
    top_images: TopImages | None = None
    bins: BinEdges | None = None
    bin_error: float = math.nan
    class_count: Array | None = None
    class_sums: Matrix | None = None
    subset_family: Array | None = None
    image_gram: Matrix | None = None
    null: NullSums | None = None
    null_kind: tuple[str, ...] = ()
    null_reason: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Fill in that members are nets with their final weights, each of initial weights of its own."""
        if not self.of_net:
            object.__setattr__(self, "of_net", self.nets)
        if not self.epochs:
            object.__setattr__(self, "epochs", (-1,) * len(self.nets))
        if not self.initialisations:
            object.__setattr__(self, "initialisations", self.of_net)
        for name in ("order_seeds", "subset_seeds"):
            if not getattr(self, name):
                object.__setattr__(self, name, (UNKNOWN,) * len(self.nets))
        if not self.privileged:
            object.__setattr__(self, "privileged", (True,) * len(self.nets))
        if not self.null_kind:
            object.__setattr__(self, "null_kind", ("",) * len(self.nets))
        if not self.null_reason:
            object.__setattr__(self, "null_reason", ("",) * len(self.nets))

    def units(self, net: str) -> Array:
        """Indices along the unit axis of a member's units."""
        return np.flatnonzero(self.unit_net == self.nets.index(net))

    @classmethod
    def from_record(
        cls,
        record: ComparisonRecord,
        nets: Sequence[Mapping[str, Any]],
        subset_group: Array | None,
        subset_family: Array | None,
    ) -> ComparisonSums:
        """The sums in a record; ``nets`` are those of the file, the other arrays are of the images."""
        about, arrays = record.attributes, record.arrays
        top = {key.removeprefix("top_"): np.asarray(v) for key, v in arrays.items() if key.startswith("top_")}
        counts = {k.removeprefix("histogram/"): np.asarray(v) for k, v in arrays.items() if k.startswith("histogram/")}
        of_net, epochs = tuple(map(str, about["of_net"])), tuple(map(int, about["epochs"]))
        by_name = {str(net["name"]): net for net in nets}
        own = [by_name[net] for net in of_net]
        return cls(
            name=record.name,
            nets=tuple(map(str, about["nets"])),
            of_net=of_net,
            epochs=epochs,
            initialisations=tuple(str(net["initialisation"]) for net in own),
            order_seeds=tuple(int(net["order_seed"]) for net in own),
            subset_seeds=tuple(int(net["subset_seed"]) for net in own),
            trained=tuple(bool(net["trained"]) and epoch != 0 for net, epoch in zip(own, epochs, strict=True)),
            layers=tuple(map(str, about["layers"])),
            sources=tuple(map(str, about["sources"])),
            rectified=tuple(map(bool, about["rectified"])),
            privileged=tuple(map(bool, about["privileged"])),
            map_shape=tuple(map(int, about["map_shape"])),
            map_shapes=tuple(tuple(int(side) for side in shape if side) for shape in about["map_shapes"]),
            pooled=bool(about["pooled"]),
            positions=str(about["positions"]),
            precision=str(about["precision"]),
            unit_net=np.asarray(arrays["unit_net"]),
            shift=np.asarray(arrays["shift"]),
            group_count=np.asarray(arrays["group_count"]),
            group_sums=np.asarray(arrays["group_sums"]),
            class_count=np.asarray(arrays["class_count"]) if "class_count" in arrays else None,
            class_sums=arrays.get("class_sums"),
            image_gram=arrays.get("image_gram"),
            group_products=arrays["group_products"],
            group_shifted_products=arrays.get("group_shifted_products"),
            mutual_information=arrays.get("mutual_information"),
            mutual_information_without=arrays.get("mutual_information_without"),
            histograms=UnitHistograms.from_arrays(counts) if counts else None,
            bins=BinEdges(np.asarray(arrays["bin_edges"]), np.asarray(arrays["effective_bins"]))
            if "bin_edges" in arrays
            else None,
            bin_error=float(about["bin_error"]),
            subset_samples=np.asarray(arrays["subset_samples"]) if "subset_samples" in arrays else None,
            subset_group=subset_group if "subset_samples" in arrays else None,
            subset_family=subset_family if "subset_samples" in arrays else None,
            top_images=TopImages.from_arrays(top) if top else None,
            null=NullSums.of_arrays(np.asarray(arrays["unit_net"]), {key: arrays[f"null_{key}"] for key in NULL_SUMS})
            if "null_products" in arrays
            else None,
            null_kind=tuple(map(str, about["null_kind"])),
            null_reason=tuple(map(str, about["null_reason"])),
        )

    def record(self) -> ComparisonRecord:
        """The inverse of :meth:`from_record`."""
        widths = np.bincount(self.unit_net, minlength=len(self.nets))
        n_sides = max((len(shape) for shape in self.map_shapes), default=0)
        attributes = {
            "nets": list(self.nets),
            "of_net": list(self.of_net),
            "epochs": list(self.epochs),
            "layers": list(self.layers),
            "sources": list(self.sources),
            "pooled": self.pooled,
            "rectified": list(self.rectified),
            "privileged": list(self.privileged),
            "null_kind": list(self.null_kind),
            "null_reason": list(self.null_reason),
            "widths": widths.tolist(),
            "map_shape": np.array(self.map_shape, dtype=np.int64),
            "map_shapes": np.array([(*shape, 0, 0)[:n_sides] for shape in self.map_shapes], dtype=np.int64),
            "positions": self.positions,
            "precision": self.precision,
            "bin_error": self.bin_error,
        }
        arrays: dict[str, Array | Matrix | None] = {
            "unit_net": self.unit_net,
            "unit_index": np.concatenate([np.arange(width, dtype=np.int32) for width in widths]),
            "shift": self.shift,
            "group_count": self.group_count,
            "group_sums": self.group_sums,
            "group_products": self.group_products,
            "group_shifted_products": self.group_shifted_products,
            "mutual_information": self.mutual_information,
            "mutual_information_without": self.mutual_information_without,
            "subset_samples": self.subset_samples,
            "class_count": self.class_count,
            "class_sums": self.class_sums,
            "image_gram": self.image_gram,
        }
        if self.histograms is not None:
            arrays |= {f"histogram/{key}": array for key, array in self.histograms.to_arrays().items()}
        if self.bins is not None:
            arrays |= {"bin_edges": self.bins.edges, "effective_bins": self.bins.n_effective_bins}
        if self.top_images is not None:
            arrays |= {f"top_{key}": array for key, array in self.top_images.to_arrays().items()}
        if self.null is not None:
            arrays |= {f"null_{key}": getattr(self.null, key) for key in NULL_SUMS}
        return ComparisonRecord(self.name, attributes, {k: array for k, array in arrays.items() if array is not None})


NULL_SUMS = (
    "count", "real_sums", "real_squares", "real_exponent", "exponent", "shift", "sums", "products", "own",
)  # fmt: skip


@dataclass(frozen=True)
class StatisticsHeader:
    """What statistics.h5 holds besides the comparisons.

    Attributes
    ----------
    digest, config_text, provenance : of the file; the latter two are JSON
    manifest_sha256 : of the images
    group_of_image : (n_available,) image group of every image, −1 for images that were not read
    family_of_image : (n_available,) family of every image; images of a family are not independent and in one group
    n_groups : number of image groups
    subset : (N,) images whose mean activations are stored; None for none
    nets : the datasets :data:`~.schema.NET_DATASETS` of every net that takes part
    n_pilot : images of the pilot
    selection : what a subset of a file holds, JSON; "" for a whole file
    """

    digest: str
    config_text: str
    provenance: str
    manifest_sha256: str
    group_of_image: Array
    family_of_image: Array
    n_groups: int
    subset: Array | None
    nets: list[dict[str, Any]]
    n_pilot: int
    selection: str = ""


class StatisticsFile:
    """An open statistics.h5; :func:`open_statistics` opens it."""

    def __init__(self, file: h5py.File) -> None:
        self.raw_file = file
        self.path = Path(file.filename)
        check_layout(file)
        self.digest = str(file.attrs["digest"])
        self.version = int(file.attrs["schema_version"])
        self.config_text = str(file.attrs["config"])
        self.provenance: dict[str, str] = json.loads(file.attrs["provenance"])
        self.selection: dict[str, Any] = json.loads(file.attrs.get("selection", "{}"))
        if not isinstance(self.provenance, dict) or not isinstance(self.selection, dict):
            raise FileError(f"{self.path}: the attribute provenance or selection is no JSON object. Make it again.")
        self.n_images = int(file["images"].attrs["n_images"])
        self.n_groups = int(file["images"].attrs["n_groups"])
        self.n_pilot = int(file["images"].attrs["n_pilot"])
        self.comparisons = list(file["comparisons"])
        self.nets = [
            dict(zip(file["nets"], values, strict=True))
            for values in zip(*(hdf5.read_array(file["nets"], key) for key in file["nets"]), strict=True)
        ]

    @property
    def n_families(self) -> int:
        """Families of the images; images of a family are not independent."""
        used = hdf5.read_array(self.raw_file["images"], "group_of_image") >= 0
        return len(np.unique(hdf5.read_array(self.raw_file["images"], "family_of_image")[used]))

    def members(self, name: str) -> list[str]:
        """Names of a comparison's members."""
        return [str(member) for member in self.raw(name).attrs["nets"]]

    def nets_of_members(self, name: str) -> list[str]:
        """The net of each member of a comparison."""
        return [str(net) for net in self.raw(name).attrs["of_net"]]

    def widths(self, name: str) -> tuple[int, ...]:
        """Units of each member of a comparison."""
        return tuple(int(width) for width in self.raw(name).attrs["widths"])

    def bin_error(self, name: str) -> float:
        """Largest relative difference of a bin's mass from equal masses; NaN without bins or continuous units."""
        return float(self.raw(name).attrs["bin_error"])

    def unit_members(self, name: str) -> tuple[tuple[str, ...], Array]:
        """Names of a comparison's members, and (n_units,) the member of each unit."""
        return tuple(self.members(name)), hdf5.read_array(self.raw(name), "unit_net")

    def raw(self, name: str) -> h5py.Group:
        """The HDF5 group of a comparison; FileError for an unknown one."""
        if name not in self.comparisons:
            raise FileError(f'{self.path} has no comparison "{name}"; {did_you_mean(name, self.comparisons)}.')
        return self.raw_file["comparisons"][name]

    @property
    def images_digest(self) -> str:
        """Equal for two files whose image groups consist of the same images."""
        place = self.raw_file["images"]
        return f"{place.attrs['manifest_sha256']} {place['group_of_image'].attrs['sha256']}"

    def header(self) -> StatisticsHeader:
        """Everything besides the comparisons."""
        place = self.raw_file["images"]
        return StatisticsHeader(
            digest=self.digest,
            config_text=self.config_text,
            provenance=str(self.raw_file.attrs["provenance"]),
            manifest_sha256=str(place.attrs["manifest_sha256"]),
            group_of_image=hdf5.read_array(place, "group_of_image"),
            family_of_image=hdf5.read_array(place, "family_of_image"),
            n_groups=self.n_groups,
            subset=hdf5.read_array(place, "subset") if "subset" in place else None,
            nets=self.nets,
            n_pilot=self.n_pilot,
            selection=json.dumps(self.selection) if self.selection else "",
        )

    def record(self, name: str) -> ComparisonRecord:
        """One comparison. Arrays are read and verified; a matrix is verified before its first part is read.

        Raises
        ------
        FileError
            for an unknown comparison, and for a damaged dataset.
        """
        place = self.raw(name)
        arrays: dict[str, Array | Matrix] = {}
        for dataset in DATASETS:
            if dataset.path in place:
                arrays[dataset.path] = (
                    hdf5.large_array(place, dataset.path) if dataset.is_matrix else hdf5.read_array(place, dataset.path)
                )
        return ComparisonRecord(name, {attribute.name: place.attrs[attribute.name] for attribute in MEMBERS}, arrays)

    def sums(self, name: str) -> ComparisonSums:
        """The sums of one comparison, read like :meth:`record`."""
        images = self.raw_file["images"]
        subset_group = subset_family = None
        if "subset_group" in images:
            subset_group = hdf5.read_array(images, "subset_group")
            subset_family = hdf5.read_array(images, "family_of_image")[hdf5.read_array(images, "subset")]
        return ComparisonSums.from_record(self.record(name), self.nets, subset_group, subset_family)

    def top_images(self, name: str) -> TopImages | None:
        """The images that excite each unit of a comparison most; None if the file has none."""
        place = self.raw(name)
        if "top_value" not in place:
            return None
        return TopImages.from_arrays(
            {key: hdf5.read_array(place, f"top_{key}") for key in ("value", "image", "position")}
        )

    def verify(self, name: str | None = None) -> None:
        """Verify the checksums of all datasets of a comparison, or of the file, in blocks of rows.

        Raises
        ------
        FileError
            for the first dataset that is damaged.
        """
        hdf5.verify(self.raw_file if name is None else self.raw(name))


@contextmanager
def open_statistics(path: str | Path) -> Iterator[StatisticsFile]:
    """Open a statistics file for reading.

    Raises
    ------
    FileError
        for a file that is missing, damaged, of another schema or of another version of the schema.
    """
    with hdf5.open_checked(Path(path), SCHEMA, VERSION, MADE_BY) as file:
        with hdf5.reading(path, made_by=MADE_BY):
            found = StatisticsFile(file)
        yield found
