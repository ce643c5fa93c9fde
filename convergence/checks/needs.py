"""What a run needs: disk, memory and time of its stages, from the shapes of nets and layers and from measured steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from convergence.config.schema import Experiment
from convergence.config.stages import StatisticsConfig
from convergence.data.images import ImageSet
from convergence.progress import readable_bytes, readable_seconds
from convergence.statistics.activation_source import JoinedUnits
from convergence.statistics.assembly import n_pilot, pass_memory
from convergence.statistics.forward_batches import KEPT_BYTES
from convergence.statistics.null_costs import null_cost, null_share
from convergence.statistics.sampling import ImageGroups
from convergence.statistics.schema import stored_bytes

PAIR_BYTES = 150_000
"""Bytes of analysis.h5 for each pair of nets of a comparison, without the matrices over units."""
BASE_BYTES = 5e8
"""Memory of a process with torch."""


@dataclass(frozen=True)
class FileSize:
    """Bytes of what a stage writes."""

    stage: str
    what: str
    bytes: int


@dataclass(frozen=True)
class StageNeed:
    """Memory of one process of a stage, and its time on the machine of the check.

    Attributes
    ----------
    stage : its verb
    memory_bytes : estimate
    seconds : estimate; None if nothing was measured
    basis : what the time is derived from
    """

    stage: str
    memory_bytes: float
    seconds: float | None
    basis: str


@dataclass(frozen=True)
class Needs:
    """Estimates of a run: sizes of the files of all stages, and needs of the stages that compute."""

    disk: tuple[FileSize, ...] = ()
    stages: tuple[StageNeed, ...] = ()


def net_sizes(experiment: Experiment, state_bytes: int) -> Iterator[FileSize]:
    """Weights and checkpoints of nets with ``state_bytes`` of weights and buffers in all."""
    kept = 1 + len(experiment.training.keep_epochs)
    yield FileSize("train", "weights of the nets", kept * state_bytes)
    if any(group.trained_here for group in experiment.nets):
        states = 2 * training_states(experiment)
        yield FileSize("train", "checkpoints, at most two for each net in training", states * state_bytes)


def training_states(experiment: Experiment) -> int:
    """Copies of the weights in a checkpoint: weights and the buffers of the optimiser."""
    return 3 if experiment.training.optimizer == "adamw" else 2


def sum_sizes(experiment: Experiment, images: ImageSet, joined: Mapping[str, JoinedUnits]) -> Iterator[FileSize]:
    """The statistics, their scratch files, and the analysis."""
    config = experiment.statistics
    groups = ImageGroups.of(config, len(images), images.families)
    n_subset = len(groups.subset(config.subset))
    sums = scratch = null = null_scratch = codes = results = 0
    maps = map_bytes(config, n_subset, joined.values())
    for units in joined.values():
        cost = null_cost(units, config)
        stored = stored_bytes(units, config, n_subset, images.n_classes)
        sums, scratch = sums + stored, scratch + stored - cost.stored_bytes
        null, null_scratch = null + cost.stored_bytes, null_scratch + cost.scratch_bytes
        if config.mutual_information.enabled:
            codes += groups.n_images * units.n_sampled(config.mutual_information.positions) * units.n_units
        results += 8 * units.n_units**2 + PAIR_BYTES * math.comb(len(units.nets), 2)
    yield FileSize("statistics", "statistics.h5, without the histograms of units (some kB each)", sums - null)
    yield FileSize("statistics", "scratch files, removed at the end", scratch + codes + maps)
    if null:
        share = null_share(joined.values(), config)
        about = f"of pseudo-nets (statistics.null, {config.null.draws} draws)"
        yield FileSize("statistics", f"statistics.h5: sums {about}; {share}", null)
        yield FileSize("statistics", f"scratch files {about}, removed at the end", null_scratch)
    yield FileSize("analyze", "analysis.h5, approximately", results)


def map_bytes(config: StatisticsConfig, n_subset: int, joined: Iterable[JoinedUnits]) -> int:
    """Bytes of the maps of the stored images, for the Gram matrices; a layer of several comparisons counts once."""
    values = {
        (net, epoch, layer): width * math.prod(shape)
        for units in joined
        for net, epoch, layer, width, shape in zip(
            units.of_net, units.epochs, units.layers, units.widths, units.map_shapes, strict=True
        )
    }
    return 4 * n_subset * sum(values.values()) if config.image_gram else 0


def picture_sizes(
    experiment: Experiment, image_shape: tuple[int, ...], joined: Mapping[str, JoinedUnits]
) -> Iterator[FileSize]:
    """Upper bound for pictures of units: patches as large as the image or ``pictures.max_side``."""
    config = experiment.pictures
    if not config.enabled or not experiment.pictured() or len(image_shape) != 3:
        return
    channels, *sides = image_shape
    picture = channels * math.prod(min(side, config.max_side) for side in sides)
    per_unit = sum(1 if method == "maximization" else config.top for method in config.methods if method != "filters")
    widths = {
        (net, layer): width
        for units in joined.values()
        for net, layer, width in zip(units.of_net, units.layers, units.widths, strict=True)
    }
    n_units = sum(widths.get((net.name, layer), 0) for net, layers in experiment.pictured() for layer in layers)
    yield FileSize("pictures", "pictures.h5 and its scratch files, at most", 2 * n_units * per_unit * picture)


def training_memory(experiment: Experiment, state_bytes: int, activation_bytes: int, jointly: int) -> float:
    """Bytes of a training process: weights, gradients and optimiser of its nets, and the activations of one batch."""
    states = (1 + training_states(experiment)) * state_bytes * jointly
    return BASE_BYTES + states + 2.0 * activation_bytes * experiment.training.batch_size


def statistics_memory(experiment: Experiment, weights_bytes: int, joined: Mapping[str, JoinedUnits]) -> float:
    """Bytes of a rank of the statistics: the nets twice, the activations of one batch, and the sums."""
    config = experiment.statistics
    values = sum(
        width * math.prod(shape)
        for units in joined.values()
        for width, shape in zip(units.widths, units.map_shapes, strict=True)
    )
    most = max(units.n_units for units in joined.values())
    sums, tile = pass_memory(config, most)
    sums += kept_maps(config, joined.values(), n_pilot(config))
    sums += sum(null_cost(units, config).memory_bytes for units in joined.values())
    return BASE_BYTES + 2 * weights_bytes + 2 * 4.0 * config.batch_size * values + max(sums, tile or 0.0)


def kept_maps(config: StatisticsConfig, joined: Iterable[JoinedUnits], n_images: int) -> float:
    """Bytes of the pilot's maps that are kept for the sums, with pre-activations; 0 if they do not fit.

    ``n_images`` are all images that are read. A layer of several comparisons counts once for each.
    """
    values = sum(
        width * math.prod(shape) * (1 + (kind == "pre-activations"))
        for units in joined
        for width, shape, kind in zip(units.widths, units.map_shapes, units.null_kind, strict=True)
    )
    needed = 4.0 * values * min(n_pilot(config), n_images)
    return needed if needed <= KEPT_BYTES else 0.0


def analysis_need(experiment: Experiment, joined: Mapping[str, JoinedUnits]) -> StageNeed:
    """Memory of a worker and time on one core, by the model that cuts the tasks; all units count as active."""
    from convergence.analysis.pair import pair_steps  # not needed where a check is kept
    from convergence.analysis.plan import pair_memory
    from convergence.analysis.steps import PairShape

    config, statistics = experiment.analysis, experiment.statistics
    memory = seconds = 0.0
    for units in joined.values():
        whole = units.nets == units.of_net
        draws = {"sums": config.rotations, "pre-activations": statistics.null.draws}
        members = list(zip(units.widths, units.null_kind, strict=True))
        for (x, kind_x), (y, kind_y) in itertools.combinations(members, 2):
            shape = PairShape(
                x, y, statistics.groups, whole, statistics.mutual_information.enabled, labels=statistics.class_sums,
                null_draws=(draws.get(kind_y, 0), draws.get(kind_x, 0)), rotates_sums="sums" in (kind_x, kind_y),
            )  # fmt: skip
            memory = max(memory, pair_memory(shape, config, len(members), statistics.subset))
            seconds += sum(step.seconds for step in pair_steps(shape, config))
    return StageNeed("analyze", memory, seconds, "pairs of nets, on one core, by the model of `convergence show`")


def needs_text(needs: Needs, where: str) -> list[str]:
    """Lines of text: disk, then memory and time of the stages."""
    lines = []
    if needs.stages:
        lines.append(f"estimates {where}")
        for need in needs.stages:
            time = "" if need.seconds is None else f", about {readable_seconds(need.seconds)}: {need.basis}"
            lines.append(f"  {need.stage:<11} memory {readable_bytes(need.memory_bytes):>8}{time}")
    return lines + disk_text(needs.disk)


def disk_text(disk: tuple[FileSize, ...]) -> list[str]:
    """Lines of text: the sizes of all files."""
    if not disk:
        return []
    total = sum(item.bytes for item in disk)
    lines = [f"about {readable_bytes(total)} on disk, without the report (some MB)"]
    return lines + [f"  {item.stage:<11} {readable_bytes(item.bytes):>8}  {item.what}" for item in disk]
