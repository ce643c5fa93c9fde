"""Activation functions in a recording: the one that a layer is read after, its input, and the function itself.

From the output of a layer, :func:`activation_after` follows normalisation, dropout and residual addition to the
activation function that is applied to it. So ``conv1`` of a plain net and ``layer1.0.conv2`` of a residual net both
mean the input of the next layers. Norms and activation functions of any library count, also those that are computed
from several operations inside one module.

A chance level for rectified units applies the activation function to pre-activations in a random basis
(:mod:`convergence.statistics.null_sums`). That needs a function of single values, which is checked.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from convergence.networks.recording import Call, ModuleCall, Recording, Value

Nonlinearity = Callable[[torch.Tensor], torch.Tensor]
"""An elementwise function of values (n, units, …)."""
ACTIVATIONS = {
    "relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "celu", "selu", "gelu", "silu", "mish", "hardswish",
    "hardsigmoid", "hardtanh", "hardshrink", "softshrink", "tanhshrink", "softplus", "softsign", "sigmoid",
    "logsigmoid", "tanh", "threshold", "clamp", "clamp_min", "clip",
}  # fmt: skip
"""Names of the functions of torch that are activation functions."""
NORMS = {"batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"}
PASSED = NORMS | {
    "add", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout",
    "feature_alpha_dropout", "contiguous", "clone", "float", "to", "type_as",
}  # fmt: skip
"""Operations between a layer and its activation function."""
MOVED = {
    "flatten",
    "unflatten",
    "reshape",
    "reshape_as",
    "view",
    "view_as",
    "permute",
    "transpose",
    "movedim",
    "swapaxes",
}
"""Operations that are passed as well if the activation function is applied to the shape of the layer."""
NORM_MODULE = re.compile(r"(?<!Response)Norm", re.IGNORECASE)
LINEAR = {
    "linear", "bilinear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    "matmul", "bmm", "baddbmm", "addmm", "einsum", "embedding", "scaled_dot_product_attention",
    "multi_head_attention_forward", "heads",
}  # fmt: skip
"""Functions whose results are sums of products."""
LINEAR_IF_INPUT_IS = PASSED | {
    "sub", "cat", "concat", "stack", "flatten", "view", "reshape", "unflatten", "permute", "transpose", "movedim",
    "squeeze", "unsqueeze", "mean", "getitem", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d", "expand", "detach", "chunk", "split", "roll", "unbind", "T", "mT",
    "select",
}  # fmt: skip
"""Operations whose results are sums of products if their operands are."""

SCALING = {"mul", "div", "truediv"}
"""Operations that are linear if one operand is constant."""
AS_ANOTHER = {"reshape_as", "view_as", "expand_as", "type_as"}
"""Operations that need no more than the shape or the type of their second operand."""


@dataclass(frozen=True, eq=False, repr=False)
class Activation:
    """An activation function that a net applies.

    Attributes
    ----------
    before, after : the value that it is applied to, and its result
    function : the function, for values (n, units, …); it keeps its weights whatever happens to the net
    """

    before: Value
    after: Value
    function: Nonlinearity


def activation_after(recording: Recording, value: Value) -> Activation | None:
    """The first activation function at or after a value, through norms, dropout and addition; None without one.

    A norm may work on another shape, such as a batch norm of tokens as rows.
    """
    seen: set[Value] = set()
    shape = value.shape
    while value not in seen:
        seen.add(value)
        found = activation_of(recording, value)
        if found is not None:
            return found if found.after.shape == shape else None
        following = _following(recording, value)
        if following is None:
            return None
        value = following
    return None


def activation_of(recording: Recording, value: Value) -> Activation | None:
    """The activation function whose result a value is; None for other values."""
    call = value.producer
    if call is None:
        return None
    if call.name in ACTIVATIONS and len(call.operands) == 1 and call.operands[0].shape == value.shape:
        return Activation(call.operands[0], value, AppliedCall(call))
    if call.name == "mul" and len(call.operands) == 2:  # x · f(x)
        for given, gate in (call.operands, call.operands[::-1]):
            made = gate.producer
            if made is not None and made.name in ACTIVATIONS and made.operands == [given]:
                return Activation(given, value, _gated(AppliedCall(made)))
    for part in call.within[::-1]:
        if _is_activation_module(part) and part.values.get("") is value:
            return Activation(part.inputs[0], value, _of_module(part.module))
    return None


def not_linear(value: Value) -> str:
    """The operation that makes a value anything but sums of products; "" for a linear layer.

    Norms, means over positions, sums and changes of shape are linear if what they are applied to is.
    """
    waiting, seen = [value], set()
    while waiting:
        here = waiting.pop()
        call = here.producer
        if here in seen or call is None or call.name in LINEAR or here.constant:
            continue
        seen.add(here)
        inside = next(
            (part for part in call.within[::-1] if is_norm_module(part) and here in part.values.values()), None
        )
        if inside is not None:
            waiting += inside.inputs
        elif call.name in LINEAR_IF_INPUT_IS or (call.name in SCALING and len(call.operands) == 1):
            waiting += call.operands
        else:
            inner = call.within[-1] if call.within else None
            is_leaf = inner is not None and inner.path and next(inner.module.children(), None) is None
            return type(inner.module).__name__ if inner is not None and is_leaf else call.name
    return ""


def _following(recording: Recording, value: Value) -> Value | None:
    """The value after the next operation between a layer and its activation function; None at any other operation."""
    calls = _live(value)
    if not calls:
        return None
    first = calls[0]
    if len(calls) == 1 and first.name in ACTIVATIONS | PASSED | MOVED and first.outputs:
        return first.outputs[0]
    gate = next((call for call in calls if call.name in ACTIVATIONS), None)
    if gate is not None and len(calls) == 2:
        product = next(call for call in calls if call is not gate)
        if product.name == "mul" and set(product.operands) == {value, gate.outputs[0]}:
            return product.outputs[0]
    for part in first.within:
        inside = part.path and part.inputs == [value] and all(part in call.within for call in calls)
        out = part.values.get("")
        is_step = inside and out is not None and out is not value and out.shape == value.shape
        if is_step and (is_norm_module(part) or _is_activation_module(part)):
            return out
    return None


def _live(value: Value) -> list[Call]:
    """The calls that use the entries of a value and whose results are used."""
    calls = dict.fromkeys(value.consumers)
    return [
        call
        for call in calls
        if any(out.consumers or out.is_answer or out.names for out in call.outputs)
        and not (call.name in AS_ANOTHER and call.args[0] is not value.tensor)
    ]


def is_norm_module(part: ModuleCall) -> bool:
    """Whether a module is a norm, by the name of its class."""
    return bool(NORM_MODULE.search(type(part.module).__name__))


def _is_activation_module(part: ModuleCall) -> bool:
    """Whether a module without weights applies a function of single values that is not linear."""
    if not part.path or len(part.inputs) != 1 or set(part.values) != {""} or part.inputs[0].constant:
        return False
    given, out = part.inputs[0].tensor, part.values[""].tensor
    if out is given or out.shape != given.shape or next(part.module.parameters(), None) is not None:
        return False
    if not given.is_floating_point() or given.device.type == "meta":
        return False
    function = _of_module(part.module)
    probe = torch.linspace(-3, 3, 2 * given.shape[-1], device=given.device).unflatten(0, (2, -1))
    with torch.no_grad():
        try:
            found = function(probe)
            rolled = probe.flatten().roll(1).view_as(probe)  # rows of other values
            turned = function(rolled).flatten().roll(-1).view_as(probe)
        except Exception:
            return False
    if found.shape != probe.shape or not torch.allclose(found, turned, 1e-4, 1e-5):
        return False
    line = found[0, 0] + (found[-1, -1] - found[0, 0]) * (probe + 3) / 6
    return not torch.allclose(found, line, 1e-3, 1e-3)


class AppliedCall:
    """The function of a call with its other arguments; weights are copied, and the operand is not kept in memory.

    Attributes
    ----------
    name : name of the function of torch
    """

    def __init__(self, call: Call) -> None:
        (operand,) = call.operands
        self.name, self._function = call.name, call.function
        self._args, self._kwargs = _without(call.args, operand), _without(call.kwargs, operand)

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        own = values.clone()  # the function may be in place
        result: torch.Tensor = self._function(*_filled(self._args, own), **_filled(self._kwargs, own))
        return result


_OPERAND = object()


def _without(given: Any, operand: Value) -> Any:
    if isinstance(given, dict):
        return {key: _without(item, operand) for key, item in given.items()}
    if isinstance(given, tuple):
        return tuple(_without(item, operand) for item in given)
    if isinstance(given, torch.Tensor):
        return _OPERAND if given is operand.tensor else given.detach().clone()
    return given


def _filled(given: Any, values: torch.Tensor) -> Any:
    if isinstance(given, dict):
        return {key: _filled(item, values) for key, item in given.items()}
    if isinstance(given, tuple):
        return tuple(_filled(item, values) for item in given)
    if isinstance(given, torch.Tensor):
        return given.to(values.device)
    return values if given is _OPERAND else given


def _gated(function: Nonlinearity) -> Nonlinearity:
    return lambda values: values * function(values)


def _of_module(module: nn.Module) -> Nonlinearity:
    own = copy.deepcopy(module).eval().requires_grad_(False)

    def apply(values: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = own.to(values.device)(values.clone())
        return result

    return apply
