"""Description of a run for ``convergence show CONFIG``: settings, comparisons, cost and stages. Computes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from convergence.cli.output import columns
from convergence.config.schema import Experiment
from convergence.data.images import ImageSet
from convergence.data.user_code import is_allowed
from convergence.errors import UserError
from convergence.progress import readable_bytes, readable_seconds
from convergence.runs.run_folder import RunFolder
from convergence.runs.tasks import describe_changes, read_record
from convergence.settings import Settings


@dataclass(frozen=True)
class ComparisonCost:
    """One comparison, known from the shapes of the layers.

    Attributes
    ----------
    members : nets, or nets at an epoch or a layer
    joins_nets : whether a net takes part more than once
    units : length of the joined axis
    positions, positions_used : positions of a map, and those that are samples of each image; 0 if ``pooled``
    pooled : whether the mean over positions is the sample
    samples : over all images
    tiles : blocks of joint counts; 0 without mutual information
    stored_bytes, scratch_bytes : in statistics.h5, and in scratch files until the stage is finished
    graph_nodes : names of the graph nodes that are read
    """

    name: str
    members: tuple[str, ...]
    joins_nets: bool
    units: int
    positions: int
    positions_used: int
    pooled: bool
    samples: int
    tiles: int
    stored_bytes: int
    scratch_bytes: int
    graph_nodes: tuple[str, ...]


@dataclass(frozen=True)
class StatisticsCost:
    """Size of the statistics.

    Attributes
    ----------
    images, groups, images_per_group : evaluation images and their groups
    families : families of these images; None if every image is a family
    single_images : images that are stored as means over positions
    pilot_images : images that are read before all others
    runs : runs of groups that share forward passes, the largest number of ranks that can share the images
    sums_bytes : memory of a rank for the sums of a group, and for maps of the pilot that are kept
    tile_bytes : memory of the joint counts of a tile, which at most as many ranks as tiles share; None without mutual
        information
    null_share : arithmetic of the chance level of pseudo-nets, in words; "" without it
    """

    images: int
    groups: int
    images_per_group: int
    families: int | None
    single_images: int
    pilot_images: int
    runs: int
    sums_bytes: float
    tile_bytes: float | None
    null_share: str
    comparisons: tuple[ComparisonCost, ...]


@dataclass(frozen=True)
class AnalysisCost:
    """Tasks of the analysis, seconds on one core, and bytes of memory of a worker."""

    tasks: int
    seconds: float
    worker_bytes: float


@dataclass(frozen=True)
class StageState:
    """State of a stage: "missing", "unfinished", "damaged", "stale" or "done".

    ``changes`` lists the settings that differ, for a stale stage; seconds, bytes and time are of a finished stage.
    """

    name: str
    state: str
    changes: str = ""
    seconds: float | None = None
    bytes: int | None = None
    finished: str | None = None


@dataclass(frozen=True)
class RunDescription:
    """The document of ``show CONFIG``.

    Attributes
    ----------
    settings : every setting by its dotted name, defaults included
    data : whether names, sizes and times of the data are those that the run has recorded
    statistics : None, with the reason in ``statistics_unknown``, where the shapes are not known
    analysis : None before the statistics are done
    """

    experiment: str
    folder: str
    settings: dict[str, Any]
    data: str
    statistics: StatisticsCost | None
    statistics_unknown: str
    analysis: AnalysisCost | None
    stages: tuple[StageState, ...]


def describe_run(folder: RunFolder) -> RunDescription:
    """Describe a run from its config, the shapes of its layers and its records."""
    statistics, unknown = None, ""
    try:
        statistics = _statistics(folder.experiment)
    except ImportError:
        unknown = "sizes are not known without torch: pip install 'convergent-learning[train]'"
    except UserError as error:
        unknown = f"sizes are not known: {error}"
    return RunDescription(
        folder.experiment.name, str(folder.path.resolve()), dict(_settings(folder.experiment)), _data(folder),
        statistics, unknown, _analysis(folder), tuple(_stages(folder)),
    )  # fmt: skip


def shapes(experiment: Experiment) -> tuple[ImageSet, Any]:
    """The evaluation images, and a source that knows the shapes of all layers without computing any."""
    if experiment.activations is not None:
        from convergence.statistics.array_source import ArraySource

        arrays = ArraySource(experiment)
        return arrays.images, arrays
    code = {net.spec.code(): net.name for net in experiment.all_nets() if net.spec.code()}
    if experiment.images.code():
        code[experiment.images.code()] = "the data set"
    for name, net in code.items():
        module = name.partition(":")[0]
        if not is_allowed(module):
            raise UserError(
                f"{net} is not built, because that runs the code of {name}; --allow-code {module} builds it."
            )
    import torch

    from convergence.statistics.torch_source import NetSource

    splits = experiment.images.load()
    images = splits.test if experiment.statistics.split == "test" else splits.train
    specs = {net.name: net.spec for net in experiment.all_nets()}
    with torch.device("meta"):
        modules = {
            weights: specs[net].build(images.image_shape, images.n_classes)
            for weights, net in dict.fromkeys((member.weights, member.net) for member in experiment.all_layer_refs())
        }
    return images, NetSource(experiment, modules, images, ["meta"])


def _settings(section: Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in type(section).model_fields:
        value = getattr(section, name)
        path = f"{prefix}{name}"
        if isinstance(value, Settings):
            yield from _settings(value, f"{path}.")
        elif isinstance(value, tuple) and value and isinstance(value[0], Settings):
            for k, item in enumerate(value):
                yield from _settings(item, f"{path}.{k}.")
        elif value is not None:
            yield path, _plain(value)


def _plain(value: Any) -> Any:
    """A setting as TOML's types."""
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value if isinstance(value, bool | int | float) else str(value)


