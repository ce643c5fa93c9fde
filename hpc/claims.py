"""Items of a pass, claimed by ranks: a rank computes its own share, then what others have not begun.

Image groups differ in size, and machines in speed; with fixed shares all ranks would wait for the slowest. A claim is
an empty file that only one rank can create, in a folder that all ranks see. Windows of MPI (RMA) would need no files,
but without hardware for them a busy rank answers only between its items.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hpc.comm import owned

ENDED = "ended"


class Claims:
    """The claims of one pass.

    Parameters
    ----------
    folder : of the claims; rank 0 calls :meth:`prepare` before any rank claims an item
    """

    def __init__(self, folder: Path, rank: int, size: int) -> None:
        self._folder, self._rank, self._size = folder, rank, size

    def prepare(self) -> None:
        """Remove the claims of an earlier pass, or of processes that are gone."""
        if self._size > 1:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(mode=0o700)

    def order(self, n_items: int) -> list[int]:
        """Indices of all items: first those of the rank, then those of other ranks, the last ones first."""
        own = owned(n_items, self._rank, self._size)
        return [*own, *(k for k in reversed(range(n_items)) if k not in own)]

    def take(self, names: Sequence[str], is_missing: Callable[[str], bool]) -> Iterator[int]:
        """Indices of the items that this rank computes; none after :meth:`end` on any rank."""
        for k in self.order(len(names)):
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
