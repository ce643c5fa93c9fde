"""Record the changes that a command makes to files below a folder, from the system calls of all its processes.

``strace`` sees the writes of every library. File offsets are followed through ``lseek`` and ``write``; reads are not
traced. Whether the record is complete is checked by the caller: it has to lead to the files that are there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.crash_states import Operation, Tree, read_tree

CALLS = (
    "open,openat,creat,write,pwrite64,writev,pwritev,lseek,truncate,ftruncate,fallocate,copy_file_range,sendfile,rename,"
    "renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,rmdir,mkdir,mkdirat,fsync,fdatasync,close,"
    "clone,clone3,fork,vfork"
)
LONGEST_WRITE = 1 << 26
"""Bytes of a write that strace shows."""
_LINE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+|\?)(?:<([^>]*)>)?")
_UNFINISHED = re.compile(r"(\d+) +(.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)$")
_HANDLE = re.compile(r"(-?\d+|AT_FDCWD)<([^>]*)>")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')


def traced(command: list[str], folder: Path, trace: Path, **options: str) -> list[Operation]:
    """Run a command under strace and return its operations on the files below a folder.

    Raises
    ------
    SystemExit
        if strace is missing, the command fails, or a call was made that is not understood.
    """
    strace, before = shutil.which("strace"), read_tree(folder)
    if strace is None:
        raise SystemExit("no strace: apt-get install strace")
    options_of_strace = ["-f", "--seccomp-bpf", "-y", "-xx", "-s", str(LONGEST_WRITE), "-e", f"trace={CALLS}"]
    done = subprocess.run(
        [strace, *options_of_strace, "-o", str(trace), *command], capture_output=True, text=True,
        env=os.environ | options,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    with trace.open(encoding="ascii") as lines:
        return list(_Parser(folder.resolve(), before).operations(lines))


class _Parser:
    def __init__(self, folder: Path, before: Tree) -> None:
        self.folder = str(folder)
        self._process: dict[str, str] = {}  # of each thread
        self._offset: dict[tuple[str, str], int] = {}  # of each process and file descriptor
        self._appending: set[tuple[str, str]] = set()
        self._size = {path: len(content) for path, content in before.items() if content is not None}
        self._waiting: dict[str, str] = {}

    def operations(self, lines: Iterator[str]) -> Iterator[Operation]:
        for line in lines:
            yield from self._line(line.rstrip("\n"))

    def _line(self, line: str) -> Iterator[Operation]:
        if found := _UNFINISHED.match(line):
            self._waiting[found[1]] = found[2]
            return
        if found := _RESUMED.match(line):
            line = f"{found[1]} {self._waiting.pop(found[1], '')}{found[3]}"
        if (found := _LINE.match(line)) is None or found[4].startswith(("-", "?")):
            return
        thread, call, arguments, result, opened = found.groups()
        process = self._process.get(thread, thread)
        if call in ("clone", "clone3", "fork", "vfork"):
            self._process[result] = process if "CLONE_THREAD" in arguments else result
            return
        handles = [(number, _decoded(path)) for number, path in _HANDLE.findall(arguments)]
        texts = [bytes.fromhex(text.replace("\\x", "")) for text, _ in _TEXT.findall(arguments)]
        if call in ("open", "openat", "creat"):
            yield from self._opened(process, result, _decoded(opened or ""), arguments)
        elif call in ("mkdir", "mkdirat", "unlink", "unlinkat", "rmdir", "rename", "renameat", "renameat2", "truncate"):
            bases = [path for _, path in handles] or [""] * len(texts)
            paths = [os.path.join(base, os.fsdecode(text)) for base, text in zip(bases, texts, strict=True)]
            yield from self._named(call, [self._relative(os.path.normpath(path)) for path in paths])
        elif handles:
            name = self._relative(handles[0][1])
            if name is not None:
                yield from self._on_file(call, (process, handles[0][0]), name, texts, arguments, int(result))

    def _opened(self, process: str, number: str, path: str, arguments: str) -> Iterator[Operation]:
        name = self._relative(path)
        self._offset[process, number] = 0
        self._appending.discard((process, number))
        if name is None or not re.search("O_WRONLY|O_RDWR", arguments) or "O_TMPFILE" in arguments:
            return
        if "O_CREAT" in arguments and name not in self._size:
            self._size[name] = 0
            yield Operation("file", name)
        if "O_TRUNC" in arguments and self._size.get(name, 1):
            self._size[name] = 0
            yield Operation("truncate", name)
        if "O_APPEND" in arguments:
            self._appending.add((process, number))

    def _named(self, call: str, names: list[str | None]) -> Iterator[Operation]:
        if call.startswith("rename"):
            old, new = names
            if old is None or new is None:
                if old is not None or new is not None:
                    raise SystemExit(f"a file was moved into or out of the folder: {names}")
                return
            for known in [known for known in self._size if known == old or known.startswith(f"{old}/")]:
                self._size[new + known[len(old) :]] = self._size.pop(known)
            yield Operation("rename", old, new)
        elif names[0] is not None:
            if call == "truncate":
                raise SystemExit(f"truncate of {names[0]} is not understood")
            self._size.pop(names[0], None)
            yield Operation("folder" if call.startswith("mkdir") else "remove", names[0])

    def _on_file(
        self, call: str, handle: tuple[str, str], name: str, texts: list[bytes], arguments: str, result: int
    ) -> Iterator[Operation]:
        if call == "lseek":
            self._offset[handle] = result
        elif call in ("fsync", "fdatasync"):
            yield Operation("sync", name)
        elif call == "ftruncate":
            self._size[name] = int(arguments.rsplit(",", 1)[1])
            yield Operation("truncate", name, offset=self._size[name])
        elif call in ("write", "writev", "pwrite64"):
            data = b"".join(texts)[:result]
            offset = self._offset.get(handle, 0)
            if call == "pwrite64":
                offset = int(arguments.rsplit(",", 1)[1])
            elif handle in self._appending:
                offset = self._size.get(name, 0)
            if call != "pwrite64":
                self._offset[handle] = offset + result
            self._size[name] = max(self._size.get(name, 0), offset + result)
            yield Operation("write", name, offset=offset, data=data)
        elif call == "sendfile":
            source = _decoded(_HANDLE.findall(arguments)[1][1])
            offset = self._offset.get(handle, 0)
            data = Path(source).read_bytes()[offset : offset + result]  # from the start of a file of the package
            self._offset[handle] = offset + result
            self._size[name] = max(self._size.get(name, 0), offset + result)
            yield Operation("write", name, offset=offset, data=data)
        elif call != "close":
            raise SystemExit(f"{call} of {name} is not understood")

    def _relative(self, path: str) -> str | None:
        """Path below the folder, "" for itself; None for others."""
        if path == self.folder:
            return ""
        if not path.startswith(f"{self.folder}/") or path.endswith(" (deleted)") or "/#" in path:
            return None
        return path[len(self.folder) + 1 :]


def _decoded(path: str) -> str:
    return os.fsdecode(bytes.fromhex(path.replace("\\x", ""))) if path.startswith("\\x") else path
