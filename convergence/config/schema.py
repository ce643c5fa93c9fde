"""The experiment: what a config file may hold, as frozen, typed sections with a sentence a field.

Each stage depends on some sections only; ``digest_values`` of those (and of what the stage reads) make its digest, so
that a changed key re-runs exactly the stages that it touches (:mod:`convergence.runs.run_folder`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from convergence.config.functional import FunctionalConfig
from convergence.config.layer_refs import LayerRef, layer_refs_of_net
from convergence.data import DATA_SETS
from convergence.data.images import DataSource
from convergence.errors import ConfigError, did_you_mean
from convergence.io.files import safe_name
from convergence.networks import NETWORKS
from convergence.networks.spec import NetworkSpec
from convergence.settings import Section
from convergence.similarity import MEASURES

SPEED_ONLY: dict[str, Any] = {"digest": False}
ADDED_LATER: dict[str, Any] = {"digest": "unless default"}
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=80)]
Layers = Annotated[tuple[str, ...], Field(min_length=1)]


def _check_files(names: list[str], what: str) -> None:
    """Names that files are called by, on any system: no two differ by case only, none is one that Windows forbids."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise ValueError(f'{what}: "{other}" and "{name}" differ by case only, and some file systems tell no case')
        if what != "comparisons" and safe_name(name) != name:
            raise ValueError(f'{what}: "{name}" cannot be the name of a folder on Windows; choose another')


def _data_source(value: Any) -> Any:
    if isinstance(value, Mapping) and "name" in value:
        return DATA_SETS.load(str(value["name"])).model_validate(value)
    return value


def _network(value: Any) -> Any:
    if not isinstance(value, Mapping) or "name" not in value:
        return value
    name = str(value["name"])
    if name.startswith("torchvision:"):
        entry = "torchvision"
    elif ":" in name:
        entry = "factory"
    else:
        entry = name
    return NETWORKS.load(entry).model_validate(value)


class NetGroup(Section):
    """Nets of one network that differ by seed."""

    label: Name = Field("net", description="Nets of the group are called <label>1, <label>2, …")
    network: SerializeAsAny[Annotated[NetworkSpec, BeforeValidator(_network)]] = Field(
        description="Name and settings of the network."
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        min_length=1, description="Seeds of the initial weights, one a net."
    )
    trained: bool = Field(True, description="False leaves the nets as initialised: a baseline.")

    @model_validator(mode="after")
    def _distinct(self) -> NetGroup:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} repeat: two nets would be the same net")
        return self


class Net(NamedTuple):
    """One net of the experiment, resolved from its group."""

    name: str
    label: str
    network: NetworkSpec | None
    seed: int
    trained: bool

    @property
    def spec(self) -> NetworkSpec:
        """The network; ConfigError for a net of which there are activations only."""
        if self.network is None:
            raise ConfigError(f"of {self.name} there are activations only, no network.")
        return self.network


