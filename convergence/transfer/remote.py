"""The run folder to fetch from: a folder on this machine, or one on another machine by ssh and rsync.

ssh and rsync are the programs of the user, with the user's keys, jump hosts and configuration. The other machine is not
trusted: only named regular files are copied, to confined paths, and what it prints is shown without control characters.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from convergence.errors import FileError, UserError
from convergence.io.files import confined, create_for_owner, printable

SSH_FAILED, NOT_FOUND = 255, 127
SILENCE = 600
"""Seconds without data after which rsync ends a transfer."""
RSYNC_INTERRUPTED = {10, 11, 12, 20, 23, 24, 30, 35}
"""Exit codes of rsync for an interrupted transfer that can be resumed."""
MARK = "convergence: output follows"
"""Line before the output of a command on the host; what a login shell prints comes earlier."""
HOST = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.+-]*@)?[A-Za-z0-9_][A-Za-z0-9_.-]*")
IPV6 = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.+-]*@)?\[([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%[A-Za-z0-9_.-]+)?)\]")


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
        """Copy regular files, by path below the run folder, to the same paths below ``target``; resume partial copies.

        UserError if a name is no path below the run folder, or something else than a regular file has the name.
        """
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
        for an empty host or path, a path that begins with a dash or holds control characters, and a host that is not
        ``HOST``, ``USER@HOST`` or ``USER@[IPv6]`` of plain characters.
    """
    if not text:
        raise UserError("fetch: RUN is empty. Give HOST:RUN, for example cluster:runs/digits, or a folder.")
    brackets = re.fullmatch(r"([^/\\:\[]*\[[^]]*\]):(.*)", text, re.S)
    host, colon, path = (brackets[1], ":", brackets[2]) if brackets else text.partition(":")
    drive = len(host) == 1 and host.isascii() and host.isalpha()
    if not colon or (not brackets and (drive or "/" in host or "\\" in host)):
        if "\0" in text or not _encodable(text):
            raise UserError(f"{printable(text)}: no file has such a name. Give the path of a run folder, or HOST:RUN.")
        return LocalRun(Path(text))
    ipv6 = IPV6.fullmatch(host)
    odd = not path or path.startswith("-") or re.search(r"[\x00-\x1f\x7f]", path) or not _encodable(path)
    if odd or (not ipv6 and not HOST.fullmatch(host)):
        raise UserError(
            f"{printable(text)}: the host or the path is not valid. Give HOST:RUN, for example cluster:runs/digits or "
            "me@cluster:runs/digits, or a folder (./NAME if its name has a colon). HOST has letters, digits, dots, "
            "dashes and underscores, or is an IPv6 address in brackets; RUN begins with no dash and has no control "
            "characters. Ports and other settings of ssh belong in ~/.ssh/config or --ssh."
        )
    return RemoteRun((ipv6[1] or "") + ipv6[2] if ipv6 else host, path.rstrip("/") or "/", ssh, remote_command)


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
        folder = confined(self.path, below) if below else self.path
        try:
            return [entry.name for entry in folder.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"{printable(str(folder))}: no such run folder. Give the path of a run, for example runs/digits."
            ) from None
        except OSError as error:
            raise UserError(f"{printable(str(folder))} cannot be read: {error.strerror or error}.") from error

    def copy(self, names: Sequence[str], target: Path) -> None:
        for name in names:
            source, there = confined(self.path, name), confined(target, name)
            create_for_owner(there.parent)
            try:
                if not stat.S_ISREG(source.stat().st_mode):
                    raise FileError(f"{source}: this is not a regular file and is not copied.")
                if not _same(source, there):
                    shutil.copyfile(source, there, follow_symlinks=True)
                    shutil.copystat(source, there)
                    there.chmod(0o600)
            except OSError as error:
                raise UserError(f"{source} cannot be copied: {error.strerror or error}.") from error

    def subset(self, comparisons: Sequence[str], name: str, target: Path) -> Path:
        from convergence.statistics.subset import Selection, subset_statistics

        subset_statistics(self.path / "statistics.h5", target / name, Selection(tuple(comparisons)), overwrite=True)
        return target / name

    def remove_subset(self, name: str) -> None:
        """Nothing to remove: the subset was written to the target."""


