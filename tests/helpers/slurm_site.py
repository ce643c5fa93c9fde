"""A real Slurm of four virtual nodes, started once a session, and experiments that run on it.

A file in the folder ``hold`` pauses a stage, a net after its first checkpoint, until a test has acted on its job.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from convergence.cli import main
from slurm.records import Records
from slurm.status import job_states, open_run

HERE = Path(__file__).parents[1] / "cluster" / "site"
TOOLS = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
HOLD = """
import os, sys, time
from pathlib import Path
from convergence.runs import signals

def there(name):
    return (Path(os.environ["HOLD_FOLDER"]) / name).exists()

def holding(function):
    def held(*arguments):
        if "HOLD_FOLDER" not in os.environ:
            return function(*arguments)
        name = sys.argv[1]
        if "--net" in sys.argv:
            name = sys.argv[sys.argv.index("--net") + 1]
            runs = Path(sys.argv[sys.argv.index("--runs") + 1])
            found = f"*/nets/{name}/checkpoint.pt"
            if there(name) and not list(runs.glob(found)):
                time.sleep(0.02)  # a thread writes it
                while list(runs.glob(f"*/nets/{name}/.checkpoint.pt*.partial")):
                    time.sleep(0.01)
            if not list(runs.glob(found)):
                return function(*arguments)
        if there(name):
            (Path(os.environ["HOLD_FOLDER"]) / ("reached-" + name)).touch()
        while there(name) and not signals._received:
            time.sleep(0.05)
        if there("eat-" + name):
            eaten = bytearray(os.urandom(1 << 20)) * 1500
            time.sleep(60)
        if there("break-" + name):
            raise RuntimeError("planted fault")
        return function(*arguments)
    return held

signals.check = holding(signals.check)
signals.is_stopping = holding(signals.is_stopping)
if sys.orig_argv[3:5] == ["convergence", "report"]:  # its figures are not drawn
    from matplotlib.figure import Figure
    from convergence.figures import style

    Figure.get_layout_engine = lambda self: None
    style._write_svg = lambda figure, path: path.write_text("<svg/>", "utf-8")
