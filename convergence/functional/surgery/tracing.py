"""Trace the units of a net: the unit that each entry of each tensor and parameter belongs to.

The net is run once in evaluation mode. Every tensor has labels, integers of the same shape that name the unit of each
entry. A layer labels its outputs as new units and notes that an axis of its weights runs over the units of its input;
entry-wise operations tie the units of their operands; operations that move entries (flatten, concatenate, split,
transpose) are applied to the labels.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from convergence.errors import UserError
from convergence.functional.surgery.operations import (
    MEAN_METHODS,
    MEANS,
    MOVING_FUNCTIONS,
    MOVING_METHODS,
    PAIRED,
    PAIRED_METHODS,
    POOLING_FUNCTIONS,
    POOLING_MODULES,
    UNIT_WISE_METHODS,
    is_unit_wise_function,
    is_unit_wise_module,
)
from convergence.functional.surgery.unit_labels import (
    Labels,
    TiedUnits,
    compact_labels,
    spread_labels,
    thin_labels,
    units_along,
    units_of_heads,
)
from convergence.networks.graphs import trace

ATTENTION = functional.scaled_dot_product_attention
IMAGES, LOGITS = "its units are channels of the images", "its units are the logits"


@dataclass
class Use:
    """The unit of each entry of a parameter axis, (n,); ``role`` as in ``ParameterAxis``."""

    labels: Labels
    role: Literal["out", "in", "norm"]


@dataclass(frozen=True)
class AttentionUnits:
    """The units of the heads of an attention, (n_heads, units of a head): of queries with keys, and of values."""

    name: str
    scores: Labels
    values: Labels


class UnitTracer(fx.Interpreter):
    """Runs a net on two blank images, or on two rows of the token 0 (nets with an embedding), and its labels beside it.

    Attributes
    ----------
    uses : by name of the parameter (as in the state) and axis
    units : all units, and which of them are tied
    fixed, whole : reasons why units cannot be permuted, or cut out, by unit
    attentions : the units of the heads of each attention
    channels : units along the channel axis of each node, by its qualified name
    names : qualified names of all nodes, in their order
    """

    def __init__(self, module: nn.Module, image_shape: tuple[int, ...]) -> None:
        own = copy.deepcopy(module).eval()
        graph, self._names = trace(own)
        super().__init__(fx.GraphModule(own, graph))
        self.names = list(self._names.values())
        self._net = type(module).__name__
        self._like = next(iter(module.parameters()), torch.zeros(()))
        self.uses: dict[tuple[str, int], Use] = {}
        self.units = TiedUnits()
        self.fixed: dict[int, str] = {}
        self.whole: dict[int, str] = {}
        self.attentions: list[AttentionUnits] = []
        self.channels: dict[str, Labels] = {}
        self._labels: dict[fx.Node, Any] = {}
        self._run(image_shape)

    # ---- units ----

    def _mark(self, reasons: dict[int, str], labels: torch.Tensor | Labels, reason: str) -> None:
        for unit in np.unique(thin_labels(labels) if isinstance(labels, torch.Tensor) else labels):
            reasons.setdefault(int(unit), reason)

    def _use(self, parameter: str, axis: int, labels: Labels, role: Literal["out", "in", "norm"]) -> Labels:
        """Note the units of a parameter axis; a parameter that is used twice ties the units of both uses."""
        if (parameter, axis) in self.uses:
            self.units.tie(self.uses[parameter, axis].labels, labels)
        else:
            self.uses[parameter, axis] = Use(labels, role)
        return self.uses[parameter, axis].labels

    # ---- the graph ----

    @torch.no_grad()
    def _run(self, image_shape: tuple[int, ...]) -> None:
        of_tokens = len(image_shape) == 1 and any(isinstance(part, nn.Embedding) for part in self.module.modules())
        try:
            self.run(self._like.new_zeros(2, *image_shape, dtype=torch.int64 if of_tokens else None))
        except RuntimeError as error:
            raise UserError(f"{self._net} cannot process images of shape {image_shape}: {error}") from error

    def run_node(self, n: fx.Node) -> Any:
        """The value of a node, whose labels are kept."""
        value = super().run_node(n)
        labels = None if n.op == "get_attr" else self._labels_of(n, value)
        self._labels[n] = labels
        if isinstance(labels, torch.Tensor) and n.op != "output":
            along = units_along(labels, 2 if labels.ndim == 3 else 1) if labels.ndim > 1 else None
            if along is not None:
                self.channels[self._names.get(n, n.name)] = along
        return value

    def _labels_of(self, n: fx.Node, value: Any) -> Any:
        if n.op == "placeholder":
            if not value.is_floating_point():
                return None  # tokens
            units = self.units.new(value.shape[1], "")
            self._mark(self.fixed, units, IMAGES)
            return spread_labels(units, value, 1)
        if n.op == "output":
            for node in n.all_input_nodes:
                labels = self._labels[node]
                for one in labels if isinstance(labels, list | tuple) else [labels]:
                    if one is not None:
                        self._mark(self.fixed, one, LOGITS)
            return None
        if n.op == "call_module" and isinstance(self.fetch_attr(str(n.target)), nn.Embedding):
            units = self.units.new(value.shape[-1], str(n.target))
            return spread_labels(self._use(f"{n.target}.weight", 1, units, "out"), value, value.ndim - 1)
        if not _tensors(value) or not any(self._labels.get(node) is not None for node in n.all_input_nodes):
            return None
        if n.op == "call_module":
            return self._module(n, self.fetch_attr(str(n.target)), value)
        rule = self._rule(n)
        if rule is None:
            raise self._cannot(n)
        return rule(n, value)

    def _rule(self, n: fx.Node) -> Callable[[fx.Node, Any], Any] | None:
        method = n.op == "call_method"
        if n.target in UNIT_WISE_METHODS if method else is_unit_wise_function(n.target):
            return self._same
        if n.target in (PAIRED_METHODS if method else PAIRED):
            return self._paired
        if n.target in (MOVING_METHODS if method else MOVING_FUNCTIONS):
            return self._moved
        if n.target in (MEAN_METHODS if method else MEANS):
            return self._mean
        if not method and n.target in POOLING_FUNCTIONS:
            return self._pooled
        if n.target is ATTENTION:
            return self._attention
        if n.target is functional.layer_norm:
            return self._layer_norm_function
        return None

    def _cannot(self, n: fx.Node, why: str = "") -> UserError:
        name = self._names.get(n, n.name)
        what: Any = n.target
        if n.op == "call_module":
            what = f"{type(self.fetch_attr(str(n.target))).__name__} module"
        what = what if isinstance(what, str) else getattr(what, "__name__", str(what))
        return UserError(
            f"{self._net}: {name} ({what}) {why or 'is an operation whose units cannot be traced'}, so that its units "
            "cannot be permuted. Valid are convolutions, linear layers, embeddings, norms, activation functions, "
            "scaled_dot_product_attention, pooling, addition, multiplication, concatenation and reshaping. Choose "
            "another net."
        )

    def _input(self, n: fx.Node) -> torch.Tensor:
        labels = self._labels.get(n.args[0]) if n.args and isinstance(n.args[0], fx.Node) else None
        if not isinstance(labels, torch.Tensor):
            raise self._cannot(n)
        return labels

    def _units(self, n: fx.Node, axis: int) -> Labels:
        """The units along an axis of a node's input, which must not depend on the other axes."""
        along = units_along(self._input(n), axis)
        if along is None:
            raise self._cannot(n, "mixes units with positions")
        return along

    # ---- modules ----

    def _module(self, n: fx.Node, module: nn.Module, value: Any) -> Any:
        name = str(n.target)
        if isinstance(module, nn.modules.conv._ConvNd) and not isinstance(module, nn.modules.conv._ConvTransposeNd):
            return spread_labels(self._convolution(n, name, module), value, 1)
        if isinstance(module, nn.Linear):
            self._use(f"{name}.weight", 1, self._units(n, -1), "in")
            return spread_labels(self._outputs(name, module), value, value.ndim - 1)
        if isinstance(module, nn.modules.batchnorm._NormBase):
            return self._per_unit(n, name, module, ("weight", "bias", "running_mean", "running_var"))
        if isinstance(module, nn.GroupNorm):
            if module.num_groups == 1:
                self._mark(self.whole, self._units(n, 1), f"{name} (GroupNorm) normalises them jointly")
            elif module.num_groups != module.num_channels:
                reason = f"{name} (GroupNorm) normalises {module.num_groups} groups of neighbours"
                self._mark(self.fixed, self._units(n, 1), reason)
            return self._per_unit(n, name, module, ("weight", "bias"))
        if isinstance(module, nn.LayerNorm):
            weights = {key: getattr(module, key) for key in ("weight", "bias")}
            return self._layer_norm(n, name, {f"{name}.{key}": value for key, value in weights.items()})
        if isinstance(module, nn.LocalResponseNorm):
            self._mark(self.fixed, self._units(n, 1), f"{name} (LocalResponseNorm) normalises neighbouring channels")
            return self._input(n)
        if isinstance(module, nn.PReLU):
            return self._input(n) if module.num_parameters == 1 else self._per_unit(n, name, module, ("weight",))
        if is_unit_wise_module(module):
            return self._same(n, value)
        if isinstance(module, POOLING_MODULES):
            return self._pooled(n, value)
        if isinstance(module, nn.Flatten):
            return module(self._input(n))
        raise self._cannot(n)

    def _convolution(self, n: fx.Node, name: str, module: Any) -> Labels:
        """The units of a convolution's output."""
        units = self._units(n, 1)
        if module.groups == 1:
            self._use(f"{name}.weight", 1, units, "in")
            return self._outputs(name, module)
        if module.groups == module.in_channels == module.out_channels:
            self._use(f"{name}.weight", 0, units, "norm")
            if module.bias is not None:
                self._use(f"{name}.bias", 0, units, "norm")
            return units
        reason = f"{name} is a convolution with {module.groups} groups"
        self._mark(self.fixed, units, reason)
        made = self._outputs(name, module)
        self._mark(self.fixed, made, reason)
        return made

    def _outputs(self, name: str, module: Any) -> Labels:
        known = self.uses.get((f"{name}.weight", 0))
        units = known.labels if known else self.units.new(module.weight.shape[0], name)
        self._use(f"{name}.weight", 0, units, "out")
        if module.bias is not None:
            self._use(f"{name}.bias", 0, units, "out")
        return units

    def _per_unit(self, n: fx.Node, name: str, module: nn.Module, parameters: tuple[str, ...]) -> torch.Tensor:
        for key in parameters:
            if getattr(module, key, None) is not None:
                self._use(f"{name}.{key}", 0, self._units(n, 1), "norm")
        return self._input(n)

    def _layer_norm_function(self, n: fx.Node, value: Any) -> torch.Tensor:
        nodes = [*n.args[2:4], n.kwargs.get("weight"), n.kwargs.get("bias")]
        weights = {str(x.target): self.fetch_attr(str(x.target)) for x in nodes if isinstance(x, fx.Node)}
        return self._layer_norm(n, self._names.get(n, n.name), weights)

    def _layer_norm(self, n: fx.Node, name: str, weights: dict[str, Any]) -> torch.Tensor:
        labels = self._input(n)
        self._mark(self.whole, labels, f"{name} (LayerNorm) normalises them jointly")
        for key, value in weights.items():
            if value is not None:
                self._parameter(n, key, value, labels)
        return labels

    def _parameter(self, n: fx.Node, name: str, value: torch.Tensor, labels: torch.Tensor) -> None:
        """Note the units of a parameter that is added to, or multiplied with, a labelled tensor."""
        if value.ndim > labels.ndim:
            raise self._cannot(n)
        for axis in range(value.ndim):
            at = axis - value.ndim
            if value.shape[axis] == 1 or labels.stride(at) == 0:
                continue
            along = units_along(labels, at)
            if along is None or value.shape[axis] != labels.shape[at]:
                raise self._cannot(n, "mixes units with positions")
            self._use(name, axis, along, "norm")

    # ---- functions ----

    def _same(self, n: fx.Node, value: Any) -> torch.Tensor:
        return self._input(n)

    def _pooled(self, n: fx.Node, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            raise self._cannot(n)
        return spread_labels(self._units(n, 1), value, 1)

    def _paired(self, n: fx.Node, value: Any) -> torch.Tensor:
        """Entry-wise operations tie the units of both operands."""
        both: list[torch.Tensor] = []
        parameters, computed = [], []
        for node in n.all_input_nodes:
            labels = self._labels.get(node)
            if isinstance(labels, torch.Tensor):
                both.append(labels)
            elif node.op == "get_attr":
                parameters.append(str(node.target))
            elif isinstance(self.env.get(node), torch.Tensor):
                computed.append(self.env[node])
        largest = max(both, key=lambda labels: (labels.shape == value.shape, labels.ndim))
        if largest.shape != value.shape:
            raise self._cannot(n, "broadcasts both operands")
        for other in computed:  # a mask of positions is the same for all units
            if any(
                size > 1 and stride for size, stride in zip(other.shape[::-1], largest.stride()[::-1], strict=False)
            ):
                raise self._cannot(n, "has an operand that no layer computes")
        for name in parameters:
            self._parameter(n, name, self.fetch_attr(name), largest)
        for labels in both:
            spread = any(
                size == 1 and whole > 1 and stride
                for size, whole, stride in zip(
                    labels.shape[::-1], largest.shape[::-1], largest.stride()[::-1], strict=False
                )
            )
            if labels is not largest and not spread:
                x, y = torch.broadcast_tensors(largest, labels)
                thin = tuple(
                    slice(0, 1) if a == b == 0 else slice(None) for a, b in zip(x.stride(), y.stride(), strict=True)
                )
                self.units.tie(x[thin].cpu().numpy(), y[thin].cpu().numpy())
        return largest

    def _attention(self, n: fx.Node, value: torch.Tensor) -> torch.Tensor:
        """Scores tie the units of queries and keys; weighted sums of values have their units."""
        nodes = [*n.args, *(n.kwargs[key] for key in ("query", "key", "value") if key in n.kwargs)][:3]
        of_heads = [units_of_heads(self._labels.get(node)) if isinstance(node, fx.Node) else None for node in nodes]
        query, key, values = of_heads
        if query is None or key is None or values is None:
            raise self._cannot(n, "mixes units with positions")
        if query.shape != key.shape or len(query) != len(values):
            raise self._cannot(n, f"has {len(query)} heads of queries and {len(values)} of keys and values")
        self.units.tie(query, key)
        self.attentions.append(AttentionUnits(self._names.get(n, n.name), query, values))
        labels = torch.from_numpy(values)
        return (labels if value.ndim == 3 else labels[:, None]).expand(value.shape)

    def _moved(self, n: fx.Node, value: Any) -> Any:
        method = n.op == "call_method"
        counts_not = MOVING_METHODS[str(n.target)] if method else MOVING_FUNCTIONS[n.target]
        for node in n.all_input_nodes:
            if node.op == "get_attr" or (
                self._labels.get(node) is None and isinstance(self.env.get(node), torch.Tensor)
            ):
                raise self._cannot(n, "has an operand that no layer computes")

        def argument(node: fx.Node) -> Any:
            labels = self._labels.get(node)
            return self.env[node] if labels is None else labels

        args, kwargs = fx.node.map_arg(n.args, argument), fx.node.map_arg(n.kwargs, argument)
        if n.op == "call_method":
            name = "reshape" if n.target == "view" else str(n.target)
            labels = getattr(args[0], name)(*args[1:], **kwargs)
        else:
            labels = n.target(*args, **kwargs)  # type: ignore[operator]
        if not counts_not and isinstance(args[0], torch.Tensor):
            self._count(n, args[0], labels)
        return compact_labels(labels)

    def _count(self, n: fx.Node, before: torch.Tensor, after: Any) -> None:
        """Mark units whose removal changes the result: splits of channels, and shapes that name their number."""
        named = n.target is not operator.getitem and any(isinstance(x, int) and x > 1 for x in n.args[1:])
        if isinstance(after, torch.Tensor) and not named:
            flattened = after.ndim == 2 and after.shape[1:] == before.flatten(1).shape[1:] and n.args[-1] == -1
            if flattened or after.shape[1:2] == before.shape[1:2]:
                return
        self._mark(self.whole, before, f"{self._names.get(n, n.name)} depends on their number")

    def _mean(self, n: fx.Node, value: Any) -> torch.Tensor:
        labels = self._input(n)
        dims = n.kwargs.get("dim", n.args[1] if len(n.args) > 1 else None)
        keep = bool(n.kwargs.get("keepdim", n.args[2] if len(n.args) > 2 else False))
        axes = [dims] if isinstance(dims, int) else dims
        if not isinstance(axes, list | tuple) or not all(isinstance(axis, int) for axis in axes):
            raise self._cannot(n)
        axes = sorted(axis % labels.ndim for axis in axes)
        for axis in axes:
            first = labels.narrow(axis, 0, 1)
            if labels.stride(axis) and bool((labels != first).any()):
                raise self._cannot(n, "averages over units")
            labels = first.expand_as(labels)
        for axis in reversed(axes):
            labels = labels.narrow(axis, 0, 1) if keep else labels.select(axis, 0)
        return labels


def _tensors(value: Any) -> bool:
    return isinstance(value, torch.Tensor) or (
        isinstance(value, list | tuple) and any(isinstance(item, torch.Tensor) for item in value)
    )
