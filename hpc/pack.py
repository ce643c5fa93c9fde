"""Pack an image folder over ranks: each rank decodes its blocks and writes them at their offsets in one file.

The file grows beside its final name. After a block is on the disk, its rank records it with its checksum in the rank's
journal. A later run, with any number of ranks, reads all journals and repeats blocks that are missing or do not match.
A finished file is verified instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from convergence.data import packed
from convergence.data.image_folder import FolderImages, ImageFolder
from convergence.data.images import AbsentImages
from convergence.errors import ConfigError, FileError, SharedError, UserError
from convergence.io.files import create_for_owner, flush_folder, put_in_place, remove_leftovers
from convergence.io.hdf5 import seal_file
from convergence.progress import Progress
from convergence.runs.data_record import check_data
from convergence.runs.run_folder import RunFolder
from convergence.runs.signals import Stopped, is_stopping
from hpc.comm import Communicator, errors_shared, owned

logger = logging.getLogger(__name__)


def pack(run: RunFolder, folder: Path, comm: Communicator) -> list[Path]:
    """Pack both splits of a run's image folder into files in ``folder``; returns their paths.

    The images are checked before, and recorded in the run folder.

    Raises
    ------
    UserError
        on every rank: for other data sets, images that cannot be decoded, files of other images, damaged files.
    Stopped
        on every rank, after a signal to one of them.
    """
    experiment = run.experiment
    source = experiment.images
    if not isinstance(source, ImageFolder):
        raise _shared(ConfigError(f'data.name = "{source.name}": only "image_folder" can be packed.'))
    check_data(run, lambda folder: [], comm)
    try:
        splits = source.load()
    except UserError as error:
        raise _shared(error) from error
    paths = []
    for images, name in zip(splits, (source.train_folder, source.test_folder), strict=True):
        if isinstance(images, AbsentImages):
            continue  # nothing in the config reads them
        assert isinstance(images, FolderImages)
        if images.labels is None:
            raise _shared(ConfigError(f"{source.root}: images without classes cannot be packed. Read the folder."))
        path = folder / f"{Path(name).name}.h5"
        _Packing(images, path, experiment.training.loader_workers, comm).run()
        paths.append(path)
    return paths


class _Packing:
    """One split and the file it is packed to."""

    def __init__(self, images: FolderImages, path: Path, workers: int, comm: Communicator) -> None:
        self.images, self.path, self.workers, self.comm = images, path, max(workers, 1), comm
        self.partial = path.with_name(f"{path.name}.partial")
        self.journals = path.with_name(f"{path.name}.journals")
        try:
            self.plan = packed.layout(images)
        except UserError as error:
            raise _shared(error) from error

    def run(self) -> None:
        finished = self.comm.share(self.path.exists())
        if finished:
            with errors_shared(self.comm):
                self._verify()
            return
        with errors_shared(self.comm):
            self._prepare()
        with errors_shared(self.comm):
            digests = self._write()
        if self.comm.any(is_stopping()):
            raise Stopped("stopped by a signal")
        gathered = self.comm.gather_bytes(b"".join(digests[k] for k in sorted(digests)))
        with errors_shared(self.comm):
            self._seal(gathered)

    def _prepare(self) -> None:
        """Create the file on rank 0, unless an unfinished one of the same images and settings can be resumed."""
        if self.comm.rank > 0:
            return
        create_for_owner(self.path.parent)
        remove_leftovers(self.path.parent)
        if self.journals.is_dir() and packed.unfinished_digest(self.partial) == self.plan.digest:
            return
        shutil.rmtree(self.journals, ignore_errors=True)
        needed = self.plan.n * self.plan.height * self.plan.width * 3
        free = shutil.disk_usage(self.path.parent).free
        if needed > free:
            raise UserError(
                f"{self.path} needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free. Make room, or choose "
                "another place with --out."
            )
        packed.create(self.partial, self.images, self.plan)
        create_for_owner(self.journals)

    def _write(self) -> dict[int, bytes]:
        """Write this rank's missing blocks; return the digests of all of its blocks, or of fewer after a signal.

        The digest of a block is the SHA-256s of its images, one after the other.
        """
        mine = owned(self.plan.n_blocks, self.comm.rank, self.comm.size)
        noted = self._noted()
        offset = packed.offset(self.partial, "images")
        digests: dict[int, bytes] = {}
        with (
            ThreadPoolExecutor(self.workers) as pool,
            self.partial.open("r+b", buffering=0) as file,
            (self.journals / f"{socket.gethostname()}-{os.getpid()}").open("a", encoding="ascii") as journal,
            Progress(f"pack {self.path.stem}", len(mine)) as progress,
        ):
            flush_folder(self.journals)
            for k in mine:
                if is_stopping():
                    break
                start = offset + self.plan.block(k).start * self.plan.height * self.plan.width * 3
                digest = self._digest(file.fileno(), k, start) if k in noted else b""
                if hashlib.sha256(digest).digest() != noted.get(k):
                    digest = self._make(file, k, start, pool)
                    journal.write(f"\n{k} {hashlib.sha256(digest).hexdigest()}\n")
                    journal.flush()
                    os.fsync(journal.fileno())
                digests[k] = digest
                progress.advance()
        return digests

    def _noted(self) -> dict[int, bytes]:
        """Blocks in the journals of all earlier runs, with the SHA-256 of their digests; cut lines are skipped."""
        noted = {}
        for journal in sorted(self.journals.iterdir()):
            for line in journal.read_text(encoding="ascii", errors="replace").splitlines():
                number, _, digest = line.partition(" ")
                with contextlib.suppress(ValueError):
                    if len(bytes.fromhex(digest)) == 32:
                        noted[int(number)] = bytes.fromhex(digest)
        return noted

    def _make(self, file: io.FileIO, k: int, start: int, pool: ThreadPoolExecutor) -> bytes:
        decoded = pool.map(lambda index: packed.decode(self.images, index, self.plan), self.plan.block(k))
        content = np.stack(list(decoded))
        _write_at(file, content.data.cast("B"), start)
        os.fsync(file.fileno())
        return packed.image_digests(content)

    def _digest(self, file: int, k: int, start: int) -> bytes:
        content = np.empty((len(self.plan.block(k)), self.plan.height, self.plan.width, 3), np.uint8)
        packed.read_at(file, content, start)
        return packed.image_digests(content)

    def _seal(self, gathered: list[bytes]) -> None:
        if self.comm.rank > 0:
            return
        digests = [b""] * self.plan.n_blocks
        for rank, joined in enumerate(gathered):
            start = 0
            for k in owned(self.plan.n_blocks, rank, self.comm.size):
                stop = start + packed.DIGEST * len(self.plan.block(k))
                digests[k], start = joined[start:stop], stop
        with self.partial.open("r+b", buffering=0) as file:
            _write_at(file, memoryview(b"".join(digests)), packed.offset(self.partial, "image_sha256"))
        seal_file(self.partial, apart=["images"])
        put_in_place(self.partial, self.path)
        shutil.rmtree(self.journals)

    def _verify(self) -> None:
        """Verify the checksums of this rank's blocks of a finished file."""
        if self.comm.rank == 0:
            shutil.rmtree(self.journals, ignore_errors=True)  # present if a run was killed before removing it
        with packed.open_packed(self.path) as opened:
            if opened.attrs["digest"] != self.plan.digest:
                raise FileError(
                    f"{self.path} was packed from other images, or with another data.resize or data.crop. Remove it, "
                    "or choose another place with --out."
                )
            known = opened["image_sha256"][()]
            offset = int(opened["images"].id.get_offset())
        file = os.open(self.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            for k in owned(self.plan.n_blocks, self.comm.rank, self.comm.size):
                start = offset + self.plan.block(k).start * self.plan.height * self.plan.width * 3
                images = self.plan.block(k)
                if self._digest(file, k, start) != known[images.start : images.stop].tobytes():
                    raise FileError(
                        f"{self.path}: images {images.start} … {images.stop - 1} do not match their checksum: the file "
                        "was damaged after it was written. Remove it and pack again."
                    )
        finally:
            os.close(file)
        logger.info("%s: already packed, checksums verified", self.path)


def _write_at(file: io.FileIO, content: memoryview, start: int) -> None:
    file.seek(start)
    while len(content):
        content = content[file.write(content) :]


def _shared(error: UserError) -> SharedError:
    """An error that occurs on every rank alike."""
    return SharedError(str(error))
