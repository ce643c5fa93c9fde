"""Read checkpoints of torch, Lightning and safetensors as plain arrays by key, without running code from a file.

Torch files are read with ``weights_only=True``: a pickle may name only tensors, plain containers and a few harmless
types. Their state dict is found inside the usual containers (``state_dict``, ``model``, ``ema``, …). The keys are
those of the file; :mod:`convergence.networks.state_keys` fits them to a net.
"""

from __future__ import annotations

import argparse
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from convergence.errors import FileError, did_you_mean, listed
from convergence.io.files import printable
from convergence.networks.weight_files import read_index, weight_files

State = dict[str, torch.Tensor]
OTHER_STATE = re.compile(r"(optim\w*|opt|\w*sched\w*|scaler|amp|loops|callbacks|rng\w*|\w*hyper_?param\w*|config)$")
"""First keys of what a checkpoint holds besides weights."""
MAX_DEPTH = 4
HARMLESS: list[Any] = [
    argparse.Namespace, np.dtype, (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    np.float64(0).__reduce__()[0], *{type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?")},
]  # fmt: skip
"""Types of settings and single numbers in checkpoints, whose construction runs no code of the file."""
CONVERT = 'torch.save(net.state_dict(), "weights.pt")'


class Checkpoint(NamedTuple):
    """The weights of a checkpoint.

    Attributes
    ----------
    path : as it was given
    state : arrays by key, on the CPU, in the precision of the file
    inside : keys that lead to the state dict in the file, joined by "."; "" if the file is one
    """

    path: Path
    state: State
    inside: str


def read_checkpoint(path: Path, inside: str = "") -> Checkpoint:
    """Read the weights of a file, an index of files, or a folder of transformers.

    Parameters
    ----------
    path
        Of the file, index or folder.
    inside
        Which part to take: keys that lead to a state dict of a torch file, and the common beginning of keys in a state
        dict, for example ``"state_dict_ema"`` or ``"student"``; "" for the only state dict.

    Raises
    ------
    FileError
        for a file that is missing, damaged, of another kind or needs code to be read, for several state dicts without
        ``inside``, and for an ``inside`` that does not exist.
    """
    first, *shards = weight_files(path)
    if not shards:
        return Checkpoint(path, *_part_of(path, dict(_read_file(first)), inside))
    state: State = {}
    wanted = read_index(first)
    for shard in shards:
        state |= _part_of(shard, dict(_read_file(shard)), "")[0]
    lost = [key for key in wanted if key not in state]
    if lost:
        raise FileError(f"{first}: {len(lost)} keys of the index are in none of its files: {listed(lost[:8])}.")
    return Checkpoint(path, *_part_of(path, {"": {key: state[key] for key in wanted}}, inside))


def _read_file(path: Path) -> Iterator[tuple[str, State]]:
    """Yield the state dicts of one file, each with the keys that lead to it."""
    with path.open("rb") as file:
        head = file.read(64)
    _refuse_other_kinds(path, head)
    if head[8:9] == b"{" and not head.startswith((b"PK", b"\x80")):
        yield "", _read_safetensors(path)
        return
    content = _load_torch(path)
    found = list(_state_dicts(content))
    if not found:
        kind = f"a table with the keys {listed(map(str, content))}" if isinstance(content, Mapping) else type(content)
        raise FileError(f"{path}: no state dict was found in it; it holds {kind}. Save one: {CONVERT}.")
    yield from found


def _refuse_other_kinds(path: Path, head: bytes) -> None:
    """Raise FileError for files that are neither of torch nor of safetensors."""
    kind = ""
    if head.startswith(b"version https://git-lfs"):
        kind = "a pointer of Git LFS and not the file itself. Fetch it: git lfs pull"
    elif head.startswith(b"\x89HDF"):
        kind = "an HDF5 file, for example of Keras. Write its arrays by the names of the net with safetensors"
    elif head.startswith((b"<", b"{")) or not head:
        kind = "a page or text and no file of weights (an interrupted download?)" if head else "empty"
    elif head.startswith(b"PK") and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            kind = (
                "a TorchScript archive, which holds code. Save its weights: "
                'torch.save(torch.jit.load("…").state_dict(), "weights.pt")'
            )
        elif not any(name.endswith("/data.pkl") for name in names):
            kind = "a zip archive and no file of torch; unpack it, or give the file in it"
    if kind:
        raise FileError(f"{path}: this is {kind}.")


def _read_safetensors(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise FileError(f"{path}: the safetensors file is damaged ({printable(str(error))}). Copy it again.") from error


def _load_torch(path: Path) -> Any:
    """What a torch file holds, without running code from it."""
    try:
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler has no common type of error for content of other hands
        text = str(error)
        named = re.search(r"GLOBAL ([\w.]+)", text)
        if named or "weights only" in text.lower():
            needs = f"needs the code of {printable(named[1])}" if named else "needs code"
            raise FileError(
                f"{path}: reading this file {needs}, and the toolkit runs no code from files. In the program that made "
                f"it, load it and save the weights alone: {CONVERT}."
            ) from error
        raise FileError(
            f"{path}: the file is damaged or no file of torch ({printable(text) or type(error).__name__}). Copy it "
            f"again, or save the weights again: {CONVERT}."
        ) from error


def _part_of(path: Path, found: dict[str, State], inside: str) -> tuple[State, str]:
    """The state dict, or the part of one, that ``inside`` names, and its full name."""
    if inside in found or (not inside and len(found) == 1):
        where = inside if inside in found else next(iter(found))
        return found[where], where
    if not inside:
        raise FileError(
            f"{path}: the file holds {len(found)} state dicts: {listed(found)}. Name the one to take in the group of "
            f'nets: weights_key = "{next(iter(found))}".'
        )
    for where, state in found.items():
        if where and inside.startswith(f"{where}."):
            beginning = f"{inside.removeprefix(f'{where}.')}."
        elif not where or len(found) == 1:
            beginning = f"{inside}."
        else:
            continue
        part = {key.removeprefix(beginning): value for key, value in state.items() if key.startswith(beginning)}
        if part:
            return part, f"{where}.{beginning[:-1]}" if where else inside
    known = [*filter(None, found), *{key.partition(".")[0] for state in found.values() for key in state if "." in key}]
    raise FileError(f'{path}: weights_key: there is no part "{inside}"; {did_you_mean(inside, known)}.')


def _state_dicts(content: Any, where: str = "", depth: int = 0) -> Iterator[tuple[str, State]]:
    """Yield every state dict in nested tables, with the keys that lead to it; a table around one is none itself."""
    if not isinstance(content, Mapping) or depth > MAX_DEPTH:
        return
    inner = [
        found
        for key, value in content.items()
        if isinstance(key, str) and not OTHER_STATE.match(key.lower())
        for found in _state_dicts(value, f"{where}.{key}" if where else key, depth + 1)
    ]
    if inner:
        yield from inner
        return
    tensors = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
    n_others = sum(not str(key).endswith("_extra_state") for key in content) - len(tensors)
    if tensors and n_others < len(tensors) and all(isinstance(key, str) for key in content):
        yield where, tensors
