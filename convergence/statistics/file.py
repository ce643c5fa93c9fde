"""``statistics.h5``: the sums, small enough to download, from which every answer comes. Format: docs/files.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import numpy.typing as npt

from convergence import hdf5
from convergence.errors import FileError, nearest
from convergence.provenance import provenance
from convergence.statistics.histograms import UnitHistograms

if TYPE_CHECKING:
    from convergence.statistics.collect import Collector

SCHEMA = "convergence-statistics"
VERSION = 1
MADE_BY = "convergence statistics CONFIG"
Array = npt.NDArray[Any]


def assemble(collector: Collector, path: Path, nets: list[dict[str, Any]], config_text: str) -> None:
    """Put the pieces of both passes together, groups in order, one group in memory at a time.

    ``nets``: name, label, seed, trained, held_out_accuracy and weights_sha256 of every net that takes part.
    """
    images = collector.images
    attributes = {
        "digest": collector.digest,
        "config": config_text,
        "provenance": json.dumps(provenance()),
        "about": "Sums over evaluation images, per image group; see docs/files.md",
    }
    with hdf5.create(path, SCHEMA, VERSION, attributes) as file:
        place = file.create_group("images")
        place.attrs["manifest_sha256"] = images.manifest_hash()
        place.attrs["n_images"] = collector.groups.n_images
        place.attrs["n_groups"] = len(collector.groups)
        about = "image group of every image, −1 for images that were not read"
        hdf5.write_array(place, "group_of_image", collector.groups.group_of_image, ("image",), about=about)
        place = file.create_group("nets")
        for key in nets[0]:
            hdf5.write_array(place, key, np.array([net[key] for net in nets]), ("net",))
        comparisons = file.create_group("comparisons", track_order=True)
        for name in collector.joined:
            _assemble_comparison(collector, name, comparisons.create_group(name))


def _assemble_comparison(collector: Collector, name: str, place: h5py.Group) -> None:
    joined, n_groups = collector.joined[name], len(collector.groups)
    n_units = joined.n_units
    for key in ("nets", "layers", "sources"):
        place.attrs[key] = list(getattr(joined, key))
    place.attrs["rectified"] = list(joined.rectified)
    place.attrs["widths"] = list(joined.widths)
    place.attrs["map_shape"] = np.array(joined.map_shape, dtype=np.int64)
    place.attrs["positions"] = str(collector.config.positions)
    place.attrs["precision"] = collector.config.precision
    unit_net = np.repeat(np.arange(len(joined.nets), dtype=np.int32), joined.widths)
    unit_index = np.concatenate([np.arange(width, dtype=np.int32) for width in joined.widths])
    hdf5.write_array(place, "unit_net", unit_net, ("unit",), about="index into the attribute nets")
    hdf5.write_array(place, "unit_index", unit_index, ("unit",), about="index of the unit within its layer")

    counts, sums = np.zeros(n_groups, np.int64), np.zeros((n_groups, n_units))
    products = hdf5.GrowingArray(
        place,
        "group_products",
        (n_groups, n_units, n_units),
        ("group", "unit", "unit"),
        about="sum over samples of (x - shift)(x - shift)^T, per image group",
    )
    for group in range(n_groups):
        moments = collector.read_moments(group, name)
        counts[group], sums[group] = moments.count, moments.sums
        products.append(moments.products)
    products.close()
    hdf5.write_array(place, "shift", moments.shift, ("unit",), about="the point about which sums are taken")
    hdf5.write_array(place, "group_count", counts, ("group",), about="samples of each image group")
    hdf5.write_array(place, "group_sums", sums, ("group", "unit"), about="sum over samples of x - shift")

    histograms = collector.histograms(name)
    for key, array in histograms.to_arrays().items():
        hdf5.write_array(place, f"histogram/{key}", array)
    if collector.config.mutual_information.enabled:
        edges = histograms.edges(collector.config.mutual_information.bins)
        hdf5.write_array(place, "bin_edges", edges.edges, ("unit", "edge"), about="lower edges of bins 1, 2, …")
        hdf5.write_array(place, "effective_bins", edges.n_effective_bins, ("unit",))
        tiles = [x0 for tile_name, x0 in collector.tiles() if tile_name == name]
        for key, target in (
            ("estimate", "mutual_information"),
            ("standard_error", "mutual_information_error"),
        ):
            rows = []
            for x0 in tiles:
                with hdf5.open_checked(collector.information_path(name, x0), "convergence-partial", 1, MADE_BY) as part:
                    rows.append(hdf5.read_array(part, key))
            hdf5.write_array(place, target, np.concatenate(rows), ("unit", "unit"), unit="nat")


@dataclass(frozen=True)
class Sums:
    """The sums of one comparison in memory, as in the file.

    Attributes
    ----------
    shift (n_units,), group_count (n_groups,), group_sums (n_groups, n_units),
    group_products (n_groups, n_units, n_units), unit_net (n_units,), nets, layers, sources, trained (per net)
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
    group_products: Array
    histograms: UnitHistograms
    mutual_information: Array | None
    mutual_information_error: Array | None

    def units(self, net: str) -> Array:
        """Indices along the joined axis of a net's units."""
        return np.flatnonzero(self.unit_net == self.nets.index(net))


class StatisticsFile:
    """An open ``statistics.h5``."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file
        self.path = Path(file.filename)
        self.digest = str(file.attrs["digest"])
        self.config_text = str(file.attrs["config"])
        self.provenance: dict[str, str] = json.loads(file.attrs["provenance"])
        self.n_images = int(file["images"].attrs["n_images"])
        self.n_groups = int(file["images"].attrs["n_groups"])
        self.comparisons = list(file["comparisons"])
        self.nets = [
            dict(zip(file["nets"], values, strict=True))
            for values in zip(*(hdf5.read_array(file["nets"], key) for key in file["nets"]), strict=True)
        ]

    def sums(self, name: str) -> Sums:
        """One comparison, every dataset held against its checksum."""
        if name not in self.comparisons:
            raise FileError(f'{self.path} has no comparison "{name}"; {nearest(name, self.comparisons)}.')
        place = self._file["comparisons"][name]
        nets = tuple(str(net) for net in place.attrs["nets"])
        trained = {str(net["name"]): bool(net["trained"]) for net in self.nets}
        has_information = "mutual_information" in place
        return Sums(
            name=name,
            nets=nets,
            trained=tuple(trained[net] for net in nets),
            layers=tuple(map(str, place.attrs["layers"])),
            sources=tuple(map(str, place.attrs["sources"])),
            map_shape=tuple(int(n) for n in place.attrs["map_shape"]),
            unit_net=hdf5.read_array(place, "unit_net"),
            shift=hdf5.read_array(place, "shift"),
            group_count=hdf5.read_array(place, "group_count"),
            group_sums=hdf5.read_array(place, "group_sums"),
            group_products=hdf5.read_array(place, "group_products"),
            histograms=UnitHistograms.from_arrays(
                {key: hdf5.read_array(place["histogram"], key) for key in place["histogram"]}
            ),
            mutual_information=hdf5.read_array(place, "mutual_information") if has_information else None,
            mutual_information_error=hdf5.read_array(place, "mutual_information_error") if has_information else None,
        )


@contextmanager
def open_statistics(path: str | Path) -> Iterator[StatisticsFile]:
    """Open a statistics file; FileError says what is wrong with one that cannot be used."""
    with hdf5.open_checked(Path(path), SCHEMA, VERSION, MADE_BY) as file:
        yield StatisticsFile(file)
