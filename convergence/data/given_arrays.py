"""Arrays of other programs, read a few images at a time.

They are ``file.npy``, ``file.npz:name``, ``file.safetensors:name`` and ``file.h5:path/in/file``. Plain arrays are
mapped into memory where they are. Compressed and chunked ones are unpacked once, each chunk once, to a plain copy in a
private folder; image groups take their images from everywhere, so reading the original would unpack every chunk again
for each group. A copy has its SHA-256 in its name and is used again by a run that resumes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import lzma
import math
import os
import shutil
import struct
import tempfile
import tokenize
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from convergence.data.files import file_and_array
from convergence.errors import FileError, UserError, did_you_mean
from convergence.io.files import SCRATCH, atomic_write, file_sha256, is_full, printable, scratch_place
from convergence.io.plain_hdf5 import open_foreign
from convergence.io.seal import check_regular
from convergence.settings import expand_path

SHAPES = "(n_images, units), (n_images, units, height, width) or (n_images, tokens, units)"
FORMS = "file.npy, file.npz:name, file.safetensors:name or file.h5:name"
SAFETENSORS = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1", "U8": "<u1",
    "BOOL": "?",
}  # fmt: skip
"""Types of safetensors that numpy has."""
LONGEST_HEADER = 100_000_000
"""Bytes of the header of a safetensors file; the same limit as that of the safetensors package."""
RATIO = 200
"""Most bytes that a byte of a compressed file may unpack to."""
BLOCK_BYTES = 1 << 26
"""Bytes that are unpacked at a time, or one chunk of the file where that is larger."""
LARGEST = 1e18
"""Largest magnitude of an activation; with larger ones, products of sums may leave the range of float64."""
ERRORS = (
    OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError, OverflowError, MemoryError, AttributeError,
    SyntaxError, NotImplementedError, struct.error, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tokenize.TokenError,
)  # fmt: skip
"""What numpy, zipfile and h5py raise for damaged files."""
Unpack = Callable[[npt.NDArray[Any]], None]


class GivenArray:
    """An array that is read when it is indexed by images.

    Attributes
    ----------
    shape, dtype, ndim : of the array
    """

    def __init__(
        self, path: Path, inside: str, shape: tuple[int, ...], dtype: np.dtype[Any], plain: Any, unpack: Unpack | None
    ) -> None:
        self._path, self._inside, self._plain, self._unpack = path, inside, plain, unpack
        self.shape, self.dtype, self.ndim = shape, dtype, len(shape)

    @property
    def is_plain(self) -> bool:
        """Whether the array is read where it is, without unpacking."""
        return self._plain is not None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, images: Any) -> npt.NDArray[Any]:
        """The activations of some images.

        Raises
        ------
        FileError
            for an array that cannot be unpacked, and for finite values beyond ``LARGEST``.
        """
        if self._plain is None:
            self.unpack(None)
        values = np.asarray(self._plain[images])
        if values.dtype.kind in "fiu":
            check_range(values, self.named())
        return values

    def unpack(self, folder: Path | None) -> None:
        """Make or find the plain copy of a packed array in ``folder``; in a temporary folder if None."""
        if self._plain is not None or self._unpack is None:
            return
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=scratch_place()))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        copy = self._found(folder) or self._made(folder)
        self._plain = np.load(copy, mmap_mode="r", allow_pickle=False)

    def _key(self) -> str:
        stat = os.stat(self._path)
        values = (str(self._path.resolve()), stat.st_size, stat.st_mtime_ns, self._inside, self.shape, self.dtype.str)
        return "array-" + hashlib.sha256(repr(values).encode()).hexdigest()[:24]

    def _found(self, folder: Path) -> Path | None:
        """An intact copy that an earlier run made; a damaged one is removed."""
        for copy in sorted(folder.glob(f"{self._key()}-*.npy")):
            if copy.stem.rpartition("-")[2] == file_sha256(copy):
                return copy
            copy.unlink()
        return None

    def _made(self, folder: Path) -> Path:
        n_bytes, free = math.prod(self.shape) * self.dtype.itemsize, shutil.disk_usage(folder).free
        if n_bytes > free:
            raise FileError(
                f"{self.named()} unpacks to {n_bytes / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB free. Make "
                "room, or write the array as .npy, which needs no copy."
            )
        target = folder / f"{self._key()}.npy"
        assert self._unpack is not None
        with atomic_write(target) as temporary, _damage_named(self.named()):
            out = np.lib.format.open_memmap(temporary, "w+", self.dtype, self.shape)
            self._unpack(out)
            out.flush()
            del out
        named = target.with_name(f"{target.stem}-{file_sha256(target)}.npy")
        os.replace(target, named)
        return named

    def named(self) -> str:
        """The file, and the array in it."""
        return f"{self._path}:{self._inside}" if self._inside else str(self._path)

    def check_type(self, axes: Sequence[int], kinds: str, needed: str) -> None:
        """Raise FileError for an array without values, or of another type.

        ``axes`` are the accepted numbers of axes, ``kinds`` the accepted kinds of numpy's types, and ``needed`` says
        both in words.
        """
        if self.ndim not in axes or self.dtype.kind not in kinds or not all(self.shape):
            raise FileError(
                f"{self.named()}: an array of shape {printable(str(self.shape))} and type "
                f"{printable(str(self.dtype))}; needed are {needed}."
            )


def open_array(
    root: str | os.PathLike[str],
    source: str,
    axes: Sequence[int] = (2, 3, 4),
    kinds: str = "fiu",
    needed: str = f"numbers {SHAPES}",
) -> GivenArray:
    """Open an array without reading its values; ``axes``, ``kinds``, ``needed`` as :meth:`GivenArray.check_type`.

    Raises
    ------
    FileError
        for a file that is missing, damaged or no plain file, a name that it does not hold, arrays of objects, links to
        other files, and declared sizes that the file cannot hold.
    """
    name, inside = file_and_array(source)
    path = expand_path(root) / expand_path(name)
    with _damage_named(printable(str(path))):
        if not os.path.isfile(path):
            if os.path.exists(path):
                check_regular(path)
            raise FileError(f"{printable(str(path))}: there is no such file. Give arrays as {FORMS}.")
        if path.suffix == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            found = GivenArray(path, "", array.shape, array.dtype, array, None)
        else:
            opened = {".npz": _open_npz, ".safetensors": _open_safetensors}.get(path.suffix, _open_hdf5)
            found = opened(path, inside)
    found.check_type(axes, kinds, needed)
    return found


def read_column(root: str | os.PathLike[str], source: str, n_images: int, kinds: str) -> npt.NDArray[Any]:
    """Read one value an image, from any file of :func:`open_array`; ``kinds`` are the accepted kinds of numpy's types.

    Raises
    ------
    FileError
        for a file that is missing or damaged, another shape, and values of another kind.
    """
    wanted = f"{n_images:,} {'integers' if kinds == 'iu' else 'integers or texts'}, one for each image"
    array = open_array(root, source, (1,), kinds, wanted)
    if len(array) != n_images:
        raise FileError(f"{array.named()}: an array of shape {array.shape}; needed are {wanted}.")
    return np.asarray(array[:])


def open_mask(root: str | os.PathLike[str], source: str, n_images: int) -> GivenArray:
    """Open a mask (n_images, positions) of booleans.

    Raises
    ------
    FileError
        as :func:`open_array`, and for another number of images.
    """
    needed = f"{n_images:,} × positions booleans, True for valid positions"
    mask = open_array(root, source, (2,), "b", needed)
    if len(mask) != n_images:
        raise FileError(f"{mask.named()}: an array of shape {mask.shape}; needed are {needed}.")
    return mask


def check_range(values: npt.NDArray[Any], where: str) -> None:
    """Raise FileError for finite values beyond ``LARGEST``; NaN and infinite values make units inactive later."""
    if not values.size or (float(values.min()) >= -LARGEST and float(values.max()) <= LARGEST):
        return
    wide = np.asarray(values, np.longdouble)
    beyond = np.isfinite(wide) & (np.abs(wide) > LARGEST)
    if beyond.any():
        raise FileError(
            f"{where} holds the value {wide[beyond][0]:.6g}. Activations have magnitudes up to {LARGEST:g}; sums of "
            "squares of larger ones are not finite. Scale the array, or mark missing values by NaN."
        )


def _open_npz(path: Path, inside: str) -> GivenArray:
    with zipfile.ZipFile(path) as archive:
        names = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if inside not in names:
            raise FileError(_no_array(path, inside, names))
        info = names[inside]
        if info.file_size > RATIO * max(info.compress_size, 1):
            raise FileError(
                f"{path}:{inside} unpacks to {info.file_size:,} bytes from {info.compress_size:,}, more than {RATIO} "
                "times its size. Write the array as .npy."
            )
        with archive.open(info) as file:
            shape, order, dtype = _npy_header(file)
            start = info.file_size - math.prod(shape) * dtype.itemsize
            if dtype.hasobject or start != file.tell():
                raise FileError(
                    f"{path}:{inside} is an array of objects, or declares another size than it has. Write it again as "
                    ".npy with numbers."
                )

    def unpack(out: npt.NDArray[Any]) -> None:
        flat = np.empty(out.size, out.dtype) if order else out.reshape(-1)
        with zipfile.ZipFile(path) as archive, archive.open(info) as file:
            file.read(start)
            step = max(1, BLOCK_BYTES // dtype.itemsize)
            for at in range(0, out.size, step):
                n = min(step, out.size - at)
                flat[at : at + n] = np.frombuffer(_exactly(file, n * dtype.itemsize), dtype)
            if file.read(1):
                raise ValueError("bytes after the array")
        if order:
            out[...] = flat.reshape(shape[::-1]).T

    return GivenArray(path, inside, shape, dtype, None, unpack)


def _open_safetensors(path: Path, inside: str) -> GivenArray:
    """Map an array: 8 bytes with the length of a JSON header, the header, and the arrays as plain bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(size - 8, LONGEST_HEADER):
            raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
        header = json.loads(file.read(length))
    arrays = {name: about for name, about in header.items() if name != "__metadata__"}
    if inside not in arrays:
        raise FileError(_no_array(path, inside, arrays))
    about = arrays[inside]
    if about["dtype"] not in SAFETENSORS:
        raise FileError(
            f"{path}:{inside} has the type {printable(str(about['dtype']))}; valid are {', '.join(SAFETENSORS)}. Save "
            "it as float32."
        )
    shape, dtype = tuple(int(n) for n in about["shape"]), np.dtype(SAFETENSORS[about["dtype"]])
    start, stop = (int(n) for n in about["data_offsets"])
    if min(shape, default=1) < 0 or stop - start != math.prod(shape) * dtype.itemsize or not 0 <= start <= stop:
        raise ValueError(f"{stop - start:,} bytes for the shape {shape}")
    if 8 + length + stop > size:
        raise ValueError("the array ends early")
    plain = np.memmap(path, dtype, "r", 8 + length + start, shape) if all(shape) else np.empty(shape, dtype)
    return GivenArray(path, inside, shape, dtype, plain, None)


