"""``convergence doctor``: problems of a machine, each with its remedy.

Every check is a function that examines one thing and returns a :class:`Finding`. Under ``srun`` or ``mpiexec`` the
checks examine the processes that the launcher started, where most problems of clusters are.
"""

from __future__ import annotations

import getpass
import importlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from convergence.checks.findings import Finding, findings_text
from convergence.checks.run import NO_TORCH, can_check, check_run, stages_ahead
from convergence.cli.launch import check_code
from convergence.config.load import read_config
from convergence.errors import UserError
from convergence.progress import readable_bytes
from convergence.runs.run_folder import RunFolder
from convergence.runs.stages import STAGES
from hpc.comm import Communicator, SerialCommunicator, world
from slurm.environment import surrounding
from slurm.profile import Resources, read_profile
from slurm.slurm_commands import run_command

MIN_FREE_BYTES = 10e9
MAX_SKEW_S = 2.0
PACKAGES = {"torch": "train", "torchvision": "train", "safetensors": "train", "submitit": "slurm", "mpi4py": "mpi"}
"""Packages that the stages import, with the extra that installs each."""
LOCKER = """
import fcntl, sys
try:
    fcntl.lockf(open(sys.argv[1], "r+b"), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(3)
"""


@dataclass(frozen=True)
class Diagnosis:
    """Findings on one host; ``sound`` if none of all its checks found a fault."""

    host: str
    sound: bool
    findings: tuple[Finding, ...]


def check_python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Finding:
    """Version of the interpreter."""
    found = f"{'.'.join(map(str, version))}, {sys.executable}"
    if version < (3, 11):
        return Finding("Python", "fault", found, "Python 3.11 or newer", "make an environment with a newer Python")
    return Finding("Python", "ok", found)


def check_packages() -> Finding:
    """Packages that the stages import."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    absent = [name for name in PACKAGES if name not in versions]
    if absent:
        extras = ",".join(dict.fromkeys(PACKAGES[name] for name in absent))
        return Finding(
            "packages", "fault", f"not installed: {', '.join(absent)}", ", ".join(PACKAGES),
            f"pip install 'convergent-learning[{extras}]'",
        )  # fmt: skip
    return Finding("packages", "ok", ", ".join(f"{name} {version}" for name, version in versions.items()))


def check_scheduler() -> Finding:
    """Slurm's commands and its controller."""
    commands = ("sbatch", "squeue", "scancel", "scontrol", "srun")
    absent = [name for name in commands if shutil.which(name) is None]
    if absent:
        return Finding(
            "Slurm", "fault", f"not on the PATH: {', '.join(absent)}", ", ".join(commands),
            "log in to the cluster, or load its Slurm module",
        )  # fmt: skip
    ok, text = run_command("sinfo", "-h", "-o", "%P %D %t")
    if not ok:
        return Finding(
            "Slurm", "fault", text, "a controller that answers", "check `scontrol ping`; ask the administrator"
        )
    version = run_command("sbatch", "--version")[1].strip()
    has_accounting, _ = run_command("sacct", "-n", "-X", "-S", "now")
    found = f"{version}, accounting {'on' if has_accounting else 'off'}"
    if has_accounting:
        return Finding("Slurm", "ok", found)
    return Finding("Slurm", "note", found + "; status uses the records of the jobs and the queue instead")


def check_requeue() -> Finding:
    """Whether the site requeues jobs."""
    ok, text = run_command("scontrol", "show", "config")
    lines = [line.split("=", 1) for line in text.splitlines() if "=" in line] if ok else []
    value = {key.strip(): value.strip() for key, value in lines}.get("JobRequeue")
    if value is None:
        return Finding("requeue", "note", "not known: scontrol show config does not answer")
    if value == "0":
        return Finding(
            "requeue", "note", "JobRequeue = 0: jobs request requeueing with --requeue, and submit a replacement if it "
            'is refused; where jobs cannot submit jobs, set requeue.method = "chain" in the profile',
        )  # fmt: skip
    return Finding("requeue", "ok", "allowed by default")


def check_mpi(environ: Mapping[str, str] = os.environ) -> Finding:
    """The MPI world against the processes that the launcher started."""
    try:
        importlib.import_module("mpi4py")
    except ImportError:
        return Finding("MPI", "fault", "not installed: mpi4py", "mpi4py", "pip install 'convergent-learning[mpi]'")
    try:
        comm = world(environ)
    except UserError as error:
        return Finding(
            "MPI", "fault", str(error), "one MPI world of all launched processes",
            "list the protocols with `srun --mpi=list` and set one of them in launcher_arguments of the profile",
        )  # fmt: skip
    if comm.size > 1:
        return Finding("MPI", "ok", f"one world of {comm.size} ranks, SLURM_NTASKS={environ.get('SLURM_NTASKS', '-')}")
    return Finding("MPI", "note", "one process; check the launcher with `srun -n 2 --mpi=pmi2 convergence doctor`")


