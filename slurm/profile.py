"""Cluster profiles: the resources that each stage requests from a site, as TOML.

``[defaults]`` applies to all stages; ``[train]``, ``[statistics]`` and the other stages override it key by key (a list
replaces a list). Each sbatch option that the scripts write can be left out, and other options can be added.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from convergence.config.load import parse_toml, read_text, validated
from convergence.errors import ConfigError, did_you_mean
from convergence.runs.stages import SHARED, STAGES
from convergence.settings import Settings

SBATCH_OPTIONS = (
    "job-name", "output", "open-mode", "chdir", "time", "nodes", "ntasks-per-node", "cpus-per-task", "gpus-per-node",
    "gres", "mem", "partition", "account", "qos", "constraint", "reservation", "signal", "requeue", "no-requeue",
    "kill-on-invalid-dep", "comment",
)  # fmt: skip
"""Options that the scripts write and ``leave_out`` accepts."""
REQUIRED_OPTIONS = {
    "array": "set train.array = false to submit one job for each net",
    "dependency": "a stage must not start before its inputs exist",
}
Line = Annotated[str, Field(pattern=r"^[^\n\r]+$")]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Word = Annotated[str, Field(pattern=r"^[^\s]+$")]


class Resources(Settings):
    """Resources of each job of one stage."""

    partition: Word | None = Field(None, description="Partition; default: the site's default.")
    account: Word | None = Field(None, description="Account to charge.")
    qos: Word | None = Field(None, description="Quality of service.")
    constraint: Line | None = Field(None, description="Required node features, for example 'a100|h100'.")
    reservation: Word | None = Field(None, description="Reservation to use.")
    nodes: int = Field(1, ge=1, le=100_000, description="Nodes per job.")
    tasks_per_node: int = Field(
        1,
        ge=1,
        le=10_000,
        description="Processes per node: MPI ranks of the statistics, torch processes of other stages.",
    )
    cpus_per_task: int | None = Field(None, ge=1, le=10_000, description="CPU cores per process.")
    gpus_per_node: int = Field(0, ge=0, le=1000, description="GPUs per node.")
    gpu_option: Literal["gpus-per-node", "gres"] = Field(
        "gpus-per-node", description="Form of the GPU request: --gpus-per-node=N or --gres=gpu:N."
    )
    gpu_type: Word | None = Field(None, description="GPU type, for example 'a100'.")
    memory_gb: float | None = Field(None, gt=0, le=1e6, description="Memory per node, in GiB.")
    walltime_min: int = Field(60, ge=1, le=1_000_000, description="Time limit of a job, in minutes.")
    setup: tuple[str, ...] = Field((), description="Shell lines to run first, for example a source line.")
    modules: tuple[Word, ...] = Field(
        (), description="Modules to load; the job fails if one is not in the list of loaded modules afterwards."
    )
    environment: dict[Variable, str] = Field(
        {}, description="Environment variables to set; the job expands ~ at the start, $NAME and ${NAME} in the values."
    )
    keep_variables: tuple[Variable, ...] = Field(
        (),
        description="Variables of the submitting shell to keep, although they describe its own job or MPI launch, for "
        "example 'SLURM_CLUSTERS'; slurm/environment.py lists them.",
    )
    container: Line | None = Field(
        None, description="Apptainer image in which the stage runs, for example '$SCRATCH/convergence.sif'."
    )
    container_binds: tuple[Line, ...] = Field(
        (),
        description="Further folders to bind, as 'PATH' or 'PATH:INSIDE'. The run folder, the folders of the project, "
        "of the config and of the data are bound in any case.",
    )
    container_program: Line = Field("apptainer", description="Name or path of the program, for example 'singularity'.")
    container_python: Line = Field("python3", description="Interpreter inside the image.")
    container_options: tuple[Line, ...] = Field(
        (), description="Further options of 'exec', for example '--rocm'; --nv is set if the stage requests GPUs."
    )
    launcher: Literal["srun", "mpiexec", "none"] = Field(
        "srun",
        description="Launcher of the processes of a job; 'none' starts one process without a launcher. If mpiexec does "
        "not forward signals, its ranks stop at once and the current image group is recomputed.",
    )
    launcher_arguments: tuple[str, ...] = Field((), description="Arguments of the launcher, for example --mpi=pmi2.")
    sbatch: tuple[Annotated[str, Field(pattern=r"^--?[A-Za-z][^\n\r]*$")], ...] = Field(
        (), description="Further sbatch options, passed unchanged, for example '--licenses=scratch'."
    )
    leave_out: tuple[str, ...] = Field((), description="Options that the site does not accept, for example 'comment'.")

    @field_validator("leave_out")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            bare = name.lstrip("-")
            if bare in REQUIRED_OPTIONS:
                raise ValueError(f'the option "{name}" cannot be left out: {REQUIRED_OPTIONS[bare]}')
            if bare not in SBATCH_OPTIONS:
                raise ValueError(f'the scripts have no option "{name}"; {did_you_mean(bare, SBATCH_OPTIONS)}')
        return tuple(name.lstrip("-") for name in names)

    @model_validator(mode="after")
    def _launcher_can_start(self) -> Resources:
        if self.launcher == "none" and self.processes > 1:
            raise ValueError(
                f'launcher "none" starts 1 process, but nodes x tasks_per_node is {self.processes}; set launcher = '
                '"srun"'
            )
        return self

    @property
    def processes(self) -> int:
        """Processes per job."""
        return self.nodes * self.tasks_per_node

    @property
    def cores(self) -> int:
        """CPU cores per job."""
        return self.processes * (self.cpus_per_task or 1)

    @property
    def gpus(self) -> int:
        """GPUs per job."""
        return self.nodes * self.gpus_per_node


class TorchResources(Resources):
    """Resources of a stage whose processes communicate through torch."""

    @model_validator(mode="after")
    def _torch_finds_processes(self) -> TorchResources:
        if self.launcher == "mpiexec" and self.processes > 1:
            raise ValueError('torch does not find processes that mpiexec starts; set launcher = "srun"')
        return self


class TrainResources(TorchResources):
    """Resources of training; each net is one job or one array task."""

    array: bool = Field(True, description="Train the nets as one array job; false for sites without job arrays.")
    parallel: int | None = Field(
        None, ge=1, le=100_000, description="Maximum number of nets in training at a time; needs the array."
    )

    @model_validator(mode="after")
    def _parallel_needs_array(self) -> TrainResources:
        if self.parallel is not None and not self.array:
            raise ValueError("parallel needs an array job; remove it or set array = true")
        return self


class AnalyzeResources(Resources):
    """Resources of the analysis."""

    workers: int = Field(
        1,
        ge=1,
        le=100_000,
        description="Worker processes: on one node in a submitted run, one job each with `analyze --cluster`.",
    )
    interface: Word | None = Field(
        None, description="Network interface of worker jobs and their scheduler, for example 'ib0'."
    )


class Requeue(Settings):
    """How jobs that a signal or a failing node stops are restarted."""

    method: Literal["scontrol", "chain", "none"] = Field(
        "scontrol",
        description="'scontrol': a job requeues itself, or submits a replacement where requeueing is refused; 'chain': "
        "max_requeues + 1 jobs are submitted at once, each after the previous one, for sites that refuse both; "
        "'none': stopped jobs are not restarted.",
    )
    max_requeues: int = Field(
        3, ge=0, le=100, description="Maximum restarts of a job, those by node failures included."
    )
    signal: Literal["USR2", "TERM"] = Field("USR2", description="Signal that a job receives before its time limit.")
    signal_s: int = Field(120, ge=1, le=1_000_000, description="Seconds between this signal and the time limit.")


class ClusterProfile(Settings):
    """A cluster profile: resources of every stage, and how stopped jobs are restarted."""

    defaults: Resources = Field(Resources(), description="Resources of all stages.")
    train: TrainResources = Field(TrainResources(), description="Overrides for training.")
    statistics: Resources = Field(Resources(), description="Overrides for the statistics.")
    analyze: AnalyzeResources = Field(AnalyzeResources(), description="Overrides for the analysis.")
    pictures: Resources = Field(Resources(), description="Overrides for the pictures.")
    stitch: TorchResources = Field(TorchResources(), description="Overrides for stitching.")
    merge: TorchResources = Field(TorchResources(), description="Overrides for merging.")
    compress: TorchResources = Field(TorchResources(), description="Overrides for compression.")
    ensemble: TorchResources = Field(TorchResources(), description="Overrides for ensembles.")
    average: TorchResources = Field(TorchResources(), description="Overrides for training by averaging.")
    report: Resources = Field(Resources(), description="Overrides for the report.")
    requeue: Requeue = Field(Requeue(), description="How stopped jobs are restarted.")

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, values: Any) -> Any:
        """Merge the defaults into the settings of each stage."""
        if not isinstance(values, dict) or not isinstance(values.get("defaults", {}), dict):
            return values
        try:
            Resources.model_validate(values.get("defaults", {}))
        except ValidationError:
            return values  # reported once, not again for every stage
        inherited = dict(values)
        for stage in STAGES:
            own = values.get(stage, {})
            if isinstance(own, dict):
                inherited[stage] = {**values.get("defaults", {}), **own}
        return inherited

    @field_validator(*(stage for stage in STAGES if stage not in (*SHARED, "statistics")))
    @classmethod
    def _one_process(cls, value: Resources) -> Resources:
        if value.processes > 1:
            raise ValueError(f"the stage runs as 1 process, but nodes x tasks_per_node is {value.processes}")
        return value

    @model_validator(mode="after")
    def _signal_after_start(self) -> ClusterProfile:
        for stage in STAGES:
            limit = 60 * self.stage(stage).walltime_min
            if self.requeue.method != "none" and self.requeue.signal_s >= limit:
                raise ValueError(
                    f"requeue.signal_s is {self.requeue.signal_s} s; it must be less than the time limit of {stage}, "
                    f"{limit} s"
                )
        return self

    def stage(self, name: str) -> Resources:
        """Resources of a stage."""
        resources: Resources = getattr(self, name)
        return resources


def read_profile(path: str | Path) -> ClusterProfile:
    """Read and check a profile.

    Raises
    ------
    ConfigError
        naming the file, the key, what was received and what is valid.
    """
    path = Path(path)
    known = sorted(str(file) for file in Path("configs/clusters").glob("*.toml"))
    if not os.path.lexists(path):
        hint = f" Known profiles: {', '.join(known)}." if known else ""
        raise ConfigError(f"{path}: the cluster profile does not exist.{hint}")
    text = read_text(path, "profile", "Give the path of a .toml file, for example configs/clusters/local_test.toml")
    values = parse_toml(text, str(path))
    return validated(ClusterProfile, values, str(path))
