"""Read the units of a layer: any module or graph node of a net, after its activation function.

The net is traced to a graph (torch.fx). From the node of the layer, the reader follows normalisation, dropout and
residual addition to the activation function that is applied to it. So ``conv1`` of a plain net and ``layer1.0.conv2``
of a residual net both mean the input of the next layers.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence

import torch
from torch import fx, nn
from torch.nn import functional

from convergence.errors import ConfigError, did_you_mean
from convergence.networks import PRE_ACTIVATIONS
from convergence.networks.pre_activations import Nonlinearity, nonlinearity, not_linear, pre_activation

RECTIFIERS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Hardswish, nn.Softplus, nn.Sigmoid, nn.Tanh,
)  # fmt: skip
RECTIFYING_FUNCTIONS: set[object] = {
    torch.relu, functional.relu, functional.relu6, functional.leaky_relu, functional.elu, functional.gelu,
    functional.silu, functional.mish, functional.hardswish, functional.softplus, torch.sigmoid, torch.tanh,
}  # fmt: skip
RECTIFYING_METHODS = {"relu", "relu_", "sigmoid", "tanh"}
PASSED_MODULES = (
    nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.Identity, nn.modules.dropout._DropoutNd,
)  # fmt: skip
PASSED_FUNCTIONS: set[object] = {operator.add, operator.iadd, torch.add, functional.dropout}
UNIT_AXIS = {2: 1, 3: 2, 4: 1}
"""The axis of units by the number of axes: vectors (n, C), tokens (n, T, C), maps (n, C, H, W)."""


class LayerReader:
    """Reads layers of a net for batches of images.

    Attributes
    ----------
    sources : qualified name of the graph node that is read for each layer
    rectified : for each layer whether that node is an activation function
    nonlinear : for each layer without an activation function the operation that is not linear; "" for a linear layer
    nonlinearities : the activation function of each layer whose pre-activations are read

    Raises
    ------
    ConfigError
        for an unknown layer (with the nearest names) or a net that cannot be traced.
    """

    def __init__(self, module: nn.Module, layers: Sequence[str], pre_activations: bool = False) -> None:
        """Find the layers; with ``pre_activations`` also the inputs of their activation functions."""
        graph, names = trace(module)
        nodes = {name: node for node, name in names.items()}  # of equal names the last node: a module's output
        modules = dict(module.named_modules())
        wanted: dict[str, fx.Node] = {}
        self.sources: dict[str, str] = {}
        self.rectified: dict[str, bool] = {}
        self.nonlinear: dict[str, str] = {}
        self.nonlinearities: dict[str, Nonlinearity] = {}
        self._has_input: dict[str, bool] = {}
        for layer in layers:
            start = _find(layer, nodes)
            node = _after_rectifier(start, modules)
            self.rectified[layer] = node is not None
            wanted[layer] = node if node is not None else start
            self.sources[layer] = names[wanted[layer]]
            if node is None:
                self.nonlinear[layer] = not_linear(start, modules)
                continue
            before = pre_activation(node)
            self._has_input[layer] = before is not None
            if before is not None and pre_activations:
                wanted[PRE_ACTIVATIONS + layer] = before
                self.nonlinearities[layer] = nonlinearity(node, modules)
        self._module = _cut(module, graph, wanted)

    @property
    def module(self) -> fx.GraphModule:
        """The net up to the last layer that is read, without in-place operations: images to a dict of outputs."""
        return self._module

    def node(self, layer: str) -> fx.Node:
        """Return the node of the graph of :attr:`module` that is read for a layer."""
        (output,) = (node for node in self._module.graph.nodes if node.op == "output")
        found: fx.Node = output.args[0][layer]
        return found

    def null_kind(self, layer: str, draws: int) -> tuple[str, str]:
        """The kind of chance level of a layer, and the reason if it has none.

        The kinds are those of :class:`~convergence.statistics.file.ComparisonSums`; ``draws`` is
        ``statistics.null.draws``.
        """
        if not self.rectified[layer]:
            found = self.nonlinear[layer]
            return ("", f"read after {found}, which is not linear") if found else ("sums", "")
        if not draws:
            return "", "statistics.null.draws = 0"
        if not self._has_input[layer]:
            return "", "the activation function is not elementwise"
        return "pre-activations", ""

    @torch.no_grad()
    def drop_not_elementwise(self, images: torch.Tensor) -> None:
        """Forget the pre-activations of layers whose activation function depends on more than single values."""
        found = self(images)
        for layer, function in list(self.nonlinearities.items()):
            wanted, pre = as_maps(found[layer]), as_maps(found[PRE_ACTIVATIONS + layer])
            try:
                again = function(pre)
            except (RuntimeError, ValueError, TypeError, IndexError):
                again = None
            if again is None or again.shape != wanted.shape or not torch.allclose(again, wanted, 1e-4, 1e-5):
                del self.nonlinearities[layer]
                self._has_input[layer] = False

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the output (n, units, …) of each layer for images (n, channels, height, width).

        The pre-activations of a layer, where they are read, have the key ``PRE_ACTIVATIONS + layer``.
        """
        outputs: dict[str, torch.Tensor] = self._module(images)
        return outputs


