"""Description of a results file for ``convergence show FILE.h5``: its content, and whether checksums match."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from convergence.analysis.file import open_analysis
from convergence.analysis.layout import SCHEMA as ANALYSIS
from convergence.analysis.standalone import analysis_path, analyze_task, read_settings, statistics_path
from convergence.cli.output import columns
from convergence.io import hdf5
from convergence.progress import readable_bytes
from convergence.results import read_analysis
from convergence.runs.tasks import StageTask, TaskFolder, describe_changes, read_record
from convergence.statistics.file import StatisticsFile, open_statistics
from convergence.statistics.schema import VERSION

OPTIONAL_PARTS = {
    "mutual_information": "mutual information",
    "group_shifted_products": "next image",
    "subset_samples": "single images",
    "histogram": "histograms",
}
"""Parts of a comparison in a statistics file that depend on the settings, and their names in the text."""


@dataclass(frozen=True)
class NetEntry:
    """A net of a statistics file; seeds and accuracy are None where they are not known or do not apply."""

    name: str
    seed: int | None
    order_seed: int | None
    subset_seed: int | None
    trained: bool
    held_out_accuracy: float | None


@dataclass(frozen=True)
class SumsEntry:
    """A comparison of a statistics file; ``parts`` are the optional datasets that it has.

    ``bin_error`` is the largest relative difference of a bin's mass from equal masses; None where it is not known.
    """

    name: str
    members: tuple[str, ...]
    units: int
    samples: int
    bytes: int
    parts: tuple[str, ...]
    bin_error: float | None


@dataclass(frozen=True)
class SubsetEntry:
    """Source of a subset: digest of the whole file, its image groups (None: all), datasets that were left out."""

    source_digest: str
    groups: tuple[int, ...] | None
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class StatisticsDescription:
    """The document of ``show statistics.h5``.

    Attributes
    ----------
    analysis : file name and state of the analysis beside the file, for the settings in the file: "none", "done",
        "unfinished", "damaged", "stale" or "no record"
    analysis_changes : the settings that differ, for a stale analysis
    checksums : "ok", or "not verified" without ``--verify``
    """

    name: str
    bytes: int
    version: int
    digest: str
    images: int
    families: int
    groups: int
    pilot_images: int
    subset: SubsetEntry | None
    nets: tuple[NetEntry, ...]
    comparisons: tuple[SumsEntry, ...]
    provenance: Mapping[str, str]
    analysis_file: str
    analysis: str
    analysis_changes: str
    checksums: str


@dataclass(frozen=True)
class ResultsEntry:
    """A comparison of an analysis file: its members, number of pairs of nets, and names of the measures."""

    name: str
    members: tuple[str, ...]
    pairs: int
    measures: tuple[str, ...]


@dataclass(frozen=True)
class AnalysisDescription:
    """The document of ``show analysis.h5``."""

    bytes: int
    digest: str
    statistics_digest: str
    comparisons: tuple[ResultsEntry, ...]
    provenance: Mapping[str, str]
    checksums: str


FileDescription = StatisticsDescription | AnalysisDescription


def describe_file(path: Path, verify: bool = False, overrides: Iterable[str] = ()) -> FileDescription:
    """Describe a statistics or an analysis file; with ``verify`` compare every dataset with its checksum.

    Raises
    ------
    FileError
        for a file that cannot be used, and with ``verify`` for the first dataset that is damaged.
    """
    path = statistics_path(path)
    is_analysis = hdf5.schema_of(path) == ANALYSIS
    checksums = "ok" if verify else "not verified"
    found = _analysis(path, checksums) if is_analysis else _statistics(path, overrides, checksums)
    if verify:
        with open_analysis(path) if is_analysis else open_statistics(path) as file:
            hdf5.verify(file.raw_file)
    return found


def file_text(found: FileDescription) -> str:
    """The description as text."""
    lines = [*(_statistics_lines(found) if isinstance(found, StatisticsDescription) else _analysis_lines(found))]
    verified = "all match" if found.checksums == "ok" else "not verified; --verify reads the whole file"
    return "\n".join([*lines, f"checksums: {verified}"])


def _analysis(path: Path, checksums: str) -> AnalysisDescription:
    analysis = read_analysis(path)
    entries = tuple(
        ResultsEntry(found.name, tuple(found.nets), len(found.pairs) + len(found.left_out), tuple(found.measures))
        for found in analysis.all()
    )
    return AnalysisDescription(
        path.stat().st_size, analysis.digest, analysis.statistics_digest, entries, analysis.provenance, checksums
    )


def _statistics(path: Path, overrides: Iterable[str], checksums: str) -> StatisticsDescription:
    with open_statistics(path) as file:
        settings = read_settings(file.config_text, str(path), overrides)
        work = analyze_task(analysis_path(path), file.digest, settings.analysis)
        state, changes = _state(work)
        return StatisticsDescription(
            name=settings.name,
            bytes=path.stat().st_size,
            version=VERSION,
            digest=file.digest,
            images=file.n_images,
            families=file.n_families,
            groups=file.n_groups,
            pilot_images=file.n_pilot,
            subset=_subset(file),
            nets=tuple(map(_net, file.nets)),
            comparisons=tuple(_sums(file, name) for name in file.comparisons),
            provenance=file.provenance,
            analysis_file=work.outputs[0].name,
            analysis=state,
            analysis_changes=changes,
            checksums=checksums,
        )


def _state(work: StageTask) -> tuple[str, str]:
    """State of the analysis beside a file for the settings in the file, and the settings that differ."""
    (target,) = work.outputs
    record = read_record(work.record)
    if record is None:
        return ("no record" if target.exists() else "none"), ""
    state = TaskFolder(target.parent).state(work)
    return state, describe_changes(record, work) if state == "stale" else ""


def _subset(file: StatisticsFile) -> SubsetEntry | None:
    if not file.selection:
        return None
    with hdf5.reading(file.path, "the attribute selection"):
        groups = file.selection["groups"]
        return SubsetEntry(
            str(file.selection["of"]),
            None if groups == "all" else tuple(map(int, groups)),
            tuple(map(str, file.selection["omitted"])),
        )


def _net(net: dict[str, Any]) -> NetEntry:
    accuracy = float(net["held_out_accuracy"])
    seeds = {key: int(net[key]) for key in ("seed", "order_seed", "subset_seed")}
    return NetEntry(
        name=str(net["name"]),
        trained=bool(net["trained"]),
        held_out_accuracy=accuracy if math.isfinite(accuracy) else None,
        **{key: seed if seed >= 0 else None for key, seed in seeds.items()},
    )


def _sums(file: StatisticsFile, name: str) -> SumsEntry:
    place, size = file.raw(name), 0

    def add(_: str, item: Any) -> None:
        nonlocal size
        size += item.id.get_storage_size() if isinstance(item, h5py.Dataset) else 0

    place.visititems(add)
    samples = int(hdf5.read_array(place, "group_count").sum())
    parts = tuple(key for key in OPTIONAL_PARTS if key in place)
    error = file.bin_error(name)
    found = None if math.isnan(error) else error
    return SumsEntry(name, tuple(file.members(name)), len(place["unit_net"]), samples, size, parts, found)


def _statistics_lines(found: StatisticsDescription) -> Iterator[str]:
    yield f"statistics of {found.name}, {readable_bytes(found.bytes)}, version {found.version}"
    families = "" if found.families == found.images else f" of {found.families:,} families"
    yield f"digest {found.digest[:12]}, {found.images:,} images{families} in {found.groups} groups"
    if found.subset is not None:
        groups, left_out = found.subset.groups, found.subset.left_out
        which = "all image groups" if groups is None else f"image groups {', '.join(map(str, groups))}"
        without = f"; without {', '.join(left_out)}, which need all image groups" if left_out else ""
        yield f"subset of {found.subset.source_digest[:12]}: {which}{without}"
    yield from ("", "nets")
    nets = [
        (
            net.name,
            *("–" if seed is None else str(seed) for seed in (net.seed, net.order_seed, net.subset_seed)),
            "yes" if net.trained else "no",
            "–" if net.held_out_accuracy is None else f"{100 * net.held_out_accuracy:.2f} %",
        )
        for net in found.nets
    ]
    yield from columns([("name", "seed", "order", "subset", "trained", "held-out accuracy"), *nets])
    yield from ("", "comparisons")
    rows = [
        (
            item.name,
            ", ".join(item.members[:8]) + (f", … ({len(item.members)})" if len(item.members) > 8 else ""),
            f"{item.units:,}",
            f"{item.samples:,}",
            readable_bytes(item.bytes),
            ", ".join(OPTIONAL_PARTS[part] for part in item.parts),
        )
        for item in found.comparisons
    ]
    yield from columns([("name", "members", "units", "samples", "bytes", "also"), *rows])
    errors = [f"{item.bin_error:.1%} in {item.name}" for item in found.comparisons if item.bin_error is not None]
    if errors:
        about = f"bins of mutual information, edges from {found.pilot_images:,} images"
        yield f"{about}: masses differ from equal by at most {', '.join(errors)}"
    yield from ("", *_provenance(found.provenance), "")
    state = {
        "none": f"none; `convergence analyze` writes {found.analysis_file}",
        "no record": f"{found.analysis_file}, without a record",
        "unfinished": "unfinished; `convergence analyze` resumes it",
        "stale": f"{found.analysis_file}, {found.analysis_changes}",
    }
    yield f"analysis: {state.get(found.analysis, f'{found.analysis_file}, {found.analysis}')}"


def _analysis_lines(found: AnalysisDescription) -> Iterator[str]:
    yield f"analysis, {readable_bytes(found.bytes)}"
    yield f"digest {found.digest[:12]}, of the statistics {found.statistics_digest[:12]}"
    yield from ("", "comparisons")
    rows = [
        (item.name, ", ".join(item.members), str(item.pairs), str(len(item.measures))) for item in found.comparisons
    ]
    yield from columns([("name", "members", "pairs", "measures"), *rows])
    yield from ("", *_provenance(found.provenance))


def _provenance(provenance: Mapping[str, str]) -> Sequence[str]:
    return "made with", "  " + ", ".join(f"{name} {version}" for name, version in provenance.items())
