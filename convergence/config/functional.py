"""The ``[functional]`` section of a config: which experiments there are, and what each can be told."""

from __future__ import annotations

import typing
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from convergence.settings import SPEED_ONLY, Settings


class ExperimentSection(Settings):
    """What the tables of all functional experiments have."""

    enabled: bool = Field(
        False,
        description="Whether `run` and `submit` do it; its verb does it in any case.",
        json_schema_extra=SPEED_ONLY,
    )


class StitchConfig(ExperimentSection):
    """Layers of one net computed by another."""

    pairs: tuple[tuple[str, str], ...] = Field(
        (),
        description="Pairs [a, b]: layers and units of a are computed from b. If not given: the first two trained nets "
        "both ways, and the first one with an untrained net.",
    )
    comparisons: tuple[str, ...] = Field((), description="Names of comparisons; all that are fit for it if not given.")
    mappings: tuple[Literal["one_to_one", "soft", "sparse", "least_squares", "mapping_layer"], ...] = Field(
        ("one_to_one", "soft", "sparse", "least_squares", "mapping_layer"),
        min_length=1,
        description="Ways to map a layer; the chance levels are always there.",
    )
    units_per_target: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (1, 2, 4, 8, 16),
        min_length=1,
        description="Units of b that a unit of a may be predicted from, mapping 'sparse'.",
    )
    penalties: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (1e-4, 1e-3, 1e-2), min_length=1, description="The paper's penalties of mapping layers."
    )
    sgd_steps: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (140, 1000), min_length=1, description="Steps of SGD after which a mapping layer is tried."
    )
    draws: int = Field(5, ge=2, description="Random partners and rotations that make chance levels.")
    transplant_units: int = Field(
        64, ge=0, description="Units of a layer that are replaced one at a time, drawn by seed where there are more."
    )
    cumulative_steps: int = Field(
        8, ge=0, description="Shares of a layer's units that are replaced together; 0 leaves this out."
    )


class MergeConfig(ExperimentSection):
    """Two nets, or more, made one."""

    nets: tuple[str, ...] = Field(
        (), description="Trained nets of one architecture that are merged; those of the first group with two, if none."
    )
    pairs: int = Field(3, ge=1, description="How many pairs of them are merged, the first ones.")
    steps: int = Field(11, ge=3, description="Points on the line between two nets, their ends included.")
    fit_images: int = Field(
        1000, ge=2, description="Training images that alignments and re-estimated statistics are made on, at most."
    )
    restarts: int = Field(3, ge=1, description="Starts of weight matching, the first from the units as they are.")
    permutations: int = Field(3, ge=2, description="Random orders that say what chance does.")
    depths: int = Field(5, ge=1, description="How many depths nets are zipped up to, at most, beside all of it.")


Share = Annotated[float, Field(gt=0, lt=1)]
CompressMethod = Literal[
    "redundancy", "few", "one", "redundancy_unfolded", "magnitude", "magnitude_folded", "random", "random_folded",
    "subspace",
]  # fmt: skip


class CompressConfig(ExperimentSection):
    """Units that others stand in for, taken out."""

    nets: tuple[str, ...] = Field((), description="Nets to make smaller; none for the first two that are trained.")
    shares: tuple[Share, ...] = Field(
        (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        min_length=1,
        description="Shares of each layer's units to remove.",
    )
    layer_shares: tuple[Share, ...] = Field(
        (0.25, 0.5, 0.75), description="Shares to remove from one layer at a time; none to leave that out."
    )
    saved_share: Share = Field(
        0.5, description="The share, one of `shares`, that is summed up and whose nets are kept."
    )
    methods: tuple[CompressMethod, ...] = Field(
        typing.get_args(CompressMethod), min_length=1, description="Ways to choose units and to make up for them."
    )
    terms: int = Field(
        4, ge=1, description="Units that stand in for one that is removed, at most, in the method `few`."
    )
    draws: int = Field(5, ge=2, description="Random choices of units.")
    images: int = Field(
        10_000, ge=2, description="Training images at most from which it is learnt who stands in for whom."
    )
    batch_statistics: bool = Field(
        False, description="Whether running statistics of batch norms are taken anew in the smaller nets."
    )

    @model_validator(mode="after")
    def _saved(self) -> Self:
        if self.saved_share not in self.shares:
            known = ", ".join(map(str, self.shares))
            raise ValueError(
                f"functional.compress.saved_share = {self.saved_share} is none of functional.compress.shares "
                f"({known}); choose one of them, or add it"
            )
        if len(set(self.shares)) < len(self.shares) or len(set(self.layer_shares)) < len(self.layer_shares):
            raise ValueError("functional.compress: a share is listed twice; list each once")
        return self


class EnsembleConfig(ExperimentSection):
    """Several nets that answer together, and what of them can be shared."""

    members: tuple[str, ...] = Field((), description="Nets that may be members; all that are trained if not given.")
    max_subsets: int = Field(64, ge=2, description="Ensembles of each size; drawn by seed where there are more.")
    bins: int = Field(15, ge=2, description="Bins of confidence for the calibration error.")
    comparisons: tuple[str, ...] = Field(
        (), description="Comparisons at whose layers nets are cut into a shared core and tails; all if not given."
    )
    trunks: tuple[str, ...] = Field(
        (), description="Members whose first layers are computed for all; the first two if not given."
    )
    units_per_target: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (4,), description="Units of the trunk that a unit of another member may be predicted from, beside all of them."
    )
    core_shares: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.25, 0.5), description="Shares of the trunk's units that are kept: those that all members share best."
    )
    draws: int = Field(3, ge=2, description="Random partners, and random units to keep, that make chance levels.")
    dissimilarity: str | None = Field(
        None, description="Comparison by whose linear CKA members are chosen; the last one if not given."
    )


