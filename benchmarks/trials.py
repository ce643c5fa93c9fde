"""Small experiments that ``benchmarks.storm`` and ``benchmarks.replay`` interrupt, and the processes that run them.

Commands run in children that are forked after the imports, so that an attempt costs its own work alone. Nothing has
been computed in the parent, which makes a fork sound; a killed child is a real process. Ranks are real commands.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from convergence.cli import main
from convergence.config.load import read_config
from convergence.runs.run_folder import RunFolder
from convergence.runs.stages import STAGE_TABLE
from tests.helpers.ranks import MPIEXEC
from tests.helpers.runs import PLANTED, TINY, planted_activations

FUNCTIONAL = """
[functional.stitch]
comparisons = ["conv1"]
draws = 2
transplant_units = 2
cumulative_steps = 2
sgd_steps = [5]
units_per_target = [2]
penalties = [1e-3]
[functional.merge]
steps = 3
permutations = 2
fit_images = 60
depths = 2
[functional.compress]
shares = [0.5]
draws = 2
images = 60
[functional.average]
workers = 2
epochs = 1
local_steps = [20, "whole"]
alignments = ["none", "weight"]
inits = ["same"]
scored = 2
"""
PACKED = """
name = "images"
[data]
name = "image_folder"
root = "{root}/images"
resize = [40, 44]
crop = 32
[[nets]]
seeds = [1]
network = {{ name = "small" }}
[training]
epochs = 1
loader_workers = 1
[statistics]
comparisons = ["conv1"]
"""
RANK = """
import faulthandler, signal, sys
faulthandler.register(signal.SIGUSR1, all_threads=True)
from convergence.cli import main
sys.exit(main(sys.argv[1:]))
"""
TORCH = ("train", "pictures", "stitch", "merge", "compress", "ensemble", "average")


@dataclass(frozen=True)
class Work:
    """A command that is interrupted.

    Attributes
    ----------
    name : as it is chosen with ``--stages``
    config : "planted" (given activations, no torch), "tiny" (nets on digits) or "images" (a folder of JPEG files)
    arguments : verb and options
    redone : stages whose results are missing at the start; all for ()
    ranks : number of MPI ranks; 0 for one process without a launcher
    """

    name: str
    config: str
    arguments: tuple[str, ...]
    redone: tuple[str, ...] = ()
    ranks: int = 0


def works(ranks: int, workers: int) -> dict[str, Work]:
    """All of them, by name."""
    found = [
        Work("statistics", "planted", ("statistics",), ("statistics",)),
        Work("analyze", "planted", ("analyze", "--workers", "1"), ("analyze",)),
        Work("report", "planted", ("report",), ("report",)),
        Work("run", "planted", ("run", "--workers", "1")),
        Work("ranks", "planted", ("statistics",), ("statistics",), ranks),
        Work("workers", "planted", ("analyze", "--workers", str(workers)), ("analyze",)),
        *(Work(stage, "tiny", (stage,), (stage,)) for stage in TORCH),
        Work("pack", "images", ("pack",)),
    ]
    return {work.name: work for work in found}


class Laboratory:
    """A folder with the inputs of all experiments, and their undisturbed runs in ``base/``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, values in planted_activations().items():
            np.save(folder / f"{name}.npy", values)
        planted = PLANTED.format(root=folder.as_posix()).replace('["conv1", "fc"]', '["fc"]')
        tiny = TINY.replace('["conv1", "conv2", "fc1"]', '["conv1"]').replace("max_images = 200", "max_images = 60")
        tiny = tiny.replace("threads = 1\n", "threads = 1\ncheckpoint_minutes = 1e-6\nkeep_epochs = [0, 1]\n", 1)
        texts = {"planted": planted, "tiny": tiny + FUNCTIONAL, "images": PACKED.format(root=folder.as_posix())}
        for name, text in texts.items():
            (folder / f"{name}.toml").write_text(text, encoding="utf-8")

    def config(self, work: Work) -> Path:
        return self.folder / f"{work.config}.toml"

    def command(self, work: Work, runs: Path) -> list[str]:
        """Arguments of ``convergence``."""
        verb, *options = work.arguments
        return [verb, str(self.config(work)), "--runs", str(runs), *options]

    def make_base(self, chosen: list[Work]) -> None:
        """Make the undisturbed runs that the chosen works need."""
        configs, names = {work.config for work in chosen}, {work.name for work in chosen}
        needed = names | {"statistics"} | ({"analyze"} if names & {"workers", "report"} else set())
        if "images" in configs:
            write_images(self.folder / "images")
        commands = {
            "planted": [[stage] for stage in ("statistics", "analyze", "report") if stage in needed or names & {"run"}],
            "tiny": [["train"], ["statistics"], *([work.name] for work in chosen if work.name in TORCH[1:])],
            "images": [["pack"]],
        }
        for config in sorted(configs):
            for verb, *options in commands[config]:
                arguments = [verb, str(self.folder / f"{config}.toml"), "--runs", str(self.base(config)), *options]
                attempt = forked(arguments, self.folder / f"base-{config}")
                if attempt.wait(1800) != 0:
                    raise SystemExit(f"undisturbed {verb} of {config} failed:\n{attempt.log()}")

    def base(self, config: str) -> Path:
        """The runs folder of an undisturbed run."""
        return self.folder / "base" / config

    def prepare(self, work: Work, runs: Path) -> None:
        """Make a runs folder in which the work is to be done."""
        shutil.rmtree(runs, ignore_errors=True)
        if not work.redone:
            runs.mkdir(parents=True)
            return
        shutil.copytree(self.base(work.config), runs)
        experiment = read_config(str(self.config(work)))
        folder = RunFolder(runs / experiment.name, experiment)
        for stage in work.redone:
            for task in STAGE_TABLE[stage].tasks(folder):
                for path in (*task.outputs, task.record):
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def start(self, work: Work, runs: Path, prelude: Callable[[], None] = lambda: None) -> Attempt:
        """Start the work's command."""
        place = runs.with_name(f"{runs.name}.scratch")
        if work.ranks:
            return launched(work.ranks, self.command(work, runs), place)
        return forked(self.command(work, runs), place, prelude)


