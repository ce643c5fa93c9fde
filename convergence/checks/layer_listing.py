"""List the layers of a net: shape, axis of units, and what is read by default.

The net is recorded once for two inputs, and once for three to find the axis that runs over images. Nothing is run for
single layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import fx, nn

from convergence.errors import ConfigError
from convergence.networks.activation_functions import activation_after
from convergence.networks.graphs import trace
from convergence.networks.layer_config import LayerConfig
from convergence.networks.layer_layouts import LayerLayout, find_image_axis, find_layout, readings
from convergence.networks.layer_names import find_layer
from convergence.networks.recording import ModuleCall, Recording, Value
from convergence.networks.unit_axes import unit_axes
from convergence.visualization.receptive import UNKNOWN, ReceptiveField, receptive_fields

WHOLE = "whole"
Shapes = Mapping[tuple[str, str], tuple[int, ...]]
"""Shapes of values by name, and place among the tensors that a module returns."""


@dataclass(frozen=True)
class ListedLayer:
    """A layer of a net.

    Attributes
    ----------
    layer : its name in a config
    kind : class of the module, or name of the function
    shape : of the output for one image; the axis of images is part of it
    unit_axis : axis of the units in that shape; None where it is not known
    units : number of units; None where the axis is not known
    positions : shape of the positions, () without positions; None where the axis is not known
    read_after : the activation function that the layer is read after by default; "" without one
    source : name of the value that is read
    receptive_field : pixels of a position (height, width), "whole" for the image, "" where the graph does not tell it
    note : why the layer cannot be read as it is, and the choices; "" for others
    """

    layer: str
    kind: str
    shape: tuple[int, ...]
    unit_axis: int | None
    units: int | None
    positions: tuple[int, ...] | None
    read_after: str
    source: str
    receptive_field: tuple[int, ...] | str
    note: str


def list_layers(
    module: nn.Module,
    inputs: torch.Tensor,
    configs: Mapping[str, LayerConfig] | None = None,
    functions: bool = False,
) -> list[ListedLayer]:
    """List the layers of a net in the order in which they are computed.

    Parameters
    ----------
    module
        The net, which is not changed.
    inputs
        At least two inputs (n, …).
    configs
        Settings of layers; these are listed first.
    functions
        Whether to list results of functions that no module returns.
    """
    two, three = inputs[[0, -1]], inputs[[0, -1, 0]]
    shapes = {_key(value): value.shape for value in Recording(module, three).values}
    listing = _Listing(module, Recording(module, two), shapes, two)
    rows = [listing.configured(layer, config) for layer, config in (configs or {}).items()]
    for value in listing.recording.values:
        if value.tensor.is_floating_point() and not value.constant and value.tensor.ndim:
            rows += listing.of_modules(value)
            if functions and not any(call.path for call, _ in value.returned) and value.names:
                rows.append(listing.row(value.names[-1], value.producer.name if value.producer else "", value))
    return rows


class _Listing:
    def __init__(self, module: nn.Module, recording: Recording, shapes: Shapes, inputs: torch.Tensor) -> None:
        self.module, self.recording, self._shapes = module, recording, shapes
        self._axes = unit_axes(recording)
        self._fields = _fields(module) if inputs.ndim == 4 else {}

    def configured(self, layer: str, config: LayerConfig) -> ListedLayer:
        """A layer that has settings in the config."""
        try:
            value = find_layer(self.recording, self.module, layer, config)
        except ConfigError as error:
            return ListedLayer(layer, "", (), None, None, None, "", "", "", str(error))
        return self.row(layer, value.producer.name if value.producer else "", value, config)

    def of_modules(self, value: Value) -> Iterator[ListedLayer]:
        """The modules that return a value, from the inside out; without those that return what another one did."""
        named = False
        for call, place in value.returned:
            if not call.path or (named and any(given is value for given in call.inputs)):
                continue
            named = True
            several = len(self.recording.modules[call.path]) > 1
            name = f"{call.path}#{call.number}" if several else call.path
            yield self.row(name, type(call.module).__name__, value, LayerConfig(), _choice(call, place))

    def row(
        self, layer: str, kind: str, value: Value, config: LayerConfig | None = None, note: str = ""
    ) -> ListedLayer:
        """The row of a layer."""
        config = config or LayerConfig()
        applied = activation_after(self.recording, value) if config.point in ("post", "pre") else None
        read = value if applied is None else applied.after if config.point == "post" else applied.before
        after = _kind_of(read) if applied is not None and config.point == "post" else ""
        source = read.names[0] if read.names else ""
        layout, unknown = self._layout(layer, read, config)
        shape = list(read.shape)
        image_axis = layout.image_axis if layout else find_image_axis(read.shape, self._shapes.get(_key(read), ()))
        if image_axis is not None:
            shape[image_axis] //= 2
        field = next((self._fields[name] for name in read.names if name in self._fields), "")
        if layout is None:
            return ListedLayer(layer, kind, tuple(shape), None, None, None, after, source, field, note or unknown)
        axis = layout.unit_axis if layout.unit_axis >= 0 else None
        return ListedLayer(
            layer, kind, tuple(shape), axis, layout.n_units, layout.map_shape, after, source, field, note
        )  # fmt: skip

    def _layout(self, layer: str, value: Value, config: LayerConfig) -> tuple[LayerLayout | None, str]:
        """Axes of a value, or the reason why they are not known."""
        two, three = value.shape, self._shapes.get(_key(value), ())
        try:
            return find_layout(layer, two, three, self._axes.get(value), config), ""
        except ConfigError as error:
            image_axis = find_image_axis(two, three)
            if image_axis is None:
                return None, "no axis runs over the images"
            if config != LayerConfig() or 0 in two:
                return None, str(error)
            return None, f"unit_axis is not known: {readings(two, image_axis)}"


def _key(value: Value) -> tuple[str, str]:
    return (value.names[0] if value.names else ""), (value.returned[0][1] if value.returned else "")


def _choice(call: ModuleCall, place: str) -> str:
    """Which tensor of a module that returns several a row is about; "" for the one that is read by default."""
    floating = [key for key, value in call.values.items() if value.tensor.is_floating_point()]
    if len(floating) < 2 or (isinstance(call.module, nn.RNNBase | nn.MultiheadAttention) and place == "0"):
        return ""
    return f'output = "{place}"'


def _kind_of(value: Value) -> str:
    """What computes a value: the class of the module without submodules that returns it, or the function."""
    for call, _ in value.returned:
        if call.path and next(call.module.children(), None) is None:
            return type(call.module).__name__
    return value.producer.name if value.producer else ""


def _fields(module: nn.Module) -> dict[str, tuple[int, ...] | str]:
    """Receptive fields by name of the value; empty for a net without a graph."""
    try:
        graph, names = trace(module)
    except ConfigError:
        return {}
    return {names[node]: _shown(field) for node, field in receptive_fields(fx.GraphModule(module, graph)).items()}


def _shown(field: ReceptiveField) -> tuple[int, ...] | str:
    if field.whole:
        return "" if field.whole.startswith(UNKNOWN) else WHOLE
    return field.size
