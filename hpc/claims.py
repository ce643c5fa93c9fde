"""Items of a pass, claimed by ranks: a rank computes its own share, then what others have not begun, large ones first.

Image groups differ in size, and machines in speed; with fixed shares all ranks would wait for the slowest. A claim is
an empty file that only one rank can create, in a folder that all ranks see. Windows of MPI (RMA) would need no files,
but without hardware for them a busy rank answers only between its items.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from hpc.comm import owned

ENDED = "ended"


class Claims:
    """The claims of one pass.

    Parameters
    ----------
    folder : of the claims of this pass alone, since machines may remember what a shared folder held; rank 0 calls
        :meth:`prepare` before any rank claims an item
    """

    def __init__(self, folder: Path, rank: int, size: int) -> None:
        self._folder, self._rank, self._size = folder, rank, size

    def prepare(self) -> None:
        """Remove the claims of an earlier pass, or of processes that are gone."""
        if self._size > 1:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(mode=0o700, parents=True)

    def order(self, sizes: Sequence[int]) -> list[int]:
        """Indices of all items of given sizes: those of the rank, then those of others; in both, large ones first."""
        own = owned(len(sizes), self._rank, self._size)
        return sorted(range(len(sizes)), key=lambda k: (k not in own, -sizes[k], k))

    def take(self, sizes: Mapping[str, int], is_missing: Callable[[str], bool]) -> Iterator[int]:
        """Indices of the items that this rank computes, of names and ``sizes``; none after :meth:`end` on any rank."""
        names = list(sizes)
        for k in self.order(list(sizes.values())):
            if self._has_ended():
                return
            if is_missing(names[k]) and self._claim(names[k]):
                yield k

    def end(self) -> None:
        """Keep every rank from further items, because one has failed or was signalled."""
        if self._size > 1:
            (self._folder / ENDED).touch()

    def _has_ended(self) -> bool:
        return self._size > 1 and (self._folder / ENDED).exists()

    def _claim(self, name: str) -> bool:
        if self._size == 1:
            return True
        try:
            os.close(os.open(self._folder / f"{name}.claim", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return False
        return True
