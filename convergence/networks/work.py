"""The work of a net on the CPU: multiply–adds, the threads that they deserve, and max pooling in the faster layout."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

Threads = int | Literal["auto"]
MOST_THREADS = 2
"""Threads that ``"auto"`` chooses for much work; never a property of the machine, because threads change rounding."""
LITTLE_WORK = 100_000_000
"""Multiply–adds of a batch below which one thread is as fast as two, which then only wait for each other."""
LEAST_CHANNELS = 8
"""Channels of a map from which max pooling is faster in the channels-last layout."""


@torch.no_grad()
def multiply_adds(function: Callable[..., Any], *inputs: torch.Tensor) -> int:
    """Multiply–adds of products and convolutions in a call, by the formulas of torch's counter of flops.

    The counter itself (``FlopCounterMode``) starts torch's compiler, which takes a second.
    """
    with _Counter() as counter:
        function(*inputs)
    return counter.flops // 2


class _Counter(TorchDispatchMode):
    """Adds up the flops of all operations."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch asks whether its compiler has to know the mode, and would import it."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(getattr(func, "_overloadpacket", None))
        if count is not None:
            self.flops += int(count(*args, **(kwargs or {}), out_val=out))
        return out


def threads_for(asked: Threads, module: nn.Module, input_shape: tuple[int, ...], dtype: Any, batch: int) -> int:
    """The number of threads of a setting; ``"auto"`` depends on the work of a batch and not on the machine.

    The net answers one input of zeros for it; its mode and torch's random state are kept.
    """
    if asked != "auto":
        return asked
    parameter = next(module.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    if device.type != "cpu":
        return MOST_THREADS
    modes = [(part, part.training) for part in module.modules()]
    with torch.random.fork_rng(devices=[]):
        work = multiply_adds(module.eval(), torch.zeros(1, *input_shape, dtype=getattr(torch, str(dtype))))
    for part, training in modes:
        part.training = training
    return 1 if batch * work < LITTLE_WORK else MOST_THREADS


def use_threads(threads: int) -> None:
    """Set the number of threads of torch and of its BLAS, in a microsecond.

    ``torch.get_num_threads`` does not tell whether that is necessary: it is the number of OpenMP, and threadpoolctl
    changes that number without the one of MKL, whose products then have other bits.
    """
    torch.set_num_threads(threads)


def quick_pooling(module: nn.Module) -> nn.Module:
    """Let every ``nn.MaxPool2d`` of a net compute in the channels-last layout, in place; results keep their layout.

    On the CPU torch's max pooling is five to ten times faster in this layout, with the same bits; where gradients are
    computed it is not faster, and not changed.
    """
    for part in module.modules():
        if type(part) is nn.MaxPool2d and not part.return_indices and "forward" not in vars(part):
            part.forward = partial(_pool, part)  # type: ignore[method-assign]
    return module


def _pool(part: nn.MaxPool2d, maps: torch.Tensor) -> torch.Tensor:
    plain = nn.MaxPool2d.forward
    learns = maps.requires_grad and torch.is_grad_enabled()
    narrow = maps.ndim != 4 or maps.shape[1] < LEAST_CHANNELS
    if learns or narrow or maps.device.type != "cpu" or not maps.is_contiguous():
        return plain(part, maps)
    found: torch.Tensor = plain(part, maps.contiguous(memory_format=torch.channels_last))
    return found.contiguous()
