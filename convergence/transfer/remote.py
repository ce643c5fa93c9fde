"""The run folder to fetch from: a folder on this machine, or one on another machine by ssh and rsync.

ssh and rsync are the programs of the user, with the user's keys, jump hosts and configuration.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from convergence.errors import UserError

SSH_FAILED, NOT_FOUND = 255, 127
SILENCE = 600
"""Seconds without data after which rsync ends a transfer."""
RSYNC_INTERRUPTED = {10, 11, 12, 20, 23, 24, 30, 35}
"""Exit codes of rsync for an interrupted transfer that can be resumed."""


class RunSource(Protocol):
    """A run folder on any machine."""

    @property
    def name(self) -> str:
        """Name of the run, for the destination folder."""
        ...

    def entries(self, below: str = "") -> list[str]:
        """Names in the run folder, or in a folder of it; UserError if the folder or the host does not exist."""
        ...

    def copy(self, names: Sequence[str], target: Path) -> None:
        """Copy files, by path below the run folder, to the same paths below ``target``; resume partial copies."""
        ...

    def subset(self, comparisons: Sequence[str], name: str, target: Path) -> Path:
        """Write a subset of the run's statistics as the file ``name`` below ``target``; return its path."""
        ...

    def remove_subset(self, name: str) -> None:
        """Remove the file that :meth:`subset` left in the run folder."""
        ...


def parse(text: str, ssh: str, remote_command: str) -> RunSource:
    r"""The run folder for ``HOST:RUN``, or for a folder on this machine.

    As in scp, the text before the first colon is a host, unless it contains a slash; one letter is a drive (``C:\run``,
    ``C:/run``). Brackets hold a host with colons (``me@[fe80::1]:run``).

    Raises
    ------
    UserError
        for an empty host or path, and a host that begins with a dash.
    """
    brackets = re.fullmatch(r"([^@/\\:\[]+@)?\[([^]]+)\]:(.*)", text, re.S)
    host, colon, path = (
        ((brackets[1] or "") + brackets[2], ":", brackets[3]) if brackets else text.partition(":")
    )  # fmt: skip
    drive = len(host) == 1 and host.isascii() and host.isalpha()
    if not colon or (not brackets and (drive or "/" in host or "\\" in host)):
        if not text:
            raise UserError("fetch: RUN is empty. Give HOST:RUN, for example cluster:runs/digits, or a folder.")
        return LocalRun(Path(text))
    if not host or host.startswith("-") or not path:
        raise UserError(
            f"{text}: the host or the path is not valid. Give HOST:RUN, for example cluster:runs/digits, or a folder."
        )
    return RemoteRun(host, path.rstrip("/") or "/", ssh, remote_command)