def _npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether the order is Fortran's, and type."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, order, dtype = read(file)
    return tuple(int(n) for n in shape), bool(order), np.dtype(dtype)


def _exactly(file: Any, n_bytes: int) -> bytes:
    content = bytearray()
    while len(content) < n_bytes:
        part = file.read(n_bytes - len(content))
        if not part:
            raise EOFError("the array ends early")
        content += part
    return bytes(content)


def _open_hdf5(path: Path, inside: str) -> GivenArray:
    size = path.stat().st_size
    with h5py.File(path, "r") as file:
        try:
            dataset = open_foreign(file, inside, size, RATIO)
        except KeyError:
            raise FileError(_no_array(path, inside, file)) from None
        shape, dtype, plain = tuple(int(n) for n in dataset.shape), np.dtype(dataset.dtype), None
        offset = dataset.id.get_offset() if dataset.chunks is None else None
        if offset is not None and offset + dataset.nbytes <= size and all(shape):
            plain = np.memmap(path, dtype, "r", offset, shape)

    def unpack(out: npt.NDArray[Any]) -> None:
        with h5py.File(path, "r") as file:
            stored = open_foreign(file, inside, size, RATIO)
            for block in chunk_blocks(stored.shape, stored.chunks or stored.shape, dtype.itemsize):
                out[block] = stored[block]

    return GivenArray(path, inside, shape, dtype, plain, unpack)


