"""A net split at a layer into a front part, which computes the layer, and a back part, which reads it.

The net is traced to a graph (:mod:`convergence.networks.graphs`). The front part is everything up to the node
that the statistics read. The back part is everything that depends on it. Values that bypass the node, as inside a
residual block, are computed by the front part and passed to the back part unchanged.
"""

from __future__ import annotations

import torch
from torch import fx, nn
from torch.nn import functional

from convergence.errors import ConfigError
from convergence.networks.graphs import ANSWER, LayerGraph
from convergence.networks.layer_config import LayerConfig

VALUES_AT_ONCE = 2**22
"""Numbers of a layer's output that are replaced in one pass of the back part; it changes bits."""


class SplitNetwork:
    """The two parts of a net at one layer; the net itself is not changed.

    Parameters
    ----------
    module : the net
    layer : name of the layer
    sample : a few inputs of the net
    config : how the layer is read

    Attributes
    ----------
    layer : name of the layer
    source : name of the value that is replaced
    unit_axis : axis of the units in the value; the parts have them along axis 1
    bypassing : names of the nodes whose values bypass the layer

    Raises
    ------
    ConfigError
        for an unknown layer, a net that cannot be traced, a layer that the logits do not depend on, and a layer whose
        first axis is not that of images.
    """

    def __init__(self, module: nn.Module, layer: str, sample: torch.Tensor, config: LayerConfig | None = None) -> None:
        traced = LayerGraph(module, {layer: config or LayerConfig()}, sample, with_answer=True)
        layout = traced.reader.layouts[layer]
        if layout.image_axis or layout.per_image > 1 or layout.unit_axis < 0 or layout.tokens != "all":
            raise ConfigError(
                f'"{layer}" of {type(module).__name__} cannot be replaced: its first axis does not run over images '
                "alone, or some of its positions are left out. Choose another layer."
            )
        self.layer, self.source, self.unit_axis = layer, traced.reader.sources[layer], layout.unit_axis
        node, logits = traced.node(layer), traced.node(ANSWER)
        after = _after(traced.module.graph, node)
        if logits is not node and logits not in after:
            raise ConfigError(
                f'the logits of {type(module).__name__} do not depend on the layer "{layer}", which cannot be '
                "replaced. Choose another layer."
            )
        passing = _passing(node, after)
        self.bypassing = tuple(passing_node.name for passing_node in passing)
        self._front = _front(traced.module, [node, *passing])
        self._back = _back(traced.module, node, passing, after, logits)
        self._penultimate: fx.GraphModule | None = None
        last = _input_of_last_layer(traced.module, logits)
        if last is node or last in after:
            self._penultimate = _back(traced.module, node, passing, after, last).requires_grad_(False)

    @torch.no_grad()
    def front(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The layer's output (n, units, …) and the bypassing values, from images (n, channels, height, width)."""
        value, *passing = self._front(images)
        return value.movedim(self.unit_axis, 1), *passing

    @torch.no_grad()
    def back(self, value: torch.Tensor, *passing: torch.Tensor) -> torch.Tensor:
        """Logits (n, n_classes) from the layer's output, or its replacement, and the bypassing values."""
        logits: torch.Tensor = self._back(value.movedim(1, self.unit_axis), *passing)
        return logits

    @property
    def has_penultimate(self) -> bool:
        """Whether a linear layer computes the logits, and its input depends on the layer."""
        return self._penultimate is not None

    def penultimate(self, value: torch.Tensor, *passing: torch.Tensor) -> torch.Tensor:
        """The input of the last layer, with gradients, from the layer's output and the bypassing values."""
        assert self._penultimate is not None
        found: torch.Tensor = self._penultimate(value.movedim(1, self.unit_axis), *passing)
        return found

    def back_of_many(self, values: torch.Tensor, *passing: torch.Tensor) -> torch.Tensor:
        """Logits (m, n, n_classes) from m replacements (m, n, units, …) for the same n images, in one pass."""
        m, n = values.shape[:2]
        if any(not isinstance(p, torch.Tensor) or p.ndim == 0 or len(p) != n for p in passing):
            return torch.stack([self.back(value, *passing) for value in values])
        repeated = [p.repeat(m, *[1] * (p.ndim - 1)) for p in passing]
        return self.back(values.flatten(0, 1), *repeated).unflatten(0, (m, n))


def slices(n: int, numel: int) -> list[slice]:
    """Slices of ``n`` layer outputs of ``numel`` numbers each, small enough for one pass of the back part."""
    step = max(1, VALUES_AT_ONCE // max(numel, 1))
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def apply_map(value: torch.Tensor, weights: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Map a layer's output (n, units, …) at each position by weights (n_a, n_b)."""
    if value.ndim == 4:
        return functional.conv2d(value, weights[:, :, None, None], bias)
    return functional.linear(value.movedim(1, -1), weights, bias).movedim(-1, 1)


def _after(graph: fx.Graph, node: fx.Node) -> dict[fx.Node, None]:
    """Nodes that depend on a node, in the order of the graph."""
    found: dict[fx.Node, None] = {}
    for other in graph.nodes:
        if other.op != "output" and any(given is node or given in found for given in other.all_input_nodes):
            found[other] = None
    return found


def _passing(node: fx.Node, after: dict[fx.Node, None]) -> list[fx.Node]:
    """Nodes that do not depend on the layer and are used by nodes that do, weights excluded."""
    used = dict.fromkeys(given for other in after for given in other.all_input_nodes)
    return [given for given in used if given is not node and given not in after and given.op != "get_attr"]


def _input_of_last_layer(module: fx.GraphModule, logits: fx.Node) -> fx.Node | None:
    """What the layer that computes the logits is given; None if it is not linear."""
    if logits.op == "call_module" and isinstance(module.get_submodule(str(logits.target)), nn.Linear):
        return logits.all_input_nodes[0]
    return None


def _front(module: fx.GraphModule, wanted: list[fx.Node]) -> fx.GraphModule:
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        if node.op != "output":
            copied[node] = graph.node_copy(node, lambda given: copied[given])
    graph.output(tuple(copied[node] for node in wanted))
    return _compiled(module, graph)


def _back(
    module: fx.GraphModule, node: fx.Node, passing: list[fx.Node], after: dict[fx.Node, None], logits: fx.Node
) -> fx.GraphModule:
    graph = fx.Graph()
    copied = {given: graph.placeholder(f"given_{given.name}") for given in (node, *passing)}
    for other in module.graph.nodes:
        if other in after or (other.op == "get_attr" and other not in copied):
            copied[other] = graph.node_copy(other, lambda given: copied[given])
    graph.output(copied[logits])
    return _compiled(module, graph)


def _compiled(module: fx.GraphModule, graph: fx.Graph) -> fx.GraphModule:
    """A module of a graph with the nodes of ``module``, sharing its weights."""
    made = fx.GraphModule(module, graph)
    made.graph.eliminate_dead_code()
    made.graph.lint()
    made.recompile()
    made.delete_all_unused_submodules()
    return made.eval()
