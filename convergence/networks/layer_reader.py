"""Read the units of a layer: what any module or function of a net returns, after its activation function.

The net is run once on a few inputs and recorded (:mod:`convergence.networks.recording`). That tells which call
computes the layer, which axis runs over images and which over units. Later batches are read where the same call
returns. A tensor that the net changes in place afterwards is copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from convergence.errors import ConfigError
from convergence.networks import PRE_ACTIVATIONS
from convergence.networks.activation_functions import Nonlinearity, activation_after, activation_of, not_linear
from convergence.networks.attention_heads import ATTENTION, HEADS, heads
from convergence.networks.layer_config import LayerConfig
from convergence.networks.layer_layouts import LayerLayout, find_layout
from convergence.networks.layer_names import find_layer
from convergence.networks.privileged_bases import is_privileged
from convergence.networks.recording import Recording, Value, evaluation, function_name, tensors_in, tensors_in_places
from convergence.networks.unit_axes import unit_axes

N_PROBES = 3
"""Inputs that a net is run on to find its layers."""
RELATIVE_ERROR = 1e-4
"""Differences above this share of a layer's largest value are no rounding errors of float32."""


class LayerReader:
    """Reads layers of a net for batches of inputs; the net is not changed.

    Parameters
    ----------
    module : the net
    layers : names, or names with settings
    inputs : a few inputs of the net (n, …); at most three are used
    pre_activations : whether to read the inputs of the activation functions as well

    Attributes
    ----------
    sources : name of the value that is read for each layer
    names : all names of that value, and of pre-activations that are read
    layouts : units and positions of each layer
    rectified : for each layer whether it is read after an activation function
    privileged : for each layer whether the basis of its units is, see :mod:`~convergence.networks.privileged_bases`
    nonlinear : for each layer without an activation function the operation that is not linear; "" for a linear layer
    nonlinearities : the activation function of each layer whose pre-activations are read

    Raises
    ------
    ConfigError
        for an unknown or ambiguous layer, a layer without one row for each image, and units along an unknown axis.
    """

    def __init__(
        self,
        module: nn.Module,
        layers: Sequence[str] | Mapping[str, LayerConfig],
        inputs: torch.Tensor,
        pre_activations: bool = False,
    ) -> None:
        self.module = module
        self.sources: dict[str, str] = {}
        self.names: dict[str, tuple[str, ...]] = {}
        self.layouts: dict[str, LayerLayout] = {}
        self.rectified: dict[str, bool] = {}
        self.privileged: dict[str, bool] = {}
        self.nonlinear: dict[str, str] = {}
        self.nonlinearities: dict[str, Nonlinearity] = {}
        self._places: dict[str, _Place] = {}
        self._elementwise: dict[str, bool] = {}
        configs = layers if isinstance(layers, Mapping) else {layer: LayerConfig() for layer in layers}
        two, three = inputs[[0, -1]], inputs[[0, -1, 0]]
        recording = Recording(module, two)
        axes = unit_axes(recording)
        found = {layer: self._find(recording, layer, config) for layer, config in configs.items()}
        for layer, value in found.items():
            self._place(layer, value)
        of_three = self.tensors(three)
        for layer, config in configs.items():
            value = found[layer]
            shape = tuple(of_three[layer].shape)
            self.layouts[layer] = find_layout(layer, value.shape, shape, axes.get(value), config)
            applied = activation_of(recording, value)
            self.rectified[layer] = applied is not None
            self.privileged[layer] = applied is not None or is_privileged(value, axes)
            if applied is None:
                self.nonlinear[layer] = not_linear(value)
                continue
            self._elementwise[layer] = _is_read(applied.before) and applied.before.shape == value.shape
            if pre_activations and self._elementwise[layer]:
                self.nonlinearities[layer] = applied.function
                self.layouts[PRE_ACTIVATIONS + layer] = self.layouts[layer]
                self._place(PRE_ACTIVATIONS + layer, applied.before)
        del recording, found, axes
        if inputs.device.type != "meta":
            self._check(two, {layer: self.layouts[layer].maps(tensor, three) for layer, tensor in of_three.items()})

    def null_kind(self, layer: str, draws: int) -> tuple[str, str]:
        """The kind of chance level of a layer, and the reason if it has none.

        The kinds are those of :class:`~convergence.statistics.file.ComparisonSums`; ``draws`` is
        ``statistics.null.draws``.
        """
        if not self.rectified[layer]:
            found = self.nonlinear[layer]
            return ("", f"read after {found}, which is not linear") if found else ("sums", "")
        if not draws:
            return "", "statistics.null.draws = 0"
        if not self._elementwise[layer]:
            return "", "the activation function is not elementwise"
        return "pre-activations", ""

    def __call__(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Read each layer for a batch of inputs: (n, n_units, n_positions).

        The pre-activations of a layer, where they are read, have the key ``PRE_ACTIVATIONS + layer``.
        """
        read = self.tensors(inputs)
        return {layer: self.layouts[layer].maps(tensor, inputs) for layer, tensor in read.items()}

    def tensors(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Read each layer with the axes that the net gives it.

        Raises
        ------
        ConfigError
            if the net computes other operations than for the first inputs.
        """
        reading = _Reading(self._places)
        with evaluation(self.module), ExitStack() as hooks:
            for path, wanted in reading.by_module.items():
                part = self.module.get_submodule(path)
                hooks.callback(part.register_forward_hook(reading.hook(wanted)).remove)
            try:
                with reading:
                    self.module(inputs)
            except _AllReadError:
                pass
        missing = [layer for layer in self._places if layer not in reading.found]
        if missing:
            raise ConfigError(
                f"{type(self.module).__name__} does not compute {', '.join(missing)} for a batch of {len(inputs)} "
                "inputs as it does for two: its operations depend on the batch. Read a layer that is computed always."
            )
        return {layer: reading.found[layer] for layer in self._places}

    # ---- finding the layers ----

    def _find(self, recording: Recording, layer: str, config: LayerConfig) -> Value:
        value = find_layer(recording, self.module, layer, config)
        if config.point in ("post", "pre"):
            applied = activation_after(recording, value)
            if applied is not None:
                value = applied.after if config.point == "post" else applied.before
        if not _is_read(value):
            raise ConfigError(
                f'"{layer}" of {type(self.module).__name__} is made outside the functions of torch and cannot be read. '
                "Choose the module that computes it."
            )
        self.sources[layer] = value.names[0]
        return value

    def _place(self, key: str, value: Value) -> None:
        self._places[key] = _Place(value)
        self.names[key] = tuple(value.names)

    @torch.no_grad()
    def _check(self, two: torch.Tensor, of_three: Mapping[str, torch.Tensor]) -> None:
        """Check that the values of an image do not depend on its batch, and that activation functions are functions."""
        of_two = self(two)
        for layer in self.sources:
            maps, again = of_two[layer], of_three[layer]
            if _close(maps, again[:2]) and _close(again[0], again[2]):
                continue
            if not _close(maps, self(two)[layer]):
                raise ConfigError(
                    f'"{layer}" of {type(self.module).__name__} has other values each time it is computed: an '
                    "operation before it draws random numbers in evaluation mode. Use nn.Dropout, or pass "
                    "training=self.training to functional.dropout."
                )
            raise ConfigError(
                f'"{layer}" of {type(self.module).__name__} gives other values for an image when another image is '
                "added to its batch: the layer mixes images. Choose a layer that keeps images apart."
            )
        for layer, function in list(self.nonlinearities.items()):
            wanted, pre = of_two[layer], of_two[PRE_ACTIVATIONS + layer]
            try:
                found = function(pre)
            except (RuntimeError, ValueError, TypeError, IndexError):
                found = None
            if found is None or found.shape != wanted.shape or not torch.allclose(found, wanted, 1e-4, 1e-5, True):
                self._elementwise[layer] = False
                del self.nonlinearities[layer], self._places[PRE_ACTIVATIONS + layer]


def _is_read(value: Value) -> bool:
    return bool(value.returned) or value.producer is not None


def _close(x: torch.Tensor, y: torch.Tensor) -> bool:
    scale = float(x.abs().nan_to_num(0, 0, 0).max()) if x.numel() else 0.0
    return torch.allclose(x, y, rtol=RELATIVE_ERROR, atol=RELATIVE_ERROR * scale, equal_nan=True)


class _Place:
    """Where a value is read: at the return of a module, or of the k-th call of a torch function."""

    def __init__(self, value: Value) -> None:
        self.copied = value.changed_later
        self.path, self.number, self.output = "", 0, ""
        self.call, self.function, self.index = -1, "", 0
        module = next((found for found in value.returned if found[0].path), None)
        if module is not None:
            self.path, self.number, self.output = module[0].path, module[0].number, module[1]
            return
        call = value.producer
        assert call is not None
        self.call, self.function = call.place, call.name
        self.index = [id(tensor) for tensor in tensors_in(call.result)].index(id(value.tensor))


class _AllReadError(BaseException):
    """Ends the pass of a net after the last layer that is read; no code of the net handles it."""


class _Reading(TorchFunctionMode):
    """One pass: keeps the wanted values when they are returned."""

    def __init__(self, places: Mapping[str, _Place]) -> None:
        super().__init__()
        self.found: dict[str, torch.Tensor] = {}
        self.by_module: dict[str, dict[str, _Place]] = {}
        self._by_call: dict[int, dict[str, _Place]] = {}
        self._n_wanted, self._n_calls = len(places), 0
        for layer, place in places.items():
            if place.path:
                self.by_module.setdefault(place.path, {})[layer] = place
            else:
                self._by_call.setdefault(place.call, {})[layer] = place

    def hook(self, wanted: Mapping[str, _Place]) -> Any:
        """A forward hook of a module."""
        n_calls = 0

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            nonlocal n_calls
            n_calls += 1
            tensors: dict[str, torch.Tensor] | None = None
            for layer, place in wanted.items():
                if place.number == n_calls:
                    tensors = tensors or dict(tensors_in_places(output))
                    self._keep(layer, place, tensors[place.output])

        return keep

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = list(tensors_in(out))
        if tensors:
            for layer, place in self._by_call.get(self._n_calls, {}).items():
                if place.function == HEADS and function_name(func) == ATTENTION:
                    self._keep(layer, place, heads(func, args, kwargs or {}))
                elif function_name(func) == place.function and place.index < len(tensors):
                    self._keep(layer, place, tensors[place.index])
            self._n_calls += 1
        return out

    def _keep(self, layer: str, place: _Place, tensor: torch.Tensor) -> None:
        if place.copied:
            with torch._C.DisableTorchFunction():  # a copy is no call of the net
                tensor = tensor.clone()
        self.found[layer] = tensor
        if len(self.found) == self._n_wanted:
            raise _AllReadError
