"""Commands in processes that are signalled: forked children, which start at once, and MPI ranks.

A fork is sound in a parent that has imported much and computed nothing. A killed child is a real process.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from convergence.cli import main
from tests.helpers.ranks import launch

RANK = """
import faulthandler, signal, sys
faulthandler.register(signal.SIGUSR1, all_threads=True)
from convergence.cli import main
sys.exit(main(sys.argv[1:]))
"""


class Attempt:
    """A command that is running, with its descendants in a session of its own."""

    def __init__(self, pid: int, log: Path, launcher: subprocess.Popen[str] | None = None) -> None:
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
    place.mkdir(parents=True, exist_ok=True)
    with (place / "log").open("ab") as log:
        process = launch(
            ranks, [sys.executable, "-c", RANK, *arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    return Attempt(process.pid, place / "log", process)


def kill_repeatedly(arguments: list[str], kills: int, place: Path, most: int, prelude: str = "pass") -> tuple[int, str]:
    """Run the command again and again, each time killed in one of its first ``most`` flushes and renames; then once.

    The instants do not depend on the load of the machine. Commands are forked from a new process, which has imported
    what ``prelude`` imports. Returns how many were killed, and the log of all. A command may end before its kill; the
    loop ends then.
    """
    program = f"from pathlib import Path\n{prelude}\nfrom tests.helpers.attempts import kill_loop\n"
    program += f"kill_loop({arguments!r}, {kills}, Path({str(place)!r}), {most})"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=300,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    log = (place / "log").read_text(encoding="utf-8") if (place / "log").exists() else ""
    assert done.returncode == 0, done.stderr + log
    return int(done.stdout), log


def kill_loop(arguments: list[str], kills: int, place: Path, most: int) -> None:
    """The loop of :func:`kill_repeatedly`; prints the number of killed commands and exits with the code of the last."""
    draw, killed = random.Random(0), 0
    while True:
        n = draw.randint(1, most) if killed < kills else -1
        code = forked(arguments, place, functools.partial(_kill_at, n)).wait(300)
        if code != -signal.SIGKILL:
            print(killed)
            sys.exit(1 if code is None else code)
        killed += 1


def _kill_at(n: int) -> None:
    """Have this process end by SIGKILL in its n-th flush or rename."""
    calls = itertools.count(1)

    def killing(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            if next(calls) == n:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **keywords)

        return call

    for name in ("fsync", "replace", "rename"):
        setattr(os, name, killing(getattr(os, name)))


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
