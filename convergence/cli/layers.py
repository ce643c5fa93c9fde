"""``convergence layers``: the layers of a net, to choose from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convergence.cli import options
from convergence.cli.output import columns, print_json
from convergence.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from convergence.checks.layer_listing import ListedLayer

N_CLASSES = 10
"""Number of classes of networks that need one, without a data set."""
USUAL = (3, 224, 224)
HEADER = ("layer", "kind", "output for one image", "unit axis", "units", "positions", "receptive field", "read after")


@dataclass(frozen=True)
class ListedNet:
    """The layers of a network: its name, the nets of a config that have it, and the shape of its inputs."""

    network: str
    nets: tuple[str, ...]
    input_shape: tuple[int, ...]
    layers: list[ListedLayer]


@click.command()
@click.argument("network", required=False)
@click.option("--config", type=options.FILE, metavar="CONFIG", help="List the networks of this config instead.")
@options.set_option
@click.option(
    "--images",
    metavar="3x224x224",
    help="Shape of an image.  [default: that of the config's images, of the model zoo, or 3x224x224]",
)
@click.option("--tokens", type=options.NUMBER, metavar="N", help="The net takes texts of this many tokens.")
@click.option("--all", "functions", is_flag=True, help="Also list results of functions that no module returns.")
@options.code_option
@options.json_option
def layers(
    network: str | None,
    config: str | None,
    overrides: tuple[str, ...],
    images: str | None,
    tokens: int | None,
    functions: bool,
    as_json: bool,
) -> None:
    """List every layer of a network: shape, axis of units, units, positions, and where it is read.

    NETWORK is a name as in a config: small, torchvision:convnext_tiny, timm:vit_tiny_patch16_224, hf:FOLDER,
    package.module:factory. It is built with random weights and run on random images. Names of this list go to
    statistics.comparisons; docs/layers.md explains the settings.
    """
    if (network is None) == (config is None):
        raise click.UsageError("give the name of a network, or --config CONFIG.")
    if network is not None and overrides:
        raise click.UsageError("--set belongs to --config.")
    shape = _shape(images, tokens)
    found = [_of_name(network, shape, functions)] if network else list(_of_config(config, overrides, shape, functions))
    if as_json:
        print_json("layers", {"networks": found})
    else:
        print("\n\n".join("\n".join(_text(net)) for net in found))


def _shape(images: str | None, tokens: int | None) -> tuple[int, ...] | None:
    if images is not None and tokens is not None:
        raise click.UsageError("--images and --tokens are both given; a net takes one of them.")
    if images is None:
        return None if tokens is None else (tokens,)
    if not re.fullmatch(r"[1-9]\d{0,5}(x[1-9]\d{0,5}){0,3}", images):
        raise click.UsageError(f"--images {images}: write channels, height and width as 3x224x224.")
    return tuple(map(int, images.split("x")))


def _of_name(name: str, shape: tuple[int, ...] | None, functions: bool) -> ListedNet:
    """A network by its name, built from seed 0."""
    from convergence.checks.context import user_code
    from convergence.checks.layer_listing import list_layers
    from convergence.config.load import validated
    from convergence.config.nets import NetGroup
    from convergence.networks.weights import initialise
    from convergence.networks.zoo import ZooNetwork

    spec = validated(NetGroup, {"network": name, "seeds": [0]}, "layers").network
    refusal = spec.refusal()
    if refusal:
        raise ConfigError(f"{name}: {refusal}")
    shape = shape or spec.usual_shape() or USUAL
    with user_code(f"building {name}"):
        module = initialise(spec, 0, shape, 0 if isinstance(spec, ZooNetwork) else N_CLASSES)
    with user_code(f"{name} on inputs of shape {shape}"):
        return ListedNet(name, (), shape, list_layers(module, _inputs(shape), functions=functions))


def _of_config(
    config: str | None, overrides: Iterable[str], shape: tuple[int, ...] | None, functions: bool
) -> Iterator[ListedNet]:
    """The distinct networks of a config, with its images and its settings of layers."""
    from convergence.checks.context import CheckContext, user_code
    from convergence.checks.layer_listing import list_layers
    from convergence.cli.launch import check_code
    from convergence.config.load import read_config
    from convergence.networks.weights import initialise
    from convergence.runs.run_folder import RunFolder

    experiment = read_config(str(config), tuple(overrides))
    if experiment.activations is not None:
        raise ConfigError(f"{config}: the config has [activations] instead of nets, whose layers are named there.")
    check_code(experiment)
    context = CheckContext(RunFolder(Path("runs") / experiment.name, experiment))
    for net in context.nets:
        if shape is None:
            inputs: Any = context.samples
            module = context.build(net.spec, 0)
        else:
            inputs = _inputs(shape)
            with user_code(f"building {net.spec.name}"):
                module = initialise(net.spec, 0, shape, N_CLASSES)
        given = tuple(inputs.shape[1:])
        names = tuple(one.name for one in net.nets)
        with user_code(f"{net.spec.name} on inputs of shape {given}"):
            yield ListedNet(net.spec.name, names, given, list_layers(module, inputs, experiment.layers, functions))


def _inputs(shape: tuple[int, ...]) -> torch.Tensor:
    """Three random inputs; numbers of tokens for one axis."""
    import torch

    generator = torch.Generator().manual_seed(0)
    if len(shape) == 1:
        return torch.randint(0, 2, (3, *shape), generator=generator)
    return torch.randn((3, *shape), generator=generator)


def _text(net: ListedNet) -> Iterator[str]:
    what = f"inputs of shape {_times(net.input_shape)}"
    of = f" ({', '.join(net.nets)})" if net.nets else ""
    yield f"{net.network}{of}, {what}, {len(net.layers)} layers"
    yield from columns([HEADER, *(_row(layer) for layer in net.layers)])
    for layer in net.layers:
        if layer.note:
            yield f"  {layer.layer}: {layer.note}"


def _row(layer: ListedLayer) -> tuple[str, ...]:
    positions = "?" if layer.positions is None else _times(layer.positions) or "-"
    field = layer.receptive_field
    after = layer.read_after and (
        layer.read_after if layer.source == layer.layer else f"{layer.read_after} ({layer.source})"
    )
    return (
        layer.layer, layer.kind, _times(layer.shape), _number(layer.unit_axis), _number(layer.units), positions,
        (field if isinstance(field, str) else _times(field)) or "-", after or "-",
    )  # fmt: skip


def _times(sizes: Iterable[int]) -> str:
    return "x".join(map(str, sizes))


def _number(value: int | None) -> str:
    return "?" if value is None else str(value)
