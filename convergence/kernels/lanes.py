"""Sums of float64 whose order is written in the source: eight partial sums, and a fixed tree that adds them.

A compiler that may reorder sums (``fastmath``) chooses an order for each copy of a function, and a kernel that was
compiled in this process need not be the copy that a later process loads from numba's cache. The results then differ in
the last bits. Kernels here compile without ``fastmath``: loops over independent elements vectorise without it, sums use
:func:`dot` and :func:`total`, and :func:`fma` writes out where a product is not rounded before its sum. So the bits
depend neither on the cache nor on the width of the processor's vectors.

numba's cache checks the file of a kernel only: after a change to this file, delete the cached kernels of its callers.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import extending
from numba.core import cgutils, types

LANES = 8
"""Number of partial sums; sample k is added to partial sum k mod 8, and a tail of fewer than 8 to the total."""
_intrinsic: Any = extending.intrinsic  # numba's annotations expect the typing context as an argument
_DOUBLE = ir.DoubleType()
_VECTOR = ir.VectorType(_DOUBLE, LANES)


class _Lanes(types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"lanes{LANES}")


_lanes = _Lanes()


@extending.register_model(_Lanes)
class _LanesModel(extending.models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)


@_intrinsic
def zeros(typing):  # type: ignore[no-untyped-def]
    """Eight zeros."""
    return _lanes(), lambda context, builder, signature, arguments: ir.Constant(_VECTOR, None)


@_intrinsic
def load(typing, row, first):  # type: ignore[no-untyped-def]
    """``row[first : first + 8]`` of a contiguous float32 or float64 array (n,), as float64."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        index = context.cast(builder, arguments[1], signature.args[1], types.intp)
        element = context.get_data_type(signature.args[0].dtype)
        place = builder.bitcast(builder.gep(array.data, [index]), ir.VectorType(element, LANES).as_pointer())
        loaded = builder.load(place, align=signature.args[0].dtype.bitwidth // 8)
        return loaded if element == _DOUBLE else builder.fpext(loaded, _VECTOR)

    return _lanes(row, first), generate


@_intrinsic
def minus(typing, a, number):  # type: ignore[no-untyped-def]
    """``a - number`` in every lane."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        value = context.cast(builder, arguments[1], signature.args[1], types.float64)
        filled = ir.Constant(_VECTOR, ir.Undefined)
        for lane in range(LANES):
            filled = builder.insert_element(filled, value, ir.Constant(ir.IntType(32), lane))
        return builder.fsub(arguments[0], filled)

    return _lanes(a, number), generate


@_intrinsic
def plus(typing, a, b):  # type: ignore[no-untyped-def]
    """``a + b`` lane by lane."""
    return _lanes(a, b), lambda context, builder, signature, arguments: builder.fadd(*arguments)


@_intrinsic
def times_plus(typing, a, b, c):  # type: ignore[no-untyped-def]
    """``a * b + c`` lane by lane, rounded once."""
    return _lanes(a, b, c), lambda context, builder, signature, arguments: _fused(builder, _VECTOR, "v8f64", arguments)


@_intrinsic
def total(typing, a):  # type: ignore[no-untyped-def]
    """Sum of the lanes by a fixed tree: first lanes that are four apart, then two, then one."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        values = [builder.extract_element(arguments[0], ir.Constant(ir.IntType(32), lane)) for lane in range(LANES)]
        while len(values) > 1:
            half = len(values) // 2
            values = [builder.fadd(values[lane], values[lane + half]) for lane in range(half)]
        return values[0]

    return types.float64(a), generate


@_intrinsic
def fma(typing, a, b, c):  # type: ignore[no-untyped-def]
    """``a * b + c`` of float64 numbers, rounded once."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        cast = [context.cast(builder, x, t, types.float64) for x, t in zip(arguments, signature.args, strict=True)]
        return _fused(builder, _DOUBLE, "f64", cast)

    return types.float64(a, b, c), generate


@nb.njit(inline="always")
def dot(x, y, begin, end):  # type: ignore[no-untyped-def]
    """Sum of ``x[k] * y[k]`` for ``begin <= k < end`` of contiguous arrays (n,)."""
    first, last = np.uint64(begin), np.uint64(end)
    whole = first + (last - first) // np.uint64(LANES) * np.uint64(LANES)
    sums = zeros()
    for k in range(first, whole, np.uint64(LANES)):
        sums = times_plus(load(x, k), load(y, k), sums)
    value = total(sums)
    for k in range(whole, last):
        value = fma(x[k], y[k], value)
    return value


def _fused(builder, kind, suffix, arguments):  # type: ignore[no-untyped-def]
    function = ir.FunctionType(kind, [kind] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, function, f"llvm.fma.{suffix}"), arguments)
