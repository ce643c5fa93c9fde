"""The images with the largest activation of each unit, from the statistics or from a pass over the images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from convergence.config.schema import Experiment
from convergence.data.images import ImageSet, read_batches
from convergence.networks.layer_reader import LayerReader
from convergence.runs.signals import check
from convergence.statistics.file import StatisticsFile
from convergence.statistics.sampling import ImageGroups, Indices
from convergence.statistics.top_images import NONE, TopImages


def stored_top_images(
    experiment: Experiment, file: StatisticsFile, net: str, layer: str, n_kept: int
) -> TopImages | None:
    """Top images of the statistics for a net's final weights; None if fewer are stored."""
    for comparison in experiment.statistics.comparisons:
        members = experiment.layer_refs_of(comparison)
        for k, member in enumerate(members):
            if (member.net, member.layer, member.kept) != (net, layer, None):
                continue
            top = file.top_images(comparison.name)
            if top is None or top.value.shape[1] < n_kept:
                continue
            widths = file.widths(comparison.name)
            start = sum(widths[:k])
            part = top.units(start, start + widths[k])
            return TopImages(part.value[:, :n_kept], part.image[:, :n_kept], part.position[:, :n_kept])
    return None


def find_top_images(
    module: nn.Module,
    layers: Sequence[str],
    images: ImageSet,
    experiment: Experiment,
    device: torch.device,
) -> dict[str, TopImages]:
    """Top images of some layers of a net, from a pass over the images of the statistics."""
    config = experiment.pictures
    reader: LayerReader | None = None
    found: dict[str, TopImages] = {}
    used = images_of(experiment, images)
    batches = [used[start : start + config.batch] for start in range(0, len(used), config.batch)]
    for indices, batch in read_batches(images, batches, config.loader_workers):
        check()
        given = torch.from_numpy(batch).to(device)
        reader = reader or LayerReader(module.to(device), experiment.layer_configs(layers), given)
        for layer, maps in reader(given).items():
            if layer not in found:
                found[layer] = TopImages.zeros(maps.shape[1], config.top)
            found[layer].update(maps.numpy() if device.type == "cpu" else maps, indices)
    return found


def images_of(experiment: Experiment, images: ImageSet) -> Indices:
    """Indices of the images of the statistics, ascending."""
    config = experiment.statistics
    groups = ImageGroups.of(config, len(images), images.families)
    return np.flatnonzero(groups.group_of_image >= 0).astype(np.int64)


def active_top_images(top: TopImages, rectified: bool) -> tuple[TopImages, npt.NDArray[np.bool_]]:
    """The images that activate a unit, and whether units are dead.

    After an activation function a value must be positive. A unit is dead if no image activates it, and without an
    activation function also if several images give it the same value.
    """
    there = top.image != NONE
    same = np.zeros(len(top.value), bool)
    if rectified:
        there &= np.nan_to_num(top.value) > 0
    elif top.value.shape[1] > 1:
        same = there.all(axis=1) & (top.value == top.value[:, :1]).all(axis=1)
        there &= ~same[:, None]
    kept = TopImages(
        np.where(there, top.value, np.float32(np.nan)),
        np.where(there, top.image, NONE),
        np.where(there, top.position, NONE),
    )
    return kept, ~there.any(axis=1)