def check_hdf5() -> Finding:
    """Whether h5py can write one file from several ranks."""
    import h5py

    if h5py.get_config().mpi:
        return Finding("h5py", "ok", f"{h5py.__version__} with MPI, HDF5 {h5py.version.hdf5_version}")
    return Finding(
        "h5py", "note", f"{h5py.__version__} without MPI: one rank writes for all, which is slower for large matrices; "
        "install with MPI by HDF5_MPI=ON CC=mpicc pip install --no-binary=h5py h5py",
    )  # fmt: skip


def check_locking(folder: Path) -> Finding:
    """Whether file locks work: a second process must not get the lock of the first."""
    import fcntl

    needed = "exclusive file locks"
    remedy = "set HDF5_USE_FILE_LOCKING=FALSE in [defaults] environment of the profile, or move the runs with --runs"
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return Finding("file locking", "fault", f"{folder}: {error}", needed, remedy)
        other = subprocess.run([sys.executable, "-c", LOCKER, file.name], capture_output=True, timeout=60)
    if other.returncode != 3:
        return Finding("file locking", "fault", f"{folder}: two processes hold the same lock", needed, remedy)
    return Finding("file locking", "ok", f"{folder}")


def check_space(folder: Path) -> Finding:
    """Free space and quota of the runs."""
    free = shutil.disk_usage(folder).free
    found = f"{readable_bytes(free)} free in {folder}"
    needed = f"{readable_bytes(MIN_FREE_BYTES)}; `convergence plan` estimates the size of a run"
    remedy = "free some space, or move the runs with --runs"
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
            file.write(b"\0" * 2**20)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Finding("space", "fault", f"{folder}: writing a file of 1 MiB failed: {error}", needed, remedy)
    answers = [run_command("quota", "-w"), run_command("lfs", "quota", "-u", getpass.getuser(), str(folder))]
    quotas = "\n".join(text for ok, text in answers if ok).strip()
    exceeded = [" ".join(line.split()) for line in quotas.splitlines() if "*" in line]
    if exceeded:
        return Finding("space", "fault", f"{found}; over quota: {exceeded[0]}", needed, remedy)
    found += "; within quota" if quotas else "; no quota known"
    return Finding("space", "fault", found, needed, remedy) if free < MIN_FREE_BYTES else Finding("space", "ok", found)


