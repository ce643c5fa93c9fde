"""Check that an HDF5 file is plain before anything in it is read: no links, no foreign storage, no odd types.

HDF5 follows links to other files and devices, virtual datasets and external storage without a question, unpacks
compressed data of any size, and loads filters as plug-ins. None of these occurs in a file that this package writes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import h5py
from h5py import h5a, h5d, h5l, h5o, h5s, h5t

from convergence.errors import FileError

DEEPEST = 16
"""Most groups inside each other."""
MOST_OBJECTS = 1_000_000
REMEDY = "Use the file that convergence wrote, or make it again."
FILTERS = {h5py.h5z.FILTER_DEFLATE: "gzip", h5py.h5z.FILTER_LZF: "lzf", h5py.h5z.FILTER_SHUFFLE: "shuffle",
           h5py.h5z.FILTER_FLETCHER32: "fletcher32"}  # fmt: skip
"""Filters of given activations that are unpacked; all belong to h5py itself."""
NUMBERS = (h5t.INTEGER, h5t.FLOAT, h5t.ENUM)


class NotPlain(FileError):
    """An HDF5 file with links, foreign storage or types that are not read."""


def check_plain(file: h5py.File, size: int) -> None:
    """Check every group, dataset and attribute of a file of ``size`` bytes.

    Raises
    ------
    NotPlain
        for the first link, object with several names, dataset that is not contiguous within the file, and type other
        than numbers, booleans, texts and tables of these.
    """
    where, seen = str(file.filename), [0]
    try:
        _check_group(where, h5py.h5g.open(file.id, b"/"), "", size, 0, seen)  # HDF5 1.10 has no attributes of files
    except NotPlain:
        raise
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, OverflowError, MemoryError) as error:
        raise NotPlain(f"{where}: the structure of the file cannot be read ({error}). {REMEDY}") from error


def _check_group(where: str, group: Any, path: str, size: int, depth: int, seen: list[int]) -> None:
    if depth > DEEPEST:
        raise NotPlain(f"{where}: {path} lies more than {DEEPEST} groups deep. {REMEDY}")
    _check_attributes(where, group, path or "/", size)
    for raw in list(group):
        seen[0] += 1
        if seen[0] > MOST_OBJECTS:
            raise NotPlain(f"{where}: the file has more than {MOST_OBJECTS:,} objects. {REMEDY}")
        try:
            name = f"{path}/{raw.decode('utf-8')}"
        except UnicodeDecodeError:
            raise NotPlain(f"{where}: {path}/{raw!r} is no text in UTF-8. {REMEDY}") from None
        if group.links.get_info(raw).type != h5l.TYPE_HARD:
            raise NotPlain(f"{where}: {name} is a link. Files of results have no links. {REMEDY}")
        about = h5o.get_info(group, raw)
        if about.rc != 1:
            raise NotPlain(f"{where}: {name} has several names in the file. {REMEDY}")
        if about.type == h5o.TYPE_GROUP:
            _check_group(where, h5py.h5g.open(group, raw), name, size, depth + 1, seen)
        elif about.type == h5o.TYPE_DATASET:
            dataset = h5d.open(group, raw)
            _check_dataset(where, dataset, name, size)
            _check_attributes(where, dataset, name, size)
        else:
            raise NotPlain(f"{where}: {name} is neither a group nor a dataset. {REMEDY}")


def _check_dataset(where: str, dataset: Any, name: str, size: int) -> None:
    layout = dataset.get_create_plist()
    if layout.get_layout() != h5d.CONTIGUOUS or layout.get_external_count() or layout.get_nfilters():
        raise NotPlain(
            f"{where}: {name} is compressed, chunked, virtual or stored outside the file. Files of results hold plain "
            f"datasets. {REMEDY}"
        )
    _check_type(where, dataset.get_type(), name)
    n_bytes = _declared_bytes(dataset)
    if n_bytes > size:
        raise NotPlain(f"{where}: {name} declares {n_bytes:,} bytes in a file of {size:,}. {REMEDY}")
    if n_bytes and not (0 <= (offset := dataset.get_offset() or -1) <= offset + n_bytes <= size):
        raise NotPlain(f"{where}: {name} does not lie within the file. {REMEDY}")


def _check_attributes(where: str, item: Any, path: str, size: int) -> None:
    for k in range(h5a.get_num_attrs(item)):
        attribute = h5a.open(item, index=k)
        name = f"attribute {attribute.name!r} of {path}"
        _check_type(where, attribute.get_type(), name)
        space = attribute.get_space()
        if space.get_simple_extent_type() == h5s.NULL or _declared_bytes(attribute) > size:
            raise NotPlain(f"{where}: the {name} has no value, or more bytes than the file. {REMEDY}")


def _check_type(where: str, kind: Any, name: str) -> None:
    if not kind.committed() and _is_plain(kind):
        return
    raise NotPlain(f"{where}: the {name.removeprefix('the ')} is of a type that is not read. {REMEDY}")


def _is_plain(kind: Any, inside: bool = False) -> bool:
    if kind.get_class() == h5t.STRING:
        return not (inside and kind.is_variable_str())
    if kind.get_class() == h5t.COMPOUND and not inside:
        return all(_is_plain(kind.get_member_type(k), True) for k in range(kind.get_nmembers()))
    return kind.get_class() in NUMBERS and kind.get_size() <= 8


def _declared_bytes(item: Any) -> int:
    """Bytes that a dataset or an attribute declares, as an exact integer."""
    count = 1
    for length in item.get_space().get_simple_extent_dims():
        count *= int(length)
    return count * int(item.get_type().get_size())


def extents(file: h5py.File, apart: Iterable[str] = ()) -> list[tuple[int, int]]:
    """Offset and bytes of the datasets of numbers that have a checksum of their own, or are named in ``apart``."""
    found: list[tuple[int, int]] = []
    names = set(apart)

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if not isinstance(item, h5py.Dataset) or item.dtype.kind == "O" or not item.nbytes:
            return
        if "sha256" in item.attrs or name in names:
            found.append((int(item.id.get_offset()), int(item.nbytes)))

    file.visititems(visit)
    return found


def open_foreign(file: h5py.File, name: str, size: int, ratio: int) -> h5py.Dataset:
    """A dataset of a file of another program: plain, or in chunks with the filters of h5py.

    Links within the file are followed; its declared bytes are at most ``ratio`` times the file's ``size``.

    Raises
    ------
    KeyError
        if there is no such dataset.
    NotPlain
        for external links, virtual datasets, external storage, other filters, and declared sizes beyond the limit, and
        for compressed chunks that are larger than their values.
    """
    where, remedy = str(file.filename), "Write the array again as .npy, or with h5py's create_dataset."
    _check_links(file, name, where, remedy)
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise KeyError(name)
    layout = dataset.id.get_create_plist()
    if layout.get_layout() == h5d.VIRTUAL or layout.get_external_count():
        raise NotPlain(f"{where}: {name} reads its values from other files. {remedy}")
    others = {code for k in range(layout.get_nfilters()) if (code := layout.get_filter(k)[0]) not in FILTERS}
    if others:
        valid = ", ".join(FILTERS.values())
        raise NotPlain(f"{where}: {name} uses the HDF5 filters {sorted(others)}; read are {valid}. {remedy}")
    if dataset.id.get_type().get_class() not in (h5t.INTEGER, h5t.FLOAT):
        raise NotPlain(f"{where}: {name} does not hold plain numbers. {remedy}")
    declared, most = _declared_bytes(dataset.id), size * (ratio if layout.get_nfilters() else 1)
    if declared > most:
        packed = f" (at most {ratio} times its size, when compressed)" if layout.get_nfilters() else ""
        raise NotPlain(f"{where}: {name} declares {declared:,} bytes in a file of {size:,}{packed}. {remedy}")
    if layout.get_nfilters():
        _check_chunks(where, dataset, name, remedy)
    return dataset


def _check_chunks(where: str, dataset: h5py.Dataset, name: str, remedy: str) -> None:
    """Raise NotPlain for a compressed chunk of more bytes than its values: HDF5 would unpack them all into memory."""
    most = 1.01 * math.prod(dataset.chunks) * dataset.dtype.itemsize + 1024
    stored: list[int] = []
    if hasattr(dataset.id, "chunk_iter"):
        dataset.id.chunk_iter(lambda chunk: stored.append(chunk.size))
    else:  # HDF5 before 1.10.10
        stored = [dataset.id.get_chunk_info(k).size for k in range(dataset.id.get_num_chunks())]
    if max(stored, default=0) > most:
        raise NotPlain(
            f"{where}: a chunk of {name} takes {max(stored):,} bytes in the file, and its values at most {most:,.0f}. "
            f"{remedy}"
        )


def _check_links(file: h5py.File, name: str, where: str, remedy: str) -> None:
    """Follow a path by its links; KeyError for a missing one, NotPlain for external links and loops of links."""
    left, at, followed = [part for part in name.split("/") if part][::-1], "", 0
    while left:
        part = left.pop()
        here = f"{at}/{part}"
        group = file[at or "/"]
        if not isinstance(group, h5py.Group) or part.encode() not in list(group.id):
            raise KeyError(name)
        link = group.get(part, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise NotPlain(f"{where}: {here} is a link to another file. {remedy}")
        if isinstance(link, h5py.SoftLink):
            followed += 1
            if followed > DEEPEST:
                raise NotPlain(f"{where}: {here} is a link that leads to itself. {remedy}")
            target = link.path if link.path.startswith("/") else f"{at}/{link.path}"
            left += [step for step in target.split("/") if step][::-1]
            at = ""
        else:
            at = here
