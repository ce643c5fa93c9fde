"""What the images of a run are: names, labels and SHA-256 of all files of a data set, in order.

A manifest is made by reading every file once. Later a file whose size and time are unchanged is not read again, in
whichever folder the data are. Results depend on :attr:`Manifest.content`, never on the place of the data.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from pydantic import PrivateAttr

from convergence.data.files import Part, Problem, SourceFile, counted, hash_file, listed
from convergence.progress import Progress
from convergence.settings import Settings

CHUNK_FILES = 64
"""Files that a thread reads before the progress is reported."""
MAX_THREADS = 16
FORMAT = 1
FAMILIES = "families"
"""Part of the file that names the families of images."""


class FileRecord(NamedTuple):
    """A file that was read: as :class:`~convergence.data.files.SourceFile`, with its SHA-256 and its problem or ""."""

    name: str
    label: int
    size: int
    mtime_ns: int
    sha256: str
    kind: str = ""
    detail: str = ""


@dataclass(frozen=True)
class PartManifest:
    """The files of one part of a data set.

    Attributes
    ----------
    files : usable files, in the order of the images
    unusable : files with a problem of their content
    problems : problems of the listing
    """

    title: str
    files: tuple[FileRecord, ...]
    class_names: tuple[str, ...] = ()
    unusable: tuple[FileRecord, ...] = ()
    problems: tuple[Problem, ...] = ()
    n_hidden: int = 0

    @cached_property
    def sha256(self) -> str:
        """SHA-256 (hex) of the names of the classes, and of name, label and content of every file."""
        digest = hashlib.sha256()
        for class_name in self.class_names:
            digest.update(os.fsencode(class_name) + b"\n")
        for file in self.files:
            digest.update(os.fsencode(file.name) + f"\0{file.label}\0{file.sha256}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Manifest:
    """The files of a data set: parts by name ("train" and "test" for splits, ``FAMILIES`` for the file of families)."""

    parts: Mapping[str, PartManifest]

    @cached_property
    def content(self) -> str:
        """SHA-256 (hex) that identifies the images and labels, without their families, on which training depends."""
        text = "\n".join(f"{name} {part.sha256}" for name, part in self.parts.items() if name != FAMILIES)
        return hashlib.sha256(text.encode()).hexdigest()

    def all_problems(self) -> list[tuple[str, Problem]]:
        """List the problems of all parts, each with the title of its part."""
        return [
            (part.title, problem)
            for part in self.parts.values()
            for problem in (*part.problems, *(Problem(file.name, file.kind, file.detail) for file in part.unusable))
        ]

    def in_both(self) -> list[str]:
        """Name the held-out images whose content is also that of a training image."""
        if not {"train", "test"} <= self.parts.keys() or not self.parts["train"].class_names:
            return []
        trained = {file.sha256 for file in self.parts["train"].files}
        return [file.name for file in self.parts["test"].files if file.sha256 in trained]


class FileData(Settings):
    """Settings of data that are read from files."""

    _manifest: Manifest | None = PrivateAttr(None)

    @property
    def manifest(self) -> Manifest | None:
        """The files to read, if they were checked."""
        return self._manifest

    def read_from(self, manifest: Manifest) -> None:
        """Read the files of a manifest from now on, instead of listing the folder again."""
        self._manifest = manifest

    @property
    def skips_unreadable(self) -> bool:
        """Whether files that cannot be used are left out; they are an error otherwise."""
        return False

    def list_parts(self) -> dict[str, Part] | None:
        """List the files of each split, without reading them; None for data that are not read from files.

        Raises
        ------
        FileError
            if files are missing.
        """
        return None

    def hash_content(self, path: str) -> tuple[str, str, str]:
        """SHA-256 (hex) of the content of a file, with the kind and details of a problem ("" if none)."""
        return hash_file(path)


@dataclass
class KnownFiles:
    """Files that were read before, by part and name."""

    files: dict[tuple[str, str], FileRecord] = field(default_factory=dict)
    pillow: str = ""

    def find(self, part: str, file: SourceFile) -> FileRecord | None:
        """The record of a file, unless its size or time has changed, or it has to be read again.

        A file that could not be opened is always tried again, and a file that did not decode after a change of Pillow.
        """
        known = self.files.get((part, file.name))
        if known is None or (known.size, known.mtime_ns) != (file.size, file.mtime_ns):
            return None
        return None if known.kind and (not known.sha256 or self.pillow != pillow_version()) else known

    def add(self, manifest: Manifest, pillow: str) -> None:
        """Add the files of a manifest."""
        self.pillow = pillow
        for name, part in manifest.parts.items():
            self.files |= {(name, file.name): file for file in (*part.files, *part.unusable)}

    def manifest(self) -> Manifest:
        """The files as a manifest without an order, to store what an interrupted reading has read."""
        parts: dict[str, list[FileRecord]] = {}
        for (name, _), record in self.files.items():
            parts.setdefault(name, []).append(record)
        return Manifest({name: PartManifest(name, tuple(records)) for name, records in parts.items()})


def make_manifest(
    source: FileData, parts: Mapping[str, Part], known: KnownFiles, check: Callable[[], None] = lambda: None
) -> Manifest:
    """Make the manifest of listed files; reads the files that are not known, and adds them to ``known``.

    ``check`` is called between files, in several threads; an exception that it raises ends the reading.
    """
    todo = [(name, file) for name, part in parts.items() for file in part.files if known.find(name, file) is None]

    def read(chunk: list[tuple[str, SourceFile]]) -> int:
        for name, file in chunk:
            check()
            found = source.hash_content(file.path)
            known.files[name, file.name] = FileRecord(file.name, file.label, file.size, file.mtime_ns, *found)
        return len(chunk)

    if todo:
        chunks = [todo[k : k + CHUNK_FILES] for k in range(0, len(todo), CHUNK_FILES)]
        n_threads = min(MAX_THREADS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)
        with ThreadPoolExecutor(n_threads, "data") as pool, Progress("data: reading files", len(todo)) as progress:
            for n in pool.map(read, chunks):
                progress.advance(n)
        known.pillow = pillow_version()
    made = {}
    for name, part in parts.items():
        records = [known.files[name, file.name]._replace(label=file.label) for file in part.files]
        made[name] = PartManifest(
            part.title,
            tuple(record for record in records if not record.kind),
            part.class_names,
            tuple(record for record in records if record.kind),
            part.problems,
            part.n_hidden,
        )
    return Manifest(made)


def pillow_version() -> str:
    """Version of Pillow; "" without it."""
    try:
        return version("pillow")
    except PackageNotFoundError:
        return ""


def describe_differences(old: Manifest, new: Manifest) -> str:
    """Describe which files differ between two manifests, as one phrase; "" if none."""
    found = []
    for name in dict.fromkeys((*old.parts, *new.parts)):
        before, after = old.parts.get(name), new.parts.get(name)
        if before is None or after is None:
            found.append(f"{name} is {'new' if before is None else 'gone'}")
            continue
        was = {file.name: file for file in before.files}
        now = {file.name: file for file in after.files}
        noun = "image" if after.class_names else "file"
        changed = [key for key in was if key in now and was[key].sha256 != now[key].sha256]
        found += _named(f"{len(changed)} of {counted(len(was), noun)} of {after.title} differ", changed)
        for what, one, other in (("added", now, was), ("removed", was, now)):
            names = [key for key in one if key not in other]
            found += _named(f"{counted(len(names), noun)} of {after.title} {what}", names)
        for what, one_part, other_part in (("added", after, before), ("removed", before, after)):
            names = [key for key in one_part.class_names if key not in other_part.class_names]
            found += _named(f"{counted(len(names), 'class')} of {after.title} {what}", names)
    return "; ".join(found)


def describe_changed_times(old: Manifest, parts: Mapping[str, Part]) -> str:
    """Describe which files have another name, size or time than in a manifest, as one phrase; "" if none."""
    found = []
    for name in dict.fromkeys((*old.parts, *parts)):
        if name not in old.parts or name not in parts:
            found.append(f"{name} is {'new' if name in parts else 'gone'}")
            continue
        before = old.parts[name]
        was = {file.name: (file.size, file.mtime_ns) for file in (*before.files, *before.unusable)}
        now = {file.name: (file.size, file.mtime_ns) for file in parts[name].files}
        for what, names in (
            ("another size or time", [key for key in was if key in now and was[key] != now[key]]),
            ("new", [key for key in now if key not in was]),
            ("missing", [key for key in was if key not in now]),
        ):
            found += _named(f"{counted(len(names), 'file')} of {parts[name].title}: {what}", names)
        if before.class_names != parts[name].class_names:
            found.append(f"the classes of {parts[name].title} differ")
    return "; ".join(found)


def _named(text: str, names: list[str]) -> list[str]:
    return [f"{text}: {listed(names)}"] if names else []


def to_json(manifest: Manifest, pillow: str) -> dict[str, Any]:
    """A manifest as plain values; the records of a part are a list for each column."""
    parts = {}
    for name, part in manifest.parts.items():
        records = (*part.files, *part.unusable)
        columns = {key: [record[k] for record in records] for k, key in enumerate(FileRecord._fields)}
        about = {"title": part.title, "class_names": part.class_names, "problems": part.problems}
        parts[name] = about | {"n_hidden": part.n_hidden, "files": columns}
    return {"format": FORMAT, "pillow": pillow, "parts": parts}


def from_json(values: Any) -> tuple[Manifest, str]:
    """A manifest and the version of Pillow that decoded its images.

    Raises
    ------
    ValueError
        for values of another form.
    """
    try:
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']}")
        parts = {}
        for name, part in values["parts"].items():
            columns = [part["files"][key] for key in FileRecord._fields]
            records = [FileRecord(*values) for values in zip(*columns, strict=True)]
            types = (str, int, int, int, str, str, str)
            if not all(isinstance(value, kind) for one in records for value, kind in zip(one, types, strict=True)):
                raise ValueError("a file with a value of another type")
            parts[str(name)] = PartManifest(
                str(part["title"]),
                tuple(record for record in records if not record.kind),
                tuple(part["class_names"]),
                tuple(record for record in records if record.kind),
                tuple(Problem(*problem) for problem in part["problems"]),
                int(part["n_hidden"]),
            )
        return Manifest(parts), str(values["pillow"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(repr(error)) from error
