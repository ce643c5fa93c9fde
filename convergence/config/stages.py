"""The sections of a config that set up one stage each: training, statistics, analysis, pictures, report."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from convergence.errors import did_you_mean
from convergence.io.files import safe_name
from convergence.settings import SPEED_ONLY, Settings
from convergence.similarity import MEASURES

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=80)]
Layers = Annotated[tuple[str, ...], Field(min_length=1)]


def check_names(names: list[str], what: str) -> None:
    """Refuse names that not every file system accepts: two that differ by case only, or one that Windows forbids.

    Raises
    ------
    ValueError
        with both names, or the forbidden one.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise ValueError(f'{what}: "{other}" and "{name}" differ by case only, and some file systems ignore case')
        if what != "comparisons" and safe_name(name) != name:
            raise ValueError(f'{what}: "{name}" cannot be the name of a folder on Windows; choose another')


class TrainingConfig(Settings):
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
        0.0, ge=0, lt=1, description="Share of the target that is spread over all classes, in training."
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="Type of products and convolutions in training; weights and sums stay float32. 'float16' scales "
        "the loss.",
    )
    channels_last: bool = Field(
        False, description="Keep images and weights with the channels as the last axis in memory."
    )
    compile: bool = Field(False, description="Compile the net with torch.compile for training.")
    gamma: float = Field(0.1, gt=0, lt=1, description="Schedule 'step': factor of each reduction.")
    data_seed: int = Field(0, ge=0, description="Seed of the image order and augmentation, the same for all nets.")
    keep_epochs: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (),
        description="Epochs after which the weights are kept too (0: as initialised); the final ones always are. "
        "A change trains the nets again.",
    )
    device: str = Field("auto", description="'auto' (CUDA if there is one, else CPU), 'cpu', 'cuda' or 'cuda:1'.")
    threads: int = Field(2, ge=1, description="CPU threads of the arithmetic; part of the digest, it changes bits.")
    loader_workers: int = Field(2, ge=0, description="Threads that read images ahead.", json_schema_extra=SPEED_ONLY)
    train_jointly: bool | Annotated[int, Field(ge=1)] = Field(
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


class Comparison(Settings):
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
    )
    pool: bool = Field(
        False,
        description="A sample is an image, a unit's value its mean over the positions of its map: joins layers of any "
        "shape.",
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


class MutualInformationConfig(Settings):
    """The second pass: joint histograms of all pairs of units."""

    enabled: bool = Field(True, description="Whether the second pass is made.")
    bins: int = Field(10, ge=3, le=16, description="Bins a unit: bin 0 for zeros, the rest of equal mass.")
    blocks: int = Field(8, ge=2, le=64, description="Blocks of groups that are left out in turn, for error bars.")
    positions: Literal["all"] | Annotated[int, Field(ge=1)] = Field(
        "all", description="Positions of a map that count: all, or so many an image, drawn by seed."
    )


class StatisticsConfig(Settings):
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
        9, ge=0, description="Images that excite a unit most, kept on the way for pictures; 0 for none."
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
        check_names(names, "comparisons")
        return self


class SparseConfig(Settings):
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


class ClusteringConfig(Settings):
    """Many-to-many: spectral clustering of the joined units of two nets."""

    enabled: bool = Field(True, description="Whether clusters are computed.")
    similarity: Literal["absolute", "positive"] = Field("absolute", description="Edge weight: |r|, or max(r, 0).")
    threshold: float = Field(0.2, ge=0, lt=1, description="Edges below it are dropped.")
    n_clusters: Literal["eigengap"] | Annotated[int, Field(ge=2)] = Field("eigengap", description="How many clusters.")
    max_clusters: int = Field(20, ge=2, description="Largest number that the eigengap may choose.")
    split_share: float = Field(
        0.025, gt=0, le=1, description="Hierarchical clusters of more than 2 x this x (units of a net) are split again."
    )


class AnalysisConfig(Settings):
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


class MaximizationConfig(Settings):
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


class PicturesConfig(Settings):
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


class ReportConfig(Settings):
    """How the results are shown."""

    title: str | None = Field(None, description="Title of the page; the experiment's name if not given.")
    compare: str | None = Field(None, description="Folder of another run to compare with, on a page of its own.")
    pair: tuple[str, str] | None = Field(
        None, description="Nets shown unit by unit; the first two trained ones if not given."
    )
    formats: tuple[Literal["svg", "png", "pdf"], ...] = Field(
        ("svg", "png", "pdf"), description="Formats of the figures; the pages show SVG, which is always written."
    )
