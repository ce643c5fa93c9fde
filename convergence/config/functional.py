"""The ``[functional]`` section of a config: one table per experiment."""

from __future__ import annotations

import typing
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from convergence.config.stages import Device
from convergence.errors import listed, shown
from convergence.settings import MAX_SEED, SPEED_ONLY, Settings


class ExperimentSection(Settings):
    """Settings of every functional experiment."""

    enabled: bool = Field(
        False,
        description="Whether `run` and `submit` include it; its verb always runs it.",
        json_schema_extra=SPEED_ONLY,
    )


Mapping = Literal["one_to_one", "soft", "sparse", "least_squares", "orthogonal", "mapping_layer", "penultimate"]


class StitchConfig(ExperimentSection):
    """Stitching: layers of one net computed from another."""

    pairs: tuple[tuple[str, str], ...] = Field(
        (),
        description="Pairs [a, b]: layers and units of a are computed from b. Default: the first two trained nets "
        "of different initial weights both ways, and the first one from an untrained net.",
    )
    comparisons: tuple[str, ...] = Field((), description="Names of comparisons. Default: all with one layer per net.")
    mappings: tuple[Mapping, ...] = Field(
        ("one_to_one", "soft", "sparse", "least_squares", "orthogonal", "mapping_layer"),
        min_length=1,
        description="Maps between layers; nulls are always included. 'penultimate': an affine and an orthogonal map "
        "that are fitted to what the last layer of a is given.",
    )
    penultimate_steps: int = Field(
        200, ge=1, le=1_000_000, description="Steps of the fits at the penultimate layer, a batch each."
    )
    units_per_target: tuple[Annotated[int, Field(ge=1, le=100_000)], ...] = Field(
        (1, 2, 4, 8, 16),
        min_length=1,
        description="Largest numbers of units of b that predict a unit of a, in the map 'sparse'.",
    )
    penalties: tuple[Annotated[float, Field(gt=0, le=1e6)], ...] = Field(
        (1e-4, 1e-3, 1e-2), min_length=1, description="Penalties of the paper's mapping layers."
    )
    sgd_steps: tuple[Annotated[int, Field(ge=1, le=10_000_000)], ...] = Field(
        (140, 1000), min_length=1, description="Steps of SGD of a mapping layer."
    )
    draws: int = Field(5, ge=2, le=1000, description="Draws of random partners and rotations, for nulls.")
    transplant_units: int = Field(
        64,
        ge=0,
        le=100_000,
        description="Largest number of units of a layer that are replaced one at a time, drawn by seed; 0 for none.",
    )
    cumulative_steps: int = Field(
        8, ge=0, le=1000, description="Number of shares of a layer's units that are replaced together; 0 for none."
    )


class MergeConfig(ExperimentSection):
    """Merging: the weights of two or more nets averaged."""

    nets: tuple[str, ...] = Field(
        (),
        description="Trained nets of one architecture. Default: those of the first group with two, one of each "
        "initialisation.",
    )
    pairs: int = Field(3, ge=1, le=10_000, description="Number of pairs of these nets that are merged, the first ones.")
    steps: int = Field(11, ge=3, le=1000, description="Points on the line between two nets, including its ends.")
    fit_images: int = Field(
        1000,
        ge=2,
        le=1_000_000_000,
        description="Largest number of training images for alignments and running statistics.",
    )
    restarts: int = Field(
        3, ge=1, le=1000, description="Starts of weight matching; the first is the present order of the units."
    )
    permutations: int = Field(3, ge=2, le=1000, description="Random permutations of the units, for the null.")
    depths: int = Field(5, ge=1, le=1000, description="Largest number of depths of partial zipping.")


Share = Annotated[float, Field(gt=0, lt=1)]
CompressMethod = Literal[
    "redundancy", "few", "one", "redundancy_unfolded", "magnitude", "magnitude_folded", "random", "random_folded",
    "subspace",
]  # fmt: skip


