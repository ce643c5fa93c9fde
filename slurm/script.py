"""A job as sbatch text: a pure function of the profile, the job and the settings of the submission.

The text is the toolkit's own and not submitit's, whose scripts unpickle a function: a reader sees here the very command
that will run, no option is unavoidable, and a job starts in the environment of its submission even where the site's
batch shell has another. submitit writes and submits it (:mod:`slurm.launcher`).

``exec`` puts the wrapper in the place of the batch shell, so that the warning before the time limit (``B:`` sends it to
the batch shell alone) reaches the process that knows what to do: :mod:`slurm.wrapper`.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slurm.graph import Job
from slurm.profile import AnalyzeResources, ClusterProfile, Resources, TrainResources, quoted


@dataclass(frozen=True)
class Setting:
    """What all scripts of a submission share.

    Attributes
    ----------
    experiment : its name
    number : of the submission
    run : the run folder
    python : interpreter
    search_path : folders for PYTHONPATH, the copy of the code first
    cwd : where relative paths of the config start
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
        """The folder of the submission."""
        return self.run / "jobs" / f"{self.number:04d}"

    @property
    def config(self) -> Path:
        """The config that the jobs read."""
        return self.folder / "config.toml"

    def log(self, job: Job) -> str:
        """Path of what a job prints, with Slurm's patterns."""
        return str(self.folder / "logs" / f"{job.name}-{'%A_%a' if job.array else '%j'}.log")


def script(profile: ClusterProfile, job: Job, setting: Setting, dependency: str = "") -> str:
    """The sbatch text of a job; ``dependency`` as Slurm writes it, for example "afterok:12"."""
    resources = profile.stage(job.stage)
    what = ", ".join(job.pieces)
    lines = ["#!/bin/bash", f"# {setting.experiment}: {what}"]
    lines += _options(profile, job, setting, resources, dependency)
    lines += ["", *resources.setup] if resources.setup else [""]
    lines += module_lines(resources)
    lines.append(f"export PYTHONPATH={quoted(':'.join(setting.search_path))}")
    lines += [f"export {name}={quoted(value)}" for name, value in resources.environment.items()]
    lines += _body(profile, job, setting, resources)
    return "\n".join(lines) + "\n"


def module_lines(resources: Resources) -> list[str]:
    """Lines that load the modules, or end the job."""
    return [
        f'module load {quoted(module)} || {{ echo "module {module} could not be loaded" >&2; exit 1; }}'
        for module in resources.modules
    ]


def _options(profile: ClusterProfile, job: Job, setting: Setting, resources: Resources, dependency: str) -> list[str]:
    """The #SBATCH lines: those of the profile, less what is to be left out, and what is passed through."""
    gpus = f"{resources.gpu_type}:{resources.gpus_per_node}" if resources.gpu_type else f"{resources.gpus_per_node}"
    by_gres = resources.gpu_option == "gres"
    throttle = f"%{resources.parallel}" if isinstance(resources, TrainResources) and resources.parallel else ""
    memory = None if resources.memory_gb is None else f"{round(1024 * resources.memory_gb)}M"
    options: dict[str, str | bool | int | None] = {
        "job-name": f"{setting.experiment}-{job.name}",
        "output": setting.log(job),
        "open-mode": "append",
        "chdir": setting.cwd,
        "array": f"0-{len(job.pieces) - 1}{throttle}" if job.array else None,
        "dependency": dependency or None,
        "kill-on-invalid-dep": "yes" if dependency else None,
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "reservation": resources.reservation,
        "time": _time(resources.walltime_min),
        "nodes": resources.nodes,
        "ntasks-per-node": resources.tasks_per_node,
        "cpus-per-task": resources.cpus_per_task,
        "gpus-per-node": gpus if resources.gpus_per_node and not by_gres else None,
        "gres": f"gpu:{gpus}" if resources.gpus_per_node and by_gres else None,
        "mem": memory,
        "requeue" if profile.requeue.by == "scontrol" else "no-requeue": True,
        "signal": f"B:{profile.requeue.signal}@{profile.requeue.signal_s}" if profile.requeue.by != "none" else None,
        "comment": str(setting.run),
    }
    lines = [
        f"#SBATCH --{name}" if value is True else f"#SBATCH --{name}={quoted(value)}"
        for name, value in options.items()
        if value is not None and name not in resources.leave_out
    ]
    return lines + [f"#SBATCH {line}" for line in resources.sbatch]


def _body(profile: ClusterProfile, job: Job, setting: Setting, resources: Resources) -> list[str]:
    """What runs: the wrapper in the place of the shell, and below it the launcher and the stage."""
    piece = '"train $net"' if job.array else quoted(job.pieces[0])
    net = '"$net"' if job.array else quoted(job.pieces[0].removeprefix("train "))
    lines = []
    if job.array:
        nets = " ".join(quoted(name.removeprefix("train ")) for name in job.pieces)
        lines += [f"nets=({nets})", "net=${nets[$SLURM_ARRAY_TASK_ID]}"]
    wrapper = [setting.python, "-P", "-m", "slurm.wrapper", "--jobs", setting.run / "jobs"]
    wrapper += ["--submission", setting.number, "--requeue", profile.requeue.by, "--most", profile.requeue.most]
    command = [setting.python, "-P", "-m", "convergence", job.stage, setting.config]
    command += ["--runs", setting.run.parent]
    for override in setting.overrides:
        command += ["--set", override]
    if setting.overwrite:
        command.append("--overwrite")
    if isinstance(resources, AnalyzeResources) and resources.workers > 1:
        command += ["--workers", resources.workers]
    started = _joined(command) + (f" --net {net}" if job.stage == "train" else "")
    steps = " \\\n  ".join([f"exec {_joined(wrapper)} --piece {piece} --", *_launcher(resources), started])
    return [*lines, "", steps]


def _launcher(resources: Resources) -> list[str]:
    if resources.launcher == "none":
        return []
    count = ["--ntasks" if resources.launcher == "srun" else "-n", resources.tasks]
    if resources.launcher == "srun" and resources.cpus_per_task:
        count += ["--cpus-per-task", resources.cpus_per_task]  # srun does not take it from the job since Slurm 22.05
    return [_joined([resources.launcher, *count, *resources.launcher_arguments])]


def _joined(words: Sequence[object]) -> str:
    return shlex.join(str(word) for word in words)


def _time(minutes: int) -> str:
    days, rest = divmod(minutes, 1440)
    return f"{days}-{rest // 60:02d}:{rest % 60:02d}:00"
