"""Pre-activations of a layer: the input of its activation function, and the function itself.

A chance level for rectified units rotates pre-activations and applies the layer's own activation function to them
(:mod:`convergence.statistics.null_sums`). That needs a function of single values. A layer that ends in a linear
operation needs neither.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable

import torch
from torch import fx, nn
from torch.nn import functional

Nonlinearity = Callable[[torch.Tensor], torch.Tensor]
"""An elementwise function of values (n, units, …)."""
LINEAR_MODULES = (
    nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd, nn.MultiheadAttention, nn.Embedding,
)  # fmt: skip
LINEAR_FUNCTIONS: set[object] = {
    functional.linear, functional.conv1d, functional.conv2d, functional.conv3d, functional.conv_transpose2d,
    torch.matmul, torch.bmm, torch.addmm, torch.einsum, operator.matmul, functional.scaled_dot_product_attention,
}  # fmt: skip
LINEAR_METHODS = {"matmul", "bmm", "addmm"}
PASSED_MODULES = (
    nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.Identity, nn.modules.dropout._DropoutNd,
    nn.Flatten, nn.Unflatten, nn.modules.pooling._AvgPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd,
)  # fmt: skip
PASSED_FUNCTIONS: set[object] = {
    operator.add, operator.iadd, operator.sub, torch.add, torch.sub, torch.cat, torch.concat, torch.flatten,
    torch.reshape, torch.transpose, torch.permute, torch.squeeze, torch.unsqueeze, torch.mean, operator.getitem,
    functional.dropout, functional.layer_norm, functional.batch_norm, functional.avg_pool2d,
    functional.adaptive_avg_pool2d, torch.stack, torch.roll,
}  # fmt: skip
PASSED_METHODS = {
    "add", "add_", "sub", "flatten", "view", "reshape", "transpose", "permute", "contiguous", "squeeze", "unsqueeze",
    "mean", "expand", "to", "float", "clone", "detach", "type_as", "movedim",
}  # fmt: skip


def pre_activation(node: fx.Node) -> fx.Node | None:
    """The node of the one tensor that an activation function is applied to; None if there is not one such node."""
    inputs = list(node.all_input_nodes)
    return inputs[0] if len(inputs) == 1 else None


def nonlinearity(node: fx.Node, modules: dict[str, nn.Module], device: str | None = None) -> Nonlinearity:
    """The activation function of a node, for values of the shape (n, units, …), not in place.

    A module is copied, to ``device`` if given, so the function keeps its parameters whatever happens to the net.
    """
    if node.op == "call_module":
        module = copy.deepcopy(modules[str(node.target)]).eval().requires_grad_(False)
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
        return module if device is None else module.to(device)
    arguments, keywords = node.args[1:], {k: v for k, v in node.kwargs.items() if k not in ("input", "inplace")}
    if node.op == "call_method":
        method = str(node.target).rstrip("_")
        return lambda values: getattr(values, method)(*arguments, **keywords)
    function = node.target
    assert callable(function)
    return lambda values: function(values, *arguments, **keywords)


def not_linear(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    """The operation that makes the values of a node anything but sums of products; "" for a linear layer.

    Norms, means over positions, sums and changes of shape are linear if what they are applied to is.
    """
    waiting, seen = [node], set()
    while waiting:
        here = waiting.pop()
        if here in seen or here.op in ("placeholder", "get_attr") or _is_linear(here, modules):
            continue
        if not _is_passed(here, modules):
            return _operation(here, modules)
        seen.add(here)
        waiting += here.all_input_nodes
    return ""


def _is_linear(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules.get(str(node.target)), LINEAR_MODULES)
    return node.target in (LINEAR_FUNCTIONS if node.op == "call_function" else LINEAR_METHODS)


def _is_passed(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules.get(str(node.target)), PASSED_MODULES)
    return node.target in (PASSED_FUNCTIONS if node.op == "call_function" else PASSED_METHODS)


def _operation(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    if node.op == "call_module":
        return type(modules[str(node.target)]).__name__
    return str(getattr(node.target, "__name__", node.target))
