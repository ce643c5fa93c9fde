"""Where a run is fetched from: a folder here, or one on another machine by ssh and rsync. The one door to both.

Programs are the user's own ``ssh`` and ``rsync``, so keys, jump hosts and passwords are as the user has set them up.
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
"""Seconds without a byte after which a transfer counts as cut off."""
RSYNC_CUT = {10, 11, 12, 20, 23, 24, 30, 35}
"""Exit codes of rsync where a transfer was cut off, and can go on."""


class Place(Protocol):
    """A run folder somewhere."""

    @property
    def name(self) -> str:
        """What the run is called, for a folder of its own here."""
        ...

    def entries(self, below: str = "") -> list[str]:
        """Names of what lies in the run, or in a folder of it; UserError if there is no such folder or host."""
        ...

    def bring(self, names: Sequence[str], target: Path) -> None:
        """Copy files, by path below the run, to the same paths below ``target``; goes on with parts of them."""
        ...

    def cut(self, comparisons: Sequence[str], name: str, target: Path) -> Path:
        """Bring a slice of the run's statistics as a file ``name`` below ``target``; returns it."""
        ...

    def discard(self, name: str) -> None:
        """Remove what :meth:`cut` left in the run folder."""
        ...


def parse(text: str, ssh: str, remote_command: str) -> Place:
    r"""``HOST:RUN`` as a place on another machine, anything else as a folder here.

    As for scp, what comes before the first colon is a host, unless there is a slash in it; one letter is a drive
    (``C:\run``, ``C:/run``). ``[…]`` holds a host with colons (``me@[fe80::1]:run``).

    Raises
    ------
    UserError
        for an empty host or path, and a host that ssh would take for an option.
    """
    brackets = re.fullmatch(r"([^@/\\:\[]+@)?\[([^]]+)\]:(.*)", text, re.S)
    host, colon, path = (
        ((brackets[1] or "") + brackets[2], ":", brackets[3]) if brackets else text.partition(":")
    )  # fmt: skip
    drive = len(host) == 1 and host.isascii() and host.isalpha()
    if not colon or (not brackets and (drive or "/" in host or "\\" in host)):
        if not text:
            raise UserError("fetch: the run is empty; give HOST:RUN or a folder.")
        return Here(Path(text))
    if not host or host.startswith("-") or not path:
        raise UserError(f"{text}: write HOST:RUN, for example cluster:runs/digits, or a folder.")
    return There(host, path.rstrip("/") or "/", ssh, remote_command)


@dataclass(frozen=True)
class Here:
    """A folder on this machine (or one that it mounts)."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def __str__(self) -> str:
        return str(self.path)

    def entries(self, below: str = "") -> list[str]:
        if not (self.path / below).is_dir():
            raise UserError(f"{self.path / below}: there is no such run folder.")
        return [entry.name for entry in (self.path / below).iterdir()]

    def bring(self, names: Sequence[str], target: Path) -> None:
        for name in names:
            source, there = self.path / name, target / name
            there.parent.mkdir(parents=True, exist_ok=True)
            if not _same(source, there):
                try:
                    shutil.copy2(source, there)
                except OSError as error:
                    raise UserError(f"{source}: could not be copied: {error}.") from error

    def cut(self, comparisons: Sequence[str], name: str, target: Path) -> Path:
        from convergence.statistics.subset import Selection, subset_statistics

        subset_statistics(self.path / "statistics.h5", target / name, Selection(tuple(comparisons)), overwrite=True)
        return target / name

    def discard(self, name: str) -> None:
        """Nothing was left."""


@dataclass(frozen=True)
class There:
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

    def bring(self, names: Sequence[str], target: Path) -> None:
        program = shutil.which("rsync")
        if program is None:
            raise UserError(
                "fetch: there is no rsync on this machine. Install it (apt install rsync, brew install rsync; on "
                "Windows use WSL), or copy statistics.h5 by other means and hold it against its checksums with "
                "`convergence show statistics.h5 --verify`."
            )
        target.mkdir(parents=True, exist_ok=True)
        host = re.sub(r"([^@]*:[^@]*)$", r"[\1]", self.host)  # rsync wants brackets about a host with colons, ssh none
        # The other side changes its folder first, so that no version of rsync has a path to quote in its own way; the
        # target is absolute, so that a colon in it makes no host of it.
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
                f"{self.host} has no rsync. Install it there, or load its module in ~/.bashrc. It said: {said}"
            )
        if done.returncode in RSYNC_CUT or done.returncode == SSH_FAILED:
            raise UserError(f"{self}: the transfer was cut off; the same command goes on from there. It said: {said}")
        raise UserError(f"{self}: rsync ended with exit code {done.returncode}. It said: {said}")

    def cut(self, comparisons: Sequence[str], name: str, target: Path) -> Path:
        """The slice is kept there until it is discarded, so that a transfer that was cut off goes on with it."""
        flags = [part for comparison in comparisons for part in ("--comparison", comparison)]
        arguments = ["slice", "statistics.h5", f"{SLICES}/{name}", "--overwrite", *flags]
        try:
            self._shell(
                f"(umask 077; mkdir -p {SLICES}) && {self.remote_command} {' '.join(map(shlex.quote, arguments))}"
            )
        except _Failed as failure:
            if failure.code == NOT_FOUND or "No module named" in failure.said:
                raise UserError(
                    f"{self.host}: `{self.remote_command}` is not found there, and layers are cut there. Name it, for "
                    "example --remote-command '~/toolkit/.venv/bin/convergence' (or 'module load python && "
                    "convergence'); or fetch the whole run without --comparison, and cut it here with `convergence "
                    f"slice`. It said: {failure.said}"
                ) from None
            if "invalid choice" in failure.said:
                raise UserError(f"{self.host}: convergence there is too old to cut layers. Update it there.") from None
            raise UserError(f"{self}: the layers could not be cut there. It said: {failure.said}") from None
        self.bring([f"{SLICES}/{name}"], target)
        return target / SLICES / name

    def discard(self, name: str) -> None:
        self._shell(f"rm -f {SLICES}/{shlex.quote(name)} && (rmdir {SLICES} 2>/dev/null || true)")

    def _shell(self, command: str) -> str:
        """Output of a command in the run folder there."""
        connect = shlex.split(self.ssh, posix=os.name != "nt")
        if not connect or shutil.which(connect[0]) is None:
            raise UserError(
                f"fetch: there is no {connect[0] if connect else 'ssh'} on this machine. Install OpenSSH's client, or "
                "name a command with --ssh."
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
                f"{self.host}: ssh could not connect. It said: {said or 'nothing'}. Try: {self.ssh} {self.host} true"
            )
        if re.search(r"\bcd\b.*(no such|not a directory|not exist|can't|permission)", done.stderr, re.I | re.S):
            raise UserError(f"{self}: there is no such run folder there. It said: {said}")
        raise _Failed(self, done.returncode, said)


SLICES = ".slices"
"""Folder in a run folder for slices that are on their way to somebody."""


class _Failed(UserError):
    def __init__(self, place: There, code: int, said: str) -> None:
        super().__init__(f"{place}: a command there ended with exit code {code}. It said: {said}")
        self.code, self.said = code, said


def _quoted(path: str) -> str:
    """A path for the shell there: everything is literal but a home folder at its beginning."""
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
