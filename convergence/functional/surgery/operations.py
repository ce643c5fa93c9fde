"""How operations treat units: entry by entry, pairing operands, pooling positions, moving entries, or taking means."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from convergence.networks.graphs import RECTIFIERS, RECTIFYING_FUNCTIONS

UNIT_WISE_MODULES = (
    *(kind for kind in RECTIFIERS if kind is not nn.PReLU), nn.Identity, nn.modules.dropout._DropoutNd, nn.Hardsigmoid,
    nn.Hardtanh, nn.Softsign, nn.LogSigmoid,
)  # fmt: skip
UNIT_WISE_FUNCTIONS: set[object] = RECTIFYING_FUNCTIONS | {
    functional.dropout, functional.dropout2d, functional.hardsigmoid, functional.hardtanh, functional.sigmoid,
    functional.tanh, functional.selu, functional.softplus, torch.relu_, torch.exp, torch.abs, torch.sqrt, torch.clamp,
    operator.neg,
}  # fmt: skip
UNIT_WISE_METHODS = {
    "relu", "relu_", "sigmoid", "sigmoid_", "tanh", "contiguous", "clone", "detach", "abs", "sqrt", "exp", "clamp",
    "float", "to", "neg",
}  # fmt: skip
PAIRED: set[object] = {
    operator.add, operator.iadd, operator.mul, operator.imul, operator.sub, operator.isub, operator.truediv, torch.add,
    torch.mul, torch.sub, torch.div, torch.maximum, torch.minimum,
}  # fmt: skip
PAIRED_METHODS = {"add", "add_", "mul", "mul_", "sub", "sub_", "div", "div_"}
POOLING_MODULES = (
    nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd, nn.modules.pooling._LPPoolNd, nn.Upsample, nn.modules.padding._ConstantPadNd,
    nn.modules.padding._ReflectionPadNd, nn.modules.padding._ReplicationPadNd,
)  # fmt: skip
POOLING_FUNCTIONS: set[object] = {
    functional.max_pool2d, functional.avg_pool2d, functional.adaptive_avg_pool2d, functional.adaptive_max_pool2d,
    torch.max_pool2d, functional.interpolate,
}  # fmt: skip
MOVING_FUNCTIONS: dict[object, bool] = {
    torch.flatten: True, torch.cat: True, torch.concat: True, torch.squeeze: True, torch.unsqueeze: True,
    torch.permute: True, torch.transpose: True, torch.reshape: False, torch.chunk: False, torch.split: False,
    operator.getitem: False,
}  # fmt: skip
"""Functions that move entries; False where the result depends on the number of units."""
MOVING_METHODS = {
    "flatten": True, "squeeze": True, "unsqueeze": True, "permute": True, "transpose": True, "reshape": False,
    "view": False, "unflatten": False, "chunk": False, "split": False,
}  # fmt: skip
MEANS: set[object] = {torch.mean, torch.sum, torch.amax, torch.amin}
MEAN_METHODS = {"mean", "sum", "amax", "amin"}


def is_unit_wise_module(module: nn.Module) -> bool:
    """Whether a module acts on each entry alone, and in the same way on every unit."""
    return isinstance(module, UNIT_WISE_MODULES) or type(module).__name__ == "StochasticDepth"  # of torchvision


def is_unit_wise_function(target: Any) -> bool:
    """Whether a function acts on each entry alone, and in the same way on every unit."""
    return target in UNIT_WISE_FUNCTIONS or getattr(target, "__name__", "") == "stochastic_depth"  # of torchvision