@dataclass(frozen=True)
class LocalRun:
    """A folder on this machine, or on a file system that it mounts."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def __str__(self) -> str:
        return str(self.path)

    def entries(self, below: str = "") -> list[str]:
        if not (self.path / below).is_dir():
            raise UserError(
                f"{self.path / below}: no such run folder. Give the path of a run, for example runs/digits."
            )
        return [entry.name for entry in (self.path / below).iterdir()]

    def copy(self, names: Sequence[str], target: Path) -> None:
        for name in names:
            source, there = self.path / name, target / name
            there.parent.mkdir(parents=True, exist_ok=True)
            if not _same(source, there):
                try:
                    shutil.copy2(source, there)
                except OSError as error:
                    raise UserError(f"{source} cannot be copied: {error}.") from error

    def subset(self, comparisons: Sequence[str], name: str, target: Path) -> Path:
        from convergence.statistics.subset import Selection, subset_statistics

        subset_statistics(self.path / "statistics.h5", target / name, Selection(tuple(comparisons)), overwrite=True)
        return target / name

    def remove_subset(self, name: str) -> None:
        """Nothing to remove: the subset was written to the target."""


@dataclass(frozen=True)
class RemoteRun:
    """A folder on another machine."""

    host: str
    path: str
    ssh: str
    remote_command: str

    @property
    def name(self) -> str:
        return self.path.rstrip("/").rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.host}:{self.path}"

    def entries(self, below: str = "") -> list[str]:
        return self._shell(f"ls -1a {shlex.quote(below)}" if below else "ls -1a").splitlines()

    def copy(self, names: Sequence[str], target: Path) -> None:
        if not names:
            return
        program = shutil.which("rsync")
        if program is None:
            raise UserError(
                "fetch: rsync is not installed on this machine. Install it (apt install rsync, brew install rsync; on "
                "Windows use WSL), or copy statistics.h5 by other means and verify it with `convergence show "
                "statistics.h5 --verify`."
            )
        target.mkdir(parents=True, exist_ok=True)
        host = re.sub(r"([^@]*:[^@]*)$", r"[\1]", self.host)  # rsync needs brackets around a host with colons
        # The host changes to the run folder first, because versions of rsync quote paths differently. The target is an
        # absolute path, because rsync takes a colon in a relative path for a host.
        command = [
            program, "--recursive", "--times", "--partial", "--inplace", "--files-from=-", f"--timeout={SILENCE}",
            f"--rsh={self.ssh}",
            f"--rsync-path=cd {_quoted(self.path)} && rsync", "--", f"{host}:.", f"{target.resolve()}/",
        ]  # fmt: skip
        watched = sys.stderr.isatty()
        if watched:
            command.insert(1, "--progress")
        done = subprocess.run(
            command, input="\n".join(names) + "\n", stdout=sys.stderr if watched else subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace",
        )  # fmt: skip
        if done.returncode == 0:
            return
        said = _last_lines(done.stderr)
        if "command not found" in said or f"code {NOT_FOUND}" in said:
            raise UserError(
                f"rsync is not installed on {self.host}. Install it there, or load its module in ~/.bashrc. Output: "
                f"{said}"
            )
        if done.returncode in RSYNC_INTERRUPTED or done.returncode == SSH_FAILED:
            raise UserError(
                f"{self}: the transfer was interrupted. Run the same command again to resume. Output: {said}"
            )
        raise UserError(f"{self}: rsync failed with exit code {done.returncode}. Output: {said}")

    def subset(self, comparisons: Sequence[str], name: str, target: Path) -> Path:
        """The subset stays on the host until it is removed, so that an interrupted transfer can be resumed."""
        flags = [part for comparison in comparisons for part in ("--comparison", comparison)]
        arguments = ["subset", "statistics.h5", f"{SUBSETS}/{name}", "--overwrite", *flags]
        try:
            self._shell(
                f"(umask 077; mkdir -p {SUBSETS}) && {self.remote_command} {' '.join(map(shlex.quote, arguments))}"
            )
        except _Failed as failure:
            if failure.code == NOT_FOUND or "No module named" in failure.output:
                raise UserError(
                    f"{self.host}: the command `{self.remote_command}` was not found; --comparison needs it there. "
                    "Give its path, for example --remote-command '~/toolkit/.venv/bin/convergence' (or 'module load "
                    "python && convergence'), or fetch the whole run without --comparison and cut it here with "
                    f"`convergence subset`. Output: {failure.output}"
                ) from None
            if "invalid choice" in failure.output or "unknown verb" in failure.output:
                raise UserError(f"{self.host}: convergence there has no `subset`. Update it there.") from None
            raise UserError(f"{self}: `convergence subset` failed there. Output: {failure.output}") from None
        self.copy([f"{SUBSETS}/{name}"], target)
        return target / SUBSETS / name

    def remove_subset(self, name: str) -> None:
        self._shell(f"rm -f {SUBSETS}/{shlex.quote(name)} && (rmdir {SUBSETS} 2>/dev/null || true)")

    def _shell(self, command: str) -> str:
        """Output of a command in the run folder on the host."""
        connect = shlex.split(self.ssh, posix=os.name != "nt")
        if not connect or shutil.which(connect[0]) is None:
            raise UserError(
                f"fetch: {connect[0] if connect else 'ssh'} is not installed on this machine. Install the OpenSSH "
                "client, or give another command with --ssh."
            )
        done = subprocess.run(
            [*connect, self.host, f"cd {_quoted(self.path)} && {command}"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8", errors="replace",
        )  # fmt: skip
        if done.returncode == 0:
            return done.stdout
        said = _last_lines(done.stderr)
        if done.returncode == SSH_FAILED:
            raise UserError(
                f"{self.host}: ssh cannot connect. Output: {said or 'none'}. Test the connection: {self.ssh} "
                f"{self.host} true"
            )
        if re.search(r"\bcd\b.*(no such|not a directory|not exist|can't|permission)", done.stderr, re.I | re.S):
            raise UserError(f"{self}: no such run folder there. Output: {said}")
        raise _Failed(self, done.returncode, said)


SUBSETS = ".subsets"
"""Folder in a run folder for subsets until they are transferred."""


class _Failed(UserError):
    def __init__(self, source: RemoteRun, code: int, output: str) -> None:
        super().__init__(f"{source}: a command there failed with exit code {code}. Output: {output}")
        self.code, self.output = code, output


def _quoted(path: str) -> str:
    """A path quoted for the shell of the host; a home folder at its beginning is left to the shell."""
    home = re.match(r"~[\w.-]*(?=/|$)", path)
    start = home.group() if home else ""
    rest = path[len(start) :]
    safe = f"./{rest}" if not home and rest.startswith("-") else rest
    return start + (shlex.quote(safe) if safe else "")


def _last_lines(text: str, most: int = 3) -> str:
    lines: Iterable[str] = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return " / ".join(list(lines)[-most:])


def _same(source: Path, there: Path) -> bool:
    if not there.is_file():
        return False
    a, b = source.stat(), there.stat()
    return (a.st_size, int(a.st_mtime)) == (b.st_size, int(b.st_mtime))
