"""The ``[functional]`` section of a config: which experiments there are, and what each can be told."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

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


class MergeConfig(ExperimentSection):
    """Two nets, or more, made one."""


class CompressConfig(ExperimentSection):
    """Units that others stand in for, taken out."""


class EnsembleConfig(ExperimentSection):
    """Several nets that answer together, and what of them can be shared."""


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
    threads: int = Field(1, ge=1, description="CPU threads; part of the digest, it changes bits. Batches are small.")

    @model_validator(mode="after")
    def _distinct(self) -> AverageConfig:
        for name in ("local_steps", "inits", "alignments"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"functional.average.{name} {list(values)} repeat")
        return self


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
