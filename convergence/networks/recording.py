"""Record what a net computes: every call of a torch function and of a module, while the net runs on a few inputs.

A recording follows the values themselves, so it needs no graph that is known in advance: Python control flow, nets
that torch.fx cannot trace, in-place operations and modules of any library are all recorded. Values have names:

* ``layer1.0.conv2``: what the module of that path returns;
* ``layer1.0.relu#2``: what it returns when it is called for the second time;
* ``layer1.0.add``: what a function returns that the module ``layer1.0`` calls itself.

A name without ``#`` is unique to its module or function. Operations inside one call of a torch function are not seen;
the heads of ``nn.MultiheadAttention`` are added as a call ``heads`` (:mod:`convergence.networks.attention_heads`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from convergence.errors import ConfigError
from convergence.networks.attention_heads import ATTENTION, heads

REFLECTED = {"radd": "add", "rmul": "mul", "rsub": "sub", "rtruediv": "truediv", "rmatmul": "matmul"}
IN_PLACE = ("iadd", "isub", "imul", "itruediv", "ipow")


@dataclass(eq=False, repr=False)
class Value:
    """A tensor that the net computes.

    Attributes
    ----------
    tensor : it; kept while the recording is
    producer : the call that returned it; None for an input of the net, and for a tensor made outside torch functions
    names : of the modules that returned it, from the inside out; last, of the function
    returned : the calls of modules that returned it, from the inside out, and its place in what each returned
    consumers : calls that it is an operand of
    version : of its memory when it was returned; a later version shows that an operation changed it in place
    is_answer : whether the net returns it
    constant : whether it is computed from weights and numbers alone
    """

    tensor: torch.Tensor
    producer: Call | None
    names: list[str] = field(default_factory=list)
    returned: list[tuple[ModuleCall, str]] = field(default_factory=list)
    consumers: list[Call] = field(default_factory=list)
    version: int = 0
    is_answer: bool = False
    constant: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return tuple(self.tensor.shape)

    @property
    def changed_later(self) -> bool:
        """Whether an operation changed the memory of the tensor after it was returned."""
        return self.tensor._version != self.version


@dataclass(eq=False, repr=False)
class Call:
    """A call of a torch function that returned tensors.

    Attributes
    ----------
    place : number of calls of torch functions that returned tensors before it
    function, name : the function, and its name without underscores of in-place variants
    args, kwargs : as passed
    inputs : its operands that are values (weights are not)
    result, outputs : what it returned, and the tensors in it as values
    within : the calls of modules that it is part of, from the outside in
    """

    place: int
    function: Callable[..., Any]
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[Value]
    result: Any
    outputs: list[Value]
    within: tuple[ModuleCall, ...]

    @property
    def operands(self) -> list[Value]:
        """Its different operands that depend on the input of the net."""
        return list(dict.fromkeys(value for value in self.inputs if not value.constant))


@dataclass(eq=False, repr=False)
class ModuleCall:
    """A call of a module.

    Attributes
    ----------
    path, number : of the module in the net, and 1 for its first call
    module : the module
    inputs : its arguments that are values
    output : what it returned, as it is
    values : the tensors that it returned, as values, by their place in the output
    """

    path: str
    number: int
    module: nn.Module
    inputs: list[Value]
    output: Any = None
    values: dict[str, Value] = field(default_factory=dict)


class Recording:
    """What a net computes for some inputs, in evaluation mode and without gradients; the net is left unchanged.

    Parameters
    ----------
    module : the net
    inputs : its argument

    Raises
    ------
    ConfigError
        for a net of TorchScript; parts of TorchScript are not recorded.

    Attributes
    ----------
    calls : of torch functions that return tensors, in order
    modules : calls of modules, by path
    values : all values, in order; the first is the input
    functions : values of functions by name, of functions with values that no module returns
    answer : what the net returned
    """

    def __init__(self, module: nn.Module, inputs: torch.Tensor) -> None:
        self.calls: list[Call] = []
        self.values: list[Value] = []
        self.modules: dict[str, list[ModuleCall]] = {}
        self.functions: dict[str, list[Value]] = {}
        self._stack: list[ModuleCall] = []
        self._current: dict[int, Value] = {}
        self._weights = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
        self._new(inputs, None)
        if isinstance(module, torch.jit.ScriptModule):
            raise ConfigError(
                f"{type(module).__name__} is a net of TorchScript, whose operations Python does not see, so its layers "
                "cannot be read. Build the net without torch.jit.script and torch.jit.trace."
            )
        with evaluation(module), ExitStack() as hooks:
            for path, part in module.named_modules():
                if isinstance(part, torch.jit.ScriptModule):
                    continue
                for handle in self._watch(path, part):
                    hooks.callback(handle.remove)
            with _Recorder(self):
                self.answer = module(inputs)
        for value in self._known(self.answer):
            value.is_answer = True
        self._name_functions()

    def value_of(self, tensor: torch.Tensor) -> Value | None:
        """The value that a tensor holds last."""
        return self._current.get(id(tensor))

    # ---- called while the net runs ----

    def add(
        self, place: int, function: Callable[..., Any], args: Any, kwargs: Any, inputs: list[Value], out: Any
    ) -> list[Value]:
        """Add a call of a torch function; returns what it returned."""
        found = list(tensors_in(out))
        call = Call(place, function, function_name(function), args, kwargs, inputs, out, [], tuple(self._stack))
        for value in dict.fromkeys(inputs):
            value.consumers.append(call)
        call.outputs += [self._new(tensor, call) for tensor in found if id(tensor) not in self._weights]
        self.calls.append(call)
        return call.outputs

    def known(self, *given: Any) -> list[Value]:
        """The values among some arguments; tensors that are no weights and of unknown origin become values."""
        return self._known(given)

    def _known(self, given: Any) -> list[Value]:
        return [
            self._current.get(id(tensor)) or self._new(tensor, None)
            for tensor in tensors_in(given)
            if id(tensor) not in self._weights
        ]

    def _new(self, tensor: torch.Tensor, producer: Call | None) -> Value:
        value = Value(tensor, producer, version=tensor._version)
        value.constant = producer is not None and all(given.constant for given in producer.inputs)
        self._current[id(tensor)] = value
        self.values.append(value)
        return value

    def _watch(self, path: str, part: nn.Module) -> Iterator[Any]:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            made = self.modules.setdefault(path, [])
            call = ModuleCall(path, len(made) + 1, module, self._known((args, kwargs)))
            made.append(call)
            self._stack.append(call)

        def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            call = self._stack.pop()
            call.output = output
            for place, tensor in tensors_in_places(output):
                value = self._current.get(id(tensor)) or self._new(tensor, None)
                call.values[place] = value
                value.returned.append((call, place))

        yield part.register_forward_pre_hook(enter, with_kwargs=True, prepend=True)
        yield part.register_forward_hook(leave, with_kwargs=True, always_call=False)

    def _name_functions(self) -> None:
        """Name all values; names of modules and functions that are called more than once have a number."""
        for value in self.values:
            for part, _ in value.returned:
                if part.path:
                    value.names.append(part.path if len(self.modules[part.path]) == 1 else f"{part.path}#{part.number}")
        counted: dict[str, list[Value]] = {}
        for call in self.calls:
            owner = call.within[-1].path if call.within else ""
            for value in call.outputs:
                counted.setdefault(f"{owner}.{call.name}" if owner else call.name, []).append(value)
        for name, values in counted.items():
            for k, value in enumerate(values, start=1):
                value.names.append(name if len(values) == 1 else f"{name}#{k}")
            if not all(value.returned for value in values):
                self.functions[name] = values


class _Recorder(TorchFunctionMode):
    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self._recording, self._n_calls = recording, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = self._recording.known(args, kwargs)  # before the call, which may change operands in place
        out = func(*args, **kwargs)
        if next(tensors_in(out), None) is not None:
            if function_name(func) == ATTENTION:
                made = heads(func, args, kwargs)
                inputs = [*inputs, *self._recording.add(self._n_calls, heads, args, kwargs, inputs, made)]
            self._recording.add(self._n_calls, func, args, kwargs, inputs, out)
            self._n_calls += 1
        return out


def function_name(function: Callable[..., Any]) -> str:
    """Name of a torch function; in-place and reflected variants have the name of the plain function."""
    name = getattr(function, "__name__", type(function).__name__)
    if name == "__get__":
        name = str(getattr(getattr(function, "__self__", None), "__name__", name))
    if name.startswith("__") and name.endswith("__"):
        name = name[2:-2]
    name = REFLECTED.get(name, name[1:] if name in IN_PLACE else name)
    return name.rstrip("_")


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in nested tuples, lists, mappings and dataclasses."""
    return (tensor for _, tensor in tensors_in_places(value))


def tensors_in_places(value: Any, place: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors in nested tuples, lists and mappings, with their place: ``"0"``, ``"hidden.1"``, "" for a tensor."""
    if isinstance(value, torch.Tensor):
        yield place, value
        return
    items: Sequence[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        items = list(zip(value._fields, value, strict=True))
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    for key, item in items:
        yield from tensors_in_places(item, f"{place}.{key}" if place else str(key))


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients and without torch.compile; the mode of every part is restored."""
    compiled = sys.modules.get("torch._dynamo") is not None  # otherwise nothing was compiled
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            yield
    finally:
        for part in training:
            part.training = True
