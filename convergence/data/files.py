"""Files of a data set: the listing of class folders, and the check that an image decodes.

Names of files are kept as the system returns them. Bytes that are no UTF-8 are surrogates in them
(:func:`os.fsdecode`), so a name always leads back to its file; :func:`name_text` makes text of it.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from convergence.errors import FileError

HIDDEN = {"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"}
"""Folders of archives, network drives and file systems that hold no data, besides the names that begin with a dot."""
SHOWN = 10


class MissingDataError(FileError):
    """The files of a data set are not on this machine."""


class SourceFile(NamedTuple):
    """A file that a data set reads.

    Attributes
    ----------
    name : path below the folder of its part, with "/" between folders
    size, mtime_ns : size in bytes and time of the last change, of the file that a link leads to
    label : class of an image, an index into the class names; −1 without classes
    """

    name: str
    path: str
    size: int
    mtime_ns: int
    label: int = -1


def file_and_array(source: str) -> tuple[str, str]:
    """Divide ``file.h5:path/in/file`` into the file and the array in it ("" for a file of one array)."""
    if ":" not in source[2:]:  # C: is a drive letter
        return source, ""
    name, _, inside = source.rpartition(":")
    return name, inside


class Problem(NamedTuple):
    """A file or folder that cannot be used: its name, the kind of problem, and details or ""."""

    name: str
    kind: str
    detail: str = ""


@dataclass(frozen=True)
class Part:
    """The files of one split, or of a data set without splits, in the order of the images.

    Attributes
    ----------
    title : name of the part in messages
    class_names : names of the class folders, in order; empty without classes
    problems : what the listing found
    n_hidden : number of hidden files and folders, which are ignored
    """

    title: str
    files: tuple[SourceFile, ...]
    class_names: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    n_hidden: int = 0


def list_files(title: str, paths: Iterable[tuple[str, Path]], remedy: str) -> Part:
    """List given files, pairs of name and path.

    Raises
    ------
    MissingDataError
        with the given remedy, if one does not exist.
    """
    files = []
    for name, path in paths:
        try:
            found = path.stat()
        except OSError as error:
            if isinstance(error, FileNotFoundError | NotADirectoryError):
                raise MissingDataError(f"{path}: there is no such file. {remedy}") from error
            raise FileError(f"{path}: the file cannot be read ({error.strerror or error}).") from error
        files.append(SourceFile(name, str(path), found.st_size, found.st_mtime_ns))
    return Part(title, tuple(files))


def package_file(package: str, name: str) -> Path:
    """Path of a file of a package, found without an import; it does not exist if the package is not installed."""
    found = find_spec(package)
    places = found.submodule_search_locations if found is not None else None
    return Path(next(iter(places or ()), package)) / name


def list_classes(folder: Path, endings: Collection[str]) -> Part:
    """List the images in class folders; links to folders are followed.

    Raises
    ------
    FileError
        if the folder cannot be read.
    """
    listing = _Listing(endings)
    with _readable(folder):
        above = frozenset({_identity(os.fspath(folder))})
        classes = list(listing.entries(os.fspath(folder), "", is_top=True))
    names = sorted(name for name, _ in classes)
    label_of = {name: label for label, name in enumerate(names)}
    for name, path in classes:
        listing.walk(name, path, above, label_of[name])
    return Part(
        folder.name,
        tuple(sorted(listing.files, key=lambda file: file.name.split("/"))),
        tuple(names),
        tuple(sorted(listing.problems)),
        listing.n_hidden,
    )


def list_flat(folder: Path, endings: Collection[str]) -> Part:
    """List the images directly in a folder, which have no classes; folders in it are ignored.

    Raises
    ------
    FileError
        if the folder cannot be read.
    """
    listing = _Listing(endings)
    with _readable(folder):
        for _ in listing.entries(os.fspath(folder), "", is_top=False):
            pass
    files = tuple(sorted(listing.files, key=lambda file: file.name))
    return Part(folder.name, files, (), tuple(sorted(listing.problems)), listing.n_hidden)


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Raise FileError for a folder that cannot be read."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise FileError(f"{folder}: the folder cannot be read ({reason}). Check its permissions.") from error


class _Listing:
    """What a walk through folders has found."""

    def __init__(self, endings: Collection[str]) -> None:
        self.endings = endings
        self.files: list[SourceFile] = []
        self.problems: list[Problem] = []
        self.n_hidden = 0

    def walk(self, name: str, path: str, above: frozenset[tuple[int, int]], label: int) -> None:
        """Collect the images below a class folder; ``above`` identifies the folders that contain it."""
        waiting = [(name, path, above)]
        while waiting:
            name, path, above = waiting.pop()
            try:
                identity = _identity(path)
                if identity in above:
                    self.problems.append(Problem(name, "link loop", "it leads to a folder that contains it"))
                    continue
                inside = above | {identity}
                waiting += [(*folder, inside) for folder in self.entries(path, f"{name}/", False, label)]
            except OSError as error:
                self.problems.append(Problem(name, "folder that cannot be read", error.strerror or str(error)))

    def entries(self, path: str, prefix: str, is_top: bool, label: int = -1) -> Iterator[tuple[str, str]]:
        """Yield name and path of the folders in a folder; collect problems, and images unless at the top."""
        with os.scandir(path) as found:
            entries = list(found)
        for entry in entries:
            name = prefix + entry.name
            is_image = os.path.splitext(entry.name)[1].lower() in self.endings
            if is_hidden(entry.name):
                self.n_hidden += 1
                continue
            try:
                status = entry.stat()
            except OSError as error:
                if is_image or is_top or "." not in entry.name:
                    self.problems.append(_unreachable(name, entry, error))
                continue
            if stat.S_ISDIR(status.st_mode):
                yield name, entry.path
            elif is_image and not is_top:
                if not stat.S_ISREG(status.st_mode):
                    self.problems.append(Problem(name, "not a regular file"))
                elif status.st_size == 0:
                    self.problems.append(Problem(name, "empty file"))
                else:
                    self.files.append(SourceFile(name, entry.path, status.st_size, status.st_mtime_ns, label))


def is_hidden(name: str) -> bool:
    """Check whether a file or folder is ignored: ``.ipynb_checkpoints``, ``._image.png``, ``@eaDir``."""
    return name.startswith(".") or name in HIDDEN


def _unreachable(name: str, entry: os.DirEntry[str], error: OSError) -> Problem:
    if not entry.is_symlink():
        return Problem(name, *_read_error(error))
    target = name_text(os.readlink(entry.path))
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return Problem(name, "dangling link", f"to {target}")
    if isinstance(error, PermissionError):
        return Problem(name, "no permission", f"for {target}")
    return Problem(name, "link loop", f"to {target}")


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def hash_file(path: str) -> tuple[str, str, str]:
    """SHA-256 (hex) of a file, with the kind and details of a problem ("" if none)."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), "", ""
    except OSError as error:
        return "", *_read_error(error)