@dataclass(frozen=True)
class RemoteRun:
    """A folder on another machine; ``links`` are the symbolic links in it, once its entries were listed."""

    host: str
    path: str
    ssh: str
    remote_command: str
    links: set[str] = field(default_factory=set, compare=False)

    @property
    def name(self) -> str:
        return self.path.rstrip("/").rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.host}:{self.path}"

    def entries(self, below: str = "") -> list[str]:
        if below:
            return self._shell(f"ls -1a {shlex.quote(below)}").splitlines()
        names, _, links = self._shell(f"ls -1a && echo '{MARK}' && (find . -type l 2>/dev/null || true)").partition(
            MARK
        )
        self.links.update(link.removeprefix("./") for link in links.splitlines())
        return names.splitlines()

    def copy(self, names: Sequence[str], target: Path) -> None:
        if not names:
            return
        for name in names:
            confined(target, name)
            if linked := self.links & {name, *(parent.as_posix() for parent in PurePosixPath(name).parents)}:
                raise FileError(
                    f"{self}: {printable(min(linked))} is a symbolic link there, and links are not followed. Replace "
                    "it by what it links to."
                )
        program = shutil.which("rsync")
        if program is None:
            raise UserError(
                "fetch: rsync is not installed on this machine. Install it (apt install rsync, brew install rsync; on "
                "Windows use WSL), or copy statistics.h5 by other means and verify it with `convergence show "
                "statistics.h5 --verify`."
            )
        create_for_owner(target)
        host = re.sub(r"([^@]*:[^@]*)$", r"[\1]", self.host)  # rsync needs brackets around a host with colons
        # The host changes to the run folder first, because versions of rsync quote paths differently. The target is an
        # absolute path, because rsync takes a colon in a relative path for a host. No name of a file passes a shell.
        command = [
            program, "--times", "--partial", "--inplace", "--files-from=-", "--from0", f"--timeout={SILENCE}",
            "--no-links", "--no-devices", "--no-specials", f"--rsh={self.ssh}",
            f"--rsync-path=cd {_quoted(self.path)} && rsync", "--", f"{host}:.", f"{target.resolve()}/",
        ]  # fmt: skip
        watched = sys.stderr.isatty()
        if watched:
            command.insert(1, "--progress")
        before = set(target.rglob("*"))
        done = _run(
            command, input=b"".join(os.fsencode(name) + b"\0" for name in names),
            stdout=sys.stderr if watched else subprocess.DEVNULL, stderr=subprocess.PIPE,
            umask=-1 if os.name == "nt" else 0o077,
        )  # fmt: skip
        said = _last_lines(done.stderr.decode(errors="replace"))
        if done.returncode == 0:
            _check_arrived(self, target, names, before)
            return
        if re.search(r"protocol version mismatch|is your shell clean|unexpected tag|protocol incompatib", said):
            printed = self._printed()
            raise UserError(
                f"{self.host}: the login shell prints text, and rsync needs a shell that prints nothing. It printed: "
                f"{printed or '(not known)'}. Print in interactive shells only: put the commands that print in "
                "~/.bashrc (or another start file there) below the line `[[ $- == *i* ]] || return`. Output of rsync: "
                + said
            )
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
        """Output of a command in the run folder on the host, without what the login shell prints before it."""
        done = self._ssh(f"echo '{MARK}'; cd {_quoted(self.path)} && {command}")
        printed, mark, output = done.stdout.decode(errors="surrogateescape").partition(MARK)
        if done.returncode == 0 and mark:
            return output.lstrip("\r\n")
        errors = done.stderr.decode(errors="replace")
        said = _last_lines(errors)
        if not mark and done.returncode != SSH_FAILED:
            raise UserError(
                f"{self.host}: ssh connected, but no command ran there. Output: {_last_lines(printed)} {said}. Test it "
                f"with: {self.ssh} {self.host} ls"
            )
        if done.returncode == SSH_FAILED:
            raise UserError(
                f"{self.host}: ssh cannot connect. Output: {said or 'none'}. Test the connection: {self.ssh} "
                f"{self.host} true"
            )
        if re.search(r"\bcd\b.*(no such|not a directory|not exist|can't|permission)", errors, re.I | re.S):
            raise UserError(f"{self}: no such run folder there. Output: {said}")
        raise _Failed(self, done.returncode, said)

    def _printed(self) -> str:
        """What the login shell of the host prints by itself."""
        return _last_lines(self._ssh(f"echo '{MARK}'").stdout.decode(errors="replace").partition(MARK)[0])

    def _ssh(self, command: str) -> subprocess.CompletedProcess[bytes]:
        try:
            connect = shlex.split(self.ssh, posix=os.name != "nt")
        except ValueError as error:
            raise UserError(
                f'--ssh {printable(self.ssh)}: not a command ({error}). Give one such as "ssh -p 2222".'
            ) from error
        if not connect or shutil.which(connect[0]) is None:
            raise UserError(
                f"fetch: {printable(connect[0]) if connect else 'ssh'} is not installed on this machine. Install the "
                "OpenSSH client, or give another command with --ssh."
            )
        return _run([*connect, self.host, command], stdin=subprocess.DEVNULL, capture_output=True)


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


def _run(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a program; UserError if the system cannot start it."""
    try:
        return subprocess.run(command, check=False, **options)
    except (OSError, ValueError) as error:
        raise UserError(f"fetch: {printable(command[0])} cannot be started: {error}.") from error


def _check_arrived(source: RemoteRun, target: Path, names: Sequence[str], before: set[Path]) -> None:
    """Raise a FileError, and remove what arrived, unless it is regular files at the names that were asked for."""
    wanted = {target / name for name in names}
    wanted |= {parent for path in wanted for parent in path.parents}
    for place in target.rglob("*"):
        mode = place.lstat().st_mode
        if place not in wanted | before or not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            shutil.rmtree(target, ignore_errors=True)
            raise FileError(
                f"{source}: {printable(place.name)} arrived, which was not asked for or is no regular file. Everything "
                "that arrived was removed."
            )


def _encodable(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def _last_lines(text: str, most: int = 3) -> str:
    """The last lines of a program's output on one line, without control characters."""
    lines: Iterable[str] = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return " / ".join(printable(line) for line in list(lines)[-most:])


def _same(source: Path, there: Path) -> bool:
    if not there.is_file():
        return False
    a, b = source.stat(), there.stat()
    return (a.st_size, int(a.st_mtime)) == (b.st_size, int(b.st_mtime))
