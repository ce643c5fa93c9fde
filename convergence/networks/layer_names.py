"""Find a layer of a recorded net by its name."""

from __future__ import annotations

import re
from typing import TypeVar

import torch
from torch import nn

from convergence.errors import ConfigError, did_you_mean
from convergence.networks.layer_config import LayerConfig
from convergence.networks.recording import ModuleCall, Recording, Value, tensors_in

SHOWN = 6
T = TypeVar("T")


def find_layer(recording: Recording, net: nn.Module, layer: str, config: LayerConfig) -> Value:
    """The value that a layer returns, or is given with ``point = "input"``.

    Raises
    ------
    ConfigError
        for a name that the net does not have, or that several calls have, and for several tensors to choose from.
    """
    name = config.module or layer
    path, number = _divided(name)
    path = _first_path(net, path)
    kind = type(net).__name__
    calls = recording.modules.get(path, []) if path else []
    if calls:
        return _of_module(kind, name, _chosen(kind, name, calls, number), config)
    values = recording.functions.get(path if number else name, [])
    if values:
        if config.point == "input":
            raise ConfigError(f'"{name}" of {kind} is a function; point = "input" needs a module.')
        return _chosen(kind, name, values, number)
    if path and _has_module(net, path):
        users = _users(recording, net.get_submodule(path))
        if users and config.point != "input":
            return _chosen(kind, name, users, number)
        part = net.get_submodule(path)
        if isinstance(part, torch.jit.ScriptModule):
            raise ConfigError(
                f'"{name}" of {kind} is a module of TorchScript and cannot be read. Choose a module around it, or '
                "build the net without torch.jit.script and torch.jit.trace."
            )
        inside = [other for other in recording.modules if other.startswith(f"{path}.")]
        raise ConfigError(
            f'"{name}" of {kind} is a {type(part).__name__} that is not called for images, so it returns nothing. '
            + (f"Choose a module inside it: {_listed(inside)}." if inside else "Choose another layer.")
        )
    raise ConfigError(f'the net has no layer "{name}"; {did_you_mean(name, known_names(recording))}')


def known_names(recording: Recording) -> list[str]:
    """Names of all layers of a net: of its modules in the order of their calls, and of its functions."""
    found: dict[str, None] = {}
    for path, calls in recording.modules.items():
        if path:
            found.update(dict.fromkeys([path] if len(calls) == 1 else [f"{path}#{call.number}" for call in calls]))
    for values in recording.functions.values():
        shown = [value for value in values if value.tensor.is_floating_point() and not value.constant]
        found.update({value.names[-1]: None for value in shown if not value.returned})
    return list(found)


def _divided(name: str) -> tuple[str, int]:
    """A name without its number of a call, and the number; 0 without one."""
    found = re.fullmatch(r"(.+)#([1-9][0-9]{0,8})", name)
    return (found[1], int(found[2])) if found else (name, 0)


def _has_module(net: nn.Module, path: str) -> bool:
    try:
        net.get_submodule(path)
    except AttributeError:
        return False
    return True


def _users(recording: Recording, part: nn.Module) -> list[Value]:
    """The results of functions that are given the weights of a module that is not called itself."""
    weights = {id(weight) for name, weight in part.named_parameters(recurse=False) if weight.ndim > 1}
    found = []
    for call in recording.calls:
        given = tensors_in((call.args, call.kwargs))
        if weights and any(id(tensor) in weights for tensor in given):
            found += [value for value in call.outputs[:1] if not value.constant]
    return found


def _first_path(net: nn.Module, path: str) -> str:
    """The path that a module is known by, if it has several."""
    if not path or not _has_module(net, path):
        return path
    part = net.get_submodule(path)
    return next((first for first, other in net.named_modules() if other is part), path)


def _chosen(kind: str, name: str, calls: list[T], number: int) -> T:
    if not number and len(calls) > 1:
        numbered = _listed([f"{name}#{k}" for k in range(1, len(calls) + 1)])
        raise ConfigError(f'"{name}" of {kind} is called {len(calls)} times for an image. Choose one of {numbered}.')
    if number > len(calls):
        times = "once" if len(calls) == 1 else f"{len(calls)} times"
        raise ConfigError(f'"{name}" of {kind}: there is no call {number}; the net calls it {times} for an image.')
    return calls[max(number, 1) - 1]


def _of_module(kind: str, name: str, call: ModuleCall, config: LayerConfig) -> Value:
    if config.point == "input":
        if not call.inputs:
            raise ConfigError(f'"{name}" of {kind} is called without a tensor, so its input cannot be read.')
        return call.inputs[0]
    floating = {place: value for place, value in call.values.items() if value.tensor.is_floating_point()}
    if config.output:
        if config.output not in floating:
            raise ConfigError(
                f'"{name}" of {kind} returns no tensor "{config.output}"; {did_you_mean(config.output, floating)}'
            )
        return floating[config.output]
    if len(floating) == 1:
        return next(iter(floating.values()))
    if isinstance(call.module, nn.RNNBase | nn.MultiheadAttention) and "0" in floating:
        return floating["0"]
    if not floating:
        raise ConfigError(f'"{name}" of {kind} returns a {type(call.output).__name__} without float tensors.')
    described = _listed([f'"{place}" {value.shape}' for place, value in floating.items()])
    raise ConfigError(
        f'"{name}" of {kind} returns {len(floating)} tensors. Choose one: [layers."{name}"] output = {described}.'
    )


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest
