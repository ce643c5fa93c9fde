"""``convergence plan``: what a submission would take, before it is made. Computes nothing, writes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from convergence.config.load import read_config
from convergence.runs.run_folder import RunFolder
from convergence.runs.stages import OPTIONAL, STAGES
from convergence.runs.tasks import StageTask, read_record
from slurm import graph
from slurm.profile import AnalyzeResources, ClusterProfile, Resources, TrainResources, read_profile
from slurm.sizes import sizes

DONE = "nothing is missing: all stages are done for these settings"


@dataclass(frozen=True)
class StagePlan:
    """What one stage takes.

    Attributes
    ----------
    stage : its verb
    n_pieces : jobs, or members of an array
    waves : how often as many as may run at a time are run, one after the other
    resources : of each job
    limit_s, estimate_s : seconds of one job: its time limit, and what it took before (None if it never ran)
    """

    stage: str
    n_pieces: int
    waves: int
    resources: Resources
    limit_s: float
    estimate_s: float | None

    @property
    def gpu_hours(self) -> float:
        """GPU-hours if every job runs to its time limit once."""
        return self.n_pieces * self.resources.gpus * self.limit_s / 3600

    @property
    def cpu_hours(self) -> float:
        """Core-hours if every job runs to its time limit once."""
        return self.n_pieces * self.resources.tasks * (self.resources.cpus_per_task or 1) * self.limit_s / 3600


def stage_plans(folder: RunFolder, works: Sequence[StageTask], profile: ClusterProfile) -> list[StagePlan]:
    """What each stage that has something missing takes."""
    plans = []
    for stage in STAGES:
        n_pieces = sum(graph.stage_of(work.name) == stage for work in works)
        if not n_pieces:
            continue
        resources = profile.stage(stage)
        at_a_time = resources.parallel if isinstance(resources, TrainResources) else None
        waves = math.ceil(n_pieces / (at_a_time or n_pieces))
        plans.append(
            StagePlan(stage, n_pieces, waves, resources, 60.0 * resources.walltime_min, estimate(folder, stage))
        )
    return plans


def estimate(folder: RunFolder, stage: str) -> float | None:
    """Median seconds of finished works of a stage in this run folder, for these settings or earlier ones.

    Of nets only trained ones count: the others take no time.
    """
    trained = {f"train {net.name}" for net in folder.experiment.all_nets() if net.trained}
    found = []
    for path in _records(folder.path):
        record = read_record(path)
        name = record.get("work", "") if record else ""
        counts = name in trained if stage == "train" else name == stage
        if counts and record is not None and record.get("seconds") is not None:
            found.append(float(record["seconds"]))
    return median(found) if found else None


def plan(config: str, overrides: Sequence[str], runs: str, cluster: str) -> str:
    """The text that ``plan`` prints."""
    experiment = read_config(config, overrides)
    profile = read_profile(cluster)
    folder = RunFolder(Path(runs) / experiment.name, experiment)
    works = graph.missing(folder)
    if not works:
        return DONE
    plans = stage_plans(folder, works, profile)
    n_sbatch = len(graph.jobs(works, profile))
    done = len(folder.tasks()) - len(works)
    lines = [f"{experiment.name}: {len(works)} pieces are missing, {done} are done; {n_sbatch} sbatch jobs"]
    rows = [("stage", "pieces", "at a time", "tasks", "cores", "GPUs", "memory", "time limit", "took before")]
    for item in plans:
        resources = item.resources
        workers = f" ({resources.workers} workers)" if isinstance(resources, AnalyzeResources) else ""
        memory = f"{resources.memory_gb:g} GiB a node" if resources.memory_gb else "the site's default"
        rows.append(
            (
                item.stage,
                str(item.n_pieces),
                str(math.ceil(item.n_pieces / item.waves)),
                f"{resources.tasks} on {resources.nodes} node{'s' * (resources.nodes > 1)}",
                f"{resources.tasks * (resources.cpus_per_task or 1)}{workers}",
                str(resources.gpus),
                memory,
                readable_time(item.limit_s),
                "" if item.estimate_s is None else readable_time(item.estimate_s),
            )
        )
    lines += _table(rows)
    limit = _from_start_to_end((item.stage, item.waves * item.limit_s) for item in plans)
    lines.append("")
    lines.append(
        f"at most {sum(item.gpu_hours for item in plans):.4g} GPU-hours and "
        f"{sum(item.cpu_hours for item in plans):.4g} core-hours, if each job ran to its time limit once"
    )
    known = [(item.stage, item.waves * item.estimate_s) for item in plans if item.estimate_s is not None]
    if len(known) == len(plans):
        lines.append(
            f"from start to report about {readable_time(_from_start_to_end(known))} and the waits in the queue, by "
            "earlier runs"
        )
    lines.append(f"from start to report at most {readable_time(limit)} and the waits in the queue, by the time limits")
    if profile.requeue.by != "none":
        lines.append(
            f"each job may be started again up to {profile.requeue.most} times ({profile.requeue.by}), with what it "
            "has done kept"
        )
    return "\n".join([*lines, *sizes(folder)])


def _from_start_to_end(stages: Iterable[tuple[str, float]]) -> float:
    """Seconds of stages that follow each other; optional ones run side by side."""
    total = beside = 0.0
    for stage, seconds in stages:
        if stage in OPTIONAL:
            beside = max(beside, seconds)
        else:
            total, beside = total + beside + seconds, 0.0
    return total + beside


def readable_time(seconds: float) -> str:
    """A time for people, from seconds to days.

    >>> readable_time(12000)
    '3 h 20 min'
    """
    if seconds < 90:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def _records(run: Path) -> Iterable[Path]:
    for pattern in ("nets/*/record.json", "*.json", "superseded/*/*.json", "superseded/*/*/record.json"):
        yield from sorted(path for path in run.glob(pattern) if path.name != "submitted.json")


def _table(rows: Sequence[tuple[Any, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        ("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip() for row in rows
    ]
