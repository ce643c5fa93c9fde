"""Files and folders that are safe to use: durable writes, names confined to a folder, folders for their owner.

A file is written under a temporary name, flushed to the disk and renamed. A name is on the disk after its folder was
flushed, so folders are made with :func:`create_for_owner`, and files and folders are moved with :func:`move`,
:func:`put_in_place` and :func:`put_folder_in_place`. A name that comes from a file or from another machine becomes a
path through :func:`confined`. Scratch files are in folders that no other user of the machine can enter or replace.
docs/security.md describes the threats.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import platform
import re
import shutil
import stat
import tempfile
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from convergence.errors import DiskFullError, FileError

CHECKPOINTS = ("checkpoint.pt", "checkpoint.previous.pt")
"""File names of the newest and the previous checkpoint of a net in training."""
SCRATCH = "convergence-"
"""Beginning of the names of scratch folders."""
LONGEST = 180
"""Maximum bytes of a file name before an ending is added; file systems accept 255."""
FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
_DRIVE = re.compile("[A-Za-z]:")
_NOT_IN_NAMES = re.compile(r"[\x00-\x1f\x7f\\]")
RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{device}{k}" for device in ("COM", "LPT") for k in range(1, 10))}
"""Names that Windows reserves for devices."""
SHARED_STALE_S = 86_400.0
"""After so long, a temporary file of a shared write of another machine is left over."""
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
"""Error numbers of a full disk and of an exhausted quota."""
REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
"""Error numbers of a read-only file system and of missing permission."""
_REFUSED_MESSAGES = re.compile(r"Read-only file system|Permission denied|Operation not permitted")
_FULL_MESSAGES = re.compile(
    r"No space left on device|Disk quota exceeded|MPI_ERR_NO_SPACE|MPI_ERR_QUOTA|not enough space on the disk", re.I
)


def confined(root: Path, name: str) -> Path:
    """Path of a name below ``root``, for names from files and other machines.

    Raises
    ------
    FileError
        if :func:`relative_name` refuses the name, or a symbolic link on its path leads out of ``root``.
    """
    path = root / relative_name(name)
    check_inside(root, path)
    return path


def check_inside(root: Path, path: Path) -> None:
    """Raise a FileError if a symbolic link on a path below ``root`` leads out of it."""
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # a loop of links
        inside = False
    if not inside:
        raise FileError(
            f"{path}: a symbolic link on this path leads out of {root}. Replace the link by what it links to, or "
            "choose another folder."
        )


def relative_name(name: object) -> str:
    """Check that a name from a file is a plain path below a folder, such as ``report/figures/a.svg``; return it.

    Raises
    ------
    FileError
        for a name that is absolute, begins with a drive, has an empty part, ".", ".." or a part above 255 bytes, or
        holds a backslash or a control character.
    """
    if isinstance(name, str) and not _DRIVE.match(name) and not _NOT_IN_NAMES.search(name):
        try:
            lengths = [len(os.fsencode(part)) for part in name.split("/") if part not in (".", "..")]
        except UnicodeEncodeError:
            lengths = []
        if len(lengths) == name.count("/") + 1 and min(lengths) > 0 and max(lengths) <= 255:
            return name
    raise FileError(
        f"{printable(str(name))}: a name that comes from a file or another machine is not a path below its folder. "
        "Valid names are relative, without .., backslashes and control characters. The file was not written by "
        "convergence, or it was changed."
    )


def printable(text: str, longest: int = 200) -> str:
    """Text from a file or another machine for a message: control characters as escapes, cut if it is long."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: longest + 1])
    return shown if len(shown) <= longest else shown[:longest] + "…"


def create_for_owner(folder: Path) -> None:
    """Create a folder that only its owner can enter (mode 0700) unless it exists, whatever the umask.

    Missing parents become folders that only their owner can write (0755, less the umask). The names of new folders are
    flushed to the disk.
    """
    missing = [place for place in (*reversed(folder.parents), folder) if not place.exists()]
    for place in missing:
        place.mkdir(mode=0o700 if place == folder else 0o755, exist_ok=True)
        flush_folder(place.parent)
    folder.mkdir(mode=0o700, exist_ok=True)  # refuses a file of this name


def private_folder(folder: Path) -> Path:
    """Create a folder for its owner, or check an existing one; return it.

    Raises
    ------
    FileError
        if it is a link, no folder, of another user, or writable by other users, or cannot be made.
    """
    if not os.path.lexists(folder):
        try:
            create_for_owner(folder)
        except OSError as error:
            raise FileError(
                f"{folder}: the folder could not be made ({error.strerror}). Choose another one."
            ) from error
    found = folder.lstat()
    reason = ""
    if not stat.S_ISDIR(found.st_mode):
        reason = "it is a symbolic link" if stat.S_ISLNK(found.st_mode) else "it is not a folder"
    elif found.st_uid != user_id():
        reason = f"it belongs to another user (id {found.st_uid})"
    elif os.name != "nt" and found.st_mode & 0o022:  # Windows has access control lists instead
        reason = f"other users can write to it (mode {stat.S_IMODE(found.st_mode):04o})"
    if reason:
        raise FileError(
            f"{folder}: the folder is not used, because {reason}. Remove it, or make it yours alone: chmod 700."
        )
    return folder


