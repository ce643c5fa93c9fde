"""Whether the basis of a layer's units is privileged, by the operations that write and read the layer.

A layer that linear maps write, and that only linear maps and norms read, computes the same in any other basis: a
rotation of its units is undone by the weights before and after it. No coordinate then means anything by itself, and
numbers of single units depend on an arbitrary basis. Residual streams of transformers are such layers, and the units
of an attention head. Activation functions, pooling by maxima, gates and depthwise convolutions act on single units, and
make their basis privileged; so do the classes of a classifier's output.

Norms count as linear, although their gains and means belong to a basis. Optimisers that scale every weight by itself,
as Adam, may favour a basis as well; that is a matter of degree (Elhage et al. 2023, "Privileged bases in the
transformer residual stream", transformer-circuits.pub).
"""

from __future__ import annotations

from collections.abc import Mapping

from convergence.networks.activation_functions import (
    LINEAR_IF_INPUT_IS,
    NORMS,
    SCALING,
    is_norm_module,
    not_linear,
)
from convergence.networks.recording import Call, Value

READING = {
    "linear", "bilinear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    "addmm", "lstm", "gru", "rnn_tanh", "rnn_relu", "multi_head_attention_forward", "heads",
}  # fmt: skip
"""Functions that read a layer through a matrix of weights, which can undo a rotation of its units."""
PRODUCTS = {"matmul", "bmm", "baddbmm", "einsum", "scaled_dot_product_attention"}
"""Functions whose results are products of two values, such as queries and keys, or attention and values."""
PASSED = LINEAR_IF_INPUT_IS | {
    "neg", "to", "type_as", "float", "half", "bfloat16", "pad", "narrow", "index_select", "tensor_split", "flip",
    "swapaxes", "swapdims", "moveaxis", "t", "repeat", "expand_as", "split_with_sizes", "sum",
}  # fmt: skip
GROUPS = {"conv1d": 6, "conv2d": 6, "conv3d": 6, "conv_transpose1d": 6, "conv_transpose2d": 6, "conv_transpose3d": 6}
"""Place of the argument ``groups``."""


def is_privileged(value: Value, axes: Mapping[Value, int]) -> bool:
    """Whether the basis of a layer is privileged: not if linear maps write it, and only linear maps and norms read it.

    ``axes`` are the axes of units of all values (:func:`~convergence.networks.unit_axes.unit_axes`). A layer that an
    operation of unknown kind uses counts as privileged, and so does an output of the net that no norm makes.
    """
    if not_linear(value):
        return True
    waiting: list[tuple[Value, bool, bool]] = [(value, False, _of_norm(value))]
    seen: set[Value] = set()
    while waiting:
        here, is_product, has_norm = waiting.pop()
        if here in seen:
            continue
        seen.add(here)
        if here.is_answer and not has_norm:
            return True
        for call in dict.fromkeys(here.consumers):
            norm = next((part for part in call.within[::-1] if is_norm_module(part) and here in part.inputs), None)
            if norm is not None:
                waiting += [(out, is_product, True) for out in norm.values.values()]
            elif _reads(call) or (is_product and call.name == "softmax"):
                continue
            elif call.name in PRODUCTS:
                waiting += [(out, True, has_norm) for out in call.outputs]
            elif call.name in PASSED or (call.name in SCALING and _scales_all_alike(call, here, axes)):
                waiting += [(out, is_product, has_norm or call.name in NORMS) for out in call.outputs]
            else:
                return True
    return False


def _of_norm(value: Value) -> bool:
    """Whether a norm returned a value."""
    return any(is_norm_module(part) for part, _ in value.returned) or (
        value.producer is not None and value.producer.name in NORMS
    )


def _scales_all_alike(call: Call, value: Value, axes: Mapping[Value, int]) -> bool:
    """Whether a product or quotient is with constants, or with one number for all units, as a mask of positions."""
    others = [other for other in call.operands if other is not value]
    if not others:
        return True
    axis = axes.get(value)
    if axis is None:
        return False
    place = axis - value.tensor.ndim
    return all(other.tensor.ndim < -place or other.shape[place] == 1 for other in others)


def _reads(call: Call) -> bool:
    """Whether a call reads all units of its operand through one matrix; a convolution of groups does not."""
    if call.name not in READING:
        return False
    place = GROUPS.get(call.name)
    if place is None:
        return True
    groups = call.kwargs.get("groups", call.args[place] if len(call.args) > place else 1)
    return groups == 1
