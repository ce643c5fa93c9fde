"""Adam, AdamW and SGD of torch without the start of its compiler.

The first optimiser of torch in a process imports torch's compiler (``torch._dynamo``), which takes a second and which
steps that are not compiled do not use. These classes are torch's, with the same settings, state and bits; steps on the
CPU are computed here, and methods that only enter the compiler are bypassed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

Tensors = list[torch.Tensor]
_add_param_group, _state_dict, _load_state_dict = (
    inspect.unwrap(method) for method in (Optimizer.add_param_group, Optimizer.state_dict, Optimizer.load_state_dict)
)


class _Direct:
    """Methods of torch's optimisers without the decorators that import the compiler."""

    param_groups: list[dict[str, Any]]
    state: Any

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        _add_param_group(self, param_group)

    def state_dict(self) -> dict[str, Any]:
        return _state_dict(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        _load_state_dict(self, state_dict)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients; ``set_to_none`` is torch's argument, whose default is the only value."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def _step_on_cpu(self, step: Callable[[Tensors, Tensors, list[Any], dict[str, Any]], None]) -> bool:
        """Step all parameters with a gradient; False, without a step, if one is not on the CPU."""
        if any(p.device.type != "cpu" or p.is_complex() for group in self.param_groups for p in group["params"]):
            return False
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            if moved:
                step(moved, [parameter.grad for parameter in moved], [self.state[p] for p in moved], group)
        return True


class AdamW(_Direct, torch.optim.AdamW):
    """Adam (Kingma & Ba 2015, arXiv 1412.6980) with decoupled weight decay (Loshchilov & Hutter 2019, 1711.05101)."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take a step; ``closure`` is not called."""
        if not self._step_on_cpu(_adam_step):
            super().step()


class SGD(_Direct, torch.optim.SGD):
    """SGD with momentum; weight decay is part of the gradient."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take a step; ``closure`` is not called."""
        if not self._step_on_cpu(_sgd_step):
            super().step()


def _adam_step(parameters: Tensors, grads: Tensors, states: list[Any], group: dict[str, Any]) -> None:
    """As with ``fused = True``: one pass over each parameter, and one call for all."""
    for parameter, state in zip(parameters, states, strict=True):
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    (beta1, beta2), steps = group["betas"], [state["step"] for state in states]
    means, squares = [state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states]
    torch._foreach_add_(steps, 1)
    torch._fused_adamw_(
        parameters, grads, means, squares, [], steps, lr=group["lr"], beta1=beta1, beta2=beta2,
        weight_decay=group["weight_decay"], eps=group["eps"], amsgrad=False, maximize=False,
    )  # fmt: skip


def _sgd_step(parameters: Tensors, grads: Tensors, states: list[Any], group: dict[str, Any]) -> None:
    """As in ``torch.optim.sgd._single_tensor_sgd``."""
    if group["weight_decay"]:
        grads = list(torch._foreach_add(grads, parameters, alpha=group["weight_decay"]))
    if group["momentum"]:
        started = [k for k, state in enumerate(states) if state.get("momentum_buffer") is not None]
        if started:
            buffers = [states[k]["momentum_buffer"] for k in started]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, [grads[k] for k in started])
        for state, grad in zip(states, grads, strict=True):
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = grad.detach().clone()
        grads = [state["momentum_buffer"] for state in states]
    torch._foreach_add_(parameters, grads, alpha=-group["lr"])
