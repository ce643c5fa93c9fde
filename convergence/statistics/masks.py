"""Masks of positions: which positions of an image are valid, and which comparisons and settings fit them.

Padding of texts, and whatever a user's mask leaves out, is part of no sum, mean, pilot or list of top images. A mask
(n_images, positions) applies to layers with one axis of positions of its length. Every image gives equally many
samples, so image groups and classes are weighted as without masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from convergence.data.images import ImageSet
from convergence.errors import ConfigError
from convergence.statistics.pseudo_nets import null_columns
from convergence.statistics.sampling import Bools, ImageGroups, Indices

if TYPE_CHECKING:
    from convergence.config.stages import StatisticsConfig
    from convergence.statistics.activation_source import JoinedUnits

CHUNK_IMAGES = 4096
"""Images whose masks are counted at a time."""


@dataclass(frozen=True, eq=False)
class PositionMasks:
    """The masks of an image set, some positions of which are not valid.

    Attributes
    ----------
    length : positions of a mask
    counts : (n_used,) valid positions of the images that the statistics use
    """

    images: ImageSet
    length: int
    counts: Indices

    def of(self, indices: Indices) -> Bools:
        """The masks (n_images, length) of some images."""
        mask = self.images.position_mask(indices)
        assert mask is not None
        return mask

    @property
    def least(self) -> int:
        """Valid positions that every image has."""
        return int(self.counts.min())


def read_masks(images: ImageSet, config: StatisticsConfig) -> PositionMasks | None:
    """Count the valid positions of the images that the statistics use; None if all positions of all are valid."""
    mask = images.position_mask(np.empty(0, np.int64))
    if mask is None:
        return None
    used = np.flatnonzero(ImageGroups.of(config, len(images), images.families).group_of_image >= 0)
    masks = PositionMasks(images, mask.shape[1], np.empty(0, np.int64))
    parts = (used[k : k + CHUNK_IMAGES] for k in range(0, len(used), CHUNK_IMAGES))
    counts = np.concatenate([masks.of(part).sum(axis=1) for part in parts])
    return None if counts.min() == masks.length else replace(masks, counts=counts)


def masked_units(
    joined: Mapping[str, JoinedUnits], masks: PositionMasks | None, config: StatisticsConfig
) -> dict[str, JoinedUnits]:
    """The members of each comparison with the positions that every image has.

    Raises
    ------
    ConfigError
        for layers that the mask does not fit, and settings of positions that some images cannot give.
    """
    if masks is None:
        return dict(joined)
    _check_shapes(joined, masks)
    n_empty = int((masks.counts == 0).sum())
    if n_empty:
        raise ConfigError(
            f"{n_empty:,} of {len(masks.counts):,} images have no valid position. Leave them out of the data, or raise "
            "data.min_tokens."
        )
    masked = {name for name, units in joined.items() if units.n_positions == masks.length and not units.pooled}
    if masked:
        _check_positions(masks, config)
    return {name: replace(units, n_valid=masks.least) if name in masked else units for name, units in joined.items()}


def _check_shapes(joined: Mapping[str, JoinedUnits], masks: PositionMasks) -> None:
    for name, units in joined.items():
        for net, layer, shape in zip(units.nets, units.layers, units.map_shapes, strict=True):
            if shape != (masks.length,) and int(np.prod(shape, dtype=np.int64)) != 1:
                raise ConfigError(
                    f'statistics.comparisons: "{name}": {layer} of {net} has positions of shape {shape}, and the mask '
                    f"of an image has {masks.length}. It fits layers with one axis of {masks.length} positions, and "
                    "layers without positions. Choose such a layer, or data without a mask."
                )


def _check_positions(masks: PositionMasks, config: StatisticsConfig) -> None:
    for setting, wanted in _settings(config):
        least, most = masks.least, int(masks.counts.max())
        if wanted == "all" and least < most:
            raise ConfigError(
                f'{setting} = "all": images have {least:,} to {most:,} valid positions, and every image has to give '
                f"equally many samples. Set {setting} to {least:,} or fewer, or raise data.min_tokens."
            )
        if wanted != "all" and int(wanted) > least:
            short = int((masks.counts < int(wanted)).sum())
            raise ConfigError(
                f"{setting} = {wanted}: {short:,} of {len(masks.counts):,} images have fewer valid positions, the "
                f"shortest {least:,}. Lower {setting} to {least:,}, or raise data.min_tokens to {wanted}."
            )


def _settings(config: StatisticsConfig) -> Iterator[tuple[str, int | str]]:
    yield "statistics.positions", config.positions
    if config.mutual_information.enabled:
        yield "statistics.mutual_information.positions", config.mutual_information.positions


def some_of_valid(valid: Bools, most: int, seed: int) -> Bools:
    """A mask (n_images, positions) of at most ``most`` valid positions of each image, drawn by seed."""
    chosen = np.zeros_like(valid)
    for row, mask in enumerate(valid):
        places = np.flatnonzero(mask)
        columns = null_columns(len(places), min(most, len(places)), seed)
        chosen[row, places if columns is None else places[columns]] = True
    return chosen
