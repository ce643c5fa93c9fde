"""``convergence doctor``: what is wrong with a machine, and the remedy for each fault.

Each check is a function that looks at one thing and returns a :class:`Finding`. Under ``srun`` or ``mpiexec`` it
examines the world that the launcher made, which is where most faults of clusters are.
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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from convergence.errors import UserError
from convergence.show import readable_bytes
from hpc.comm import Communicator, SerialCommunicator, world
from slurm.scheduler import ask

LITTLE_SPACE = 10e9
SKEW_S = 2.0
LOCKER = """
import fcntl, sys
try:
    fcntl.lockf(open(sys.argv[1], "r+b"), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(3)
"""


@dataclass(frozen=True)
class Finding:
    """What a check found: "ok", a "note" on what is not there and need not be, or a "fault" with its remedy."""

    what: str
    word: Literal["ok", "note", "fault"]
    says: str
    remedy: str = ""


def check_python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Finding:
    """Whether the interpreter is new enough."""
    says = f"{'.'.join(map(str, version))}, {sys.executable}"
    if version < (3, 11):
        return Finding("Python", "fault", says, "make an environment with Python 3.11 or newer")
    return Finding("Python", "ok", says)


def check_packages() -> Finding:
    """Whether what stages import is installed."""
    needed = {"torch": "train", "torchvision": "train", "safetensors": "train", "submitit": "slurm", "mpi4py": "mpi"}
    found = {}
    for name in needed:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    says = ", ".join(f"{name} {version}" for name, version in found.items())
    absent = [name for name in needed if name not in found]
    if absent:
        extras = ",".join(dict.fromkeys(needed[name] for name in absent))
        return Finding(
            "packages", "fault", f"not installed: {', '.join(absent)}", f"pip install 'convergent-learning[{extras}]'"
        )
    return Finding("packages", "ok", says)


def check_scheduler() -> Finding:
    """Whether Slurm's commands are there and answer."""
    absent = [name for name in ("sbatch", "squeue", "scancel", "scontrol", "srun") if shutil.which(name) is None]
    if absent:
        return Finding(
            "Slurm",
            "fault",
            f"no {', '.join(absent)} here",
            "log in to the cluster, or load its slurm module",
        )
    fine, text = ask("sinfo", "-h", "-o", "%P %D %t")
    if not fine:
        return Finding("Slurm", "fault", f"the controller does not answer: {text}", "scontrol ping says if it is up")
    version = ask("sbatch", "--version")[1].strip()
    accounted, _ = ask("sacct", "-n", "-X", "-S", "now")
    says = f"{version}; {len(text.splitlines())} rows of sinfo; accounting {'answers' if accounted else 'is off'}"
    if accounted:
        return Finding("Slurm", "ok", says)
    return Finding("Slurm", "note", says + ": status goes by the markers of the jobs and the queue")


def check_requeue() -> Finding:
    """Whether the site lets jobs be requeued."""
    fine, text = ask("scontrol", "show", "config")
    settings = dict(line.split("=", 1) for line in text.splitlines() if "=" in line) if fine else {}
    value = {key.strip(): v.strip() for key, v in settings.items()}.get("JobRequeue")
    if value is None:
        return Finding("requeue", "note", "not known, scontrol show config does not answer")
    if value == "0":
        return Finding(
            "requeue", "note", "JobRequeue = 0: jobs ask for it with --requeue; one that is refused "
            'submits its successor, and where jobs may not do that either, use requeue.by = "chain" in the profile',
        )  # fmt: skip
    return Finding("requeue", "ok", "allowed by default")


def check_mpi(environ: Mapping[str, str] = os.environ) -> Finding:
    """MPI's world against what the launcher started."""
    try:
        importlib.import_module("mpi4py")
    except ImportError:
        return Finding("MPI", "fault", "mpi4py is not installed", "pip install 'convergent-learning[mpi]'")
    try:
        comm = world(environ)
    except UserError as error:
        return Finding("MPI", "fault", str(error), "srun --mpi=list names the protocols of the site; put the one that "
                       "works into launcher_arguments of the profile")  # fmt: skip
    if comm.size > 1:
        return Finding("MPI", "ok", f"one world of {comm.size} ranks, SLURM_NTASKS={environ.get('SLURM_NTASKS', '-')}")
    return Finding(
        "MPI", "note", "one process; `srun -n 2 --mpi=pmi2 convergence doctor` (or mpiexec -n 2) examines the launcher"
    )


def check_hdf5() -> Finding:
    """Whether ranks can write one file together."""
    import h5py

    if h5py.get_config().mpi:
        return Finding("h5py", "ok", f"{h5py.__version__} with MPI, HDF5 {h5py.version.hdf5_version}")
    return Finding(
        "h5py", "note", f"{h5py.__version__} without MPI: one rank writes for all, slower for large matrices; "
        "HDF5_MPI=ON CC=mpicc pip install --no-binary=h5py h5py builds one that has it",
    )  # fmt: skip


def check_locking(place: Path) -> Finding:
    """Whether the file system of the runs keeps locks: a second process must not get the lock of the first."""
    import fcntl

    remedy = (
        "export HDF5_USE_FILE_LOCKING=FALSE, in [defaults] environment of the profile; or put runs elsewhere (--runs)"
    )
    with tempfile.NamedTemporaryFile(dir=place, prefix=".doctor-") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return Finding("file locking", "fault", f"{place}: {error}", remedy)
        other = subprocess.run([sys.executable, "-c", LOCKER, file.name], capture_output=True, timeout=60)
    if other.returncode != 3:
        return Finding("file locking", "fault", f"{place}: two processes hold one lock", remedy)
    return Finding("file locking", "ok", f"{place}")


def check_space(place: Path) -> Finding:
    """Free space and quota where runs are."""
    free = shutil.disk_usage(place).free
    says = f"{readable_bytes(free)} free in {place}"
    remedy = "make room, or choose another place with --runs; `convergence plan` says what a run needs"
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".doctor-") as file:
            file.write(b"\0" * 2**20)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Finding("space", "fault", f"{place}: a file of 1 MiB cannot be written: {error}", remedy)
    told = [
        text for fine, text in (ask("quota", "-w"), ask("lfs", "quota", "-u", getpass.getuser(), str(place))) if fine
    ]
    over = [line for text in told for line in text.splitlines() if "*" in line]
    if over:
        return Finding("space", "fault", f"{says}; over quota: {' '.join(over[0].split())}", remedy)
    quota = "within quota" if "".join(told).strip() else "no quota is told here"
    if free < LITTLE_SPACE:
        return Finding("space", "fault", f"{says}; {quota}", remedy)
    return Finding("space", "ok", f"{says}; {quota}")