@contextmanager
def scratch_folder(fallback: Path | None = None) -> Iterator[Path]:
    """A new folder for temporary files that no other user can enter or replace; removed when the block ends.

    Raises FileError as :func:`scratch_place`, which takes ``fallback``.
    """
    with tempfile.TemporaryDirectory(
        prefix=SCRATCH, dir=scratch_place(fallback), ignore_cleanup_errors=True
    ) as name:  # fmt: skip
        yield private_folder(Path(name))


class LastingScratch:
    """A folder as of :func:`scratch_folder` that lasts as long as this object, or until the process ends."""

    def __init__(self) -> None:
        self.path = private_folder(Path(tempfile.mkdtemp(prefix=SCRATCH, dir=scratch_place())))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def scratch_place(fallback: Path | None = None) -> Path:
    """The folder to make scratch folders in: the system's folder for temporary files (TMPDIR) if it is safe.

    If other users can replace folders there, it is ``fallback``, /tmp or /var/tmp.

    Raises
    ------
    FileError
        if other users can replace folders in all of these.
    """
    names: list[str | Path] = [tempfile.gettempdir(), *([fallback] if fallback else []), "/tmp", "/var/tmp"]
    places = [Path(name) for name in names]
    for place in places:
        if place.is_dir() and os.access(place, os.W_OK | os.X_OK) and keeps_folders(place):
            return place
    raise FileError(
        "there is no safe folder for temporary files: other users can replace folders in "
        f"{', '.join(map(str, places))}. Set TMPDIR to a folder of yours: mkdir -m 700 ~/tmp; export TMPDIR=~/tmp."
    )


def user_id() -> int:
    """The id of the user as the owner of files; 0 on Windows, as for the files there."""
    return os.geteuid() if hasattr(os, "geteuid") else 0


def keeps_folders(place: Path) -> bool:
    """Whether no other user can rename or replace what is in a folder of this user below ``place``.

    Each folder on the path has to belong to this user or the system; others may write to it only with the sticky bit.
    """
    if os.name == "nt":
        return True  # the access control lists of the user's profile
    owners = {0, user_id()}
    try:
        if Path("/proc/self/uid_map").read_text(encoding="ascii").split() != ["0", "0", "4294967295"]:
            # the system's owner, as a process in a container sees it
            owners.add(int(Path("/proc/sys/kernel/overflowuid").read_text(encoding="ascii")))
    except (OSError, ValueError):
        pass
    real = place.resolve()
    found = [folder.stat() for folder in (real, *real.parents)]
    return all(s.st_uid in owners and (not s.st_mode & 0o022 or s.st_mode & stat.S_ISVTX) for s in found)


