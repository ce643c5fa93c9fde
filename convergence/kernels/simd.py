"""A numba type for eight 64-bit words (512 bits, one cache line), and the operations of a bitwise adder on it.

LLVM does not vectorise loops over rows that might overlap in memory. An explicit vector type makes kernels compile to
vector instructions of 512 bits, or to two or four narrower ones, on every processor that LLVM supports.

numba's cache checks the file of a kernel only: after a change to this file, delete ``__pycache__`` beside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba import extending
from numba.core import cgutils, types

WORDS = 8
"""Words per vector."""
_intrinsic: Any = extending.intrinsic  # numba's annotations expect the typing context as an argument
_VECTOR = ir.VectorType(ir.IntType(64), WORDS)


class _Words(types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"words{WORDS}")


_words = _Words()


@extending.register_model(_Words)
class _WordsModel(extending.models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)


def aligned_zeros(shape: tuple[int, ...]) -> npt.NDArray[np.uint64]:
    """Zeros (…, WORDS) uint64, aligned so that every vector occupies one cache line."""
    size = int(np.prod(shape))
    buffer = np.zeros(size + WORDS, np.uint64)
    start = -(buffer.ctypes.data // 8) % WORDS
    return buffer[start : start + size].reshape(shape)


@_intrinsic
def zeros(typing):  # type: ignore[no-untyped-def]
    """Eight words of zero."""
    return _words(), lambda context, builder, signature, arguments: ir.Constant(_VECTOR, None)


@_intrinsic
def load(typing, table, row):  # type: ignore[no-untyped-def]
    """``table[row]`` of a contiguous table (n_rows, WORDS) uint64."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.load(_place(context, builder, signature, arguments), align=8)

    return _words(table, row), generate


@_intrinsic
def store(typing, table, row, words):  # type: ignore[no-untyped-def]
    """``table[row] = words``."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        builder.store(arguments[2], _place(context, builder, signature, arguments), align=8)
        return context.get_dummy_value()

    return types.void(table, row, words), generate


@_intrinsic
def add_bits(typing, a, b, c):  # type: ignore[no-untyped-def]
    """Full adder of every bit, a + b + c = sum + 2 carry; returns (sum, carry)."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        a, b, c = arguments
        either = builder.xor(a, b)
        carry = builder.or_(builder.and_(a, b), builder.and_(either, c))
        return cgutils.pack_array(builder, [builder.xor(either, c), carry])

    return types.UniTuple(_words, 2)(a, b, c), generate


@_intrinsic
def any_bit(typing, words):  # type: ignore[no-untyped-def]
    """Whether any bit is set."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        whole = builder.bitcast(arguments[0], ir.IntType(64 * WORDS))
        return builder.icmp_unsigned("!=", whole, ir.Constant(whole.type, 0))

    return types.boolean(words), generate


def _place(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
    """Pointer to row ``arguments[1]`` of table ``arguments[0]``."""
    table = context.make_array(signature.args[0])(context, builder, arguments[0])
    row = context.cast(builder, arguments[1], signature.args[1], types.intp)
    return builder.gep(builder.bitcast(table.data, _VECTOR.as_pointer()), [row])
