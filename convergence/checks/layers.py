"""Layers that are compared and pictured: each is read from an untrained net, with two batch sizes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from convergence.checks.context import CheckContext, DistinctNet, described, user_code
from convergence.checks.findings import Finding, Level, shortened
from convergence.checks.unit_axis import unit_axis
from convergence.errors import ConfigError, UserError
from convergence.networks.layer_reader import UNIT_AXIS, LayerReader, as_maps
from convergence.statistics.activation_source import LayerShape, joined_units

NAME = "layers"
AXES = {2: "(n, units)", 3: "(n, tokens, units)", 4: "(n, units, height, width)"}


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
        wanted = [layer for one in net.nets for layer in pictured.get(one.name, ())]
        yield from _read(context, net, wanted, "pictures.layers")


def _read(context: CheckContext, net: DistinctNet, wanted: Iterable[str], setting: str) -> Iterator[Finding]:
    """Read those layers of a net that were not read before."""
    assert net.module is not None
    layers = [layer for layer in dict.fromkeys(wanted) if layer not in net.read]
    net.read |= set(layers)
    if not layers:
        return
    try:
        readers = [(LayerReader(net.module, layers), layers)]
    except ConfigError:
        readers = []
        problems: dict[str, list[str]] = {}
        for layer in layers:  # one by one, to name every layer that cannot be read
            try:
                readers.append((LayerReader(net.module, [layer]), [layer]))
            except ConfigError as error:
                problems.setdefault(str(error), []).append(layer)
        for text, some in problems.items():
            about = net.name if f'"{some[0]}"' in text else f"{', '.join(some)} of {net.name}"
            yield Finding(NAME, "fault", f"{setting}: {about}: {shortened(text)}", remedy=_wrapper(net.module))
    for reader, some in readers:
        images = context.samples
        try:
            with user_code(f"{net.name}: reading {', '.join(some)}"):
                two, three = reader(images[:2].clone()), reader(images.clone())
        except UserError as error:
            yield Finding(NAME, "fault", str(error), remedy="Choose other layers")
            continue
        for layer in some:
            for finding in _check_layer(net, reader, layer, two[layer], three[layer]):
                level, found, remedy = finding
                yield Finding(NAME, level, f'{setting}: "{layer}" of {net.name} {found}', remedy=remedy)
                if level == "fault":
                    break
            else:
                draws = context.experiment.statistics.null.draws
                net.shapes[layer] = _shape(reader, layer, three[layer], draws)


def _wrapper(module: nn.Module) -> str:
    """A remedy for nets that are wrapped in another module; "" for others."""
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return "Return the net itself from the factory, its attribute module, and name layers without the prefix module"
    if isinstance(module, torch.jit.ScriptModule):
        return "Return the net from the factory before torch.jit.script or torch.jit.trace"
    return ""


def _check_layer(
    net: DistinctNet, reader: LayerReader, layer: str, two: object, three: object
) -> Iterator[tuple[Level, str, str]]:
    """Level, what was found and remedy, for a layer's outputs for two and three images."""
    if not isinstance(two, torch.Tensor) or not isinstance(three, torch.Tensor):
        yield "fault", f"gives {described(two)}; a layer must give one tensor", "Choose a layer inside it or after it"
        return
    if two.ndim not in AXES:
        yield (
            "fault", f"gives {described(two)} for 2 images; valid are {', '.join(AXES.values())}",
            "Choose another layer",
        )  # fmt: skip
        return
    if (len(two), len(three)) != (2, 3) or two.shape[1:] != three.shape[1:]:
        yield (
            "fault", f"gives shape {tuple(two.shape)} for 2 images and {tuple(three.shape)} for 3: its first axis does "
            "not run over images alone, or another axis does", "Choose a layer with one row for each image",
        )  # fmt: skip
        return
    if 0 in two.shape:
        yield "fault", f"gives {described(two)}, which is empty", "Choose another layer"
        return
    axis, found = UNIT_AXIS[two.ndim], unit_axis(reader.module, reader.node(layer), two.ndim)
    if found is not None and found[0] != axis and two.shape[found[0]] != 1:
        yield (
            "fault", f"gives shape {tuple(two.shape)}, of which axis {axis} is read as units ({AXES[two.ndim]}); its "
            f"units are the {two.shape[found[0]]} along axis {found[0]}, by the operation {found[1]}",
            "Choose a layer after the axes are permuted back, or a layer with another number of axes",
        )  # fmt: skip
        return
    own = net.outputs.get(layer)
    if own is not None and own != tuple(two.shape):
        yield (
            "fault", f"is read at the node {reader.sources[layer]}, of shape {tuple(two.shape)}, and the module "
            f"returns shape {own}: another operation has the name of the module",
            "Rename the module, or choose another layer",
        )  # fmt: skip
        return
    scale = float(two.abs().nan_to_num(0, 0, 0).max())
    if net.fixed and not torch.allclose(two, three[:2], rtol=1e-4, atol=1e-4 * scale, equal_nan=True):
        yield (
            "fault", "gives other values for an image when another image is added to its batch: the layer mixes images",
            "Choose a layer that keeps images apart along the first axis",
        )  # fmt: skip
        return
    finite = torch.isfinite(three)
    if not bool(finite.all()):
        share = 1 - float(finite.float().mean())
        yield (
            "warning", f"gives values that are not finite ({100 * share:.3g} % in the untrained net); such units are "
            "left out", "Check the layer and the initial weights",
        )  # fmt: skip
    elif float(three.max()) == float(three.min()):
        yield (
            "warning", f"gives {float(three.max()):g} for every unit, position and image in the untrained net",
            "Check that the layer is used, and its initial weights",
        )  # fmt: skip


def _shape(reader: LayerReader, layer: str, out: torch.Tensor, draws: int) -> LayerShape:
    map_shape = tuple(out.shape[2:]) if out.ndim == 4 else (out.shape[1],) if out.ndim == 3 else ()
    kind = reader.null_kind(layer, draws)
    return LayerShape(as_maps(out).shape[1], map_shape, reader.sources[layer], reader.rectified[layer], *kind)
