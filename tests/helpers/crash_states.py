"""Crash states: the folders that a machine can leave if it stops between two operations on files.

The model follows ALICE (Pillai et al., OSDI 2014): a file keeps the bytes of its last fsync, a folder the names of its
last fsync. Later changes may or may not be on the disk. Each prefix of the operations has four states, :data:`KINDS`.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

Kind = Literal["kept", "lost", "empty", "zeros"]
KINDS: dict[Kind, str] = {
    "kept": "every operation is on the disk, as after SIGKILL",
    "lost": "names and bytes after the last fsync of their folder and file are lost",
    "empty": "all names are on the disk, bytes after the last fsync of their file are lost",
    "zeros": "all names and sizes are on the disk, files changed after their last fsync hold zeros",
}
Tree = dict[str, bytes | None]
"""Bytes of each file by path; None for a folder."""


@dataclass(frozen=True)
class Operation:
    """One change of a folder.

    Attributes
    ----------
    kind : "folder" and "file" make one, "write" puts ``data`` at ``offset``, "truncate" sets the size to ``offset``
    path : relative to the recorded folder, at the time of the operation; "" for the folder itself
    target : new path of a "rename"
    """

    kind: Literal["folder", "file", "write", "truncate", "rename", "remove", "sync"]
    path: str
    target: str = ""
    offset: int = 0
    data: bytes = b""

    def __str__(self) -> str:
        detail = {"rename": f" -> {self.target}", "write": f" {len(self.data):,} bytes at {self.offset:,}"}
        return f"{self.kind} {self.path or '.'}{detail.get(self.kind, '')}"


class _File:
    def __init__(self, content: bytes = b"", synced: bool = False) -> None:
        self.content = bytearray(content)
        self.synced = content if synced else b""
        self._frozen: bytes | None = None

    def write(self, offset: int, data: bytes) -> None:
        self.content.extend(bytes(max(0, offset - len(self.content))))
        self.content[offset : offset + len(data)] = data
        self._frozen = None

    def truncate(self, size: int) -> None:
        del self.content[size:]
        self.write(size, b"")

    def bytes(self, kind: Kind) -> bytes:
        if self._frozen is None:
            self._frozen = bytes(self.content)
        if kind == "kept" or self._frozen == self.synced:
            return self._frozen
        return bytes(len(self._frozen)) if kind == "zeros" else self.synced


@dataclass(eq=False)
class _Folder:
    entries: dict[str, _File | _Folder] = field(default_factory=dict)
    synced: dict[str, _File | _Folder] = field(default_factory=dict)


class Disk:
    """A folder, and what of it is durable; everything is durable at the beginning."""

    def __init__(self, tree: Tree) -> None:
        self._root = _Folder()
        for path, content in sorted(tree.items()):
            folder, name = self._place(path)
            folder.entries[name] = _Folder() if content is None else _File(content, synced=True)
            folder.synced[name] = folder.entries[name]

    def apply(self, operation: Operation) -> None:
        """Carry out one operation."""
        if operation.kind == "sync":
            node = self._node(operation.path)
            if isinstance(node, _Folder):
                node.synced = dict(node.entries)
            elif node is not None:
                node.synced = node.bytes("kept")
            return
        folder, name = self._place(operation.path)
        if operation.kind == "rename":
            there, new = self._place(operation.target)
            there.entries[new] = folder.entries.pop(name)
        elif operation.kind == "remove":
            folder.entries.pop(name, None)
        elif operation.kind in ("folder", "file"):
            folder.entries[name] = _Folder() if operation.kind == "folder" else _File()
        else:
            file = folder.entries[name]
            assert isinstance(file, _File)
            if operation.kind == "write":
                file.write(operation.offset, operation.data)
            else:
                file.truncate(operation.offset)

    def tree(self, kind: Kind) -> Tree:
        """The folder after a crash."""
        found: Tree = {}

        def visit(folder: _Folder, place: str) -> None:
            for name, node in (folder.synced if kind == "lost" else folder.entries).items():
                found[place + name] = node.bytes(kind) if isinstance(node, _File) else None
                if isinstance(node, _Folder):
                    visit(node, f"{place}{name}/")

        visit(self._root, "")
        return found

    def at_risk(self) -> list[str]:
        """Paths of files and folders that a crash would lose or change."""
        durable = self.tree("lost")
        return sorted(path for path, content in self.tree("kept").items() if durable.get(path, b"-") != content)

    def _place(self, path: str) -> tuple[_Folder, str]:
        place = PurePosixPath(path)
        folder = self._node("" if str(place.parent) == "." else str(place.parent))
        assert isinstance(folder, _Folder), path
        return folder, place.name

    def _node(self, path: str) -> _File | _Folder | None:
        node: _File | _Folder | None = self._root
        for name in PurePosixPath(path).parts:
            node = node.entries.get(name) if isinstance(node, _Folder) else None
        return node


@dataclass(frozen=True)
class CrashState:
    """A folder after a crash behind the first ``n`` operations; ``last`` is the last one of them."""

    n: int
    kind: Kind
    last: Operation
    tree: Tree

    def __str__(self) -> str:
        return f"{self.kind} after operation {self.n} ({self.last})"

    def write(self, folder: Path) -> None:
        """Replace a folder by this state."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for path, content in self.tree.items():
            if content is None:
                (folder / path).mkdir(parents=True, exist_ok=True)
            else:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(content)


def crash_states(
    before: Tree, operations: Iterable[Operation], prefixes: Container[int] | None = None
) -> Iterator[CrashState]:
    """Every different state of every prefix of a sequence of operations, in order; of some ``prefixes`` if given."""
    disk, seen = Disk(before), {_digest(before)}
    for n, operation in enumerate(operations, start=1):
        disk.apply(operation)
        for kind in KINDS if prefixes is None or n in prefixes else ():
            tree = disk.tree(kind)
            digest = _digest(tree)
            if digest not in seen:
                seen.add(digest)
                yield CrashState(n, kind, operation, tree)


def read_tree(folder: Path) -> Tree:
    """The files and folders below a folder."""
    return {
        path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


_hashes: dict[int, tuple[bytes, bytes]] = {}


def _digest(tree: Tree) -> bytes:
    """A hash of a tree; the hash of each content is kept, since states share most of their files."""
    digest = hashlib.sha256()
    for path, content in sorted(tree.items()):
        digest.update(f"{path}\0".encode())
        if content is not None:
            known = _hashes.get(id(content))
            if known is None or known[0] is not content:
                known = _hashes[id(content)] = content, hashlib.sha256(content).digest()
            digest.update(known[1])
    return digest.digest()
