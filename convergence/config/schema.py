"""The experiment: the schema of a config file, as frozen, typed sections with a description per field.

A stage depends on some sections only. Its digest covers ``digest_values`` of these sections and the digests of its
inputs, so a changed key re-runs exactly the stages that depend on it (:mod:`convergence.runs.run_folder`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationInfo, model_validator

from convergence.config import cross_checks
from convergence.config.functional import FunctionalConfig
from convergence.config.layer_refs import LayerRef, layer_refs_of_net
from convergence.config.nets import Net, NetGroup
from convergence.config.preparation import prepared_data
from convergence.config.stages import (
    AnalysisConfig,
    Comparison,
    Name,
    PicturesConfig,
    ReportConfig,
    StatisticsConfig,
    TrainingConfig,
    check_names,
)
from convergence.data import DATA_SETS
from convergence.data.files import Part, file_and_array, list_files
from convergence.data.images import DataSource
from convergence.data.manifest import FileData
from convergence.errors import ConfigError, did_you_mean, shown
from convergence.networks.layer_config import LayerConfig
from convergence.settings import PLACE_ONLY, PathSetting, Settings, expand_path


def _data_source(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, Mapping) or "name" not in value:
        return value
    name = str(value["name"])
    of_others = "torchvision" if name.startswith("torchvision:") else "factory"
    return DATA_SETS.load(of_others if ":" in name else name).model_validate(value, context=info.context)


Nonlinearity = Literal[
    "relu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid", "leaky_relu", "elu", "softplus", "none"
]  # fmt: skip
"""Functions of single values, see :mod:`convergence.statistics.nonlinearities`."""


def check_initialisations(shared: Mapping[str, str], nets: Iterable[str], untrained: Iterable[str]) -> None:
    """ValueError for names of initial weights of nets that there are not, that are untrained, or without a name."""
    known, baseline = list(nets), set(untrained)
    for name, initialisation in shared.items():
        if name not in known:
            raise ValueError(f'initialisations: unknown net "{name}"; {did_you_mean(name, known)}')
        if name in baseline:
            raise ValueError(f'initialisations: "{name}" is untrained; name the initial weights of trained nets only')
        if not initialisation:
            raise ValueError(
                f'initialisations: "{name}" has an empty name; leave the net out, or name its initial weights'
            )


class ActivationsConfig(FileData):
    """Given activations instead of nets and images: one array per net and layer."""

    root: PathSetting = Field(PathSetting("."), description="Folder of the files.", json_schema_extra=PLACE_ONLY)
    nets: dict[Name, dict[str, str]] = Field(
        min_length=2,
        description='Net → layer → "file.npy", "file.npz:name", "file.safetensors:name" or "file.h5:name".',
    )
    untrained: tuple[str, ...] = Field((), description="Names of the untrained nets: the baseline.")
    initialisations: dict[str, str] = Field(
        {},
        description="Net → name of its initial weights. Nets with one name were trained, or fine-tuned, from the same "
        "weights, and their pairs are of the kind same_init.",
    )
    labels: str | None = Field(
        None, description='Classes of the images, "file.npy" of n_images integers; for similarity within classes.'
    )
    families: str | None = Field(
        None,
        description='Families of the images, "file.npy" of n_images integers or texts: images of one film, document or '
        "photograph are not independent and stay in one image group. Default: every image is a family.",
    )
    mask: str | None = Field(
        None,
        description="Valid positions of the images, an array (n_images, positions) of booleans, False for padding. It "
        "applies to layers with one axis of positions (n_images, tokens, units).",
    )
    pre: dict[Name, dict[str, str]] = Field(
        {},
        description="Pre-activations, for a chance level that keeps the marginals of units: net → layer → an array of "
        "the shape of the activations.",
    )
    nonlinearity: Nonlinearity | dict[str, Nonlinearity] = Field(
        {},
        description="The function of single values that gives the activations of all layers, or of each layer, from "
        "their pre-activations (leaky_relu has a slope of 0.01); 'none' for a linear layer, which needs no "
        "pre-activations.",
    )

    @model_validator(mode="after")
    def _known(self) -> ActivationsConfig:
        for name in self.untrained:
            if name not in self.nets:
                raise ValueError(f'untrained: unknown net "{name}"; {did_you_mean(name, self.nets)}')
        check_initialisations(self.initialisations, self.nets, self.untrained)
        known = dict.fromkeys(layer for layers in self.nets.values() for layer in layers)
        for layer in self.nonlinearity if isinstance(self.nonlinearity, dict) else ():
            if layer not in known:
                raise ValueError(f'nonlinearity: unknown layer "{layer}"; {did_you_mean(layer, known)}')
        for name, layers in self.pre.items():
            if name not in self.nets:
                raise ValueError(f'pre: unknown net "{name}"; {did_you_mean(name, self.nets)}')
            for layer in layers:
                if layer not in self.nets[name]:
                    raise ValueError(f'pre.{name}: unknown layer "{layer}"; {did_you_mean(layer, self.nets[name])}')
                if self.nonlinearity_of(layer) in ("", "none"):
                    raise ValueError(
                        f'pre.{name}: the layer "{layer}" has pre-activations and no nonlinearity; set '
                        f'activations.nonlinearity = {{ {layer} = "relu" }}, or the name of its function'
                    )
        return self

    def nonlinearity_of(self, layer: str) -> str:
        """The nonlinearity of a layer; "" if the config does not name it."""
        return self.nonlinearity.get(layer, "") if isinstance(self.nonlinearity, dict) else self.nonlinearity

    def list_parts(self) -> dict[str, Part]:
        sources = [source for nets in (self.nets, self.pre) for layers in nets.values() for source in layers.values()]
        sources += [source for source in (self.labels, self.families, self.mask) if source is not None]
        names = dict.fromkeys(file_and_array(source)[0] for source in sources)
        remedy = (
            "Give arrays as file.npy, file.npz:name, file.safetensors:name or file.h5:name, below activations.root."
        )
        return {
            "files": list_files("the activations", ((name, self.root / expand_path(name)) for name in names), remedy)
        }


class Experiment(Settings):
    """A complete config file."""

    name: Name = Field(description="Name of the run folder under runs/.")
    data: SerializeAsAny[Annotated[DataSource, BeforeValidator(_data_source)]] | None = Field(
        None, description="The images."
    )
    nets: tuple[NetGroup, ...] = Field((), description="Groups of nets.")
    layers: dict[str, LayerConfig] = Field({}, description="Layers that are read otherwise than by default, by name.")
    activations: ActivationsConfig | None = Field(None, description="Given activations, instead of images and nets.")
    training: TrainingConfig = TrainingConfig()
    statistics: StatisticsConfig
    analysis: AnalysisConfig = AnalysisConfig()
    pictures: PicturesConfig = PicturesConfig()
    functional: FunctionalConfig = FunctionalConfig()
    report: ReportConfig = ReportConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        if self.activations is not None and (self.data is not None or self.nets):
            raise ValueError("[activations] replaces [data] and [[nets]]; give one or the other")
        if self.activations is None and (self.data is None or not self.nets):
            raise ValueError("[data] and [[nets]] are missing; add them, or [activations] for given activations")
        labels = [group.label for group in self.nets] or list(self.activations.nets if self.activations else ())
        if len(set(labels)) < len(labels):
            raise ValueError(f"nets: labels {shown(labels)} list a label twice; give each group a different label")
        self.__dict__["data"] = prepared_data(self.data, self.all_nets() if self.data is not None else ())
        cross_checks.check_size(self)
        cross_checks.check_subsets(self)
        names = [net.name for net in self.all_nets()]
        if len(set(names)) < len(names):
            raise ValueError(f"nets: the labels make a net name twice: {shown(names)}; change a label")
        check_names(names, "nets")
        check_names([self.name], "name")
        if self.data is not None:
            cross_checks.check_layers(self)
            cross_checks.check_images(self)
            cross_checks.check_functional_names(self)
        else:
            cross_checks.check_groups(self)
        for comparison in self.statistics.comparisons:
            if isinstance(comparison.layers, dict):
                for label in comparison.layers:
                    if label not in labels:
                        raise ValueError(
                            f'statistics.comparisons: "{comparison.name}": unknown group "{label}"; '
                            f"{did_you_mean(label, labels)}"
                        )
            if self.activations is not None:
                if self.statistics.sums == "device":
                    raise ValueError('statistics.sums = "device" needs nets; use "host" or "auto" for [activations]')
                for net, layer in self.nets_of(comparison):
                    if layer not in self.activations.nets[net.name]:
                        raise ValueError(
                            f'activations.nets.{net.name} has no layer "{layer}" for the comparison '
                            f'"{comparison.name}"; {did_you_mean(layer, self.activations.nets[net.name])}'
                        )
            self._check_epochs(comparison)
            if len(self.layer_refs_of(comparison)) < 2:
                raise ValueError(
                    f'statistics.comparisons: "{comparison.name}" joins fewer than two nets, layers or epochs; add one'
                )
        cross_checks.check_members(self)
        cross_checks.check_layer_configs(self)
        if self.report.pair is not None:
            for name in self.report.pair:
                if name not in names:
                    raise ValueError(f'report.pair: unknown net "{name}"; {did_you_mean(name, names)}')
        for name in self.pictures.nets:
            if name not in names:
                raise ValueError(f'pictures.nets: unknown net "{name}"; {did_you_mean(name, names)}')
        return self

    def all_nets(self) -> list[Net]:
        """List all nets, in the order of the config."""
        if self.activations is not None:
            untrained = set(self.activations.untrained)
            shared = self.activations.initialisations
            return [
                Net(name, name, None, -1, name not in untrained, shared_initialisation=shared.get(name, ""))
                for name in self.activations.nets
            ]
        training = self.training
        default, share = training.data_seed, training.data_share
        return [net for group in self.nets for net in group.resolved(default, share)]

    @property
    def images(self) -> DataSource:
        """The data set; ConfigError if the config gives activations instead."""
        if self.data is None:
            raise ConfigError("the config gives activations and no images; add [data] and [[nets]] for images.")
        return self.data

    def nets_of(self, comparison: Comparison) -> list[tuple[Net, str]]:
        """List the (net, layer) pairs that a comparison joins."""
        return [(net, layer) for net in self.all_nets() for layer in comparison.layers_of(net.label)]

    def layer_refs_of(self, comparison: Comparison) -> list[LayerRef]:
        """List the layer references of a comparison, in order along its unit axis."""
        return [
            ref
            for net in self.all_nets()
            for ref in layer_refs_of_net(
                net.name,
                comparison.layers_of(net.label),
                comparison.epochs or () if net.trained_here else (),
                self.training.epochs,
            )
        ]

    def layer_configs(self, layers: Iterable[str]) -> dict[str, LayerConfig]:
        """How each layer is read."""
        return {layer: self.layers.get(layer, LayerConfig()) for layer in layers}

    def layer_values(self, layers: Iterable[str]) -> dict[str, Any]:
        """Settings of layers on which results depend, for a digest; empty where all have the defaults."""
        found = {layer: self.layers[layer].digest_values() for layer in sorted(set(layers)) if layer in self.layers}
        return {"layers": found} if found else {}

    def all_layer_refs(self) -> list[LayerRef]:
        """List the layer references of all comparisons, one comparison after the other."""
        return [ref for comparison in self.statistics.comparisons for ref in self.layer_refs_of(comparison)]

    def pictured(self) -> list[tuple[Net, tuple[str, ...]]]:
        """List the nets to picture, each with its layers; empty without nets or without layers."""
        if self.activations is not None:
            return []
        found, chosen = [], set(self.pictures.nets)
        for net in self.all_nets():
            if net.name in chosen if chosen else net.trained:
                compared = [c.layers_of(net.label) for c in self.statistics.comparisons if not c.pool]
                layers = self.pictures.layers or tuple(dict.fromkeys(layer for some in compared for layer in some))
                if layers:
                    found.append((net, layers))
        return found

    def _check_epochs(self, comparison: Comparison) -> None:
        if comparison.epochs is None:
            return
        where = f'statistics.comparisons: "{comparison.name}"'
        if self.activations is not None:
            raise ValueError(f"{where} lists epochs, but [activations] have no epochs; remove them")
        training = self.training
        for epoch in comparison.epochs:
            if epoch != training.epochs and epoch not in training.keep_epochs:
                raise ValueError(
                    f"{where} lists epoch {epoch}, whose weights are not kept: add it to training.keep_epochs (now "
                    f"{shown(list(training.keep_epochs))}; the last epoch, {training.epochs}, is always kept)"
                )
