"""Read pickles of plain values: numbers, texts, lists, dicts and arrays of bytes; nothing else is built.

Arrays are rebuilt by code of this module, as bytes of checked size, so that a crafted pickle cannot choose a
dtype or an object state for numpy.
"""

from __future__ import annotations

import io
import math
import pickle
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

LARGEST = 1 << 30
"""Most bytes of an array."""


class _Type:
    """Stands for ``numpy.dtype``; only unsigned bytes are accepted."""

    def __init__(self, name: Any = None, *_: Any) -> None:
        if name not in ("u1", b"u1", "uint8", b"uint8"):
            raise pickle.UnpicklingError(f"it holds an array of type {str(name)[:40]!r}; only unsigned bytes are read")

    def __setstate__(self, state: Any) -> None:
        """Byte order and fields say nothing about single bytes."""


class _Array:
    """Stands for ``numpy.ndarray`` until its state arrives."""

    values: npt.NDArray[np.uint8]

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, content = state
        content = content.encode("latin-1") if isinstance(content, str) else content
        plain = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
        if not plain or not isinstance(kind, _Type) or not isinstance(content, bytes) or len(content) > LARGEST:
            raise pickle.UnpicklingError("it holds an array whose parts are of other types")
        if math.prod(shape) != len(content):
            raise pickle.UnpicklingError(f"it holds an array of {len(content):,} bytes for the shape {shape}")
        flat = np.frombuffer(content, np.uint8)
        self.values = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _reconstruct(kind: Any, *_: Any) -> _Array:
    if kind is not _Array:
        raise pickle.UnpicklingError("it rebuilds something other than an array")
    return _Array()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Bytes as pickle's protocol 2 of Python 3 writes them."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError("it encodes something other than bytes")
    return text.encode("latin-1")


class _PlainUnpickler(pickle._Unpickler):
    """Builds nothing but plain values and the stand-ins of this module."""

    NAMES: ClassVar = {
        ("numpy", "dtype"): _Type,
        ("numpy", "ndarray"): _Array,
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.NAMES:
            raise pickle.UnpicklingError(
                f"it refers to {module[:40]}.{name[:40]}, which is not allowed in a batch of images"
            )
        return self.NAMES[module, name]


def load_plain(content: bytes) -> dict[str, Any]:
    """The dict in a pickle, with texts for bytes and arrays (…) of uint8.

    Raises
    ------
    pickle.UnpicklingError
        for a pickle that is damaged, or holds anything else.
    """
    try:
        found = _PlainUnpickler(io.BytesIO(content), encoding="bytes").load()
        if not isinstance(found, dict):
            raise pickle.UnpicklingError("it holds no dict")
        return {str(_text(key)): _text(value) for key, value in found.items()}
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # instructions of a damaged pickle fail in many ways
        raise pickle.UnpicklingError(f"{type(error).__name__}: {str(error)[:100]}") from error


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, _Array):
        return value.values
    if isinstance(value, list):
        if not all(isinstance(item, bytes | str | int) for item in value):
            raise pickle.UnpicklingError("it holds lists of other values than numbers and texts")
        return [item.decode() if isinstance(item, bytes) else item for item in value]
    return value
