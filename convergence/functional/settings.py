"""The ``[functional]`` section of a config: which experiments there are, and what each can be told."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from convergence.section import Section

SPEED_ONLY: dict[str, Any] = {"digest": False}


class ExperimentSection(Section):
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


class CompressConfig(ExperimentSection):
    """Units that others stand in for, taken out."""


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


class FunctionalConfig(Section):
    """Does a match mean anything? Experiments on what nets do, with what all of them share."""

    stitch: StitchConfig = StitchConfig()
    merge: MergeConfig = MergeConfig()
    compress: CompressConfig = CompressConfig()
    ensemble: EnsembleConfig = EnsembleConfig()
    average: AverageConfig = AverageConfig()
    seed: int = Field(0, ge=0, description="Seed of random permutations, rotations and other chance levels.")
    batch_size: int = Field(256, ge=1, description="Images a forward pass; part of the digest, it changes bits.")
    device: str = Field("auto", description="Device of the nets, as in [training].")
    threads: int = Field(2, ge=1, description="CPU threads; part of the digest, it changes bits.")
    loader_workers: int = Field(2, ge=0, description="Threads that read images ahead.", json_schema_extra=SPEED_ONLY)

    def values_of(self, name: str) -> dict[str, Any]:
        """What the results of one experiment depend on: its own table, and what is shared."""
        values = self.digest_values()
        shared = {key: value for key, value in values.items() if not isinstance(value, dict)}
        return shared | {name: values[name]}
