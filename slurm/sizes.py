"""Bytes that the stages leave on disk, from shapes alone, before anything is computed."""

from __future__ import annotations

import math
from typing import Any

from convergence.errors import UserError
from convergence.runs.run_folder import RunFolder
from convergence.show import readable_bytes, shapes

PAIR_BYTES = 150_000
"""What the analysis keeps of a pair of nets in a comparison, apart from what grows with the units squared."""
Sizes = list[tuple[str, str, int]]
"""Stage, what it leaves, and its bytes."""


def sizes(folder: RunFolder) -> list[str]:
    """Lines on the bytes of each stage: their sum, then what they are of."""
    try:
        n_available, joiner = shapes(folder.experiment)
    except ImportError:
        return ["bytes on disk are not known without torch: pip install 'convergent-learning[train]'"]
    except UserError as error:
        return [f"bytes on disk are not known: {error}"]
    found = [*_of_training(folder), *_of_sums(folder, n_available, joiner), *_of_pictures(folder, joiner)]
    lines = [f"bytes on disk: about {readable_bytes(sum(size for *_, size in found))}, and the report, some MB"]
    return lines + [f"  {stage:<11} {readable_bytes(size):>8}  {what}" for stage, what, size in found]


def _of_training(folder: RunFolder) -> Sizes:
    """Weights and checkpoints; nothing for activations that are there already."""
    if folder.experiment.activations is not None:
        return []
    import torch

    splits = folder.experiment.images.load()
    total = 0
    with torch.device("meta"):
        for net in folder.experiment.all_nets():
            module = net.spec.build(splits.train.image_shape, splits.train.n_classes)
            total += sum(value.numel() * value.element_size() for value in module.state_dict().values())
    kept = 1 + len(folder.experiment.training.keep_epochs)
    state = 3 if folder.experiment.training.optimizer == "adamw" else 2  # the weights, and what the optimiser keeps
    return [
        ("train", "weights of the nets", kept * total),
        ("train", "checkpoints, two of each net in training, at most", 2 * state * total),
    ]


def _of_sums(folder: RunFolder, n_available: int, joiner: Any) -> Sizes:
    """The statistics, their scratch, and the analysis."""
    from convergence.statistics.sampling import ImageGroups
    from convergence.statistics.schema import stored_bytes

    config = folder.experiment.statistics
    groups = ImageGroups(n_available, config.groups, config.seed, config.max_images)
    sums = codes = results = 0
    for joined in joiner.joined.values():
        n_units, n_nets = joined.n_units, len(joined.nets)
        sums += stored_bytes(joined, config, len(groups.subset(config.subset)))
        if config.mutual_information.enabled:
            codes += groups.n_images * joined.n_sampled(config.mutual_information.positions) * n_units
        results += 8 * n_units**2 + PAIR_BYTES * math.comb(n_nets, 2)
    return [
        ("statistics", "statistics.h5, without the histograms of units (some kB each)", sums),
        ("statistics", "scratch, removed at the end", sums + codes),
        ("analyze", "analysis.h5, roughly", results),
    ]


def _of_pictures(folder: RunFolder, joiner: Any) -> Sizes:
    """Pictures of units, the most that they can take: patches as large as the image or ``pictures.max_side``."""
    if not folder.has_pictures():
        return []
    config = folder.experiment.pictures
    channels, *sides = folder.experiment.images.load().train.image_shape
    a_picture = channels * math.prod(min(side, config.max_side) for side in sides)
    a_unit = sum(1 if method == "maximization" else config.top for method in config.methods if method != "filters")
    widths = {
        (net, layer): width
        for joined in joiner.joined.values()
        for net, layer, width in zip(joined.of_net, joined.layers, joined.widths, strict=True)
    }
    pictured = [(net.name, layer) for net, layers in folder.experiment.pictured() for layer in layers]
    n_units = sum(widths.get(place, 0) for place in pictured)
    return [("pictures", "pictures.h5 and its scratch, at most", 2 * n_units * a_unit * a_picture)]
