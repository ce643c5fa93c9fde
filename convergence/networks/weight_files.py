"""Files of weights: which files one checkpoint is made of, and the SHA-256 of their content.

A checkpoint is a file, an index of several files (``*.index.json``, as transformers and accelerate write), or a folder
of transformers. This module reads no weights and needs no torch; :mod:`convergence.networks.checkpoints` reads them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from convergence.errors import FileError, listed
from convergence.io.files import printable

IN_FOLDER = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
"""Files that a folder is searched for, in this order."""
INDEX = ".index.json"
MAX_INDEX_BYTES = 64_000_000


class MissingWeightsError(FileError):
    """A file of weights that is not on this machine."""


def weight_files(path: Path) -> tuple[Path, ...]:
    """List the files that hold the weights at a path; an index comes before its files.

    Raises
    ------
    MissingWeightsError
        if there is no such file, or a file of an index is missing.
    FileError
        for a folder without weights, and an index that is damaged or names files outside its folder.
    """
    if path.is_dir():
        found = next((path / name for name in IN_FOLDER if (path / name).exists()), None)
        if found is None:
            raise FileError(
                f"{path}: the folder holds no weights. Give a file, or a folder with one of {', '.join(IN_FOLDER)}."
            )
        path = found
    if not path.exists():
        raise MissingWeightsError(
            f"{path}: there is no such file of weights. Correct the path; relative paths start in the working folder."
        )
    if not path.is_file():
        raise FileError(f"{path}: this is a device, a pipe or a socket, no file. Give a file on a disk.")
    if not path.name.endswith(INDEX):
        return (path,)
    shards = [path.parent / name for name in sorted(set(read_index(path).values()))]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise MissingWeightsError(
            f"{path}: {len(missing)} of the {len(shards)} files that the index names are missing: {listed(missing)}. "
            "Copy them beside the index."
        )
    return (path, *shards)


def read_index(path: Path) -> dict[str, str]:
    """Read an index: the name of the file, in the folder of the index, that holds each key.

    Raises
    ------
    FileError
        for a damaged index, and for names that are no plain names of files.
    """
    try:
        if path.stat().st_size > MAX_INDEX_BYTES:
            raise ValueError(f"it is larger than {MAX_INDEX_BYTES:,} bytes")
        found = json.loads(path.read_bytes())["weight_map"]
        if not isinstance(found, dict) or not found:
            raise ValueError('its "weight_map" is no table of keys and files')
        for name in found.values():
            if not isinstance(name, str) or not name or Path(name).name != name or "\\" in name or name in (".", ".."):
                raise ValueError(f'"{printable(str(name))}" is no name of a file in the folder of the index')
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FileError(
            f"{path}: the index of the weights cannot be used ({error or type(error).__name__}). Save the weights "
            "again, or give a single file."
        ) from error
    return found


def combined_sha256(digests: Sequence[tuple[str, str]]) -> str:
    """SHA-256 (hex) of a checkpoint from (name, SHA-256) of its files: for one file that of its content."""
    if len(digests) == 1:
        return digests[0][1]
    return hashlib.sha256("".join(f"{digest} {name}\n" for name, digest in digests).encode()).hexdigest()