class TrainingConfig(Section):
    """How every trained net is trained. All nets see the same images in the same order; they differ by seed only."""

    epochs: int = Field(10, ge=1, description="Passes over the training images.")
    batch_size: int = Field(64, ge=1, description="Images a step, over all devices.")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="SGD with momentum, or AdamW.")
    learning_rate: float = Field(0.05, gt=0, description="Peak learning rate.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD (beta1 of AdamW).")
    weight_decay: float = Field(5e-4, ge=0, description="L2 penalty of SGD, decoupled decay of AdamW.")
    schedule: Literal["constant", "cosine", "step"] = Field("cosine", description="Course of the learning rate.")
    warmup_epochs: float = Field(0.0, ge=0, description="Epochs of linear warm-up before the schedule.")
    step_epochs: int = Field(20, ge=1, description="Schedule 'step': epochs between two reductions.")
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the target that is spread over all classes, in training.",
        json_schema_extra=ADDED_LATER,
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="Type of products and convolutions in training; weights and sums stay float32. 'float16' scales "
        "the loss.",
        json_schema_extra=ADDED_LATER,
    )
    channels_last: bool = Field(
        False,
        description="Keep images and weights with the channels as the last axis in memory.",
        json_schema_extra=ADDED_LATER,
    )
    compile: bool = Field(
        False, description="Compile the net with torch.compile for training.", json_schema_extra=ADDED_LATER
    )
    step_factor: float = Field(0.1, gt=0, lt=1, description="Schedule 'step': factor of each reduction.")
    data_seed: int = Field(0, ge=0, description="Seed of the image order and augmentation, the same for all nets.")
    keep_epochs: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (),
        description="Epochs after which the weights are kept too (0: as initialised); the final ones always are. "
        "A change trains the nets again.",
        json_schema_extra=ADDED_LATER,
    )
    device: str = Field("auto", description="'auto' (CUDA if there is one, else CPU), 'cpu', 'cuda' or 'cuda:1'.")
    threads: int = Field(2, ge=1, description="CPU threads of the arithmetic; part of the digest, it changes bits.")
    loader_workers: int = Field(2, ge=0, description="Threads that read images ahead.", json_schema_extra=SPEED_ONLY)
    together: bool | Annotated[int, Field(ge=1)] = Field(
        False,
        description="Nets that share each batch that is read: true for all, or so many at a time. Same bits on a CPU.",
        json_schema_extra=SPEED_ONLY,
    )
    checkpoint_minutes: float = Field(
        10.0,
        gt=0,
        description="Minutes between checkpoints; there is one at the end of every epoch too.",
        json_schema_extra=SPEED_ONLY,
    )

    @model_validator(mode="after")
    def _within(self) -> TrainingConfig:
        if len(set(self.keep_epochs)) < len(self.keep_epochs):
            raise ValueError(f"keep_epochs {list(self.keep_epochs)} repeat an epoch")
        for epoch in self.keep_epochs:
            if epoch > self.epochs:
                raise ValueError(f"keep_epochs: epoch {epoch} is after the last one, training.epochs = {self.epochs}")
        return self


class Comparison(Section):
    """Units that are compared: layers of nets, of all of them or of each group its own, at the end or over epochs."""

    name: Name = Field(description="Name of the comparison in files and figures.")
    layers: str | Layers | dict[str, str | Layers] = Field(
        description="A layer's name, a list of them (every net takes part with each), or {label = layer or list} for "
        "groups that differ."
    )
    epochs: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = Field(
        None,
        description="Epochs whose weights take part, out of training.keep_epochs and the last one; the final weights "
        "alone if not given. Untrained nets take part once.",
        json_schema_extra=ADDED_LATER,
    )
    pool: bool = Field(
        False,
        description="A sample is an image, a unit's value its mean over the positions of its map: joins layers of any "
        "shape.",
        json_schema_extra=ADDED_LATER,
    )

    @model_validator(mode="after")
    def _distinct(self) -> Comparison:
        of_groups = self.layers.values() if isinstance(self.layers, dict) else (self.layers,)
        for items in (*of_groups, self.epochs or ()):
            if isinstance(items, str):
                continue
            if len(set(items)) < len(items):
                raise ValueError(f'"{self.name}": {list(items)} repeat, and a layer or an epoch takes part once')
            for item in items:
                if "/" in str(item):
                    raise ValueError(f'"{self.name}": "{item}" would be part of a name in files, and has a "/"')
        return self

    def layers_of(self, label: str) -> tuple[str, ...]:
        """The layers that nets of a group take part with; none if the group takes no part."""
        layers = self.layers.get(label, ()) if isinstance(self.layers, dict) else self.layers
        return (layers,) if isinstance(layers, str) else layers


def _comparison(value: Any) -> Any:
    return {"name": value, "layers": value} if isinstance(value, str) else value


class MutualInformationConfig(Section):
    """The second pass: joint histograms of all pairs of units."""

    enabled: bool = Field(True, description="Whether the second pass is made.")
    bins: int = Field(10, ge=3, le=16, description="Bins a unit: bin 0 for zeros, the rest of equal mass.")
    blocks: int = Field(8, ge=2, le=64, description="Blocks of groups that are left out in turn, for error bars.")
    positions: Literal["all"] | Annotated[int, Field(ge=1)] = Field(
        "all", description="Positions of a map that count: all, or so many an image, drawn by seed."
    )