def _data(folder: RunFolder) -> str:
    try:
        return folder.data.status().about
    except UserError as error:
        return str(error)


def _statistics(experiment: Experiment) -> StatisticsCost:
    from convergence.checks.needs import kept_maps
    from convergence.statistics.assembly import information_tiles, n_pilot, pass_memory
    from convergence.statistics.forward_batches import ForwardBatches
    from convergence.statistics.null_costs import null_cost, null_share
    from convergence.statistics.sampling import ImageGroups
    from convergence.statistics.schema import stored_bytes

    config = experiment.statistics
    images, joiner = shapes(experiment)
    joiner.read_masks(config)
    groups = ImageGroups.of(config, len(images), images.families)
    information, n_subset = config.mutual_information, len(groups.subset(config.subset))
    found = []
    for joined in joiner.joined.values():
        used = joined.n_sampled(config.positions)
        coded = information.enabled * joined.n_sampled(information.positions)
        stored = stored_bytes(joined, config, n_subset, images.n_classes)
        found.append(
            ComparisonCost(
                name=joined.name,
                members=tuple(joined.nets),
                joins_nets=joined.nets != joined.of_net,
                units=joined.n_units,
                positions=0 if joined.pooled else joined.n_positions,
                positions_used=0 if joined.pooled else used,
                pooled=joined.pooled,
                samples=groups.n_images * used,
                tiles=len(information_tiles(joined.name, joined.n_units)) if information.enabled else 0,
                stored_bytes=stored,
                scratch_bytes=stored
                + null_cost(joined, config).scratch_bytes
                - null_cost(joined, config).stored_bytes
                + groups.n_images * coded * joined.n_units,
                graph_nodes=tuple(dict.fromkeys(joined.sources)),
            )
        )
    sums_bytes, tile_bytes = pass_memory(config, max(item.units for item in found))
    batches = ForwardBatches(groups, config.batch_size, n_pilot(config))
    sums_bytes += kept_maps(config, joiner.joined.values(), groups.n_images)
    sums_bytes += sum(null_cost(joined, config).memory_bytes for joined in joiner.joined.values())
    return StatisticsCost(
        images=groups.n_images,
        families=None if images.families is None else groups.n_families,
        groups=len(groups),
        images_per_group=len(groups.images(0)),
        single_images=n_subset if config.subset else 0,
        pilot_images=batches.n_pilot_images,
        runs=len(batches.runs),
        sums_bytes=sums_bytes,
        tile_bytes=tile_bytes,
        null_share=null_share(joiner.joined.values(), config),
        comparisons=tuple(found),
    )