class AverageConfig(ExperimentSection):
    """Workers that train apart and average their weights now and then."""

    net: str = Field("", description="The net whose network and seed the workers have; the first trained one if empty.")
    workers: int = Field(4, ge=2, description="Workers that share the images of each batch.")
    local_steps: Annotated[tuple[Annotated[int, Field(ge=1)] | Literal["whole"], ...], Field(min_length=1)] = Field(
        (8, 64, "whole"),
        description='Steps that each worker takes between two averages; "whole" averages once, at the end.',
    )
    inits: Annotated[tuple[Literal["same", "different"], ...], Field(min_length=1)] = Field(
        ("same", "different"), description="Whether all workers begin with the same weights, or each with its own."
    )
    alignments: Annotated[tuple[Literal["none", "weight", "activation", "random"], ...], Field(min_length=1)] = Field(
        ("none", "weight", "activation"),
        description="How workers' units are permuted onto those of the first one before each average: by weights, by "
        "activations, at random (which destroys), or not at all.",
    )
    optimizer_state: Literal["local", "average"] = Field(
        "local", description="Whether moments of the optimiser stay with their worker, or are averaged like weights."
    )
    batch_statistics: Literal["average", "reestimate"] = Field(
        "average", description="Statistics of batch norms after an average: the mean, or taken anew from images."
    )
    epochs: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Passes over the training images; a sixth of training.epochs, rounded up, if not given."
    )
    repeats: int = Field(2, ge=1, description="Trainings of each kind, which differ in seeds and image order.")
    scored: int = Field(3, ge=2, description="Averages that are scored, the first and the last among them.")
    null_draws: int = Field(3, ge=2, description="Random permutations of the workers' units: the chance level.")
    alignment_images: int = Field(
        512, ge=2, description="Training images of an alignment by activations, and of batch statistics taken anew."
    )

    @model_validator(mode="after")
    def _distinct(self) -> AverageConfig:
        for name in ("local_steps", "inits", "alignments"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"functional.average.{name} {list(values)} repeat")
        return self


class FunctionalConfig(Settings):
    """Does a match mean anything? Experiments on what nets do, with what all of them share."""

    stitch: StitchConfig = StitchConfig()
    merge: MergeConfig = MergeConfig()
    compress: CompressConfig = CompressConfig()
    ensemble: EnsembleConfig = EnsembleConfig()
    average: AverageConfig = AverageConfig()
    seed: int = Field(0, ge=0, description="Seed of random permutations, rotations and other chance levels.")
    batch_size: int = Field(256, ge=1, description="Images a forward pass; part of the digest, it changes bits.")
    device: str = Field("auto", description="Device of the nets, as in [training].")
    threads: int = Field(
        1, ge=1, description="CPU threads; part of the digest, it changes bits. Small nets wait for each other's."
    )
    loader_workers: int = Field(2, ge=0, description="Threads that read images ahead.", json_schema_extra=SPEED_ONLY)

    def values_of(self, name: str) -> dict[str, Any]:
        """What the results of one experiment depend on: its own table, and what is shared."""
        values = self.digest_values()
        shared = {key: value for key, value in values.items() if not isinstance(value, dict)}
        return shared | {name: values[name]}


EXPERIMENT_NAMES: tuple[str, ...] = tuple(
    name for name, field in FunctionalConfig.model_fields.items() if isinstance(field.default, ExperimentSection)
)
"""Names of the functional experiments, in the order in which a run makes them."""