def write_images(root: Path) -> None:
    """Two classes of small JPEG files of different sizes, 15 and 6 images each."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, n in (("train", 150), ("val", 60)):
        for label in ("n01", "n02"):
            folder = root / split / label
            folder.mkdir(parents=True)
            for k in range(n):
                Image.fromarray(rng.integers(0, 255, (50 + k % 7, 64, 3), np.uint8)).save(folder / f"{k}.JPEG")


class Attempt:
    """A command that is running, with its descendants in a session of its own."""

    def __init__(self, pid: int, log: Path, launcher: subprocess.Popen[bytes] | None = None) -> None:
        self.pid, self._log, self._launcher = pid, log, launcher
        self.started = time.monotonic()
        self._code: int | None = None
        self._seen: dict[int, psutil.Process] = {}

    def poll(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        if self._code is None and self._launcher is not None:
            self._code = self._launcher.poll()
        elif self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self, seconds: float) -> int | None:
        """Exit code, or None after this time."""
        end = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < end:
            time.sleep(0.002)
        return self.poll()

    def descendants(self) -> list[psutil.Process]:
        """Living processes below the command, also those that have lost their parent since the last call."""
        try:
            for process in psutil.Process(self.pid).children(recursive=True):
                self._seen[process.pid] = process
        except psutil.NoSuchProcess:
            pass
        return [p for p in self._seen.values() if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    def orphans(self, seconds: float) -> list[str]:
        """Command lines of the processes that outlive the command by this time; they are killed then."""
        _, alive = psutil.wait_procs(self.descendants(), seconds)
        lines = [_described(process) for process in alive]
        for process in alive:
            send(process, signal.SIGKILL)
        return lines

    def stacks(self) -> str:
        """Stacks of all processes of a command that hangs, from their logs; then they are killed."""
        running = self.descendants()
        before = len(self.log())
        python = [p for p in running if RANK in p.cmdline()] if self._launcher else [psutil.Process(self.pid)]
        for process in python:  # those that registered faulthandler
            send(process, signal.SIGUSR1)
        time.sleep(1)
        text = "\n".join(_described(process) for process in running) + "\n" + self.log()[before:]
        for process in [psutil.Process(self.pid), *running]:
            send(process, signal.SIGKILL)
        self.wait(10)
        return text

    def log(self) -> str:
        """What its processes wrote."""
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""


def forked(arguments: list[str], place: Path, prelude: Callable[[], None] = lambda: None) -> Attempt:
    """Run the command in a forked child; ``place`` gets its log and its temporary files."""
    place.mkdir(parents=True, exist_ok=True)
    log = place / "log"
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Attempt(pid, log)
    code = 1
    try:
        os.setsid()
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.environ["TMPDIR"], tempfile.tempdir = str(place), None
        faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
        prelude()
        code = main(arguments)
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def launched(ranks: int, arguments: list[str], place: Path) -> Attempt:
    """Run the command on MPI ranks."""
    if MPIEXEC is None:
        raise SystemExit("no mpiexec: pip install 'mpich>=5,<6', or leave out the stage ranks")
    place.mkdir(parents=True, exist_ok=True)
    environ = os.environ | {"MPIR_CVAR_POLLS_BEFORE_YIELD": "0", "TMPDIR": str(place)}  # more ranks than cores
    with (place / "log").open("ab") as log:
        process = subprocess.Popen(
            [MPIEXEC, "-n", str(ranks), sys.executable, "-c", RANK, *arguments], env=environ, stdout=log, stderr=log,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    return Attempt(process.pid, place / "log", process)


def send(process: psutil.Process, number: int) -> None:
    """Send a signal to a process that may have ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _described(process: psutil.Process) -> str:
    try:
        wait = Path(f"/proc/{process.pid}/wchan").read_text(encoding="ascii") if os.name == "posix" else ""
        return f"{process.pid} {process.status()} {wait}: {' '.join(process.cmdline())[:150]}"
    except (OSError, psutil.Error):
        return f"{process.pid}: ended"
