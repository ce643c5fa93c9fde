"""The axis of a layer's output that runs over its units, followed back to the operation that made them."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

FIRST = (
    nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LocalResponseNorm,
)  # fmt: skip
"""Modules with units along axis 1."""
LAST = (nn.Linear, nn.LayerNorm, nn.Embedding)
"""Modules with units along the last axis."""
FIRST_FUNCTIONS: set[object] = {
    functional.conv1d, functional.conv2d, functional.conv3d, functional.batch_norm, functional.group_norm,
    functional.instance_norm, functional.local_response_norm, torch.conv1d, torch.conv2d, torch.conv3d,
}  # fmt: skip
LAST_FUNCTIONS: set[object] = {functional.linear, functional.layer_norm, functional.embedding}
MIXING = (nn.Flatten, nn.Unflatten, nn.Fold, nn.Unfold, nn.PixelShuffle, nn.MultiheadAttention, nn.RNNBase)
ENTRY_WISE: set[object] = {
    operator.add, operator.iadd, operator.mul, operator.imul, operator.sub, operator.truediv, torch.add, torch.mul,
    torch.sub, torch.div, torch.relu, torch.sigmoid, torch.tanh, functional.relu, functional.relu6, functional.gelu,
    functional.silu, functional.elu, functional.leaky_relu, functional.hardswish, functional.mish, functional.softplus,
    functional.dropout, torch.clamp,
}  # fmt: skip
ENTRY_WISE_METHODS = {"relu", "relu_", "sigmoid", "tanh", "add", "add_", "mul", "mul_", "clamp", "contiguous", "float"}
SWAPS = {"transpose", "swapaxes", "swapdims"}


def unit_axis(module: fx.GraphModule, node: fx.Node, ndim: int) -> tuple[int, str] | None:
    """The axis of a node's units, and the name of the operation that made them; None if it is not known.

    Entry-wise operations, pooling and permutations of axes are followed back to a convolution, linear layer or norm.
    """
    return _axis(dict(module.named_modules()), node, ndim, set())


def _axis(modules: dict[str, Any], node: fx.Node, ndim: int, seen: set[fx.Node]) -> tuple[int, str] | None:
    if node in seen:
        return None
    seen.add(node)
    part = modules.get(str(node.target)) if node.op == "call_module" else None
    name = str(node.target) if part is not None else node.name
    if isinstance(part, FIRST) or node.target in FIRST_FUNCTIONS:
        return 1, name
    if isinstance(part, LAST) or node.target in LAST_FUNCTIONS:
        return ndim - 1, name
    order = _order(node, part, ndim)
    if order is not None:
        before = _first_known(modules, node, ndim, seen)
        return (order.index(before[0]), before[1]) if before is not None else None
    if part is not None:
        keeps = next(part.children(), None) is None and not isinstance(part, MIXING)
    else:
        keeps = node.target in ENTRY_WISE or (node.op == "call_method" and node.target in ENTRY_WISE_METHODS)
        keeps = keeps or "stochastic_depth" in node.name
    return _first_known(modules, node, ndim, seen) if keeps else None


def _first_known(modules: dict[str, Any], node: fx.Node, ndim: int, seen: set[fx.Node]) -> tuple[int, str] | None:
    """The axis of the first operand whose axis is known."""
    for given in node.all_input_nodes:
        found = _axis(modules, given, ndim, seen)
        if found is not None:
            return found
    return None


def _order(node: fx.Node, part: Any, ndim: int) -> list[int] | None:
    """For a permutation of axes: the axis of the input that each axis of the output was; None for other operations."""
    if part is not None:
        dims = getattr(part, "dims", None) if type(part).__name__ == "Permute" else None
        return [axis % ndim for axis in dims] if dims is not None and len(dims) == ndim else None
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
    numbers = [x for x in _flat(node.args[1:]) if isinstance(x, int)]
    if name == "permute" and len(numbers) == ndim:
        return [axis % ndim for axis in numbers]
    if name in SWAPS and len(numbers) == 2:
        a, b = (axis % ndim for axis in numbers)
        return [b if axis == a else a if axis == b else axis for axis in range(ndim)]
    return None


def _flat(values: Any) -> list[Any]:
    return [x for value in values for x in (_flat(value) if isinstance(value, list | tuple) else [value])]
