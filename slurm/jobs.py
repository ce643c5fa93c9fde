"""From unfinished tasks to dependent Slurm jobs, and the sbatch script of each job.

The scripts are plain text: a reader sees the command that will run, and a job starts in the environment of its
submission even where the site's batch shell has another one. ``exec`` replaces the batch shell by
:mod:`slurm.job_runner`, which so receives the signal before the time limit (``--signal=B:`` goes to the batch shell).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from convergence.runs.run_folder import RunFolder
from convergence.runs.stages import OPTIONAL, STAGES
from convergence.runs.tasks import StageTask
from slurm.profile import AnalyzeResources, ClusterProfile, Resources, TrainResources


@dataclass(frozen=True)
class Job:
    """One job to submit.

    Attributes
    ----------
    name : unique within a submission
    stage : verb of the command
    tasks : names of the tasks it runs, for example "train net1"; several for an array
    array : whether it is an array job, one array task for each of its tasks
    after : names of jobs that must succeed before it starts
    after_any : names of jobs that must have ended before it starts: optional stages, the previous job of a chain
    """

    name: str
    stage: str
    tasks: tuple[str, ...]
    array: bool = False
    after: tuple[str, ...] = ()
    after_any: tuple[str, ...] = ()

    def dependency(self, ids: Mapping[str, str]) -> str:
        """Value of ``--dependency``, given Slurm's ids of the other jobs by name; "" without dependencies."""
        named = (("afterok", self.after), ("afterany", self.after_any))
        return ",".join(f"{kind}:{':'.join(ids[name] for name in names)}" for kind, names in named if names)


@dataclass(frozen=True)
class ScriptSettings:
    """What all scripts of a submission share.

    Attributes
    ----------
    experiment : its name
    number : of the submission
    run : the run folder
    python : interpreter
    search_path : folders of PYTHONPATH, the copy of the code first
    cwd : folder that relative paths of the config refer to
    overrides : ``--set`` options
    overwrite : whether results of other settings are deleted instead of moved aside
    """

    experiment: str
    number: int
    run: Path
    python: str
    search_path: tuple[str, ...]
    cwd: str
    overrides: tuple[str, ...] = ()
    overwrite: bool = False

    @property
    def folder(self) -> Path:
        """Folder of the submission."""
        return self.run / "jobs" / f"{self.number:04d}"

    @property
    def config(self) -> Path:
        """The copy of the config that the jobs read."""
        return self.folder / "config.toml"

    def log(self, job: Job) -> str:
        """Path of a job's log, with Slurm's patterns."""
        return str(self.folder / "logs" / f"{job.name}-{'%A_%a' if job.array else '%j'}.log")


def stage_of(task: str) -> str:
    """The stage of a task: "train net1" → "train"."""
    return task.split()[0]


def unfinished(folder: RunFolder) -> list[StageTask]:
    """Tasks that are not done for the present settings, in order.

    The report shows the results of optional stages, so it is made again after them.
    """
    found = [work for work in folder.tasks() if folder.state(work) != "done"]
    report = folder.report_task()
    if any(stage_of(work.name) in OPTIONAL for work in found) and all(work.name != report.name for work in found):
        found.append(report)
    return found


def make_jobs(works: Sequence[StageTask], profile: ClusterProfile) -> list[Job]:
    """Jobs that run the given tasks.

    A stage starts when the last required stage before it has succeeded and the optional stages in between have ended.
    With ``requeue.method = "chain"`` each job becomes a chain of max_requeues + 1 jobs.
    """
    links = profile.requeue.max_requeues + 1 if profile.requeue.method == "chain" else 1
    found: list[Job] = []
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    for stage in STAGES:
        tasks = tuple(work.name for work in works if stage_of(work.name) == stage)
        if not tasks:
            continue
        array = stage == "train" and profile.train.array
        last = []
        for group in [tasks] if array else [(task,) for task in tasks]:
            name = stage if array or stage != "train" else group[0].replace(" ", "-")
            previous = () if stage in OPTIONAL else optional
            for link in range(1, links + 1):
                link_name = name if links == 1 else f"{name}-link{link}"
                found.append(Job(link_name, stage, group, array, required, previous))
                previous = (link_name,)
            last.append(found[-1].name)
        if stage in OPTIONAL:
            optional += tuple(last)
        else:
            required, optional = tuple(last), ()
    return found


def script_text(profile: ClusterProfile, job: Job, settings: ScriptSettings, dependency: str = "") -> str:
    """The sbatch script of a job; ``dependency`` as Slurm writes it, for example "afterok:12"."""
    resources = profile.stage(job.stage)
    lines = ["#!/bin/bash", f"# {settings.experiment}: {', '.join(job.tasks)}"]
    lines += _options(profile, job, settings, resources, dependency)
    lines += ["", *environment_lines(resources, settings.search_path), *_command(profile, job, settings, resources)]
    return "\n".join(lines) + "\n"


