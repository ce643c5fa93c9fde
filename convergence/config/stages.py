"""The sections of a config for one stage each: training, statistics, analysis, pictures, report."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from convergence.config.cross_checks import check_layer_names
from convergence.errors import LONGEST_VALUE, cut, did_you_mean, shown
from convergence.io.files import safe_name
from convergence.settings import MAX_SEED, SPEED_ONLY, PathSetting, Settings
from convergence.similarity import MEASURES

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=80)]
Layers = Annotated[tuple[str, ...], Field(min_length=1)]


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|(cuda|xpu)(:[0-9]{1,3})?", name):
        raise ValueError(f'device "{cut(name, LONGEST_VALUE)}" is unknown: use "auto", "cpu", "cuda" or "cuda:1"')
    return name


Device = Annotated[str, AfterValidator(_device)]


def check_names(names: list[str], what: str) -> None:
    """Reject names that some file systems do not accept.

    Raises
    ------
    ValueError
        for two names that differ by case only, or a folder name that Windows forbids.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise ValueError(
                f'{what}: "{other}" and "{name}" differ by case only, and some file systems ignore case; rename one'
            )
        if what != "comparisons" and safe_name(name) != name:
            raise ValueError(f'{what}: "{name}" cannot be the name of a folder on Windows; choose another')


Threads = Literal["auto"] | Annotated[int, Field(ge=1, le=1024)]


class TrainingConfig(Settings):
    """Training of all nets. Nets see the same images in the same order unless their group gives seeds of these."""

    epochs: int = Field(10, ge=1, le=100_000, description="Passes over the training images.")
    batch_size: int = Field(64, ge=1, le=1_000_000, description="Images per step, over all devices.")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="SGD with momentum, or AdamW.")
    learning_rate: float = Field(0.05, gt=0, le=1e30, description="Peak learning rate.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD (beta1 of AdamW).")
    weight_decay: float = Field(5e-4, ge=0, le=1000, description="L2 penalty of SGD, decoupled decay of AdamW.")
    schedule: Literal["constant", "cosine", "step"] = Field("cosine", description="Learning rate schedule.")
    warmup_epochs: float = Field(0.0, ge=0, le=100_000, description="Epochs of linear warm-up before the schedule.")
    step_epochs: int = Field(20, ge=1, le=100_000, description="Schedule 'step': epochs between two reductions.")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of the target that is spread over all classes in training."
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="Data type of products and convolutions in training; weights and sums are float32. 'float16' uses "
        "loss scaling.",
    )
    channels_last: bool = Field(False, description="Store images and weights in the channels-last memory format.")
    compile: bool = Field(False, description="Compile the net with torch.compile for training.")
    gamma: float = Field(0.1, gt=0, lt=1, description="Schedule 'step': factor of each reduction.")
    data_seed: int = Field(
        0,
        ge=0,
        le=MAX_SEED,
        description="Seed of the image order and augmentation of all nets whose group has no order_seeds.",
    )
    data_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of the training images that a net sees: a random subset with the same share of every class, "
        "drawn by the net's subset seed (data_seed for groups without subset_seeds).",
    )
    keep_epochs: tuple[Annotated[int, Field(ge=0, le=100_000)], ...] = Field(
        (),
        description="Epochs after which the weights are kept, besides the final ones (0: initial weights). "
        "A change trains the nets again.",
    )
    device: Device = Field("auto", description="'auto' (CUDA if available, else CPU), 'cpu', 'cuda' or 'cuda:1'.")
    threads: Threads = Field(
        "auto",
        description="CPU threads of the arithmetic: a number, or 'auto': 1 for nets with little work per batch, 2 for "
        "others, on every machine. Part of the digest, because it changes rounding.",
    )
    loader_workers: int = Field(
        2, ge=0, le=1024, description="Threads that prefetch images.", json_schema_extra=SPEED_ONLY
    )
    train_jointly: bool | Annotated[int, Field(ge=1, le=10_000)] = Field(
        False,
        description="Train nets jointly on the same batches: true for all nets of one image order and training subset, "
        "or the number of nets at a time. The result is bit-identical on a CPU.",
        json_schema_extra=SPEED_ONLY,
    )
    checkpoint_minutes: float = Field(
        10.0,
        gt=0,
        le=100_000,
        description="Minutes between checkpoints; every epoch also ends with a checkpoint.",
        json_schema_extra=SPEED_ONLY,
    )
    tensorboard: bool = Field(
        False,
        description="Also write the metrics of every epoch as event files, nets/NAME/tensorboard/.",
        json_schema_extra=SPEED_ONLY,
    )
    wandb: Literal["off", "offline"] = Field(
        "off",
        description="Also write the metrics of every epoch as an offline run of W&B, nets/NAME/wandb/.",
        json_schema_extra=SPEED_ONLY,
    )

    def values_of(self, order_seed: int | None, subset_seed: int | None) -> dict[str, Any]:
        """The settings on which a net with these seeds depends, for digests; None takes ``data_seed``."""
        values = self.digest_values() | {"data_seed": self.data_seed if order_seed is None else order_seed}
        if values.pop("data_share") < 1:
            seed = self.data_seed if subset_seed is None else subset_seed
            values |= {"data_share": self.data_share, "subset_seed": seed}
        return values

    @model_validator(mode="after")
    def _within(self) -> TrainingConfig:
        if len(set(self.keep_epochs)) < len(self.keep_epochs):
            raise ValueError(f"keep_epochs {shown(list(self.keep_epochs))} lists an epoch twice; list each once")
        for epoch in self.keep_epochs:
            if epoch > self.epochs:
                raise ValueError(f"keep_epochs: epoch {epoch} is after the last epoch, training.epochs = {self.epochs}")
        return self


