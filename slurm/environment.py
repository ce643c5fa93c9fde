"""The environment of submitted jobs: which variables of the surrounding job, launch or notebook are not passed on.

A shell inside a job (an interactive job, JupyterHub, a job that submits its replacement) has variables that describe
this job. In a new job they contradict its own resources, and an MPI library takes them for its launcher. They are
removed from the environment of every ``sbatch`` call, and again by each job script: sites and users may submit a script
in another way. Both use the lists of this file, and ``convergence doctor`` reports what they match.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping

LAUNCH_PREFIXES = (
    "PMI", "OMPI_", "PRTE_", "MV2_", "MPIRUN_", "PALS", "ALPS_", "I_MPI_", "HYDI_", "HYDRA", "MPI_LOCAL",
    "TORCHELASTIC_", "MVP_", "JSM_", "FLUX_",
)  # fmt: skip
"""Variables of an MPI launch (PMI also of PMI2 and PMIx) and of torchrun, by prefix."""
LAUNCH_NAMES = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_NAME",
    "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip
"""Other variables of torchrun."""
SESSION_NAMES = ("MPLBACKEND", "LD_PRELOAD")
"""Variables of a notebook or a remote desktop: its drawing backend, and libraries that compute nodes may lack."""
SESSION_PREFIXES = ("JPY_", "JUPYTER")
"""Variables of Jupyter, its access tokens included."""
DEVICE_NAMES = (
    "CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK",
)  # fmt: skip
"""Devices of the surrounding job. Slurm sets them in a job that has devices, so job scripts do not unset them."""
JOB_PREFIXES = ("SLURM_", "SLURMD_", "SBATCH_", "SALLOC_", "SRUN_")
"""Variables of the surrounding job. Slurm sets ``SLURM_*`` of the new job, so job scripts do not unset them."""
STALE_IN_JOB = ("SLURM_EXPORT_ENV", "SLURM_CPU_BIND", "SLURM_STEP", "SLURM_SRUN_COMM")
"""Prefixes of variables that belong to a step or to sbatch; in a job script they would change what srun starts."""
SCRATCH_NAMES = ("TMPDIR", "TMP", "TEMP")
"""Scratch folders; those of a surrounding job exist only on its nodes and only while it runs."""
KEPT = ("SLURM_CONF", "SLURM_JWT", "FLUX_URI", "I_MPI_ROOT", "OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")
"""Variables of the installation and of the user that match a list above and are kept."""
SBATCH_DEFAULTS = {
    "SBATCH_ACCOUNT": "account",
    "SBATCH_PARTITION": "partition",
    "SBATCH_QOS": "qos",
    "SBATCH_RESERVATION": "reservation",
    "SBATCH_CONSTRAINT": "constraint",
}
"""The user's defaults that sbatch gets, each unless the script sets the same option: sbatch prefers the variable."""
QUERY_PREFIXES = ("SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_", "SINFO_")
"""Variables that change what Slurm's queries print or select: with ``SQUEUE_PARTITION``, squeue hides jobs."""
_PREFIXES = (*JOB_PREFIXES, *LAUNCH_PREFIXES, *SESSION_PREFIXES, *QUERY_PREFIXES)
_NAMES = frozenset((*LAUNCH_NAMES, *SESSION_NAMES, *DEVICE_NAMES))


def surrounding(environ: Mapping[str, str], keep: Collection[str] = ()) -> list[str]:
    """Names of the variables that are not passed to a submitted job, sorted.

    ``keep`` names variables that are passed all the same: ``keep_variables`` of the profile.
    """
    inside = "SLURM_JOB_ID" in environ
    return sorted(
        name
        for name in environ
        if (name.startswith(_PREFIXES) or name in _NAMES or (inside and name in SCRATCH_NAMES))
        and name not in KEPT
        and name not in keep
    )


def submission_environment(
    environ: Mapping[str, str], keep: Collection[str] = (), options: Collection[str] = ()
) -> dict[str, str]:
    """The environment of an ``sbatch`` call, or of a query, from that of this process.

    ``keep`` names variables to keep. ``options`` are the long names of the options that the script sets; the user's
    other ``SBATCH_DEFAULTS`` are kept.
    """
    defaults = [name for name, option in SBATCH_DEFAULTS.items() if option not in options]
    removed = set(surrounding(environ, (*keep, *defaults)))
    return {name: value for name, value in environ.items() if name not in removed}


def script_lines(keep: Collection[str] = ()) -> list[str]:
    """Shell lines (bash) that remove the variables of a surrounding launch or session from a job."""
    prefixes = (*LAUNCH_PREFIXES, *SESSION_PREFIXES, *STALE_IN_JOB)
    names = " ".join((*LAUNCH_NAMES, *SESSION_NAMES))
    kept = "|".join(shlex.quote(name) for name in (*KEPT, *keep))
    return [
        "# variables of the shell that submitted this job: of its own job, MPI launch or notebook",
        f"for name in {' '.join(f'${{!{prefix}@}}' for prefix in prefixes)} \\",
        f"  {names}; do",
        f'  case $name in {kept}) ;; *) unset "$name" ;; esac',
        "done",
        '[ -w "${TMPDIR:-/tmp}" ] || unset TMPDIR',
        "export PYTHONSAFEPATH=1",
    ]