def chunk_blocks(
    shape: Sequence[int], chunks: Sequence[int], itemsize: int, most: int = BLOCK_BYTES
) -> Iterator[tuple[slice, ...]]:
    """Blocks that cover an array and consist of whole chunks: of about ``most`` bytes, or of one chunk if larger."""
    sides = [min(chunk, length) for chunk, length in zip(chunks, shape, strict=True)]
    for axis in reversed(range(len(shape))):
        room = max(1, most // (math.prod(sides) * itemsize))
        sides[axis] = min(shape[axis], sides[axis] * room)
    starts = [range(0, length, side) for length, side in zip(shape, sides, strict=True)]
    for corner in itertools.product(*starts):
        yield tuple(slice(a, min(a + side, n)) for a, side, n in zip(corner, sides, shape, strict=True))


def _no_array(path: Path, name: str, known: Any) -> str:
    shown = [printable(str(one), 60) for one in itertools.islice(known, 50)]
    return f'{path} has no array "{printable(name)}"; {did_you_mean(name, shown)}. Write it as {path.name}:name.'


@contextmanager
def _damage_named(named: str) -> Iterator[None]:
    """Turn what a damaged file raises in the block into a FileError about it; errors of a full disk stay."""
    try:
        yield
    except UserError:
        raise
    except ERRORS as error:
        if is_full(error):
            raise
        raise FileError(
            f"{named}: no array could be read ({printable(str(error)) or type(error).__name__}). Write it again as "
            ".npy, .npz or .h5."
        ) from error
