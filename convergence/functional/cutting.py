"""A net cut in two at a layer: what comes before the layer's output, and what becomes of it.

The net is traced to a graph (:mod:`convergence.networks.layer_reader`). The *front* is everything up to the node that the
statistics read for the layer; the *back* is everything that depends on it. Where paths lead past the node, as inside a
residual block, their values come from the front too and reach the back as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx, nn

from convergence.errors import ConfigError
from convergence.networks.layer_reader import LayerReader, answer_node

Mapped = Callable[[torch.Tensor], torch.Tensor]


class Cut:
    """The two halves of a net at one layer; the net itself is left as it is.

    Attributes
    ----------
    layer : name of the layer
    source : qualified name of the node that is replaced
    bypassing : names of the nodes whose values reach the back past the layer; none for a cut vertex of the graph

    Raises
    ------
    ConfigError
        for an unknown layer (with the nearest names), a net that cannot be traced, and a layer on which the net's
        answer does not depend.
    """

    def __init__(self, module: nn.Module, layer: str) -> None:
        answer = answer_node(module)
        reader = LayerReader(module, [layer, answer])
        self.layer, self.source = layer, reader.sources[layer]
        node, logits = reader.node(layer), reader.node(answer)
        after = _after(reader.module.graph, node)
        if logits is not node and logits not in after:
            raise ConfigError(
                f'the answer of {type(module).__name__} does not depend on the layer "{layer}", so nothing can be '
                "said of what replaces it. Choose another layer."
            )
        passing = _passing(node, after)
        self.bypassing = tuple(passing_node.name for passing_node in passing)
        self._front = _front(reader.module, [node, *passing])
        self._back = _back(reader.module, node, passing, after, logits)

    @torch.no_grad()
    def front(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Images (n, channels, height, width) to the layer's output (n, units, …) and the bypassing values."""
        values: tuple[torch.Tensor, ...] = self._front(images)
        return values

    @torch.no_grad()
    def back(self, value: torch.Tensor, *passing: torch.Tensor) -> torch.Tensor:
        """The layer's output, or what takes its place, and the bypassing values to logits (n, n_classes)."""
        logits: torch.Tensor = self._back(value, *passing)
        return logits

    def back_of_many(self, values: torch.Tensor, *passing: torch.Tensor) -> torch.Tensor:
        """Several replacements (m, n, units, …) for the same n images, in one pass: logits (m, n, n_classes)."""
        m, n = values.shape[:2]
        if any(not isinstance(p, torch.Tensor) or p.ndim == 0 or len(p) != n for p in passing):
            return torch.stack([self.back(value, *passing) for value in values])
        repeated = [p.repeat(m, *[1] * (p.ndim - 1)) for p in passing]
        return self.back(values.flatten(0, 1), *repeated).unflatten(0, (m, n))


def _after(graph: fx.Graph, node: fx.Node) -> dict[fx.Node, None]:
    """Nodes that depend on a node, in the order of the graph."""
    found: dict[fx.Node, None] = {}
    for other in graph.nodes:
        if other.op != "output" and any(given is node or given in found for given in other.all_input_nodes):
            found[other] = None
    return found


def _passing(node: fx.Node, after: dict[fx.Node, None]) -> list[fx.Node]:
    """Nodes that do not depend on the layer and are used by some that do; weights are no values of images."""
    used = dict.fromkeys(given for other in after for given in other.all_input_nodes)
    return [given for given in used if given is not node and given not in after and given.op != "get_attr"]


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
    """A module of a graph whose nodes are of ``module``, with which it shares its weights."""
    made = fx.GraphModule(module, graph)
    made.graph.eliminate_dead_code()
    made.graph.lint()
    made.recompile()
    made.delete_all_unused_submodules()
    return made.eval()