class Comparison(Settings):
    """A comparison of units: layers of all nets or of each group, with final weights or over epochs."""

    name: Name = Field(description="Name of the comparison in files and figures.")
    layers: str | Layers | dict[str, str | Layers] = Field(
        description="Name of a layer, a list of layers (each of every net), or {label = layer or list} for groups of "
        "nets with different layers."
    )
    epochs: Annotated[tuple[Annotated[int, Field(ge=0, le=100_000)], ...], Field(min_length=1)] | None = Field(
        None,
        description="Epochs to compare, out of training.keep_epochs and the last epoch; default: the final weights "
        "only. Untrained nets are compared once.",
    )
    pool: bool = Field(
        False,
        description="Average every unit over the positions of its map, so that a sample is an image. Makes layers of "
        "any shape comparable.",
    )

    @model_validator(mode="after")
    def _distinct(self) -> Comparison:
        of_groups = self.layers.values() if isinstance(self.layers, dict) else (self.layers,)
        for items in (*of_groups, self.epochs or ()):
            if isinstance(items, str):
                continue
            if len(set(items)) < len(items):
                raise ValueError(f'"{self.name}": {shown(list(items))} lists a layer or an epoch twice; list each once')
        layers = [(items,) if isinstance(items, str) else items for items in of_groups]
        check_layer_names(f'"{self.name}"', [layer for items in layers for layer in items])
        return self

    def layers_of(self, label: str) -> tuple[str, ...]:
        """Return the layers that are compared of the nets of a group; empty if the group is not compared."""
        layers = self.layers.get(label, ()) if isinstance(self.layers, dict) else self.layers
        return (layers,) if isinstance(layers, str) else layers


