"""Receptive fields from a net's graph: the pixels that the value of a position depends on.

Along an axis, position i of a map depends on pixels i · stride + first … i · stride + last, which may be beyond the
border. A window of k taps with dilation d, step s and padding p turns that into

    first ← first − p · stride,   last ← last + ((k − 1) d − p) · stride,   stride ← s · stride ,

and where branches join (addition, concatenation) the field is the hull of their fields (Araujo, Norris & Sim 2019,
Distill, "Computing receptive fields of convolutional neural networks"). Operations that mix all positions, and unknown
operations, have the whole image as their field; the reason is given.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from convergence.networks.graphs import RECTIFIERS, RECTIFYING_FUNCTIONS, RECTIFYING_METHODS

Pair = tuple[int, int]
WINDOWS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d)
POINTWISE = (
    *RECTIFIERS, nn.BatchNorm2d, nn.LocalResponseNorm, nn.Identity, nn.modules.dropout._DropoutNd, nn.Hardsigmoid,
    nn.Hardtanh,
)  # fmt: skip
"""Modules that act on each position alone, in evaluation mode."""
POINTWISE_FUNCTIONS: set[object] = RECTIFYING_FUNCTIONS | {
    functional.dropout, functional.dropout2d, functional.hardsigmoid, functional.batch_norm, torch.clamp, torch.abs,
    torch.neg, operator.neg, torch.sqrt, torch.exp,
}  # fmt: skip
JOINING: set[object] = {
    operator.add, operator.iadd, torch.add, operator.sub, torch.sub, operator.mul, operator.imul, torch.mul,
    operator.truediv, torch.div, torch.maximum, torch.minimum,
}  # fmt: skip
JOINING_METHODS = {"add", "add_", "sub", "mul", "mul_", "div"}
POINTWISE_METHODS = RECTIFYING_METHODS | {"clamp", "contiguous", "clone", "detach", "float", "abs"}
MIXING = (nn.Linear, nn.Flatten, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.GroupNorm, nn.LayerNorm)
"""Modules that mix all positions, or have no positions in their output."""
UNKNOWN = "the operation "
"""Beginning of the reason for operations whose field is not known."""


@dataclass(frozen=True)
class ReceptiveField:
    """Receptive field of a position; pairs are (y, x).

    Attributes
    ----------
    size : pixels
    stride : pixels from one position to the next
    padding : the field of position (i, j) begins at pixel (i, j) · stride − padding
    whole : "", or why the field is the whole image; the pairs are then undefined
    """

    size: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    whole: str = ""

    def start(self, position: Pair) -> Pair:
        """First pixel of a position's field; negative beyond the border."""
        y, x = (i * s - p for i, s, p in zip(position, self.stride, self.padding, strict=True))
        return y, x

    def window(self, kernel: Pair, step: Pair, padding: Pair, dilation: Pair) -> ReceptiveField:
        """The field of a window over this layer."""
        if self.whole:
            return self
        axes = zip(self.size, self.stride, self.padding, kernel, step, padding, dilation, strict=True)
        found = [(n + (k - 1) * d * j, j * s, p + q * j) for n, j, p, k, s, q, d in axes]
        size, stride, start = zip(*found, strict=True)
        return ReceptiveField(size, stride, start)

    def joined(self, other: ReceptiveField) -> ReceptiveField:
        """The hull of two fields."""
        if self.whole or other.whole:
            return self if self.whole else other
        if self.stride != other.stride:
            return ReceptiveField(whole=f"branches of stride {self.stride} and {other.stride} are joined")
        first = [max(p, q) for p, q in zip(self.padding, other.padding, strict=True)]
        last = [
            max(n - p, m - q)
            for n, p, m, q in zip(self.size, self.padding, other.size, other.padding, strict=True)
        ]  # fmt: skip
        size = tuple(f + l for f, l in zip(first, last, strict=True))
        return ReceptiveField(size, self.stride, tuple(first))  # type: ignore[arg-type]

    def sees_all(self, map_shape: Pair, image: Pair) -> bool:
        """Whether the field of every position of a map is the whole image."""
        if self.whole:
            return True
        corners = ((0, 0), (map_shape[0] - 1, map_shape[1] - 1))
        starts = [self.start(corner) for corner in corners]
        return all(
            s <= 0 and s + n >= side for start in starts for s, n, side in zip(start, self.size, image, strict=True)
        )


