"""Cluster profiles: what each stage asks of a site, as TOML, because every site differs.

``[defaults]`` holds for all stages; ``[train]``, ``[statistics]`` and the other stages override it key by key (a list
replaces a list). Every option that the scripts write can be left out, and any other one passed through raw.
"""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from convergence.config.load import validated
from convergence.errors import ConfigError, did_you_mean
from convergence.runs.stages import SHARED, STAGES
from convergence.settings import Settings

AVOIDABLE = (
    "job-name", "output", "open-mode", "chdir", "time", "nodes", "ntasks-per-node", "cpus-per-task", "gpus-per-node",
    "gres", "mem", "partition", "account", "qos", "constraint", "reservation", "signal", "requeue", "no-requeue",
    "kill-on-invalid-dep", "comment",
)  # fmt: skip
UNAVOIDABLE = {
    "array": "set train.array = false, which makes a job of each net",
    "dependency": "without it stages would start before what they read is there",
}
Line = Annotated[str, Field(pattern=r"^[^\n\r]+$")]
Word = Annotated[str, Field(pattern=r"^[^\s]+$")]


class Resources(Settings):
    """What the jobs of one stage ask for."""

    partition: Word | None = Field(None, description="Partition; the site's default if not given.")
    account: Word | None = Field(None, description="Account that is charged.")
    qos: Word | None = Field(None, description="Quality of service.")
    constraint: Line | None = Field(None, description="Features that nodes must have, for example 'a100|h100'.")
    reservation: Word | None = Field(None, description="Reservation to run in.")
    nodes: int = Field(1, ge=1, description="Nodes of a job.")
    tasks_per_node: int = Field(
        1, ge=1, description="Processes a node: MPI ranks of the statistics, GPUs of a training or an experiment."
    )
    cpus_per_task: int | None = Field(None, ge=1, description="CPU cores a process.")
    gpus_per_node: int = Field(0, ge=0, description="GPUs a node.")
    gpu_option: Literal["gpus-per-node", "gres"] = Field(
        "gpus-per-node", description="How the site is asked for GPUs: --gpus-per-node=N or --gres=gpu:N."
    )
    gpu_type: Word | None = Field(None, description="Type of GPU, in front of their number.")
    memory_gb: float | None = Field(None, gt=0, description="Memory a node, in GiB.")
    walltime_min: int = Field(60, ge=1, description="Time limit of one job, in minutes.")
    setup: tuple[str, ...] = Field((), description="Shell lines before everything else, for example a source line.")
    modules: tuple[Word, ...] = Field((), description="Modules to load; a job ends at once if one is not there.")
    environment: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], str] = Field(
        {}, description="Environment variables to set."
    )
    launcher: Literal["srun", "mpiexec", "none"] = Field(
        "srun",
        description="What starts the processes of a job inside it; 'none' starts one without a launcher. An mpiexec "
        "that does not pass signals on ends its ranks at once, and an image group is done again.",
    )
    launcher_arguments: tuple[str, ...] = Field((), description="Arguments of the launcher, for example --mpi=pmi2.")
    sbatch: tuple[Annotated[str, Field(pattern=r"^--?[A-Za-z][^\n\r]*$")], ...] = Field(
        (), description="Options passed through as they are, for example '--licenses=scratch'."
    )
    leave_out: tuple[str, ...] = Field((), description="Options that the site does not take, for example 'comment'.")

    @field_validator("leave_out")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            bare = name.lstrip("-")
            if bare in UNAVOIDABLE:
                raise ValueError(f'"{name}" cannot be left out: {UNAVOIDABLE[bare]}')
            if bare not in AVOIDABLE:
                raise ValueError(f'no script has an option "{name}"; {did_you_mean(bare, AVOIDABLE)}')
        return tuple(name.lstrip("-") for name in names)

    @model_validator(mode="after")
    def _startable(self) -> Resources:
        if self.launcher == "none" and self.tasks > 1:
            raise ValueError(f'launcher "none" starts one process, and {self.tasks} are asked for')
        return self

    @property
    def tasks(self) -> int:
        """Processes of a job."""
        return self.nodes * self.tasks_per_node

    @property
    def gpus(self) -> int:
        """GPUs of a job."""
        return self.nodes * self.gpus_per_node


class TorchResources(Resources):
    """What a stage asks for whose processes speak through torch."""

    @model_validator(mode="after")
    def _found_by_torch(self) -> TorchResources:
        if self.launcher == "mpiexec" and self.tasks > 1:
            raise ValueError('launcher "mpiexec" tells torch nothing of its processes; several of them need "srun"')
        return self


