"""The ``[functional]`` section of a config: which experiments there are, and what each can be told."""

from __future__ import annotations

from typing import Any

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


class CompressConfig(ExperimentSection):
    """Units that others stand in for, taken out."""


class EnsembleConfig(ExperimentSection):
    """Several nets that answer together, and what of them can be shared."""


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