def receptive_fields(module: fx.GraphModule) -> dict[fx.Node, ReceptiveField]:
    """Receptive fields of the nodes of a graph that depend on the images."""
    modules = dict(module.named_modules())
    fields: dict[fx.Node, ReceptiveField] = {}
    for node in module.graph.nodes:
        if node.op == "placeholder":
            fields[node] = ReceptiveField()
            continue
        inputs = [fields[source] for source in node.all_input_nodes if source in fields]
        if inputs and node.op != "output":
            fields[node] = _field(node, modules, inputs)
    return fields


def _field(node: fx.Node, modules: dict[str, nn.Module], inputs: list[ReceptiveField]) -> ReceptiveField:
    joined = inputs[0]
    for other in inputs[1:]:
        joined = joined.joined(other)
    if joined.whole:
        return joined
    if node.op == "call_module":
        return _of_module(modules[str(node.target)], str(node.target), joined)
    target = node.target
    if node.op == "call_function":
        if target in JOINING or target in POINTWISE_FUNCTIONS or getattr(target, "__name__", "") == "stochastic_depth":
            return joined
        if target in (torch.cat, torch.concat) and _argument(node, 1, "dim", 0) == 1:
            return joined
        if target in (torch.chunk, torch.split) and _argument(node, 2, "dim", 0) == 1:
            return joined
        if target is operator.getitem and not isinstance(node.args[1], tuple):
            return joined  # one of the parts of a split, or an image of the batch
        pool = POOLING.get(target)
        if pool is not None:
            kernel = _pair(_argument(node, 1, "kernel_size", None))
            step = _argument(node, 2, "stride", None)
            padding = _pair(_argument(node, 3, "padding", 0))
            dilation = _pair(_argument(node, 4, "dilation", 1) if pool == "max" else 1)
            return joined.window(kernel, kernel if step in (None, []) else _pair(step), padding, dilation)
        return ReceptiveField(whole=f"{UNKNOWN}{getattr(target, '__name__', target)} ({node.name})")
    if target in POINTWISE_METHODS or target in JOINING_METHODS:
        return joined
    if target == "chunk" and _argument(node, 2, "dim", 0) == 1:
        return joined
    return ReceptiveField(whole=f"{UNKNOWN}{target} ({node.name})")


def _of_module(module: nn.Module, name: str, field: ReceptiveField) -> ReceptiveField:
    if isinstance(module, nn.Conv2d) and isinstance(module.padding, str):
        kernel, dilation = _pair(module.kernel_size), _pair(module.dilation)
        before = (0, 0)
        if module.padding == "same":
            before = (dilation[0] * (kernel[0] - 1) // 2, dilation[1] * (kernel[1] - 1) // 2)
        return field.window(kernel, _pair(module.stride), before, dilation)
    if isinstance(module, WINDOWS):
        window: Any = module
        kernel = _pair(window.kernel_size)
        step = kernel if window.stride is None else _pair(window.stride)
        return field.window(
            kernel, step, _pair(getattr(window, "padding", 0)), _pair(getattr(window, "dilation", 1))
        )  # fmt: skip
    if isinstance(module, nn.ZeroPad2d | nn.ReflectionPad2d | nn.ReplicationPad2d | nn.ConstantPad2d):
        if isinstance(module, nn.ZeroPad2d | nn.ConstantPad2d):
            left, _, top, _ = module.padding
            return field.window((1, 1), (1, 1), (int(top), int(left)), (1, 1))
    elif isinstance(module, POINTWISE):
        return field
    what = type(module).__name__
    return ReceptiveField(whole=f"{name} ({what})" if isinstance(module, MIXING) else f"{UNKNOWN}{what} ({name})")


POOLING: dict[object, str] = {
    functional.max_pool2d: "max", torch.max_pool2d: "max", functional.avg_pool2d: "mean",
    functional.lp_pool2d: "mean",
}  # fmt: skip


def _argument(node: fx.Node, place: int, name: str, default: Any) -> Any:
    if name in node.kwargs:
        return node.kwargs[name]
    return node.args[place] if len(node.args) > place else default


def _pair(value: Any) -> Pair:
    if isinstance(value, int):
        return value, value
    y, x = (value[0], value[0]) if len(value) == 1 else value
    return int(y), int(x)