def as_maps(output: torch.Tensor) -> torch.Tensor:
    """Reshape the output of a layer to (n_images, n_units, n_positions).

    Maps (n, C, H, W) become (n, C, H·W); vectors (n, C) have one position; each token of (n, T, C) is a position.

    Raises
    ------
    ConfigError
        for any other number of axes.
    """
    axis = UNIT_AXIS.get(output.ndim)
    if axis is not None:
        units_second = output.movedim(axis, 1)
        return units_second.flatten(2) if output.ndim > 2 else units_second[:, :, None]
    raise ConfigError(
        f"the output of a layer has shape {tuple(output.shape)}; valid are maps (n, C, H, W), vectors (n, C) and "
        "tokens (n, T, C). Choose another layer."
    )


def answer_node(module: nn.Module) -> str:
    """Return the qualified name of the node that computes the output of a net.

    Raises
    ------
    ConfigError
        for a net that cannot be traced, or that returns anything but one tensor.
    """
    graph, names = trace(module)
    (output,) = (node for node in graph.nodes if node.op == "output")
    answer = output.args[0]
    if not isinstance(answer, fx.Node):
        raise ConfigError(
            f"{type(module).__name__} returns a {type(answer).__name__}; a classifier must return one tensor of "
            "logits. Wrap it in a module that returns the logits alone."
        )
    return names[answer]


def trace(module: nn.Module) -> tuple[fx.Graph, dict[fx.Node, str]]:
    """Trace a net in evaluation mode; return its graph and the qualified name of every node.

    Raises
    ------
    ConfigError
        for a net that cannot be traced.
    """
    from torchvision.models.feature_extraction import NodePathTracer

    was_training = module.training
    tracer = NodePathTracer()
    try:
        graph = tracer.trace(module.eval())
    except Exception as error:
        raise ConfigError(
            f"{type(module).__name__} cannot be traced to a graph ({error}), so its layers cannot be read by name. "
            "The usual reason is Python control flow that depends on the images; wrap it with torch.fx.wrap."
        ) from error
    finally:
        module.train(was_training)
    names = {node: tracer.node_to_qualname.get(node, node.name) for node in graph.nodes}
    return graph, names


def _find(layer: str, nodes: dict[str, fx.Node]) -> fx.Node:
    """Find the node of a layer: the node of that name, or the last node inside the module of that name."""
    if layer in nodes:
        return nodes[layer]
    inside = [node for name, node in nodes.items() if name.startswith(f"{layer}.")]
    if inside:
        return inside[-1]
    known = [name for name, node in nodes.items() if node.op not in ("placeholder", "output")]
    raise ConfigError(f'the net has no layer "{layer}"; {did_you_mean(layer, known)}')


def _after_rectifier(node: fx.Node, modules: dict[str, nn.Module]) -> fx.Node | None:
    """Find the first activation function at or after a node, through norms, dropout and addition; None without one."""
    while True:
        if _is(node, modules, RECTIFIERS, RECTIFYING_FUNCTIONS, RECTIFYING_METHODS):
            return node
        users = [user for user in node.users if user.op != "output"]
        forward = [
            user
            for user in users
            if _is(user, modules, RECTIFIERS, RECTIFYING_FUNCTIONS, RECTIFYING_METHODS)
            or _is(user, modules, PASSED_MODULES, PASSED_FUNCTIONS, {"add", "add_"})
        ]
        if len(forward) != 1 or len(users) != 1:
            return None
        node = forward[0]


def is_rectifier(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Check whether a node of a graph is an activation function."""
    return _is(node, modules, RECTIFIERS, RECTIFYING_FUNCTIONS, RECTIFYING_METHODS)


def _is(
    node: fx.Node, modules: dict[str, nn.Module], types: tuple[type, ...], functions: set[object], methods: set[str]
) -> bool:
    if node.op == "call_module":
        return isinstance(modules.get(str(node.target)), types)
    return (node.op == "call_function" and node.target in functions) or (
        node.op == "call_method" and node.target in methods
    )


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
