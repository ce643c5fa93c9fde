"""From unfinished tasks to dependent Slurm jobs, and the sbatch script of each job.

The scripts are plain text: a reader sees the command that will run, and a job starts in the environment of its
submission even where the site's batch shell has another one. ``exec`` replaces the batch shell by
:mod:`slurm.job_runner`, which so receives the signal before the time limit (``--signal=B:`` goes to the batch shell).
"""

from __future__ import annotations

import os
import shlex
import site
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from convergence.runs.run_folder import RunFolder
from convergence.runs.stages import OPTIONAL, STAGES
from convergence.runs.tasks import StageTask
from slurm.container import container_words, python_words
from slurm.environment import script_lines
from slurm.profile import AnalyzeResources, ClusterProfile, Resources, TrainResources
from slurm.shell import check_paths, directive, expanded, literal_pattern, module_lines

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
"""Folder of the packages of this toolkit."""


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
    data : folders of the config and of the data, which a container needs
    data_texts : other paths in the config, in which the job expands ``~`` and ``$NAME``
    overrides : ``--set`` options; paths in them are expanded where the job runs
    allowed_code : ``--allow-code`` options
    overwrite : whether results of other settings are deleted instead of moved aside
    """

    experiment: str
    number: int
    run: Path
    python: str
    search_path: tuple[str, ...]
    cwd: str
    data: tuple[str, ...] = ()
    data_texts: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    overwrite: bool = False
    allowed_code: tuple[str, ...] = ()

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
        return f"{literal_pattern(str(self.folder))}/logs/{job.name}-{'%A_%a' if job.array else '%j'}.log"

    def check(self) -> None:
        """Raise a UserError if a path cannot be passed to a job."""
        check_paths((str(self.run), self.cwd, self.python))
        check_paths(self.search_path, ":")


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
    """Shell lines that prepare a job.

    They remove variables of the submitting job, run ``setup``, load the modules (the job ends if one is missing) and
    set environment variables. A PYTHONPATH of the profile follows the toolkit's.
    """
    packages = () if resources.container is None else ("site-packages", "dist-packages")
    folders = [shlex.quote(path) for path in search_path if os.path.basename(path) not in packages]
    variables = {name: expanded(value) for name, value in resources.environment.items()}
    folders += [variables.pop("PYTHONPATH")] if "PYTHONPATH" in variables else []
    variables = {"PYTHONPATH": ":".join(folders)} | variables
    if resources.container is not None:
        variables["PYTHONNOUSERSITE"] = "1"  # packages in the user's home belong to another Python
    exports = [f"export {name}={value}" for name, value in variables.items()]
    return [*script_lines(resources.keep_variables), *resources.setup, *module_lines(resources.modules), *exports]


def search_path(code: str, path: Sequence[str] = sys.path) -> list[str]:
    """PYTHONPATH of the jobs: the folder of the code, then folders of ``path`` outside the installation."""
    installed = {os.path.realpath(path) for path in sysconfig.get_paths().values()}
    installed.add(os.path.realpath(os.path.join(sysconfig.get_path("stdlib"), "lib-dynload")))
    installed |= {ROOT, os.path.dirname(sys.executable), os.path.realpath(site.getusersitepackages())}
    found = [code]
    for entry in path:
        real = os.path.realpath(entry or os.getcwd())
        if real not in installed and not real.endswith(".zip") and os.path.isdir(real) and real not in found:
            found.append(real)
    return found


def _options(
    profile: ClusterProfile, job: Job, settings: ScriptSettings, resources: Resources, dependency: str
) -> list[str]:
    """The #SBATCH lines of a stage."""
    throttle = f"%{resources.parallel}" if isinstance(resources, TrainResources) and resources.parallel else ""
    requeue = profile.requeue
    first: dict[str, str | bool | None] = {
        "job-name": f"{settings.experiment}-{job.name}",
        "output": settings.log(job),
        "open-mode": "append",
        "chdir": settings.cwd,
        "array": f"0-{len(job.tasks) - 1}{throttle}" if job.array else None,
        "dependency": dependency or None,
        "kill-on-invalid-dep": "yes" if dependency else None,
    }
    last: dict[str, str | bool | None] = {
        "requeue" if requeue.method == "scontrol" else "no-requeue": True,
        "signal": f"B:{requeue.signal}@{requeue.signal_s}" if requeue.method != "none" else None,
        "comment": str(settings.run),
    }
    return option_lines(first, resources, last)


def option_lines(
    first: Mapping[str, str | bool | None], resources: Resources, last: Mapping[str, str | bool | None]
) -> list[str]:
    """The #SBATCH lines of a job: given options, resources, more options; without those of ``leave_out``."""
    gpus = f"{resources.gpu_type}:{resources.gpus_per_node}" if resources.gpu_type else f"{resources.gpus_per_node}"
    by_gres = resources.gpu_option == "gres"
    days, minutes = divmod(resources.walltime_min, 1440)
    requested: dict[str, str | int | None] = {
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
    }
    lines = [
        directive(name, None if value is True else str(value))
        for name, value in {**first, **requested, **last}.items()
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
    runner = [settings.python, "-P", "-m", "slurm.job_runner", "--records", settings.run / "jobs"]
    runner += ["--submission", settings.number]
    runner += ["--requeue", profile.requeue.method, "--max-requeues", profile.requeue.max_requeues]
    for name in resources.keep_variables:
        runner += ["--keep-variable", name]
    command = ["-P", "-m", "convergence", job.stage, settings.config, "--runs", settings.run.parent]
    for override in settings.overrides:
        command += ["--set", override]
    if job.stage not in ("analyze", "report"):
        for module in settings.allowed_code:
            command += ["--allow-code", module]
    if settings.overwrite:
        command.append("--overwrite")
    if isinstance(resources, AnalyzeResources) and resources.workers > 1:
        command += ["--workers", resources.workers]
    folders = [str(settings.run.parent), *settings.search_path, *settings.data]
    inside = container_words(resources, folders, settings.cwd, settings.data_texts)
    started = [*python_words(resources, settings.python), _joined(command)]
    started += ["--net", net] if job.stage == "train" else []
    parts = [f"exec {_joined(runner)} --job {task} --", *_launcher(resources)]
    parts += [" ".join(inside)] if inside else []
    return [*lines, "", " \\\n  ".join([*parts, " ".join(started)])]


def _launcher(resources: Resources) -> list[str]:
    if resources.launcher == "none":
        return []
    count: list[object] = ["--ntasks" if resources.launcher == "srun" else "-n", resources.processes]
    if resources.launcher == "srun" and resources.cpus_per_task:
        count += ["--cpus-per-task", resources.cpus_per_task]  # since Slurm 22.05 srun does not inherit it
    return [_joined([resources.launcher, *count, *resources.launcher_arguments])]


def _joined(words: Sequence[object]) -> str:
    return shlex.join(str(word) for word in words)
