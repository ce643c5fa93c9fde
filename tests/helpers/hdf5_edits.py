"""Files that other hands made: changes of an HDF5 file under a seal that holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from convergence.io import hdf5


@contextmanager
def resealed(path: Path, apart: Iterable[str] = ()) -> Iterator[h5py.File]:
    """Open a file to change it, and seal it again at the end; checksums of datasets are left to the caller.

    Datasets named in ``apart`` have checksums elsewhere, as the images of a packed file.
    """
    with h5py.File(path, "r+") as file:
        yield file
    hdf5.seal_file(path, apart)