def _comparison(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    name = re.sub(r"[#: ]+", "-", value).lstrip("_")  # names of comparisons are parts of names of files
    return {"name": name, "layers": value}


class MutualInformationConfig(Settings):
    """Mutual information, from joint histograms of all pairs of units."""

    enabled: bool = Field(True, description="Compute mutual information.")
    bins: int = Field(10, ge=3, le=16, description="Bins per unit: bin 0 holds zeros, the others have equal mass.")
    blocks: int = Field(8, ge=2, le=64, description="Blocks of image groups for delete-one-block error bars.")
    positions: Literal["all"] | Annotated[int, Field(ge=1, le=1_000_000_000)] = Field(
        "all", description="Positions of a map used as samples: all, or the number per image, drawn by seed."
    )


class NullConfig(Settings):
    """A chance level that keeps the marginals of units: nets with the pre-activations of a net in another basis."""

    draws: int = Field(
        8,
        ge=0,
        le=1000,
        description="Random bases of the pre-activations of every layer with an activation function; 0 for none. "
        "Part of the sums, of statistics.h5 and of its scratch files.",
    )
    positions: Literal["auto", "all"] | Annotated[int, Field(ge=1, le=1_000_000_000)] = Field(
        "auto",
        description="Sampled positions per image that the chance level uses, the same ones of every image, drawn by "
        "seed: a number, all, or 'auto' for 1 / (2 · draws) of them but at least 16. Pooled comparisons use all.",
    )


class StatisticsConfig(Settings):
    """Sums over the evaluation images."""

    comparisons: tuple[Annotated[Comparison, BeforeValidator(_comparison)], ...] = Field(
        min_length=1, description="Layers to compare, by the name of a module or graph node."
    )
    split: Literal["test", "train"] = Field("test", description="Split of the data set to evaluate on.")
    max_images: int | None = Field(
        None, ge=2, le=1_000_000_000, description="Maximum number of images, drawn by seed; default: all."
    )
    groups: int = Field(
        16, ge=2, le=100_000, description="Image groups: the unit of work, of checkpoints and of the jackknife."
    )
    batch_size: int = Field(
        128, ge=1, le=1_000_000, description="Images per forward pass. Part of the digest, because it changes rounding."
    )
    precision: Literal["float32", "float64"] = Field(
        "float32", description="Data type of products of shifted activations; sums are always float64."
    )
    positions: Literal["all"] | Annotated[int, Field(ge=1, le=1_000_000_000)] = Field(
        "all", description="Positions of a map used as samples: all, or the number per image, drawn by seed."
    )
    pilot: int = Field(
        2048,
        ge=2,
        le=1_000_000_000,
        description="Images at least, drawn by seed, that are read before all others: their histograms give the fine "
        "bins of mutual information, their pre-activations the pseudo-nets. All images if there are not more.",
    )
    subset: int = Field(
        256,
        ge=0,
        le=1_000_000_000,
        description="Images whose activations are stored, averaged over positions; drawn by seed, 0 for none.",
    )
    seed: int = Field(
        0, ge=0, le=MAX_SEED, description="Seed of the image groups, the subset and the sampled positions."
    )
    shifted_null: bool = Field(
        False, description="Also sum products with the next image, a chance level; doubles the work of the sums."
    )
    class_sums: bool = Field(
        True,
        description="Also sum the samples of each class, where images have labels: they divide similarity into that "
        "between and that within classes.",
    )
    image_gram: bool = Field(
        True,
        description="Inner products of the stored images' flattened maps, for the CKA with images as samples. The maps "
        "of `subset` images are on the disk until the statistics are finished.",
    )
    top_images: int = Field(
        9, ge=0, le=10_000, description="Top images of each unit to record for the pictures; 0 for none."
    )
    mutual_information: MutualInformationConfig = MutualInformationConfig()
    null: NullConfig = NullConfig()
    device: Device = Field("auto", description="Device of the forward passes, as in [training].")
    sums: Literal["auto", "host", "device"] = Field(
        "auto",
        description="Where sums are computed: on the host, or on the device of the forward passes ('auto': if CUDA).",
    )
    threads: int = Field(
        2, ge=1, le=1024, description="CPU threads per rank. Part of the digest, because it changes rounding."
    )
    loader_workers: int = Field(
        2, ge=0, le=1024, description="Threads that prefetch images.", json_schema_extra=SPEED_ONLY
    )

    @model_validator(mode="after")
    def _distinct(self) -> StatisticsConfig:
        names = [comparison.name for comparison in self.comparisons]
        if len(set(names)) < len(names):
            raise ValueError(f"comparisons {shown(names)} have a name twice; rename one of them")
        check_names(names, "comparisons")
        return self


class SparseConfig(Settings):
    """Few-to-one prediction: LASSO path and forward selection."""

    enabled: bool = Field(True, description="Compute sparse mappings.")
    alphas: int = Field(20, ge=2, le=1000, description="Penalties on the path, evenly spaced in log(alpha).")
    alpha_max: float = Field(0.9, gt=0, le=1000, description="Largest penalty, for standardised units.")
    alpha_min: float = Field(1e-3, gt=0, le=1000, description="Smallest penalty; the unpenalised fit is always added.")
    blocks: int = Field(8, ge=2, le=64, description="Blocks of image groups for delete-one-block errors of paths.")
    max_units: int = Field(10, ge=1, le=100_000, description="Maximum number of units per target in forward selection.")

    @model_validator(mode="after")
    def _ordered(self) -> SparseConfig:
        if self.alpha_min >= self.alpha_max:
            raise ValueError(f"alpha_min {self.alpha_min} must be below alpha_max {self.alpha_max}")
        return self


class ClusteringConfig(Settings):
    """Many-to-many alignment: spectral clustering of the joined units of two nets."""

    enabled: bool = Field(True, description="Compute clusters.")
    similarity: Literal["absolute", "positive"] = Field("absolute", description="Edge weight: |r|, or max(r, 0).")
    threshold: float = Field(0.2, ge=0, lt=1, description="Smallest edge weight; smaller ones are set to 0.")
    n_clusters: Literal["stability", "eigengap"] | Annotated[int, Field(ge=2, le=100_000)] = Field(
        "stability",
        description="Number of clusters, or how to choose it. 'stability': the number of clusters that both halves of "
        "the image groups agree on most, beside nets whose units are rotated. 'eigengap': the largest gap between "
        "eigenvalues.",
    )
    max_clusters: int | None = Field(
        None,
        ge=2,
        le=100_000,
        description="Maximum number of clusters that is chosen; default: the number of units of both nets minus 1, and "
        "256 for more than 2048 units.",
    )
    split_share: float = Field(
        0.025,
        gt=0,
        le=1,
        description="Hierarchical clusters with more than 2 × this × (units of a net) units are split.",
    )


class AnalysisConfig(Settings):
    """Results computed from the sums."""

    measures: tuple[str, ...] = Field(
        tuple(MEASURES),
        min_length=1,
        description="Names of similarity measures of whole layers.",
    )
    rotations: int = Field(
        20,
        ge=2,
        le=10_000,
        description="Draws of the chance level of linear layers, whose sums are taken to random bases; at least 3 for "
        "p-values. Other layers have the pseudo-nets of statistics.null.draws.",
    )
    seed: int = Field(0, ge=0, le=MAX_SEED, description="Seed of rotations and of k-means.")
    sparse: SparseConfig = SparseConfig()
    clustering: ClusteringConfig = ClusteringConfig()

    @model_validator(mode="after")
    def _known(self) -> AnalysisConfig:
        for name in self.measures:
            if name not in MEASURES:
                raise ValueError(f'unknown measure "{name}"; {did_you_mean(name, MEASURES)}')
        return self


class MaximizationConfig(Settings):
    """Activation maximisation: images that maximise a unit's activation, by gradient ascent."""

    objective: Literal["position", "channel"] = Field(
        "position",
        description="'position': one position of the map, with an image of the size of its receptive field; 'channel': "
        "the mean over all positions, with an image of full size.",
    )
    parametrisation: Literal["pixels", "fourier"] = Field(
        "fourier",
        description="Optimised variables: pixels, or Fourier coefficients (scaled by 1/f) of decorrelated colours. "
        "Images with a side of less than 8 pixels always use pixels.",
    )
    seeds: int = Field(1, ge=1, le=1000, description="Images per unit, each from another random start.")
    steps: int = Field(192, ge=1, le=100_000, description="Steps of gradient ascent.")
    learning_rate: float = Field(0.05, gt=0, le=1000, description="Learning rate of Adam.")
    jitter: int = Field(
        8,
        ge=0,
        le=4096,
        description="Largest random shift per step in pixels; at most an eighth of the shorter image side.",
    )
    blur: float = Field(
        0.5,
        ge=0,
        le=1000,
        description="Standard deviation of the blur after each step in pixels; it decays to 0 over three quarters of "
        "the steps.",
    )
    seed: int = Field(0, ge=0, le=MAX_SEED, description="Seed of random starts and shifts.")


class PicturesConfig(Settings):
    """Pictures of units: top images, attributions and activation maximisation."""

    enabled: bool = Field(True, description="Include the pictures in `run`.")
    methods: tuple[Literal["patches", "deconvolution", "guided", "maximization", "filters"], ...] = Field(
        ("patches", "deconvolution", "guided", "maximization", "filters"),
        min_length=1,
        description="Kinds of pictures.",
    )
    top: int = Field(9, ge=1, le=1000, description="Top images per unit.")
    layers: tuple[str, ...] = Field((), description="Layers of every net; default: those of unpooled comparisons.")
    nets: tuple[str, ...] = Field((), description="Names of nets; default: all trained nets.")
    max_side: int = Field(128, ge=8, le=4096, description="Longer side in pixels to which larger patches are reduced.")
    maximization: MaximizationConfig = MaximizationConfig()
    batch: int = Field(
        64,
        ge=1,
        le=1_000_000,
        description="Images per batch; limits memory. Part of the digest, because it changes rounding.",
    )
    device: Device = Field("auto", description="Device of the nets, as in [training].")
    threads: Threads = Field(
        "auto",
        description="CPU threads, as in [training]. Part of the digest, because it changes rounding.",
    )
    loader_workers: int = Field(
        2, ge=0, le=1024, description="Threads that prefetch images.", json_schema_extra=SPEED_ONLY
    )


class ReportConfig(Settings):
    """The report."""

    title: str | None = Field(None, description="Title of the report; default: the name of the experiment.")
    compare: PathSetting | None = Field(None, description="Folder of another run to compare with on a separate page.")
    pair: tuple[str, str] | None = Field(
        None, description="Pair of nets shown unit by unit; default: the first two trained nets."
    )
    formats: tuple[Literal["svg", "png", "pdf"], ...] = Field(
        ("svg",),
        description="Formats of the figures; the pages show SVG, which is always written. `convergence figures` writes "
        "others afterwards.",
    )