class StatisticsConfig(Section):
    """What is summed over the evaluation images."""

    comparisons: tuple[Annotated[Comparison, BeforeValidator(_comparison)], ...] = Field(
        min_length=1, description="Layers to compare, by the name of a module or graph node."
    )
    split: Literal["test", "train"] = Field("test", description="Images that are read.")
    max_images: int | None = Field(None, ge=2, description="Read only so many images, drawn by seed.")
    groups: int = Field(16, ge=2, description="Image groups: the atom of work, of checkpoints and of error bars.")
    batch_size: int = Field(128, ge=1, description="Images a forward pass; part of the digest, it changes bits.")
    precision: Literal["float32", "float64"] = Field(
        "float32", description="Products about a shift in this type; sums are always float64."
    )
    positions: Literal["all"] | Annotated[int, Field(ge=1)] = Field(
        "all", description="Positions of a map that are samples: all, or so many an image, drawn by seed."
    )
    subset: int = Field(
        256, ge=0, description="Images whose activations are stored as means over positions, drawn by seed; 0 for none."
    )
    seed: int = Field(0, ge=0, description="Seed of the image groups, the subset and the sampled positions.")
    shifted_null: bool = Field(
        False, description="Also sum every image with the next one: a chance level; doubles the work of pass 1."
    )
    top_images: int = Field(
        9,
        ge=0,
        description="Images that excite a unit most, kept on the way for pictures; 0 for none.",
        json_schema_extra=ADDED_LATER,
    )
    mutual_information: MutualInformationConfig = MutualInformationConfig()
    device: str = Field("auto", description="Device of the forward passes, as in [training].")
    sums: Literal["auto", "host", "device"] = Field(
        "auto",
        description="Where sums are taken: on the host, or on the device of the forward passes ('auto': if CUDA).",
    )
    threads: int = Field(2, ge=1, description="CPU threads a rank; part of the digest, it changes bits.")
    loader_workers: int = Field(2, ge=0, description="Threads that read images ahead.", json_schema_extra=SPEED_ONLY)

    @model_validator(mode="after")
    def _distinct(self) -> StatisticsConfig:
        names = [comparison.name for comparison in self.comparisons]
        if len(set(names)) < len(names):
            raise ValueError(f"comparisons {names} repeat a name")
        _check_files(names, "comparisons")
        return self


class SparseConfig(Section):
    """Few-to-one prediction: the LASSO path and forward selection."""

    enabled: bool = Field(True, description="Whether sparse mappings are computed.")
    alphas: int = Field(20, ge=2, description="Penalties on the path, evenly spaced in log(alpha).")
    alpha_max: float = Field(0.9, gt=0, description="Largest penalty, for standardised units.")
    alpha_min: float = Field(1e-3, gt=0, description="Smallest penalty; the unpenalised fit is always added.")
    blocks: int = Field(8, ge=2, le=64, description="Blocks of groups that are left out in turn, for errors of paths.")
    max_units: int = Field(10, ge=1, description="Forward selection stops at so many units a target.")

    @model_validator(mode="after")
    def _ordered(self) -> SparseConfig:
        if self.alpha_min >= self.alpha_max:
            raise ValueError(f"alpha_min {self.alpha_min} must be below alpha_max {self.alpha_max}")
        return self


class ClusteringConfig(Section):
    """Many-to-many: spectral clustering of the joined units of two nets."""

    enabled: bool = Field(True, description="Whether clusters are computed.")
    similarity: Literal["absolute", "positive"] = Field("absolute", description="Edge weight: |r|, or max(r, 0).")
    threshold: float = Field(0.2, ge=0, lt=1, description="Edges below it are dropped.")
    n_clusters: Literal["eigengap"] | Annotated[int, Field(ge=2)] = Field("eigengap", description="How many clusters.")
    max_clusters: int = Field(20, ge=2, description="Largest number that the eigengap may choose.")
    split_share: float = Field(
        0.025, gt=0, le=1, description="Hierarchical clusters of more than 2 x this x (units of a net) are split again."
    )


class AnalysisConfig(Section):
    """What is computed from the sums."""

    measures: tuple[str, ...] = Field(
        tuple(MEASURES),
        min_length=1,
        description="Measures of whole layers, by name, each with its uncertainty.",
    )
    rotations: int = Field(20, ge=2, description="Random rotations of one net's basis that make the chance level.")
    seed: int = Field(0, ge=0, description="Seed of rotations and of k-means.")
    sparse: SparseConfig = SparseConfig()
    clustering: ClusteringConfig = ClusteringConfig()

    @model_validator(mode="after")
    def _known(self) -> AnalysisConfig:
        for name in self.measures:
            if name not in MEASURES:
                raise ValueError(f'unknown measure "{name}"; {did_you_mean(name, MEASURES)}')
        return self


