"""Layers that are compared and pictured: each is read from an untrained net, with two batch sizes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from convergence.checks.context import CheckContext, DistinctNet, user_code
from convergence.checks.findings import Finding, shortened
from convergence.errors import UserError
from convergence.networks.graphs import LayerGraph
from convergence.networks.layer_reader import LayerReader
from convergence.statistics.activation_source import joined_units
from convergence.statistics.torch_source import layer_shape

NAME = "layers"


def check_layers(context: CheckContext) -> Iterator[Finding]:
    """Yield findings about the layers of all comparisons, and set ``context.joined``."""
    experiment = context.experiment
    for net in context.working_nets:
        labels = {one.label for one in net.nets}
        wanted = [
            layer
            for comparison in experiment.statistics.comparisons
            for label in labels
            for layer in comparison.layers_of(label)
        ]
        yield from _read(context, net, wanted, "statistics.comparisons")
    specs = {one.name: net for net in context.nets for one in net.nets}
    shapes = {}
    for ref in experiment.all_layer_refs():
        shape = specs[ref.net].shapes.get(ref.layer)
        if shape is None:
            return  # reported above, or its net does not run
        shapes[ref.weights, ref.layer] = shape
    context.joined = joined_units(experiment, shapes)


def check_pictured_layers(context: CheckContext) -> Iterator[Finding]:
    """Yield findings about the layers of the pictures."""
    pictured = {net.name: layers for net, layers in context.experiment.pictured()}
    for net in context.working_nets:
        wanted = dict.fromkeys(layer for one in net.nets for layer in pictured.get(one.name, ()))
        yield from _read(context, net, wanted, "pictures.layers")
        read = [layer for layer in wanted if layer in net.shapes]
        if read and next(_untraced(context, net, read), None) is not None:
            for layer in read:  # one by one, to name every layer that cannot be pictured
                yield from _untraced(context, net, [layer])


def _untraced(context: CheckContext, net: DistinctNet, layers: list[str]) -> Iterator[Finding]:
    """Pictures need the graph of a net, by which they go back from a unit to the image."""
    assert net.module is not None
    try:
        with user_code(f"{net.name}: tracing {', '.join(layers)}"):
            LayerGraph(net.module, context.experiment.layer_configs(layers), context.samples)
    except UserError as error:
        yield Finding(
            NAME, "fault", f"pictures.layers: {net.name}: {shortened(str(error))}",
            remedy="Leave the layer out of pictures.layers, or set pictures.enabled = false",
        )  # fmt: skip


def _read(context: CheckContext, net: DistinctNet, wanted: Iterable[str], setting: str) -> Iterator[Finding]:
    """Read those layers of a net that were not read before."""
    layers = [layer for layer in dict.fromkeys(wanted) if layer not in net.read]
    net.read |= set(layers)
    if not layers or not net.fixed:
        return  # reported by the check of nets
    try:
        readers = [(_reader(context, net, layers), layers)]
    except UserError:
        readers = []
        problems: dict[str, list[str]] = {}
        for layer in layers:  # one by one, to name every layer that cannot be read
            try:
                readers.append((_reader(context, net, [layer]), [layer]))
            except UserError as error:
                problems.setdefault(str(error), []).append(layer)
        for text, some in problems.items():
            about = net.name if f'"{some[0]}"' in text else f"{', '.join(some)} of {net.name}"
            yield Finding(NAME, "fault", f"{setting}: {about}: {shortened(text)}", remedy=_wrapper(net.module))
    for reader, some in readers:
        read = reader(context.samples)
        for layer in some:
            net.shapes[layer] = layer_shape(reader, layer, context.experiment.statistics.null.draws)
            for found, remedy in _doubts(read[layer]):
                yield Finding(NAME, "warning", f'{setting}: "{layer}" of {net.name} {found}', remedy=remedy)


def _reader(context: CheckContext, net: DistinctNet, layers: list[str]) -> LayerReader:
    assert net.module is not None
    configs = context.experiment.layer_configs(layers)
    with user_code(f"{net.name}: reading {', '.join(layers)}"):
        return LayerReader(net.module, configs, context.samples, pre_activations=True)


def _wrapper(module: nn.Module | None) -> str:
    """A remedy for nets that are wrapped in another module; "" for others."""
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return "Return the net itself from the factory, its attribute module, and name layers without the prefix module"
    if isinstance(module, torch.jit.ScriptModule):
        return "Return the net from the factory before torch.jit.script or torch.jit.trace"
    return ""


def _doubts(maps: torch.Tensor) -> Iterator[tuple[str, str]]:
    """What is doubtful about the values of a layer, and the remedy."""
    finite = torch.isfinite(maps)
    if not bool(finite.all()):
        share = 1 - float(finite.float().mean())
        yield (
            f"gives values that are not finite ({100 * share:.3g} % in the untrained net); such units are left out",
            "Check the layer and the initial weights",
        )
    elif float(maps.max()) == float(maps.min()):
        yield (
            f"gives {float(maps.max()):g} for every unit, position and image in the untrained net",
            "Check that the layer is used, and its initial weights",
        )