def environment_lines(resources: Resources, search_path: Sequence[str]) -> list[str]:
    """Shell lines that prepare a job: setup, modules (the job fails if one is missing), environment variables."""
    modules = [
        f'module load {shlex.quote(module)} || {{ echo "module {module} could not be loaded" >&2; exit 1; }}'
        for module in resources.modules
    ]
    variables = {"PYTHONPATH": ":".join(search_path)} | resources.environment
    return [*resources.setup, *modules, *(f"export {name}={shlex.quote(value)}" for name, value in variables.items())]


def _options(
    profile: ClusterProfile, job: Job, settings: ScriptSettings, resources: Resources, dependency: str
) -> list[str]:
    """The #SBATCH lines."""
    gpus = f"{resources.gpu_type}:{resources.gpus_per_node}" if resources.gpu_type else f"{resources.gpus_per_node}"
    by_gres = resources.gpu_option == "gres"
    throttle = f"%{resources.parallel}" if isinstance(resources, TrainResources) and resources.parallel else ""
    requeue = profile.requeue
    days, minutes = divmod(resources.walltime_min, 1440)
    options: dict[str, str | bool | int | None] = {
        "job-name": f"{settings.experiment}-{job.name}",
        "output": settings.log(job),
        "open-mode": "append",
        "chdir": settings.cwd,
        "array": f"0-{len(job.tasks) - 1}{throttle}" if job.array else None,
        "dependency": dependency or None,
        "kill-on-invalid-dep": "yes" if dependency else None,
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "reservation": resources.reservation,
        "time": f"{days}-{minutes // 60:02d}:{minutes % 60:02d}:00",
        "nodes": resources.nodes,
        "ntasks-per-node": resources.tasks_per_node,
        "cpus-per-task": resources.cpus_per_task,
        "gpus-per-node": gpus if resources.gpus_per_node and not by_gres else None,
        "gres": f"gpu:{gpus}" if resources.gpus_per_node and by_gres else None,
        "mem": None if resources.memory_gb is None else f"{round(1024 * resources.memory_gb)}M",
        "requeue" if requeue.method == "scontrol" else "no-requeue": True,
        "signal": f"B:{requeue.signal}@{requeue.signal_s}" if requeue.method != "none" else None,
        "comment": str(settings.run),
    }
    lines = [
        f"#SBATCH --{name}" if value is True else f"#SBATCH --{name}={shlex.quote(str(value))}"
        for name, value in options.items()
        if value is not None and name not in resources.leave_out
    ]
    return lines + [f"#SBATCH {line}" for line in resources.sbatch]


def _command(profile: ClusterProfile, job: Job, settings: ScriptSettings, resources: Resources) -> list[str]:
    """The lines that run the stage: the job runner, which starts the launcher, which starts the command."""
    nets = [task.removeprefix("train ") for task in job.tasks]
    task, net = shlex.quote(job.tasks[0]), shlex.quote(nets[0])
    lines = []
    if job.array:
        task, net = '"train $net"', '"$net"'
        lines = [f"nets=({_joined(nets)})", "net=${nets[$SLURM_ARRAY_TASK_ID]}"]
    python = [settings.python, "-P", "-m"]
    runner = [*python, "slurm.job_runner", "--records", settings.run / "jobs", "--submission", settings.number]
    runner += ["--requeue", profile.requeue.method, "--max-requeues", profile.requeue.max_requeues]
    command = [*python, "convergence", job.stage, settings.config, "--runs", settings.run.parent]
    for override in settings.overrides:
        command += ["--set", override]
    if settings.overwrite:
        command.append("--overwrite")
    if isinstance(resources, AnalyzeResources) and resources.workers > 1:
        command += ["--workers", resources.workers]
    started = _joined(command) + (f" --net {net}" if job.stage == "train" else "")
    return [*lines, "", " \\\n  ".join([f"exec {_joined(runner)} --job {task} --", *_launcher(resources), started])]


def _launcher(resources: Resources) -> list[str]:
    if resources.launcher == "none":
        return []
    count: list[object] = ["--ntasks" if resources.launcher == "srun" else "-n", resources.processes]
    if resources.launcher == "srun" and resources.cpus_per_task:
        count += ["--cpus-per-task", resources.cpus_per_task]  # since Slurm 22.05 srun does not inherit it
    return [_joined([resources.launcher, *count, *resources.launcher_arguments])]


def _joined(words: Sequence[object]) -> str:
    return shlex.join(str(word) for word in words)
