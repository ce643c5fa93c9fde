"""``convergence show``: the resolved config, what is compared, what it costs, what is done. Computes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from convergence.config.schema import Experiment
from convergence.errors import UserError
from convergence.progress import readable_seconds
from convergence.runs.run_folder import RunFolder
from convergence.runs.tasks import read_record
from convergence.settings import Settings
from convergence.statistics.moments import BAND, PRODUCT_SAMPLES
from convergence.statistics.partial_results import MATRIX_BYTES


def describe(folder: RunFolder) -> str:
    """The text that ``show`` prints."""
    lines = [f"experiment {folder.experiment.name}", f"run folder {folder.path.resolve()}", "", "config"]
    lines += [f"  {line}" for line in _settings(folder.experiment)]
    lines += ["", "comparisons"]
    lines += [f"  {line}" for line in _comparisons(folder)]
    lines += ["", "workers"]
    lines += [f"  {line}" for line in _analysis(folder)]
    lines += ["", "stages"]
    lines += [f"  {line}" for line in _stages(folder)]
    return "\n".join(lines)


def _settings(section: Settings, prefix: str = "") -> Iterator[str]:
    """One ``key = value`` line a setting, defaults included, in TOML's spelling."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        path = f"{prefix}{name}"
        if isinstance(value, Settings):
            yield from _settings(value, f"{path}.")
        elif isinstance(value, tuple) and value and isinstance(value[0], Settings):
            for k, item in enumerate(value):
                yield from _settings(item, f"{path}.{k}.")
        elif value is not None:
            yield f"{path} = {_toml(value)}"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }" if value else "{}"
    return str(value) if isinstance(value, int | float) else f'"{value}"'


def _comparisons(folder: RunFolder) -> list[str]:
    """Units, samples and bytes of every comparison, from the shapes alone; a sentence where they cannot be known."""
    experiment = folder.experiment
    from convergence.statistics.assembly import TILE, information_tiles
    from convergence.statistics.sampling import ImageGroups
    from convergence.statistics.schema import stored_bytes

    config = experiment.statistics
    try:
        n_available, joiner = shapes(experiment)
        groups = ImageGroups(n_available, config.groups, config.seed, config.max_images)
        n_images = groups.n_images
    except ImportError:
        return ["sizes are not known without torch: pip install 'convergent-learning[train]'"]
    except UserError as error:
        return [f"sizes are not known: {error}"]
    lines = [f"{n_images:,} images in {len(groups)} groups of {len(groups.images(0)):,}"]
    information = config.mutual_information
    rows = [("name", "members", "units", "positions", "samples", "tiles", "in statistics.h5", "scratch", "graph nodes")]
    n_tiles = 0
    for joined in joiner.joined.values():
        counted = joined.n_sampled(config.positions)
        coded = information.enabled * joined.n_sampled(information.positions)
        tiles = len(information_tiles(joined.name, joined.n_units)) if information.enabled else 0
        n_tiles += tiles
        stored = stored_bytes(joined, config, len(groups.subset(config.subset)))
        rows.append(
            (
                joined.name,
                str(len(joined.nets)),
                f"{joined.n_units:,}",
                "mean of all" if joined.pooled else f"{counted:,} of {joined.n_positions:,}",
                f"{n_images * counted:,}",
                f"{tiles:,}",
                readable_bytes(stored),
                readable_bytes(stored + n_images * coded * joined.n_units),
                ", ".join(dict.fromkeys(joined.sources)),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [
        f"{joined.name} joins {_listed(joined.nets)}"
        for joined in joiner.joined.values()
        if joined.nets != joined.of_net
    ]
    if config.subset:
        lines.append(f"{len(groups.subset(config.subset)):,} images are stored as means over positions")
    most = max(joined.n_units for joined in joiner.joined.values())
    lines.append(
        f"pass 1: up to {len(groups)} ranks share the groups; sums in the memory of each {readable_bytes(_sums(most))}"
    )
    if information.enabled:
        side = min(TILE, most)
        counts = 4 * side**2 * information.bins**2 * min(information.blocks, len(groups))
        lines.append(f"pass 2: up to {n_tiles} ranks share the tiles; joint counts of one {readable_bytes(counts)}")
    return lines


def _analysis(folder: RunFolder) -> list[str]:
    """Tasks, time and memory of the analysis, as far as they are known."""
    from convergence.analysis.run import planned

    if folder.state(folder.statistics_task()) != "done":
        return ["analyze: tasks and memory are known when the statistics are done"]
    whole = planned(folder.statistics_file, folder.experiment.analysis)
    return [
        f"analyze: {len(whole.tasks):,} tasks, about {readable_seconds(whole.seconds)} on one core; memory of a worker "
        f"{readable_bytes(whole.memory)}"
    ]


def shapes(experiment: Experiment) -> tuple[int, Any]:
    """Number of images there are, and a source that knows the shapes of all layers without computing any."""
    if experiment.activations is not None:
        from convergence.statistics.activation_source import ArraySource

        arrays = ArraySource(experiment)
        return len(arrays.images), arrays
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
    return len(images), NetSource(experiment, modules, images, "meta")


def _listed(names: tuple[str, ...], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f", … ({len(names)} members)" if len(names) > most else "")


def _sums(n_units: int) -> float:
    """Memory of the sums of one comparison: samples gathered and centred, and the matrix or a band of it."""
    matrix = 8 * n_units**2
    return 2 * 4 * PRODUCT_SAMPLES * n_units + (matrix if matrix <= MATRIX_BYTES else 3 * 8 * BAND * n_units)


def readable_bytes(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"


def _stages(folder: RunFolder) -> Iterator[str]:
    for work in folder.tasks():
        state = folder.state(work)
        record = read_record(work.record)
        about = ""
        if state == "done" and record is not None:
            size = sum(record["outputs"].values())
            about = f"{record['seconds']:.1f} s, {readable_bytes(size)}, finished {record['finished']}"
        elif state == "stale" and record is not None:
            from convergence.runs.tasks import describe_changes

            about = describe_changes(record, work)
        yield f"{work.name:<22} {state:<11} {about}".rstrip()