def hash_image(path: str) -> tuple[str, str, str]:
    """SHA-256 (hex) of an image file, with the kind and details of a problem ("" if none); decodes the image.

    A JPEG is decoded at an eighth of its size, which reads all of it and skips most of the arithmetic.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        return "", *_read_error(error)
    return hashlib.sha256(content).hexdigest(), *_undecodable(content)


def _undecodable(content: bytes) -> tuple[str, str]:
    """Kind and details of the problem of an image; "" if it decodes."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as image:
            image.draft(None, (max(image.width // 8, 1), max(image.height // 8, 1)))
            image.load()
            corner = image.crop((0, 0, 1, 1))
    except UnidentifiedImageError:
        return "not an image that Pillow reads", ""
    except Image.DecompressionBombError:
        return "more pixels than Pillow accepts", ""
    except MemoryError:
        return "more pixels than fit in memory", ""
    except Exception as error:  # Pillow's readers raise many types for damaged files
        return "damaged or truncated", str(error) or type(error).__name__
    try:
        corner.convert("RGB")
    except ValueError as error:
        return "pixels that cannot be converted to RGB", f"mode {corner.mode}: {error}"
    return "", ""


def _read_error(error: OSError) -> tuple[str, str]:
    return ("no permission", "") if isinstance(error, PermissionError) else ("read error", str(error.strerror or error))


def name_text(name: str) -> str:
    """Text of a file name; a byte that is no UTF-8 becomes an escape: ``caf``, a backslash, ``xe9.png``."""
    return os.fsencode(name).decode("utf-8", errors="backslashreplace")


def listed(names: Iterable[str]) -> str:
    """The first ten of some names as text."""
    shown = list(names)
    return ", ".join(map(name_text, shown[:SHOWN])) + (", …" if len(shown) > SHOWN else "")


def counted(n: int, noun: str) -> str:
    """Like "1 image" or "1,200 images"."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}{'es' if noun.endswith('s') else 's'}"


def describe_problems(problems: Collection[tuple[str, Problem]]) -> str:
    """Count problems by kind and name the first ten; pairs of the title of a part and a problem."""
    counts: dict[str, int] = {}
    for _, problem in problems:
        counts[problem.kind] = counts.get(problem.kind, 0) + 1
    kinds = ", ".join(f"{n} × {kind}" for kind, n in sorted(counts.items(), key=lambda item: -item[1]))
    shown = [
        f"{name_text(f'{title}/{problem.name}')} ({problem.kind}{': ' if problem.detail else ''}{problem.detail[:100]})"
        for title, problem in list(problems)[:SHOWN]
    ]
    return f"{kinds}: {', '.join(shown)}{', …' if len(problems) > SHOWN else ''}"


def unusable(root: str, problems: Collection[tuple[str, Problem]]) -> FileError:
    """Make the error for files that cannot be used; pairs of the title of a part and a problem."""
    return FileError(
        f"{root}: {counted(len(problems), 'item')} cannot be used: {describe_problems(problems)}. Replace or remove "
        'them, or set data.unreadable = "skip" to leave them out.'
    )
