"""Nets as graphs of torch.fx, for operations on nets: splitting, permuting units, pictures by back-propagation.

Statistics need no graph (:mod:`convergence.networks.layer_reader`); these operations do, and refuse a net that cannot
be traced. Nodes have the names of :mod:`convergence.networks.recording`, so a graph is cut at the value that the
statistics read. The values are compared.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from convergence.errors import ConfigError
from convergence.networks.layer_config import LayerConfig
from convergence.networks.layer_reader import LayerReader
from convergence.networks.recording import evaluation, function_name

RECTIFIERS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Hardswish, nn.Softplus, nn.Sigmoid, nn.Tanh,
)  # fmt: skip
RECTIFYING_FUNCTIONS: set[object] = {
    torch.relu, functional.relu, functional.relu6, functional.leaky_relu, functional.elu, functional.gelu,
    functional.silu, functional.mish, functional.hardswish, functional.softplus, torch.sigmoid, torch.tanh,
}  # fmt: skip
RECTIFYING_METHODS = {"relu", "relu_", "sigmoid", "tanh"}
ANSWER = "the output of the net"
"""Key of the node that the net returns."""


class LayerGraph:
    """The graph of a net up to some layers.

    Parameters
    ----------
    module : the net, which is not changed
    layers : names, or names with settings
    sample : a few inputs of the net
    with_answer : whether to keep what the net returns, under the key ``ANSWER``; it has to be one tensor

    Attributes
    ----------
    reader : reads the same layers without a graph
    module : inputs to a dict of outputs, with the axes of the net; nothing in it is in place

    Raises
    ------
    ConfigError
        for a net that cannot be traced, a layer that is no node of its graph, and other values than the reader's.
    """

    def __init__(
        self,
        module: nn.Module,
        layers: Sequence[str] | Mapping[str, LayerConfig],
        sample: torch.Tensor,
        with_answer: bool = False,
    ) -> None:
        self.reader = LayerReader(module, layers, sample)
        graph, names = trace(module)
        by_name = {name: node for node, name in names.items()}
        wanted = {layer: _node(type(module).__name__, layer, self.reader, by_name) for layer in layers}
        if with_answer:
            wanted[ANSWER] = _answer(type(module).__name__, graph)
        self.module = _cut(module, graph, wanted)
        self._check(sample)

    def node(self, layer: str) -> fx.Node:
        """The node of :attr:`module` that computes a layer, or what the net returns."""
        (output,) = (node for node in self.module.graph.nodes if node.op == "output")
        found: fx.Node = output.args[0][layer]
        return found

    @torch.no_grad()
    def _check(self, sample: torch.Tensor) -> None:
        if sample.device.type == "meta":
            return
        given = sample[[0, -1]]
        found, wanted = self.module(given), self.reader.tensors(given)
        for layer, tensor in wanted.items():
            scale = float(tensor.abs().nan_to_num(0, 0, 0).max())
            if not torch.allclose(found[layer], tensor, rtol=1e-4, atol=1e-4 * scale, equal_nan=True):
                raise ConfigError(
                    f'"{layer}" has other values in the traced graph of {type(self.reader.module).__name__} than in '
                    "the net. Its operations depend on the inputs, so its layers cannot be replaced or pictured."
                )


def answer_name(module: nn.Module) -> str:
    """Name of the node that computes the output of a net.

    Raises
    ------
    ConfigError
        for a net that cannot be traced, or that returns anything but one tensor.
    """
    graph, names = trace(module)
    return names[_answer(type(module).__name__, graph)]


def trace(module: nn.Module) -> tuple[fx.Graph, dict[fx.Node, str]]:
    """Trace a net in evaluation mode; return its graph and the name of every node.

    Raises
    ------
    ConfigError
        for a net that cannot be traced.
    """
    tracer = _Tracer()
    try:
        with evaluation(module):
            graph = tracer.trace(module)
    except Exception as error:
        raise ConfigError(
            f"{type(module).__name__} cannot be traced to a graph ({error}), so its layers cannot be replaced, "
            "permuted or pictured. The usual reason is Python control flow that depends on the images. Its statistics "
            "need no graph."
        ) from error
    return graph, tracer.names()


def is_rectifier(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Check whether a node of a graph is an activation function."""
    if node.op == "call_module":
        return isinstance(modules.get(str(node.target)), RECTIFIERS)
    return (node.op == "call_function" and node.target in RECTIFYING_FUNCTIONS) or (
        node.op == "call_method" and node.target in RECTIFYING_METHODS
    )


class _Tracer(fx.Tracer):
    """Notes the module that makes each node; names are those of a recording."""

    def __init__(self) -> None:
        super().__init__()
        self._owner = ""
        self._made: dict[fx.Node, str] = {}

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        before, self._owner = self._owner, self.path_of_module(m)
        try:
            return super().call_module(m, forward, args, kwargs)
        finally:
            self._owner = before

    def create_node(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(kind, target, *args, **kwargs)
        if kind == "call_module":
            self._made[node] = str(target)
        elif kind in ("call_function", "call_method"):
            name = function_name(target) if kind == "call_function" else str(target).rstrip("_")
            self._made[node] = f"{self._owner}.{name}" if self._owner else name
        else:
            self._made[node] = node.name
        return node

    def names(self) -> dict[fx.Node, str]:
        """The name of every node; nodes of one name are numbered."""
        alike: dict[str, list[fx.Node]] = {}
        for node, name in self._made.items():
            alike.setdefault(name, []).append(node)
        return {
            node: name if len(nodes) == 1 else f"{name}#{k}"
            for name, nodes in alike.items()
            for k, node in enumerate(nodes, start=1)
        }


def _node(kind: str, layer: str, reader: LayerReader, nodes: Mapping[str, fx.Node]) -> fx.Node:
    for name in reader.names[layer]:
        if name in nodes:
            return nodes[name]
    raise ConfigError(
        f'"{layer}" of {kind} is computed inside a module that torch.fx does not trace ({reader.sources[layer]}), so '
        "it cannot be replaced or pictured. Choose the module itself."
    )


def _answer(kind: str, graph: fx.Graph) -> fx.Node:
    (output,) = (node for node in graph.nodes if node.op == "output")
    answer = output.args[0]
    if not isinstance(answer, fx.Node):
        raise ConfigError(
            f"{kind} returns a {type(answer).__name__}; a classifier must return one tensor of logits. Wrap it in a "
            "module that returns the logits alone."
        )
    return answer


def _cut(module: nn.Module, graph: fx.Graph, wanted: dict[str, fx.Node]) -> fx.GraphModule:
    """Make a module that computes the wanted nodes, without later nodes and without in-place operations.

    An in-place operation would change the values that were read from the node before it. The given module is not
    changed.
    """
    own = copy.deepcopy(module)
    for part in own.modules():
        if getattr(part, "inplace", False):
            part.inplace = False  # type: ignore[assignment]
    for node in list(graph.nodes):
        if node.op == "output":
            graph.erase_node(node)
        elif node.op == "call_function":
            if node.target is operator.iadd:
                node.target = operator.add
            if node.kwargs.get("inplace"):
                node.kwargs = {**node.kwargs, "inplace": False}
        elif node.op == "call_method" and node.target in ("relu_", "add_"):
            node.target = str(node.target).rstrip("_")
    graph.output(dict(wanted))
    cut = fx.GraphModule(own, graph)
    cut.graph.eliminate_dead_code()
    cut.graph.lint()
    cut.recompile()
    cut.delete_all_unused_submodules()
    return cut.eval()