class ActivationsConfig(Section):
    """Activations that are there already, instead of nets and images: one array a net and layer."""

    root: Path = Field(Path("."), description="Folder of the files.")
    nets: dict[Name, dict[str, str]] = Field(
        min_length=2, description='Net → layer → "file.npy", "file.npz:name" or "file.h5:name".'
    )
    untrained: tuple[str, ...] = Field((), description="Nets that were not trained: the baseline.")

    @model_validator(mode="after")
    def _known(self) -> ActivationsConfig:
        for name in self.untrained:
            if name not in self.nets:
                raise ValueError(f'untrained: unknown net "{name}"; {did_you_mean(name, self.nets)}')
        return self

    def files(self) -> list[tuple[str, int, int]]:
        """Every array with its file's size and time, 0 for a file that is not there."""
        found = []
        for layers in self.nets.values():
            for source in layers.values():
                path = self.root / source
                if not path.exists():
                    path = self.root / source.rpartition(":")[0]
                stat = path.stat() if path.is_file() else None
                found.append((source, stat.st_size, stat.st_mtime_ns) if stat else (source, 0, 0))
        return found


class MaximizationConfig(Section):
    """Images that excite a unit as much as can be, by gradient ascent."""

    objective: Literal["position", "channel"] = Field(
        "position",
        description="'position': one position of the map, an image of the size of its receptive field; 'channel': the "
        "mean over all positions, an image of full size.",
    )
    parametrisation: Literal["pixels", "fourier"] = Field(
        "fourier",
        description="What is changed: pixels, or frequencies (1/f) of colours without correlation; images with a side "
        "of less than 8 pixels are always changed by pixels.",
    )
    seeds: int = Field(1, ge=1, description="Images a unit, each from another start.")
    steps: int = Field(192, ge=1, description="Steps of gradient ascent.")
    learning_rate: float = Field(0.05, gt=0, description="Step of Adam.")
    jitter: int = Field(
        8, ge=0, description="Largest shift in pixels before a step; at most an eighth of the image's shorter side."
    )
    blur: float = Field(
        0.5,
        ge=0,
        description="Deviation in pixels of the blur after each step, falling to 0 over three quarters of the steps.",
    )
    seed: int = Field(0, ge=0, description="Seed of starts and shifts.")


class PicturesConfig(Section):
    """Pictures of units: what excites them most, what in it does, and what would excite them more."""

    enabled: bool = Field(True, description="Whether `run` makes them.")
    methods: tuple[Literal["patches", "deconvolution", "guided", "maximization", "filters"], ...] = Field(
        ("patches", "deconvolution", "guided", "maximization", "filters"),
        min_length=1,
        description="Kinds of pictures.",
    )
    top: int = Field(9, ge=1, description="Images a unit that excite it most.")
    layers: tuple[str, ...] = Field(
        (), description="Layers, of every net; those of the comparisons that are not pooled if not given."
    )
    nets: tuple[str, ...] = Field((), description="Nets; all that are trained if not given.")
    max_side: int = Field(128, ge=8, description="Pixels of the longer side to which larger patches are reduced.")
    maximization: MaximizationConfig = MaximizationConfig()
    batch: int = Field(64, ge=1, description="Images at a time; bounds the memory. Part of the digest, changes bits.")
    device: str = Field("auto", description="Device of the nets, as in [training].")
    threads: int = Field(2, ge=1, description="CPU threads; part of the digest, it changes bits.")
    loader_workers: int = Field(2, ge=0, description="Threads that read images ahead.", json_schema_extra=SPEED_ONLY)


class ReportConfig(Section):
    """How the results are shown."""

    title: str | None = Field(None, description="Title of the page; the experiment's name if not given.")
    compare: str | None = Field(
        None, description="Folder of another run to compare with, on a page of its own.", json_schema_extra=ADDED_LATER
    )
    pair: tuple[str, str] | None = Field(
        None, description="Nets shown unit by unit; the first two trained ones if not given."
    )


