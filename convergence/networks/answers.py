"""One tensor in, one tensor out: nets that take tokens, or answer with tuples, dicts or several heads.

The class of an instance is replaced by a subclass, whose ``forward`` picks the answer. A wrapping module would change
the paths of modules and the keys of weights.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn

from convergence.errors import ConfigError

PREFERRED = ("logits", "last_hidden_state")
"""Names of the answer among several tensors, the first one that a net gives."""
PADDING = -1
"""Token id of padding in the input of a net."""
Inputs = Callable[[Any], dict[str, Any]]


def with_answer(module: nn.Module, choice: int | str | None = None, inputs: Inputs | None = None) -> nn.Module:
    """Make a net answer with one tensor; the module is changed and returned.

    Parameters
    ----------
    module
        The net; a scripted module is returned as it is.
    choice
        Which of several tensors is the answer, by index or name; None for the logits, the last hidden state or the only
        floating tensor.
    inputs
        Makes the keyword arguments of ``forward`` from the one tensor; None passes the tensor.
    """
    base = type(module)
    if isinstance(module, torch.jit.ScriptModule) or getattr(base, "has_one_answer", False):
        return module

    def forward(self: nn.Module, x: Any) -> Any:
        answer = base.forward(self, x) if inputs is None else base.forward(self, **inputs(x))
        return picked(answer, choice, base.__name__)

    members = {"forward": forward, "has_one_answer": True, "__module__": base.__module__, "__doc__": base.__doc__}
    module.__class__ = type(base.__name__, (base,), members)
    return module


def picked(answer: Any, choice: int | str | None, name: str) -> Any:
    """Pick the answer of a net from what its ``forward`` returned.

    Raises
    ------
    ConfigError
        for a choice that does not exist, and for several tensors of which none is known to be the answer.
    """
    if choice is None and isinstance(answer, torch.Tensor | fx.Proxy):
        return answer
    if isinstance(answer, fx.Proxy):
        return operator.getitem(answer, choice)
    found = _readings(answer, by_index=isinstance(choice, int))
    if choice is not None:
        if choice not in found:
            raise ConfigError(
                f"{name}: network.answer = {_toml(choice)}, and the net returns "
                f"{_described(found) or type(answer).__name__}."
            )
        return found[choice]
    for preferred in PREFERRED:
        if isinstance(found.get(preferred), torch.Tensor | fx.Proxy):
            return found[preferred]
    floating = {key: value for key, value in found.items() if _is_floating(value)}
    if len(floating) == 1:
        return next(iter(floating.values()))
    if not floating:
        raise ConfigError(
            f"{name}: the net returns a {type(answer).__name__} without floating tensors"
            f"{f' ({_described(found)})' if found else ''}; a net must return one tensor of logits. Wrap it in a "
            "module that returns the logits alone."
        )
    raise ConfigError(
        f"{name}: the net returns {len(floating)} tensors, and one must be its answer: {_described(floating)}. Name "
        f"it, for example network.answer = {_toml(next(iter(floating)))}."
    )


def _readings(answer: Any, by_index: bool = False) -> dict[int | str, Any]:
    """The parts of a tuple by index, and of a dict or (unless ``by_index``) a named tuple by name."""
    if isinstance(answer, Mapping):
        return {str(key): value for key, value in answer.items()}
    if isinstance(answer, tuple | list):
        names = () if by_index else getattr(answer, "_fields", ())
        return dict(zip(names, answer, strict=True)) if names else dict(enumerate(answer))
    return {}


def _is_floating(value: Any) -> bool:
    return isinstance(value, fx.Proxy) or (isinstance(value, torch.Tensor) and value.is_floating_point())


def _described(found: Mapping[int | str, Any]) -> str:
    return ", ".join(
        f"answer = {_toml(key)}: {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
        for key, value in found.items()
        if isinstance(value, torch.Tensor)
    )


def _toml(key: int | str) -> str:
    return str(key) if isinstance(key, int) else f'"{key}"'


def inputs_of(module: nn.Module, pad_id: int) -> Inputs:
    """How the one input tensor becomes arguments of a model of transformers.

    Integers (n, tokens) are token ids, with :data:`PADDING` where a text has ended: these are masked, and replaced by
    ``pad_id``. Other tensors are the main input of the model, such as ``pixel_values``.
    """
    known = inspect.signature(type(module).forward).parameters
    constant = {name: value for name, value in (("use_cache", False), ("return_dict", True)) if name in known}
    main = str(getattr(module, "main_input_name", "input_ids"))

    def inputs(x: Any) -> dict[str, Any]:
        if isinstance(x, torch.Tensor) and not x.is_floating_point() and main == "input_ids":
            present = x != PADDING
            ids = torch.where(present, x, torch.full_like(x, pad_id))
            mask = {"attention_mask": present.to(x.dtype)} if "attention_mask" in known else {}
            return {main: ids, **mask, **constant}
        return {main: x, **constant}

    return inputs
