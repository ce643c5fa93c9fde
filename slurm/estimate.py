"""``convergence plan``: jobs, hours and bytes of a submission, before it is made. Computes and writes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from convergence.cli.run_description import shapes
from convergence.config.load import read_config
from convergence.errors import UserError
from convergence.progress import readable_bytes, readable_seconds
from convergence.runs.run_folder import RunFolder
from convergence.runs.stages import OPTIONAL, STAGES
from convergence.runs.tasks import StageTask, read_record
from slurm.jobs import make_jobs, stage_of, unfinished
from slurm.profile import AnalyzeResources, ClusterProfile, TrainResources, read_profile

DONE = "nothing to submit: all stages are done for these settings"
PAIR_BYTES = 150_000
"""Bytes of analysis.h5 for each pair of nets of a comparison, without the matrices over units."""


@dataclass(frozen=True)
class StageEstimate:
    """Resources of one stage.

    Attributes
    ----------
    stage : its verb
    jobs : number of jobs or array tasks
    parallel : number of them that may run at a time
    nodes, processes, cores, gpus : of each job
    workers : worker processes of the analysis; None for other stages
    memory_gb : per node, in GiB; None for the site's default
    limit_s : time limit of each job, in seconds
    measured_s : median duration of earlier runs, in seconds; None if there is none
    """

    stage: str
    jobs: int
    parallel: int
    nodes: int
    processes: int
    cores: int
    gpus: int
    workers: int | None
    memory_gb: float | None
    limit_s: float
    measured_s: float | None

    @property
    def waves(self) -> int:
        """How many jobs run one after the other."""
        return math.ceil(self.jobs / self.parallel)


@dataclass(frozen=True)
class FileSize:
    """Bytes of what a stage writes."""

    stage: str
    what: str
    bytes: int


@dataclass(frozen=True)
class RunEstimate:
    """Resources of the unfinished stages of a run.

    Attributes
    ----------
    experiment : its name
    missing : names of the tasks to run
    done : number of finished tasks
    sbatch_jobs : number of calls of sbatch
    stages : resources of every stage with unfinished tasks
    gpu_hours, cpu_hours : upper bounds, if every job runs once until its time limit
    limit_s : upper bound of the time from start to report without waits in the queue, in seconds
    measured_s : the same by earlier runs; None if some stage never ran
    requeue_method, max_requeues : how stopped jobs are restarted
    disk : sizes of what all stages write
    disk_unknown : why sizes are not known; "" if they are
    """

    experiment: str
    missing: tuple[str, ...]
    done: int
    sbatch_jobs: int
    stages: tuple[StageEstimate, ...]
    gpu_hours: float
    cpu_hours: float
    limit_s: float
    measured_s: float | None
    requeue_method: str
    max_requeues: int
    disk: tuple[FileSize, ...]
    disk_unknown: str


def estimate_run(config: str, overrides: Sequence[str], runs: str, cluster: str) -> RunEstimate:
    """Resources of the unfinished stages of a config on a cluster."""
    experiment = read_config(config, overrides)
    profile = read_profile(cluster)
    folder = RunFolder(Path(runs) / experiment.name, experiment)
    folder.data.doubt_changes()
    works = unfinished(folder)
    stages = estimate_stages(folder, works, profile)
    measured = [(item.stage, item.waves * item.measured_s) for item in stages if item.measured_s is not None]
    disk, reason = _file_sizes(folder)
    return RunEstimate(
        experiment=experiment.name,
        missing=tuple(work.name for work in works),
        done=len(folder.tasks()) - len(works),
        sbatch_jobs=len(make_jobs(works, profile)),
        stages=tuple(stages),
        gpu_hours=sum(item.jobs * item.gpus * item.limit_s for item in stages) / 3600,
        cpu_hours=sum(item.jobs * item.cores * item.limit_s for item in stages) / 3600,
        limit_s=_start_to_end((item.stage, item.waves * item.limit_s) for item in stages),
        measured_s=_start_to_end(measured) if len(measured) == len(stages) else None,
        requeue_method=profile.requeue.method,
        max_requeues=profile.requeue.max_requeues,
        disk=tuple(disk),
        disk_unknown=reason,
    )


def estimate_stages(folder: RunFolder, works: Sequence[StageTask], profile: ClusterProfile) -> list[StageEstimate]:
    """Resources of each stage that has unfinished tasks."""
    estimates = []
    for stage in STAGES:
        n_jobs = sum(stage_of(work.name) == stage for work in works)
        if not n_jobs:
            continue
        resources = profile.stage(stage)
        limit = resources.parallel if isinstance(resources, TrainResources) else None
        estimates.append(
            StageEstimate(
                stage=stage,
                jobs=n_jobs,
                parallel=min(limit or n_jobs, n_jobs),
                nodes=resources.nodes,
                processes=resources.processes,
                cores=resources.cores,
                gpus=resources.gpus,
                workers=resources.workers if isinstance(resources, AnalyzeResources) else None,
                memory_gb=resources.memory_gb,
                limit_s=60.0 * resources.walltime_min,
                measured_s=measured_seconds(folder, stage),
            )
        )
    return estimates


def measured_seconds(folder: RunFolder, stage: str) -> float | None:
    """Median duration of finished tasks of a stage in this run folder, for these settings or earlier ones.

    Untrained nets are not counted: making one takes no time.
    """
    names = (
        {f"train {net.name}" for net in folder.experiment.all_nets() if net.trained} if stage == "train" else {stage}
    )
    patterns = (
        "nets/*/record.json",
        "*.json",
        "functional/*.json",
        "superseded/*/*.json",
        "superseded/*/*/record.json",
    )
    records = [read_record(path) for pattern in patterns for path in sorted(folder.path.glob(pattern))]
    found = [record["seconds"] for record in records if record and record.get("task") in names]
    seconds = [float(value) for value in found if value is not None]
    return median(seconds) if seconds else None


def render(estimate: RunEstimate) -> str:
    """The text that ``plan`` prints."""
    if not estimate.missing:
        return DONE
    lines = [
        f"{estimate.experiment}: {len(estimate.missing)} tasks to run, {estimate.done} done; "
        f"{estimate.sbatch_jobs} sbatch jobs"
    ]
    rows = [("stage", "jobs", "at a time", "processes", "cores", "GPUs", "memory", "time limit", "measured")]
    rows += [
        (
            item.stage,
            str(item.jobs),
            str(item.parallel),
            f"{item.processes} on {item.nodes} node{'s' * (item.nodes > 1)}",
            f"{item.cores}" + (f" ({item.workers} workers)" if item.workers else ""),
            str(item.gpus),
            f"{item.memory_gb:g} GiB a node" if item.memory_gb else "site default",
            readable_seconds(item.limit_s),
            "" if item.measured_s is None else readable_seconds(item.measured_s),
        )
        for item in estimate.stages
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines += ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    lines += [
        "",
        f"at most {estimate.gpu_hours:.4g} GPU-hours and {estimate.cpu_hours:.4g} core-hours, if each job runs once "
        "until its time limit",
    ]
    if estimate.measured_s is not None:
        lines.append(
            f"about {readable_seconds(estimate.measured_s)} from start to report by earlier runs, without waits"
        )
    lines.append(f"at most {readable_seconds(estimate.limit_s)} from start to report by the time limits, without waits")
    if estimate.requeue_method != "none":
        lines.append(f"each job restarts up to {estimate.max_requeues} times ({estimate.requeue_method}) and resumes")
    if estimate.disk_unknown:
        return "\n".join([*lines, f"sizes on disk are not known: {estimate.disk_unknown}"])
    total = sum(item.bytes for item in estimate.disk)
    lines.append(f"about {readable_bytes(total)} on disk, without the report (some MB)")
    lines += [f"  {item.stage:<11} {readable_bytes(item.bytes):>8}  {item.what}" for item in estimate.disk]
    return "\n".join(lines)


def _start_to_end(stages: Iterable[tuple[str, float]]) -> float:
    """Seconds of consecutive stages; optional stages run side by side."""
    total = optional = 0.0
    for stage, seconds in stages:
        if stage in OPTIONAL:
            optional = max(optional, seconds)
        else:
            total, optional = total + optional + seconds, 0.0
    return total + optional


def _file_sizes(folder: RunFolder) -> tuple[list[FileSize], str]:
    """Sizes of what the stages write, from shapes alone; or why they are not known."""
    try:
        n_available, joiner = shapes(folder.experiment)
    except ImportError:
        return [], "torch is not installed: pip install 'convergent-learning[train]'"
    except UserError as error:
        return [], str(error)
    return [*_net_sizes(folder), *_sum_sizes(folder, n_available, joiner), *_picture_sizes(folder, joiner)], ""


def _net_sizes(folder: RunFolder) -> Iterator[FileSize]:
    """Weights and checkpoints; nothing if the config gives activations."""
    if folder.experiment.activations is not None:
        return
    import torch

    splits = folder.experiment.images.load()
    total = 0
    with torch.device("meta"):
        for net in folder.experiment.all_nets():
            module = net.spec.build(splits.train.image_shape, splits.train.n_classes)
            total += sum(value.numel() * value.element_size() for value in module.state_dict().values())
    kept = 1 + len(folder.experiment.training.keep_epochs)
    state = 3 if folder.experiment.training.optimizer == "adamw" else 2  # weights and the optimiser's buffers
    yield FileSize("train", "weights of the nets", kept * total)
    yield FileSize("train", "checkpoints, at most two for each net in training", 2 * state * total)


def _sum_sizes(folder: RunFolder, n_available: int, joiner: Any) -> Iterator[FileSize]:
    """The statistics, their scratch files, and the analysis."""
    from convergence.statistics.sampling import ImageGroups
    from convergence.statistics.schema import stored_bytes

    config = folder.experiment.statistics
    groups = ImageGroups(n_available, config.groups, config.seed, config.max_images)
    n_subset = len(groups.subset(config.subset))
    sums = codes = results = 0
    for joined in joiner.joined.values():
        n_units, n_nets = joined.n_units, len(joined.nets)
        sums += stored_bytes(joined, config, n_subset)
        if config.mutual_information.enabled:
            codes += groups.n_images * joined.n_sampled(config.mutual_information.positions) * n_units
        results += 8 * n_units**2 + PAIR_BYTES * math.comb(n_nets, 2)
    yield FileSize("statistics", "statistics.h5, without the histograms of units (some kB each)", sums)
    yield FileSize("statistics", "scratch files, removed at the end", sums + codes)
    yield FileSize("analyze", "analysis.h5, approximately", results)


def _picture_sizes(folder: RunFolder, joiner: Any) -> Iterator[FileSize]:
    """Upper bound for pictures of units: patches as large as the image or ``pictures.max_side``."""
    if not folder.has_pictures():
        return
    config = folder.experiment.pictures
    channels, *sides = folder.experiment.images.load().train.image_shape
    picture = channels * math.prod(min(side, config.max_side) for side in sides)
    per_unit = sum(1 if method == "maximization" else config.top for method in config.methods if method != "filters")
    widths = {
        (net, layer): width
        for joined in joiner.joined.values()
        for net, layer, width in zip(joined.of_net, joined.layers, joined.widths, strict=True)
    }
    n_units = sum(widths.get((net.name, layer), 0) for net, layers in folder.experiment.pictured() for layer in layers)
    yield FileSize("pictures", "pictures.h5 and its scratch files, at most", 2 * n_units * per_unit * picture)