class CompressConfig(ExperimentSection):
    """Compression: redundant units pruned."""

    nets: tuple[str, ...] = Field((), description="Nets to prune. Default: the first two trained nets.")
    shares: tuple[Share, ...] = Field(
        (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        min_length=1,
        description="Shares of the units of every layer to prune.",
    )
    layer_shares: tuple[Share, ...] = Field(
        (0.25, 0.5, 0.75), description="Shares of units to remove from one layer at a time; may be empty."
    )
    saved_share: Share = Field(
        0.5, description="The share, one of `shares`, of the comparison of methods; its nets are saved."
    )
    methods: tuple[CompressMethod, ...] = Field(
        typing.get_args(CompressMethod), min_length=1, description="Methods of choosing and folding units."
    )
    terms: int = Field(
        4, ge=1, le=1000, description="Largest number of units that predict a removed unit, in the method `few`."
    )
    draws: int = Field(5, ge=2, le=1000, description="Random choices of units.")
    images: int = Field(
        10_000, ge=2, le=1_000_000_000, description="Largest number of training images for the moments of the units."
    )
    batch_statistics: bool = Field(
        False, description="Whether running statistics of batch norms are estimated again in the pruned nets."
    )

    @model_validator(mode="after")
    def _saved(self) -> Self:
        if self.saved_share not in self.shares:
            known = listed(map(str, self.shares))
            raise ValueError(
                f"functional.compress.saved_share = {self.saved_share} is none of functional.compress.shares "
                f"({known}); choose one of these, or add it"
            )
        if len(set(self.shares)) < len(self.shares) or len(set(self.layer_shares)) < len(self.layer_shares):
            raise ValueError("functional.compress: a share is listed twice; list each share once")
        return self


class EnsembleConfig(ExperimentSection):
    """Ensembling: nets that predict together, and layers that they share."""

    members: tuple[str, ...] = Field((), description="Nets that may be members. Default: all trained nets.")
    max_subsets: int = Field(
        64, ge=2, le=100_000, description="Largest number of ensembles of each size, drawn by seed."
    )
    bins: int = Field(15, ge=2, le=1000, description="Bins of confidence for the calibration error.")
    comparisons: tuple[str, ...] = Field(
        (), description="Comparisons at whose layers a core is shared. Default: all with one layer per net."
    )
    trunks: tuple[str, ...] = Field((), description="Members whose first layers are shared. Default: the first two.")
    units_per_target: tuple[Annotated[int, Field(ge=1, le=100_000)], ...] = Field(
        (4,), description="Largest numbers of units of the trunk that predict a unit of another member."
    )
    core_shares: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.25, 0.5),
        description="Shares of the trunk's units that are kept, those with the best worst match over members.",
    )
    draws: int = Field(3, ge=2, le=1000, description="Draws of random partners and of random units, for nulls.")
    dissimilarity: str | None = Field(
        None, description="Comparison whose linear CKA chooses members. Default: the last one."
    )


class AverageConfig(ExperimentSection):
    """Averaging: workers that train apart and average their weights."""

    net: str = Field("", description="Net whose network and seed the workers use. Default: the first trained net.")
    workers: int = Field(4, ge=2, le=1024, description="Number of workers that share each batch.")
    local_steps: Annotated[
        tuple[Annotated[int, Field(ge=1, le=10_000_000)] | Literal["whole"], ...], Field(min_length=1)
    ] = Field(
        (8, 64, "whole"),
        description='Steps between two averages; "whole" averages once, at the end.',
    )
    inits: Annotated[tuple[Literal["same", "different"], ...], Field(min_length=1)] = Field(
        ("same", "different"), description="Initial weights: the same for all workers, or different."
    )
    alignments: Annotated[tuple[Literal["none", "weight", "activation", "random"], ...], Field(min_length=1)] = Field(
        ("none", "weight", "activation"),
        description="Alignment of the workers' units to those of the first worker before each average: none, by "
        "weights, by activations, or random permutations.",
    )
    optimizer_state: Literal["local", "average"] = Field(
        "local", description="Whether moments of the optimiser stay with their worker or are averaged."
    )
    batch_statistics: Literal["average", "reestimate"] = Field(
        "average", description="Running statistics of batch norms after an average: their mean, or estimated again."
    )
    epochs: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None, description="Epochs of each training. Default: a sixth of training.epochs, rounded up."
    )
    repeats: int = Field(
        2, ge=1, le=1000, description="Repeats of each training, with other seeds and another order of the images."
    )
    scored: int = Field(
        3, ge=2, le=10_000, description="Number of averages that are scored, including the first and the last."
    )
    null_draws: int = Field(3, ge=2, le=1000, description="Random permutations of the workers' units, for the null.")
    alignment_images: int = Field(
        512,
        ge=2,
        le=1_000_000_000,
        description="Training images for alignment by activations and for running statistics.",
    )

    @model_validator(mode="after")
    def _distinct(self) -> AverageConfig:
        for name in ("local_steps", "inits", "alignments"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(
                    f"functional.average.{name} = {shown(list(values))} lists a value twice; list each value once"
                )
        return self


class FunctionalConfig(Settings):
    """Functional experiments, and the settings that they share."""

    stitch: StitchConfig = StitchConfig()
    merge: MergeConfig = MergeConfig()
    compress: CompressConfig = CompressConfig()
    ensemble: EnsembleConfig = EnsembleConfig()
    average: AverageConfig = AverageConfig()
    seed: int = Field(0, ge=0, le=MAX_SEED, description="Seed of random permutations, rotations and other nulls.")
    batch_size: int = Field(
        256, ge=1, le=1_000_000, description="Images per forward pass; it changes bits and is part of the digest."
    )
    device: Device = Field("auto", description="Device of the nets, as in [training].")
    threads: int = Field(1, ge=1, le=1024, description="CPU threads; they change bits and are part of the digest.")
    loader_workers: int = Field(
        2, ge=0, le=1024, description="Threads that load images ahead.", json_schema_extra=SPEED_ONLY
    )

    def values_of(self, name: str) -> dict[str, Any]:
        """The settings that the results of an experiment depend on: its own table, and the shared ones."""
        values = self.digest_values()
        shared = {key: value for key, value in values.items() if not isinstance(value, dict)}
        return shared | {name: values[name]}


EXPERIMENT_NAMES: tuple[str, ...] = tuple(
    name for name, field in FunctionalConfig.model_fields.items() if isinstance(field.default, ExperimentSection)
)
"""Names of the functional experiments, in the order of a run."""
