"""The module of a net at which two passes part: where randomness, or the influence of other images, comes in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from convergence.checks.context import tensors_of

Same = Callable[[torch.Tensor, torch.Tensor], bool]


def first_difference(module: nn.Module, passes: tuple[Callable[[], Any], Callable[[], Any]], same: Same) -> str:
    """Name the innermost module whose inputs agree in two passes and whose outputs do not.

    Operations that are no modules count for the module whose ``forward`` calls them.
    """
    first, second = (_recorded(module, one) for one in passes)
    for (name, kind, given, made), (_, _, other_given, other_made) in zip(first, second, strict=False):
        if _agree(given, other_given, same) and not _agree(made, other_made, same):
            return f"the module {name} ({kind})" if name else f"an operation in the forward method of {kind}"
    return f"an operation in the forward method of {type(module).__name__}"


Call = tuple[str, str, list[torch.Tensor], list[torch.Tensor]]


def _recorded(module: nn.Module, run: Callable[[], Any]) -> list[Call]:
    """Name, class, inputs and outputs of every module call, in the order in which the calls end."""
    calls: list[Call] = []
    given: list[list[torch.Tensor]] = []
    handles = []

    def before(part: nn.Module, args: Any, kwargs: Any) -> None:
        given.append([tensor.detach().clone() for tensor in tensors_of([*args, kwargs])])

    for name, part in module.named_modules():

        def after(part: nn.Module, args: Any, output: Any, name: str = name) -> None:
            made = [tensor.detach().clone() for tensor in tensors_of(output)]
            calls.append((name, type(part).__name__, given.pop(), made))

        handles += [part.register_forward_pre_hook(before, with_kwargs=True), part.register_forward_hook(after)]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _agree(x: list[torch.Tensor], y: list[torch.Tensor], same: Same) -> bool:
    return len(x) == len(y) and all(same(a, b) for a, b in zip(x, y, strict=True))
