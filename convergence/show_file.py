"""``convergence show FILE.h5``: what is in a statistics or an analysis file, and whether it holds. Computes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py

from convergence.analysis.file import SCHEMA as ANALYSIS
from convergence.analysis.file import open_analysis
from convergence.downloaded import analysis_path, analyze_task, read_settings, statistics_path
from convergence.io import hdf5
from convergence.runs.tasks import TaskFolder, describe_changes, read_record
from convergence.show import readable_bytes
from convergence.statistics.file import StatisticsFile, open_statistics


def describe(path: Path, verify: bool = False, overrides: Iterable[str] = ()) -> str:
    """The text that ``show`` prints; with ``verify`` every dataset is held against its checksum.

    Raises
    ------
    FileError
        for a file that cannot be used, and with ``verify`` for the first dataset that is damaged.
    """
    path = statistics_path(path)
    lines = _analysis(path) if schema_of(path) == ANALYSIS else _statistics(path, overrides)
    if verify:
        with h5py.File(path, "r") as file:
            hdf5.verify(file)
        lines.append("checksums: all hold")
    else:
        lines.append("checksums: not looked at; --verify reads all of the file")
    return "\n".join(lines)


def schema_of(path: Path) -> str:
    """The schema that a file names; "" if it cannot be opened, which whoever opens it says."""
    try:
        with h5py.File(path, "r") as file:
            return str(file.attrs.get("schema", ""))
    except OSError:
        return ""


def _statistics(path: Path, overrides: Iterable[str]) -> list[str]:
    with open_statistics(path) as file:
        settings = read_settings(file.config_text, str(path), overrides)
        lines = [
            f"statistics of {settings.name}, {readable_bytes(path.stat().st_size)}, version {file.version}",
            f"digest {file.digest[:12]}, {file.n_images:,} images in {file.n_groups} groups",
            *_slice(file),
            "",
            "nets",
            *_table([("name", "seed", "trained", "held-out accuracy"), *(_net(net) for net in file.nets)]),
            "",
            "comparisons",
            *_table(
                [
                    ("name", "members", "units", "samples", "bytes", "also"),
                    *(_row(file, name) for name in file.comparisons),
                ]
            ),
            "",
            *_provenance(file.provenance),
        ]
        work = analyze_task(analysis_path(path), file.digest, settings.analysis)
    return [*lines, "", f"analysis: {_state(work)}"]


def _state(work: Any) -> str:
    """Where the analysis beside a file stands for the settings that the file carries."""
    (target,) = work.outputs
    record = read_record(work.record)
    if record is None:
        return (
            f"{target.name}, without a record" if target.exists() else f"none; convergence analyze makes {target.name}"
        )
    state = TaskFolder(target.parent).state(work)
    return {
        "done": f"{target.name}, done",
        "stale": f"{target.name}, {describe_changes(record, work)}",
        "unfinished": "not finished; convergence analyze goes on",
    }.get(state, f"{target.name}, {state}")


def _slice(file: StatisticsFile) -> list[str]:
    if not file.selection:
        return []
    groups = file.selection["groups"]
    said = "all image groups" if groups == "all" else f"image groups {', '.join(map(str, groups))}"
    omitted = ", ".join(file.selection["omitted"])
    left = f"; without {omitted}, defined over all groups only" if omitted else ""
    return [f"subset of {file.selection['of'][:12]}: {said}{left}"]


def _net(net: dict[str, Any]) -> tuple[str, ...]:
    accuracy = float(net["held_out_accuracy"])
    return (
        str(net["name"]),
        str(net["seed"]) if int(net["seed"]) >= 0 else "–",
        "yes" if net["trained"] else "no",
        f"{100 * accuracy:.2f} %" if math.isfinite(accuracy) else "–",
    )


def _row(file: StatisticsFile, name: str) -> tuple[str, ...]:
    place = file.raw(name)
    size = 0

    def add(_: str, item: Any) -> None:
        nonlocal size
        size += item.id.get_storage_size() if isinstance(item, h5py.Dataset) else 0

    place.visititems(add)
    extras = {"mutual_information": "mutual information", "group_shifted_products": "next image",
              "subset_samples": "single images", "histogram": "histograms"}  # fmt: skip
    samples = int(hdf5.read_array(place, "group_count").sum())
    members = file.members(name)
    listed = ", ".join(members[:8]) + (f", … ({len(members)})" if len(members) > 8 else "")
    also = ", ".join(words for key, words in extras.items() if key in place)
    return name, listed, f"{len(place['unit_net']):,}", f"{samples:,}", readable_bytes(size), also


def _analysis(path: Path) -> list[str]:
    with open_analysis(path) as file:
        rows = [("name", "members", "pairs", "measures")]
        for name in file.comparisons:
            pairs = file.pairs(name)
            measures = {m for x, y in pairs for m in file.measures(name, x, y)}
            rows.append((name, ", ".join(file.about(name)["nets"]), str(len(pairs)), str(len(measures))))
        return [
            f"analysis, {readable_bytes(path.stat().st_size)}",
            f"digest {file.digest[:12]}, of the statistics {file.statistics_digest[:12]}",
            "",
            "comparisons",
            *_table(rows),
            "",
            *_provenance(file.provenance),
        ]


def _provenance(provenance: dict[str, str]) -> Iterator[str]:
    yield "made with"
    yield "  " + ", ".join(f"{name} {version}" for name, version in provenance.items())


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