def _analysis(folder: RunFolder) -> AnalysisCost | None:
    from convergence.analysis.run import planned

    if folder.state(folder.statistics_task()) != "done":
        return None
    whole = planned(folder.statistics_file, folder.experiment.analysis)
    return AnalysisCost(len(whole.tasks), whole.seconds, whole.memory)


def _stages(folder: RunFolder) -> Iterator[StageState]:
    for work in folder.tasks():
        state, record = folder.state(work), read_record(work.record)
        if state == "done" and record is not None:
            size = sum(record["outputs"].values())
            yield StageState(work.name, state, "", record["seconds"], size, record["finished"])
        else:
            changed = state == "stale" and record is not None
            yield StageState(work.name, state, describe_changes(record, work) if changed and record else "")


def run_text(run: RunDescription) -> str:
    """The description as text."""
    lines = [f"experiment {run.experiment}", f"run folder {run.folder}", "", "config"]
    lines += [f"  {name} = {_toml(value)}" for name, value in run.settings.items()]
    lines += ["", "data", f"  {run.data}", "", "comparisons"]
    lines += _statistics_lines(run.statistics) if run.statistics is not None else [f"  {run.statistics_unknown}"]
    lines += ["", "workers", f"  {_analysis_line(run.analysis)}", "", "stages"]
    for stage in run.stages:
        about = stage.changes
        if stage.seconds is not None and stage.bytes is not None:
            about = f"{stage.seconds:.1f} s, {readable_bytes(stage.bytes)}, finished {stage.finished}"
        lines.append(f"  {stage.name:<22} {stage.state:<11} {about}".rstrip())
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }" if value else "{}"
    return str(value) if isinstance(value, int | float) else f'"{value}"'


def _statistics_lines(cost: StatisticsCost) -> Iterator[str]:
    families = "" if cost.families is None else f" of {cost.families:,} families"
    yield f"  {cost.images:,} images{families} in {cost.groups} groups of about {cost.images_per_group:,}"
    head = ("name", "members", "units", "positions", "samples", "tiles", "in statistics.h5", "scratch", "graph nodes")
    rows = [
        (
            item.name,
            str(len(item.members)),
            f"{item.units:,}",
            "mean of all" if item.pooled else f"{item.positions_used:,} of {item.positions:,}",
            f"{item.samples:,}",
            f"{item.tiles:,}",
            readable_bytes(item.stored_bytes),
            readable_bytes(item.scratch_bytes),
            ", ".join(item.graph_nodes),
        )
        for item in cost.comparisons
    ]
    yield from columns([head, *rows])
    for item in cost.comparisons:
        if item.joins_nets:
            more = f", … ({len(item.members)} members)" if len(item.members) > 12 else ""
            yield f"  {item.name} joins {', '.join(item.members[:12])}{more}"
    if cost.single_images:
        yield f"  {cost.single_images:,} images are stored as means over positions"
    yield f"  pilot: {cost.pilot_images:,} images are read first"
    shared = f"at most {cost.runs} ranks share the images"
    yield f"  sums: {shared}; sums of a group take {readable_bytes(cost.sums_bytes)}"
    if cost.null_share:
        yield f"  sums: {cost.null_share}"
    if cost.tile_bytes is not None:
        tiles = sum(item.tiles for item in cost.comparisons)
        counts = readable_bytes(cost.tile_bytes)
        yield f"  mutual information: at most {tiles} ranks share the tiles; counts of each take {counts}"


def _analysis_line(cost: AnalysisCost | None) -> str:
    if cost is None:
        return "analyze: tasks and memory are known after the statistics"
    return (
        f"analyze: {cost.tasks:,} tasks, about {readable_seconds(cost.seconds)} on one core; memory of a worker "
        f"{readable_bytes(cost.worker_bytes)}"
    )
