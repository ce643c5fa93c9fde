"""Adam, AdamW and SGD of torch without the start of its compiler.

The first optimiser of torch in a process imports torch's compiler (``torch._dynamo``), which takes a second and which
steps that are not compiled do not use. These classes are torch's, with the same settings, state and bits; steps on the
CPU are computed here, and methods that only enter the compiler are bypassed.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.optim import Optimizer

_add_param_group, _state_dict, _load_state_dict, _zero_grad = (
    inspect.unwrap(method)
    for method in (Optimizer.add_param_group, Optimizer.state_dict, Optimizer.load_state_dict, Optimizer.zero_grad)
)


class _Direct:
    """Methods of torch's optimisers without the decorators that import the compiler."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        _add_param_group(self, param_group)

    def state_dict(self) -> dict[str, Any]:
        return _state_dict(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        _load_state_dict(self, state_dict)

    def zero_grad(self, set_to_none: bool = True) -> None:
        _zero_grad(self, set_to_none)


class AdamW(_Direct, torch.optim.AdamW):
    """Adam (Kingma & Ba 2015, arXiv 1412.6980) with decoupled weight decay (Loshchilov & Hutter 2019, 1711.05101)."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take a step; ``closure`` is not called."""
        if not _on_cpu(self):
            super().step()
            return
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        _adam_step(parameter, parameter.grad, self.state[parameter], group)


class SGD(_Direct, torch.optim.SGD):
    """SGD with momentum; weight decay is part of the gradient."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take a step; ``closure`` is not called."""
        if not _on_cpu(self):
            super().step()
            return
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        _sgd_step(parameter, parameter.grad, self.state[parameter], group)


def _on_cpu(optimiser: Optimizer) -> bool:
    return all(p.device.type == "cpu" and not p.is_complex() for g in optimiser.param_groups for p in g["params"])


def _adam_step(parameter: torch.Tensor, grad: torch.Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """As in ``torch.optim.adam._single_tensor_adam``."""
    if not state:
        state["step"] = torch.tensor(0.0)
        state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    (beta1, beta2), rate, mean, square = group["betas"], group["lr"], state["exp_avg"], state["exp_avg_sq"]
    state["step"] += 1
    n = state["step"].item()
    if group["weight_decay"]:
        parameter.mul_(1 - rate * group["weight_decay"])
    mean.lerp_(grad, 1 - beta1)
    square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    deviation = (square.sqrt() / (1 - beta2**n) ** 0.5).add_(group["eps"])
    parameter.addcdiv_(mean, deviation, value=-rate / (1 - beta1**n))


def _sgd_step(parameter: torch.Tensor, grad: torch.Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """As in ``torch.optim.sgd._single_tensor_sgd``."""
    if group["weight_decay"]:
        grad = grad.add(parameter, alpha=group["weight_decay"])
    if group["momentum"]:
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = grad.detach().clone()
        else:
            state["momentum_buffer"].mul_(group["momentum"]).add_(grad)
        grad = state["momentum_buffer"]
    parameter.add_(grad, alpha=-group["lr"])