class Experiment(Section):
    """A whole configuration file."""

    name: Name = Field(description="Name of the run folder under runs/.")
    data: SerializeAsAny[Annotated[DataSource, BeforeValidator(_data_source)]] | None = Field(
        None, description="The images."
    )
    nets: tuple[NetGroup, ...] = Field((), description="Groups of nets.")
    activations: ActivationsConfig | None = Field(None, description="Activations, instead of images and nets.")
    training: TrainingConfig = TrainingConfig()
    statistics: StatisticsConfig
    analysis: AnalysisConfig = AnalysisConfig()
    pictures: PicturesConfig = PicturesConfig()
    functional: FunctionalConfig = FunctionalConfig()
    report: ReportConfig = ReportConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        if self.activations is not None and (self.data is not None or self.nets):
            raise ValueError("[activations] stand in the place of [data] and [[nets]]; give one or the other")
        if self.activations is None and (self.data is None or not self.nets):
            raise ValueError("[data] and [[nets]] are missing (or [activations], if there are any already)")
        labels = [group.label for group in self.nets] or list(self.activations.nets if self.activations else ())
        if len(set(labels)) < len(labels):
            raise ValueError(f"nets: labels {labels} repeat; give each group of nets a label of its own")
        names = [net.name for net in self.all_nets()]
        if len(set(names)) < len(names):
            raise ValueError(f"nets: the labels lead to the same net names twice: {names}")
        _check_files(names, "nets")
        _check_files([self.name], "name")
        for comparison in self.statistics.comparisons:
            if isinstance(comparison.layers, dict):
                for label in comparison.layers:
                    if label not in labels:
                        raise ValueError(
                            f'statistics.comparisons: "{comparison.name}" names the group "{label}"; '
                            f"{did_you_mean(label, labels)}"
                        )
            if self.activations is not None:
                if self.statistics.sums == "device":
                    raise ValueError('statistics.sums = "device" needs nets; activations are summed on the host')
                for net, layer in self.nets_of(comparison):
                    if layer not in self.activations.nets[net.name]:
                        raise ValueError(
                            f'activations.nets.{net.name} has no layer "{layer}" for the comparison '
                            f'"{comparison.name}"; {did_you_mean(layer, self.activations.nets[net.name])}'
                        )
            self._check_epochs(comparison)
            if len(self.members_of(comparison)) < 2:
                raise ValueError(
                    f'statistics.comparisons: "{comparison.name}" joins fewer than two nets, layers or epochs'
                )
        if self.report.pair is not None:
            for name in self.report.pair:
                if name not in names:
                    raise ValueError(f'report.pair: unknown net "{name}"; {did_you_mean(name, names)}')
        for name in self.pictures.nets:
            if name not in names:
                raise ValueError(f'pictures.nets: unknown net "{name}"; {did_you_mean(name, names)}')
        return self

    def all_nets(self) -> list[Net]:
        """Every net, in the order of the file."""
        if self.activations is not None:
            return [Net(name, name, None, -1, name not in self.activations.untrained) for name in self.activations.nets]
        return [
            Net(f"{group.label}{k}", group.label, group.network, seed, group.trained)
            for group in self.nets
            for k, seed in enumerate(group.seeds, start=1)
        ]

    @property
    def images(self) -> DataSource:
        """The images; an experiment on activations has none."""
        if self.data is None:
            raise ConfigError("the experiment has activations and no images.")
        return self.data

    def nets_of(self, comparison: Comparison) -> list[tuple[Net, str]]:
        """The nets that a comparison joins, each with its layer, once for each of several."""
        return [(net, layer) for net in self.all_nets() for layer in comparison.layers_of(net.label)]

    def members_of(self, comparison: Comparison) -> list[LayerRef]:
        """What a comparison joins, in order along its unit axis."""
        return [
            member
            for net in self.all_nets()
            for member in layer_refs_of_net(
                net.name,
                comparison.layers_of(net.label),
                comparison.epochs or () if net.trained else (),
                self.training.epochs,
            )
        ]

    def all_members(self) -> list[LayerRef]:
        """The members of all comparisons, one after the other."""
        return [member for comparison in self.statistics.comparisons for member in self.members_of(comparison)]

    def pictured(self) -> list[tuple[Net, tuple[str, ...]]]:
        """The nets of which pictures are made, each with its layers; none where there are no nets, or no layers."""
        if self.activations is not None:
            return []
        found = []
        for net in self.all_nets():
            if net.name in self.pictures.nets if self.pictures.nets else net.trained:
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
            raise ValueError(f"{where} asks for epochs, and activations that are there already have none")
        training = self.training
        for epoch in comparison.epochs:
            if epoch != training.epochs and epoch not in training.keep_epochs:
                raise ValueError(
                    f"{where} asks for epoch {epoch}, whose weights are not kept: add it to training.keep_epochs (now "
                    f"{list(training.keep_epochs)}; the last epoch, {training.epochs}, is always kept)"
                )