@contextmanager
def atomic_write(path: Path, shared: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the same folder and rename it to ``path`` when the block ends.

    The file and its folder are flushed to the disk: a crash leaves the old file or the complete new one. An exception
    leaves the old file. ``shared`` is for a file that several processes may write at a time, each the same content: the
    temporary name has the process in it, and files of processes that ended are removed before.
    """
    create_for_owner(path.parent)
    prefix = _temporary_prefix(path)
    if shared:
        _remove_of_ended(path)
        prefix += f"{_machine()}-{os.getpid()}-"
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=".partial", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        put_in_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def put_in_place(finished: Path, path: Path) -> None:
    """Flush a finished file and rename it to ``path`` on the same file system, atomically."""
    _flush_file(finished)
    os.replace(finished, path)
    flush_folder(path.parent)


def put_folder_in_place(finished: Path, path: Path) -> None:
    """Flush a finished folder with everything in it and rename it to ``path``, replacing a folder there."""
    for place, _, names in os.walk(finished, topdown=False):
        for name in names:
            _flush_file(Path(place, name))
        flush_folder(Path(place))
    shutil.rmtree(path, ignore_errors=True)
    os.replace(finished, path)
    flush_folder(path.parent)


def move(source: Path, target: Path) -> None:
    """Rename a file or folder, flushed already, to another folder of the same file system."""
    create_for_owner(target.parent)
    os.replace(source, target)
    for folder in {target.parent: None, source.parent: None}:
        flush_folder(folder)


def name_beside(path: Path, ending: str) -> Path:
    """Path ``NAME.ending`` beside ``NAME.h5``; a name that is too long for file systems is cut and gets a hash."""
    stem = path.stem
    if len(stem.encode()) > LONGEST:
        stem = f"{_cut(stem, LONGEST - 9)}-{hashlib.sha256(stem.encode()).hexdigest()[:8]}"
    return path.with_name(stem + ending)


def safe_name(name: str) -> str:
    """Replace the characters of a name that some file systems forbid; a changed name gets a hash to stay unique."""
    safe = FORBIDDEN.sub("_", name).rstrip(". ")
    if safe.split(".")[0].upper() in RESERVED:
        safe = f"_{safe}"
    if safe != name:
        safe = f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return safe


def _cut(text: str, max_bytes: int) -> str:
    return text.encode()[:max_bytes].decode(errors="ignore")


def check_writable(folder: Path, remedy: str) -> None:
    """Make a folder if it is missing and check that a file can be written in it.

    Raises
    ------
    FileError
        with the given remedy, if that fails.
    """
    try:
        create_for_owner(folder)
        with tempfile.TemporaryFile(prefix=".", suffix=".partial", dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(f"{folder}: the folder is not writable ({reason}). {remedy}.") from error


def is_full(error: BaseException | None) -> bool:
    """Check whether an error or one of its causes reports a full disk or an exhausted quota."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if not isinstance(error, DiskFullError) and _FULL_MESSAGES.search(str(error)):  # libraries without errno
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def explained(error: OSError) -> FileError | None:
    """Explain a full disk, a file or folder that cannot be written or read, or an invalid path; None for others."""
    path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else Path(".")
    if is_full(error):
        return full(path, error)
    if error.errno in REFUSED or _REFUSED_MESSAGES.search(str(error)):
        reason = os.strerror(error.errno) if error.errno else str(error)
        return FileError(
            f"{path}: not permitted ({reason}). Change the permissions, or choose another place (--out or --runs)."
        )
    if error.errno in (errno.ENAMETOOLONG, errno.ENOTDIR) or (
        error.errno in (errno.ENOENT, errno.EEXIST) and str(path).startswith(("/proc", "/sys", "/dev"))
    ):
        return FileError(f"{printable(str(path))}: not a valid place ({error.strerror}). Choose another one (--runs).")
    return None


def full(folder: Path, error: BaseException) -> DiskFullError:
    """Make the error for a full disk or an exhausted quota at a folder."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    quota = any(isinstance(e, OSError) and e.errno == FULL[1] != FULL[0] for e in (error, error.__cause__))
    what = "the quota of its disk is used up" if quota else "its disk is full"
    return DiskFullError(
        f"{folder}: {what}, {shutil.disk_usage(place).free:,} bytes are free. Finished work is kept. "
        "Make room there (see quota and df) and run the same command again: it resumes from the finished work."
    )


@contextmanager
def disk_full_errors(folder: Path) -> Iterator[None]:
    """Turn errors of a full disk in the block into a :class:`~convergence.errors.DiskFullError` about this folder.

    Files and folders that may not be written or read become a :class:`~convergence.errors.FileError`.
    """
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        if is_full(error):
            raise full(folder, error) from error
        found = explained(error) if isinstance(error, OSError) else None
        if found is None:
            raise
        raise found from error


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_sha256(text: str) -> str:
    """SHA-256 (hex) of a text, for example as a file name for arbitrary names."""
    return hashlib.sha256(text.encode()).hexdigest()


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder."""
    for leftover in folder.glob(".*.partial"):
        leftover.unlink(missing_ok=True)


def remove_leftovers_of(path: Path) -> None:
    """Remove temporary files that killed processes left beside a file, or below a folder, while they wrote it."""
    below = path.rglob(".*.partial") if path.is_dir() else ()
    for leftover in [*path.parent.glob(f"{glob.escape(_temporary_prefix(path))}*.partial"), *below]:
        leftover.unlink(missing_ok=True)


def _remove_of_ended(path: Path) -> None:
    """Remove temporary files of shared writes: of processes of this machine that ended, and others after a day."""
    import psutil

    prefix = _temporary_prefix(path)
    for leftover in path.parent.glob(f"{glob.escape(prefix)}*.partial"):
        machine, pid, *_ = [*leftover.name.removeprefix(prefix).split("-"), ""]
        if machine == _machine() and pid.isdecimal():
            ended = int(pid) == os.getpid() or not psutil.pid_exists(int(pid))
        else:
            try:
                ended = time.time() - leftover.stat().st_mtime > SHARED_STALE_S
            except FileNotFoundError:
                continue
        if ended:
            leftover.unlink(missing_ok=True)


def _machine() -> str:
    """A hash of the host name and the PID namespace: in a container, a process ID may mean another process."""
    link = "/proc/self/ns/pid"
    namespace = os.readlink(link) if os.path.islink(link) else ""
    return hashlib.sha256(f"{platform.node()} {namespace}".encode()).hexdigest()[:8]


def _temporary_prefix(path: Path) -> str:
    return f".{_cut(path.name, 100)}."


def _flush_file(path: Path) -> None:
    writable = os.access(path, os.W_OK)
    with path.open("r+b" if writable else "rb") as file:  # Windows flushes only files that are open for writing
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Flush the names of a folder to the disk; does nothing on systems that cannot open folders (Windows)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