class TrainResources(TorchResources):
    """What training asks for, each net a job of its own."""

    array: bool = Field(True, description="Whether the nets are one array job; false for sites without arrays.")
    parallel: int | None = Field(None, ge=1, description="Nets that train at a time, at most; needs the array.")

    @model_validator(mode="after")
    def _throttled(self) -> TrainResources:
        if self.parallel is not None and not self.array:
            raise ValueError("parallel is a setting of arrays; leave it out, or set array = true")
        return self


class AnalyzeResources(Resources):
    """What the analysis asks for."""

    workers: int = Field(
        1,
        ge=1,
        description="Worker processes of the analysis: on one node in a submitted run, each a job of its own with "
        "`convergence analyze --cluster`.",
    )
    interface: Word | None = Field(
        None, description="Network interface of worker jobs and their scheduler, for example 'ib0'."
    )


class Requeue(Settings):
    """What happens to jobs that are stopped before they are done."""

    by: Literal["scontrol", "chain", "none"] = Field(
        "scontrol",
        description="'scontrol': the job puts itself back into the queue, or submits a successor where it may not; "
        "'chain': as many jobs as there may be attempts are submitted beforehand, each after the one before, for sites "
        "where jobs may do neither; 'none': none of it.",
    )
    most: int = Field(3, ge=0, le=100, description="Restarts of a job, at most; failing nodes count.")
    signal: Literal["USR2", "TERM"] = Field("USR2", description="Signal that warns a job of its time limit.")
    signal_s: int = Field(120, ge=1, description="Seconds before the time limit at which it is sent.")


class ClusterProfile(Settings):
    """A whole profile."""

    defaults: Resources = Field(Resources(), description="What all stages ask for.")
    train: TrainResources = Field(TrainResources(), description="What differs for training.")
    statistics: Resources = Field(Resources(), description="What differs for the statistics.")
    analyze: AnalyzeResources = Field(AnalyzeResources(), description="What differs for the analysis.")
    pictures: Resources = Field(Resources(), description="What differs for the pictures.")
    stitch: TorchResources = Field(TorchResources(), description="What differs for stitching.")
    merge: TorchResources = Field(TorchResources(), description="What differs for merging.")
    compress: TorchResources = Field(TorchResources(), description="What differs for compression.")
    ensemble: TorchResources = Field(TorchResources(), description="What differs for ensembles.")
    average: TorchResources = Field(TorchResources(), description="What differs for training by averaging.")
    report: Resources = Field(Resources(), description="What differs for the report.")
    requeue: Requeue = Field(Requeue(), description="What happens to jobs that are stopped.")

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, values: Any) -> Any:
        """Put the defaults below each stage's own settings."""
        if not isinstance(values, dict) or not isinstance(values.get("defaults", {}), dict):
            return values
        try:
            Resources.model_validate(values.get("defaults", {}))
        except ValidationError:
            return values  # its faults are told once, not for every stage again
        inherited = dict(values)
        for stage in STAGES:
            own = values.get(stage, {})
            if isinstance(own, dict):
                inherited[stage] = {**values.get("defaults", {}), **own}
        return inherited

    @field_validator(*(stage for stage in STAGES if stage not in (*SHARED, "statistics")))
    @classmethod
    def _one_process(cls, value: Resources) -> Resources:
        if value.tasks > 1:
            raise ValueError(f"the stage is one process, and nodes x tasks_per_node asks for {value.tasks}")
        return value

    @model_validator(mode="after")
    def _warned_in_time(self) -> ClusterProfile:
        for stage in STAGES:
            limit = 60 * self.stage(stage).walltime_min
            if self.requeue.by != "none" and self.requeue.signal_s >= limit:
                raise ValueError(
                    f"requeue.signal_s: {self.requeue.signal_s} seconds before the time limit of {stage}, "
                    f"{limit} s, is before it starts"
                )
        return self

    def stage(self, name: str) -> Resources:
        """What a stage asks for."""
        resources: Resources = getattr(self, name)
        return resources


def read_profile(path: str | Path) -> ClusterProfile:
    """Read and check a profile; ConfigError says what is wrong with it."""
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        there = sorted(str(file) for file in Path("configs/clusters").glob("*.toml"))
        listed = f" There are: {', '.join(there)}." if there else ""
        raise ConfigError(f"{path}: there is no such cluster profile.{listed}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the profile could not be read: {error}.") from error
    return validated(ClusterProfile, values, str(path))


def quoted(value: object) -> str:
    """A value for a shell line or an #SBATCH line."""
    return shlex.quote(str(value))