"""
SURROUNDING = {
    "SLURM_JOB_ID": "77", "SLURM_MEM_PER_CPU": "800", "SLURM_MEM_PER_NODE": "900", "SLURM_NTASKS": "2",
    "SLURM_CPUS_PER_TASK": "4", "SLURM_CPU_BIND": "quiet,mask_cpu:0x3", "SBATCH_PARTITION": "nowhere", "PMI_RANK": "1",
    "PMI_SIZE": "2", "OMPI_COMM_WORLD_SIZE": "2", "RANK": "1", "WORLD_SIZE": "2", "MPLBACKEND": "module://none",
}  # fmt: skip
"""Variables of a shell inside a job and a launch: from there all jobs of the tests are submitted."""
AWKWARD = "50% of it's $HOME ünï"
PROFILE = """
[defaults]
partition = "main"
cpus_per_task = {cpus}
walltime_min = {walltime}
{more}
environment = {{ OMP_NUM_THREADS = "1", MPIR_CVAR_POLLS_BEFORE_YIELD = "0", HOLD_FOLDER = "{hold}" }}
[statistics]
nodes = 2
launcher_arguments = ["--mpi={mpi}"]
cpus_per_task = 1
[requeue]
method = "{method}"
max_requeues = {max_requeues}
signal = "{signal}"
signal_s = {signal_s}
"""


def free_ports(n: int) -> int:
    """The first of n consecutive free ports."""
    for first in range(27000, 60000, 97):
        try:
            for port in range(first, first + n):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")


@pytest.fixture(scope="package")
def cluster(tmp_path_factory):
    """A running Slurm without accounting; this process's environment selects it."""
    for tool in ("slurmctld", "slurmd", "munged"):
        if shutil.which(tool, path=TOOLS) is None:
            pytest.skip(f"no {tool}: sh tests/setup.sh {sys.prefix}, or apt-get install slurm-wlm munge")
    if os.getuid() != 0:
        pytest.skip("starting a Slurm needs root")
    folder = tmp_path_factory.mktemp("slurm")
    environ = os.environ | {"PATH": TOOLS}
    started = subprocess.run(
        ["sh", str(HERE / "start.sh"), str(folder), "4", "2", str(free_ports(5))],
        env=environ, capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    try:
        if started.returncode:
            pytest.skip(f"Slurm did not start: {started.stderr[-500:]}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
            hooks = tmp_path_factory.mktemp("hooks")
            (hooks / "sitecustomize.py").write_text(HOLD, encoding="utf-8")
            patch.syspath_prepend(hooks)
            yield folder
    finally:
        subprocess.run(["sh", str(HERE / "stop.sh"), str(folder)], env=environ, timeout=90, check=False)


class Site:
    """An experiment, its profile, and the files that hold its jobs.

    Nets that are in ``finished``, a run of the same config, need no training.
    """

    def __init__(self, folder: Path, config: Path, finished: Sequence[Path] = (), **profile) -> None:
        self.config, self.runs, self.hold = config, folder / "runs", folder / "hold"
        self.hold.mkdir(parents=True)
        self.runs.mkdir()  # a new folder on the command line would have $HOME expanded
        self.run = self.runs / "tiny"
        for net in finished:
            shutil.copytree(net, self.run / "nets" / net.name)
        if finished:  # nets are valid with the record of the data that they were trained on
            shutil.copytree(finished[0].parents[1] / "data", self.run / "data")
        self.profile = folder / "cluster.toml"
        settings = {
            "cpus": 1,
            "walltime": 30,
            "mpi": "pmi2",
            "method": "scontrol",
            "max_requeues": 3,
            "signal": "USR2",
            "signal_s": 60,
            "more": "",
        }
        hold = str(self.hold).replace("$", "$$")
        self.profile.write_text(PROFILE.format(**settings | profile, hold=hold), encoding="utf-8")
        self.records = Records(self.run / "jobs")

    def submit(self, *more: str) -> int:
        """Submit from a shell inside a job and a launch."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in SURROUNDING.items():
                patch.setenv(name, value)
            return main(["submit", str(self.config), "--runs", str(self.runs), "--cluster", str(self.profile), *more])

    def jobs(self) -> dict[str, tuple[str, str]]:
        """State of each task, and the line about it."""
        return {job.name: (job.state, job.about) for job in job_states(*open_run(str(self.run), ""))}

    def held(self, *names: str) -> None:
        for name in names:
            (self.hold / name).touch()

    def release(self, *names: str) -> None:
        for name in names:
            (self.hold / name).unlink()

    def job(self, task: str) -> str:
        """Slurm's id of the latest job of a task."""
        return self.records.latest().jobs_of(task)[-1].job_id(task)

    def wait(self, condition, what: str, seconds: float = 300):
        """Until a condition holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"{what}: {self.jobs()}\n{queue()}"
            time.sleep(0.3)

    def wait_for(self, seconds: float = 300, **states: str) -> None:
        """Until tasks have these states; "train net1" is written net1."""

        def reached() -> bool:
            found = {name.removeprefix("train "): state for name, (state, _) in self.jobs().items()}
            return all(found[name] == state for name, state in states.items())

        self.wait(reached, str(states), seconds)

    def wait_until_held(self, name: str) -> None:
        """Until a stage waits for its release."""
        self.wait((self.hold / f"reached-{name}").exists, f"{name} is held")

    def wait_for_checkpoint(self, *nets: str) -> None:
        paths = [self.run / "nets" / net / "checkpoint.pt" for net in nets]
        self.wait(lambda: all(path.exists() for path in paths), f"checkpoints of {nets}")

    def wait_for_the_queue(self) -> None:
        """Until no job of the run is left: a task is done a moment before its job has ended."""
        self.wait(lambda: str(self.run) not in alive_comments(), "the end of the jobs")

    def states(self, task: str) -> list[str]:
        """States of all attempts at a task."""
        return [attempt.state for attempt in self.records.attempts(task)]

    def log(self, task: str, attempt: int = -1) -> str:
        return Path(self.records.attempts(task)[attempt].log).read_text(encoding="utf-8")


def queue() -> str:
    return slurm("squeue", "-t", "all", "-r", "-o", "%i %j %T %r %N")


def slurm(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def site(cluster, tmp_path, tiny_config):
    """A function that makes a site below the test's folder; its jobs are cancelled at the end."""
    sites = []

    def make(name: str = "site", config: Path = tiny_config, **profile) -> Site:
        sites.append(Site(tmp_path / name, config, **profile))
        return sites[-1]

    yield make
    for each in sites:
        if each.records.latest():
            main(["cancel", str(each.run)])


def alive_comments() -> str:
    return slurm("squeue", "-h", "-o", "%k")
