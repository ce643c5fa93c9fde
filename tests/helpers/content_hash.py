"""A hash of what a file of results says, whoever wrote it and when."""

import hashlib
from pathlib import Path

import h5py
import numpy as np


def content_hash(path: Path) -> str:
    """Of all datasets of an HDF5 file, by name; attributes hold times and are left out."""
    digest = hashlib.sha256()

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            values = item[()]
            text = repr(values).encode() if item.dtype.kind == "O" else np.asarray(values).tobytes()
            digest.update(f"{name} {item.dtype} {item.shape} ".encode() + text)

    with h5py.File(path) as file:
        file.visititems(visit)
    return digest.hexdigest()