def check_gpu() -> Finding:
    """GPUs that the driver sees against those that torch can use."""
    ok, text = run_command("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
    seen = "; ".join(line.strip() for line in text.splitlines() if line.strip()) if ok else ""
    try:
        import torch
    except ImportError:
        return Finding("GPU", "note", f"{seen or 'none'}; torch is not installed")
    if torch.cuda.is_available():
        return Finding("GPU", "ok", seen or f"{torch.cuda.device_count()} by torch")
    if seen:
        return Finding(
            "GPU", "fault", f"the driver sees {seen}; torch {torch.__version__} (CUDA {torch.version.cuda}) sees none",
            "a torch build for a CUDA version of this driver",
            "install torch as pytorch.org/get-started describes; in a job, request a GPU with gpus_per_node",
        )  # fmt: skip
    return Finding("GPU", "note", "none on this machine; login nodes usually have none")


def check_clock(folder: Path, now: Callable[[], float] = time.time) -> Finding:
    """The clock of this machine against that of the file system."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
        before = now()
        os.utime(file.name)
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())
        skew = os.stat(file.name).st_mtime - before
    if abs(skew) > MAX_SKEW_S:
        return Finding(
            "clock", "fault", f"the file system of {folder} differs by {skew:+.1f} s from this machine",
            f"at most {MAX_SKEW_S:g} s", "ask the administrator to synchronise the clocks (chronyc tracking)",
        )  # fmt: skip
    return Finding("clock", "ok", f"within {abs(skew):.1f} s of the file system")


def check_ports(comm: Communicator | None = None, host: str | None = None) -> Finding:
    """Whether processes can connect to each other by host name, as training over several nodes does.

    Every process connects to itself; the first rank connects to all ranks, each at a port that the rank has opened.
    """
    if comm is None:
        try:
            comm = world()
        except UserError:  # reported by check_mpi
            comm = SerialCommunicator()
    host = host or socket.gethostname()
    with socket.create_server(("", 0)) as server:
        own = f"{host}:{server.getsockname()[1]}"
        others = [address.decode() for address in comm.gather_bytes(own.encode())[1:]]
        errors = {address: _connection_error(address) for address in (own, *others)}
        comm.barrier()
    failed = [f"{address} ({error})" for address, error in errors.items() if error]
    if failed:
        return Finding(
            "ports", "fault", f"no connection from {host} to {', '.join(failed)}",
            "host names that resolve (getent hosts NAME) and open high ports between nodes",
            "set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME in [defaults] environment of the profile",
        )  # fmt: skip
    return Finding("ports", "ok", f"connected to {', '.join(errors)}")


def _connection_error(address: str) -> str:
    """Why a connection to an address fails; "" if it succeeds."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            return ""
    except OSError as error:
        return str(error)


def check_environment(environ: Mapping[str, str] = os.environ) -> Finding:
    """Variables of a surrounding job, launch or notebook, which are not passed to submitted jobs."""
    names = surrounding(environ)
    if not names:
        return Finding("environment", "ok", "no variables of a surrounding job")
    job = f"inside job {environ['SLURM_JOB_ID']}: " if "SLURM_JOB_ID" in environ else ""
    listed = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
    return Finding(
        "environment", "note", f"{job}{len(names)} variables are not passed to submitted jobs ({listed}); "
        "keep_variables of the profile keeps some",
    )  # fmt: skip


def check_containers(cluster: str) -> list[Finding]:
    """The image and the program of each container of a profile."""
    profile = read_profile(cluster)
    stages: dict[tuple[str, str], list[str]] = {}
    for stage in STAGES:
        resources = profile.stage(stage)
        if resources.container is not None:
            stages.setdefault((resources.container, resources.container_program), []).append(stage)
    return [check_container(profile.stage(names[0]), ", ".join(names)) for names in stages.values()]


def check_container(resources: Resources, stages: str) -> Finding:
    """Whether this machine has the image of some stages and the program that runs it."""
    image = os.path.expanduser(os.path.expandvars(resources.container or ""))
    program, found = resources.container_program, f"{image} for {stages}"
    if shutil.which(program) is None:
        if resources.modules or resources.setup:
            return Finding("container", "note", f"{found}; {program} is not on the PATH here; jobs run setup, modules")
        return Finding(
            "container", "fault", f"{found}; {program} is not on the PATH", f"the program {program}",
            "install Apptainer, load its module, or set container_program in the profile",
        )  # fmt: skip
    if "$" in image:
        return Finding("container", "note", f"{found}; its variable is set only where jobs run")
    if "://" not in image and not Path(image).exists():
        return Finding(
            "container", "fault", f"{found} does not exist", "the image of the container",
            f"build it in a clone of the project: {program} build {image} configs/convergence.def",
        )  # fmt: skip
    return Finding("container", "ok", found)


def run_checks(folder: Path) -> list[Finding]:
    """All findings, in order; a check that raises is a fault."""
    checks: dict[str, Callable[[], Finding]] = {
        "Python": check_python,
        "packages": check_packages,
        "Slurm": check_scheduler,
        "environment": check_environment,
        "requeue": check_requeue,
        "MPI": check_mpi,
        "h5py": check_hdf5,
        "file locking": lambda: check_locking(folder),
        "space": lambda: check_space(folder),
        "GPU": check_gpu,
        "clock": lambda: check_clock(folder),
        "ports": check_ports,
    }
    findings = []
    for name, check in checks.items():
        try:
            findings.append(check())
        except Exception as error:
            findings.append(
                Finding(name, "fault", f"the check failed: {error!r}", remedy="report this line as a defect")
            )
    return findings


def check_config(config: str, overrides: Sequence[str], runs: str) -> list[Finding]:
    """Findings of `convergence check` for a config on this machine."""
    experiment = read_config(config, overrides)
    check_code(experiment)
    run_folder = RunFolder(Path(runs) / experiment.name, experiment)
    if not can_check(experiment):
        return [Finding("run", "note", f"not checked: {NO_TORCH}")]
    run = check_run(run_folder, stages_ahead(run_folder))
    summary = f"{experiment.name}: checked {', '.join(run.checks) or 'nothing, all stages are done'}"
    return [Finding("run", "ok", summary), *run.findings]


def diagnose(
    runs: str, cluster: str | None = None, config: str | None = None, overrides: Sequence[str] = ()
) -> Diagnosis:
    """Examine this machine, the containers of a cluster profile, and a run if a config is given.

    Ranks after the first keep only the faults of their node.

    Raises
    ------
    ConfigError
        for a profile or a config that is not valid.
    """
    folder = Path(runs).resolve()
    while not folder.is_dir():
        folder = folder.parent
    findings = run_checks(folder) + (check_containers(cluster) if cluster else [])
    if config is not None:
        findings += check_config(config, overrides, runs)
    sound = all(finding.level != "fault" for finding in findings)
    try:
        is_first = world().rank == 0
    except UserError:
        is_first = os.environ.get("SLURM_PROCID", "0") == "0"
    if not is_first:  # faults of MPI are the same on all ranks
        findings = [finding for finding in findings if finding.level == "fault" and finding.check != "MPI"]
    return Diagnosis(socket.gethostname(), sound, tuple(findings))


def render(diagnosis: Diagnosis) -> str:
    """The text that ``doctor`` prints; "" without findings."""
    if not diagnosis.findings:
        return ""
    return "\n".join([f"on {diagnosis.host}", *findings_text(diagnosis.findings)])
