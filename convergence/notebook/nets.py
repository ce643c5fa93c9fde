"""Live nets and given arrays: their names, their layers, and the experiment that compares them.

The nets of a user are never changed: what is read is a copy of each, in float32 and evaluation mode.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from convergence.config.schema import Experiment, Net, check_initialisations
from convergence.data.images import DataSource
from convergence.errors import ConfigError, did_you_mean, listed
from convergence.networks import NetworkSpec
from convergence.notebook.inputs import Array, GivenImages, as_array

DEFAULT_LAYERS = 4
"""Layers that are compared if none are named."""


class LiveNet(NetworkSpec):
    """A module of this process, by the names of its classes and the SHA-256 of its weights."""

    modules: str
    weights_sha256: str


class GivenData(DataSource):
    """Inputs of this process, by their SHA-256."""

    n_images: int = Field(ge=0, le=2**62)
    image_shape: tuple[Annotated[int, Field(ge=0, le=2**62)], ...]
    sha256: str


class LiveExperiment(Experiment):
    """An experiment of live nets, each a group under its own name, with names of their initial weights."""

    initialisations: dict[str, str] = Field({}, description="Net → name of its initial weights.")

    def all_nets(self) -> list[Net]:
        if self.activations is not None:
            return super().all_nets()
        return [
            Net(
                group.label, group.label, group.network, -1, group.trained,
                shared_initialisation=self.initialisations.get(group.label, ""),
            )
            for group in self.nets
        ]  # fmt: skip


class GivenNets:
    """What a user calls nets: modules, or arrays of activations, by name.

    Attributes
    ----------
    modules : by name; empty for arrays
    arrays, pre : activations and pre-activations (n_images, …) by net and layer; empty for modules
    """

    def __init__(self, nets: Any, pre: Any = None) -> None:
        if isinstance(nets, Sequence) and not isinstance(nets, str):
            nets = {f"net{k}": net for k, net in enumerate(nets, start=1)}
        if not isinstance(nets, Mapping):
            raise ConfigError(
                f'nets: a {type(nets).__name__}; valid are a dict {{"a": module, "b": module}} and a list of modules.'
            )
        if len(nets) < 2:
            raise ConfigError(f"nets: {len(nets)} net; a comparison needs at least two.")
        nets = {str(name): net for name, net in nets.items()}
        given = [name for name, net in nets.items() if isinstance(net, Mapping)]
        live = [name for name, net in nets.items() if callable(getattr(net, "state_dict", None))]
        for name in nets:
            if name not in given and name not in live:
                raise ConfigError(
                    f'nets: "{name}" is a {type(nets[name]).__name__}; valid are a torch.nn.Module, and a dict '
                    "{layer: array (n_images, units), (n_images, units, height, width) or (n_images, tokens, units)}."
                )
        if given and live:
            raise ConfigError(f"nets: {listed(live)} are modules and {listed(given)} are arrays; give one kind.")
        self.names = tuple(nets)
        self.modules: dict[str, Any] = {} if given else nets
        self.arrays = {name: _arrays(name, nets[name]) for name in given}
        self.pre = {str(name): _arrays(f"pre, {name}", layers) for name, layers in (pre or {}).items()}
        if self.pre and not given:
            raise ConfigError("pre: pre-activations of modules are read from the modules; give pre with arrays only.")

    def comparisons(self, layers: Any, pool: bool) -> tuple[list[dict[str, Any]], str]:
        """The comparisons as a config has them, and a note on layers that were chosen.

        ``layers`` is a list of layers of all nets, a dict of lists that are aligned by position, or None.
        """
        note = ""
        if layers is None:
            layers = self._default_layers()
            note = f"Layers were not given: {listed(layers)} are compared."
        layers = [layers] if isinstance(layers, str) else layers
        if not isinstance(layers, Mapping):
            rows = [dict.fromkeys(self.names, str(layer)) for layer in layers]
        else:
            for name in layers:
                if name not in self.names:
                    raise ConfigError(f'layers: there is no net "{name}"; {did_you_mean(str(name), self.names)}.')
            lists = {name: [one] if isinstance(one, str) else list(one) for name, one in layers.items()}
            if len({len(one) for one in lists.values()}) > 1:
                found = ", ".join(f"{name}: {len(one)}" for name, one in lists.items())
                raise ConfigError(f"layers: lists of all nets are aligned by position and need one length; {found}.")
            rows = [{name: lists[name][k] for name in lists} for k in range(len(next(iter(lists.values()), ())))]
        if not rows:
            raise ConfigError("layers: the list is empty; name at least one layer.")
        names: list[str] = []
        for row in rows:
            first = next(iter(row.values())).strip("_").replace("/", ".") or "layer"
            names.append(first if first not in names else f"{first}-{len(names) + 1}")
        whole = [len(set(row.values())) == 1 and len(row) == len(self.names) for row in rows]
        return [
            {"name": name, "layers": next(iter(row.values())) if same else row, "pool": pool}
            for name, row, same in zip(names, rows, whole, strict=True)
        ], note

    def _default_layers(self) -> list[str]:
        """Layers that all nets have: of arrays all, of modules some convolutions and linear layers before the last."""
        known = [list(arrays) for arrays in self.arrays.values()] or [
            _weight_layers(module) for module in self.modules.values()
        ]
        common = [layer for layer in known[0] if all(layer in others for others in known[1:])]
        if not common:
            own = zip(self.names, known, strict=True)
            lists = ", ".join(f'"{name}": ["{layers[0] if layers else "LAYER"}"]' for name, layers in own)
            raise ConfigError(
                "layers: the nets have no layers of a common name; give the layers of each net, aligned by position: "
                f"layers={{{lists}}}."
            )
        if self.arrays:
            return common
        common = common[:-1] or common  # the last one gives the answer
        steps = range(min(DEFAULT_LAYERS, len(common)))
        return list(dict.fromkeys(common[round(k * (len(common) - 1) / max(len(steps) - 1, 1))] for k in steps))

    def experiment_values(
        self, images: GivenImages, untrained: Sequence[str], initialisations: Mapping[str, str], nonlinearity: Any
    ) -> dict[str, Any]:
        """The parts of the config that say what the nets and images are."""
        for name in untrained:
            if name not in self.names:
                raise ConfigError(f'untrained: there is no net "{name}"; {did_you_mean(name, self.names)}.')
        shared = {str(name): str(of) for name, of in initialisations.items()}
        try:
            check_initialisations(shared, self.names, untrained)
        except ValueError as error:
            raise ConfigError(f"{error}.") from error
        if self.arrays:
            files = {name: {layer: layer for layer in layers} for name, layers in self.arrays.items()}
            pre = {name: {layer: layer for layer in layers} for name, layers in self.pre.items()}
            values = {
                "root": ".", "nets": files, "pre": pre, "untrained": list(untrained), "initialisations": shared,
            }  # fmt: skip
            return {"activations": values | ({"nonlinearity": nonlinearity} if nonlinearity else {})}
        nets = []
        for name, module in self.modules.items():
            spec = LiveNet(name=type(module).__name__, modules=_modules_sha256(module), weights_sha256=_weights(module))
            nets.append({"label": name, "network": spec, "seeds": [0], "trained": name not in untrained})
        shape = images.image_shape
        data = GivenData(name="given", n_images=len(images), image_shape=shape, sha256=images.manifest_hash())
        return {"nets": nets, "data": data, "initialisations": shared}


class Copies(Mapping[str, Any]):
    """Copies of modules in float32 and evaluation mode, made when they are asked for.

    Parameters
    ----------
    modules : by name of the net
    probe : a few inputs on the CPU, which every net has to take
    """

    def __init__(self, modules: Mapping[str, Any], probe: Any) -> None:
        self._modules, self._probe = modules, probe
        self.last = ""
        """Name of the net that was asked for last."""

    def __getitem__(self, name: str) -> Any:
        import torch

        self.last = name
        try:
            own = copy.deepcopy(self._modules[name]).cpu().float().eval()
        except (RuntimeError, TypeError, AttributeError) as error:
            raise ConfigError(f'nets: "{name}" could not be copied: {error}') from error
        for parameter in own.parameters():
            parameter.requires_grad_(False)
        try:
            with torch.no_grad():
                own(self._probe)
        except Exception as error:
            raise ConfigError(
                f'nets: "{name}" cannot take inputs of shape {tuple(self._probe.shape)} and type {self._probe.dtype}: '
                f"{error}. Give data that the nets take, without labels in the first place."
            ) from error
        return own

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


def _arrays(name: str, layers: Any) -> dict[str, Array]:
    if not isinstance(layers, Mapping) or not layers:
        raise ConfigError(f'nets: "{name}" has no layers; give a dict {{layer: array (n_images, units, …)}}.')
    found = {}
    for layer, values in layers.items():
        array = as_array(values)
        if array is None:
            raise ConfigError(f'nets: "{name}.{layer}" is a {type(values).__name__}; valid are arrays and tensors.')
        found[str(layer)] = array
    return found


def _weight_layers(module: Any) -> list[str]:
    """Names of convolutions and linear layers, in the order of the module."""
    from torch import nn

    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    return [name for name, part in module.named_modules() if name and isinstance(part, kinds)]


def _weights(module: Any) -> str:
    from convergence.networks.weights import arrays_sha256, state_arrays

    return arrays_sha256(state_arrays(module))


def _modules_sha256(module: Any) -> str:
    return hashlib.sha256(repr(module).encode()).hexdigest()