def check_gpu() -> Finding:
    """The GPU that the driver sees against the one that torch can use."""
    fine, text = ask("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
    seen = [line.strip() for line in text.splitlines() if line.strip()] if fine else []
    try:
        import torch
    except ImportError:
        return Finding("GPU", "note", f"{'; '.join(seen) or 'none'}; torch is not installed")
    usable = torch.cuda.is_available()
    if seen and not usable:
        built = torch.version.cuda or "no CUDA at all"
        return Finding(
            "GPU", "fault",
            f"the driver sees {'; '.join(seen)}, torch {torch.__version__} (built for {built}) cannot use it",
            "install the wheels of torch for a CUDA that this driver supports, see pytorch.org/get-started; in a job, "
            "ask for the GPU (gpus_per_node)",
        )  # fmt: skip
    if usable:
        return Finding("GPU", "ok", "; ".join(seen) or f"{torch.cuda.device_count()} by torch")
    return Finding("GPU", "note", "none on this machine; login nodes seldom have one")


def check_clock(place: Path, now: Callable[[], float] = time.time) -> Finding:
    """The clock of this machine against that of the file system."""
    with tempfile.NamedTemporaryFile(dir=place, prefix=".doctor-") as file:
        before = now()
        os.utime(file.name)
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())
        skew = os.stat(file.name).st_mtime - before
    if abs(skew) > SKEW_S:
        return Finding(
            "clock", "fault", f"the file system of {place} is {skew:+.1f} s from this machine",
            "have the administrator set the clocks (chronyc tracking); until then times in status are off",
        )  # fmt: skip
    return Finding("clock", "ok", f"within {abs(skew):.1f} s of the file system")


def check_ports(comm: Communicator | None = None, host: str | None = None) -> Finding:
    """Whether processes reach each other by the names of their machines, as training over nodes does.

    Every process tries itself; of several ranks the first one tries all, each at a port that it has just opened.
    """
    if comm is None:
        try:
            comm = world()
        except UserError:  # which is a finding on MPI
            comm = SerialCommunicator()
    host = host or socket.gethostname()
    with socket.create_server(("", 0)) as server:
        own = f"{host}:{server.getsockname()[1]}"
        others = [address.decode() for address in comm.gather_bytes(own.encode())[1:]]
        errors = {address: _unreached(address) for address in (own, *others)}
        comm.barrier()
    closed = [f"{address} ({error})" for address, error in errors.items() if error]
    if closed:
        return Finding(
            "ports", "fault", f"from {host} there is no reaching {', '.join(closed)}",
            "names must resolve (getent hosts NAME) and high ports be open between nodes; else name the interface "
            "with GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME in [defaults] environment of the profile",
        )  # fmt: skip
    return Finding("ports", "ok", f"{', '.join(errors)} reached")


def _unreached(address: str) -> str:
    """Why nobody answers at an address; "" if somebody does."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            return ""
    except OSError as error:
        return str(error)


def examine(place: Path) -> list[Finding]:
    """All checks, in order; a check that breaks is a fault of its own."""
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("Python", check_python),
        ("packages", check_packages),
        ("Slurm", check_scheduler),
        ("requeue", check_requeue),
        ("MPI", check_mpi),
        ("h5py", check_hdf5),
        ("file locking", lambda: check_locking(place)),
        ("space", lambda: check_space(place)),
        ("GPU", check_gpu),
        ("clock", lambda: check_clock(place)),
        ("ports", check_ports),
    ]
    found = []
    for what, check in checks:
        try:
            found.append(check())
        except Exception as error:
            found.append(Finding(what, "fault", f"the check broke: {error!r}", "tell the authors, with this line"))
    return found


def doctor(runs: str) -> tuple[str, bool]:
    """The text that ``doctor`` prints, and whether there is no fault; ranks after the first tell only their faults."""
    place = Path(runs).resolve()
    while not place.is_dir():
        place = place.parent
    found = examine(place)
    sound = all(finding.word != "fault" for finding in found)
    try:
        quiet = world().rank > 0
    except UserError:
        quiet = os.environ.get("SLURM_PROCID", "0") != "0"
    if quiet:  # what the launcher did wrong is the same on all, and the first one says it
        found = [finding for finding in found if finding.word == "fault" and finding.what != "MPI"]
    lines = [f"on {socket.gethostname()}"] if found else []
    for finding in found:
        lines.append(f"{finding.word:<6}{finding.what:<13} {finding.says}")
        if finding.remedy:
            lines.append(f"{'':<20}remedy: {finding.remedy}")
    return "\n".join(lines), sound
