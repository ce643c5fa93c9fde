"""``convergence plan``: jobs, hours and bytes of a submission, before it is made. Computes and writes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from convergence.checks.needs import (
    FileSize,
    Needs,
    StageNeed,
    disk_text,
    needs_text,
    net_sizes,
    picture_sizes,
    sum_sizes,
)
from convergence.checks.run import NO_TORCH, kept
from convergence.cli.run_description import shapes
from convergence.config.load import read_config
from convergence.config.schema import Experiment
from convergence.errors import UserError
from convergence.progress import readable_seconds
from convergence.runs.run_folder import RunFolder
from convergence.runs.stages import OPTIONAL, STAGES
from convergence.runs.tasks import StageTask, read_record
from slurm.jobs import make_jobs, stage_of, unfinished
from slurm.profile import AnalyzeResources, ClusterProfile, TrainResources, read_profile

DONE = "nothing to submit: all stages are done for these settings"


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
    checked : memory and time by the kept outcome of `convergence check`; none without it
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
    checked: tuple[StageNeed, ...]


def estimate_run(config: str, overrides: Sequence[str], runs: str, cluster: str) -> RunEstimate:
    """Resources of the unfinished stages of a config on a cluster."""
    experiment = read_config(config, overrides)
    profile = read_profile(cluster)
    folder = RunFolder(Path(runs) / experiment.name, experiment)
    folder.data.doubt_changes()
    folder.weights.doubt_changes()
    works = unfinished(folder)
    stages = estimate_stages(folder, works, profile)
    measured = [(item.stage, item.waves * item.measured_s) for item in stages if item.measured_s is not None]
    check = kept(folder)
    disk, reason = (check.needs.disk, "") if check and check.needs.disk else _file_sizes(folder)
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
        checked=check.needs.stages if check else (),
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
    trained = {f"train {net.name}" for net in folder.experiment.all_nets() if net.trained_here}
    names = trained if stage == "train" else {stage}
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
    if estimate.checked:
        lines += needs_text(Needs(stages=estimate.checked), "on the machine of `convergence check`")
    else:
        lines.append("memory and time on one machine are estimated by `convergence check`")
    if estimate.disk_unknown:
        return "\n".join([*lines, f"sizes on disk are not known: {estimate.disk_unknown}"])
    return "\n".join([*lines, *disk_text(estimate.disk)])


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
    experiment = folder.experiment
    try:
        images, source = shapes(experiment)
    except ImportError:
        return [], NO_TORCH
    except UserError as error:
        return [], str(error)
    sizes = [*_net_sizes(experiment), *sum_sizes(experiment, images, source.joined)]
    if folder.has_pictures():
        sizes += picture_sizes(experiment, experiment.images.load().train.image_shape, source.joined)
    return sizes, ""


def _net_sizes(experiment: Experiment) -> Iterator[FileSize]:
    """Weights and checkpoints; nothing if the config gives activations."""
    if experiment.activations is not None:
        return
    import torch

    splits = experiment.images.load()
    total = 0
    with torch.device("meta"):
        for net in experiment.all_nets():
            module = net.spec.build(splits.train.image_shape, splits.train.n_classes)
            total += sum(value.numel() * value.element_size() for value in module.state_dict().values())
    yield from net_sizes(experiment, total)
