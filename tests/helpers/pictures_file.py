"""A file of pictures with made-up content, for tests of what reads such files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from convergence.io import hdf5
from convergence.pictures.file import DATASETS, create_layer, create_pictures


class Made(NamedTuple):
    """A layer to make up: units, field and map; ``first`` layers have filters; fields of "whole" layers are images."""

    n_units: int
    kind: str = "conv"
    field: tuple[int, int] = (3, 3)
    map: tuple[int, int] = (8, 8)
    first: bool = False


DIGITS = {
    "conv1": Made(16, "conv", (3, 3), (8, 8), True),
    "conv2": Made(32, "conv", (8, 8), (4, 4)),
    "fc1": Made(64, "whole", (8, 8), (1, 1)),
}
"""The layers of the digits nets."""


def write_pictures_file(
    path: Path,
    nets: Sequence[str] = ("net1", "net2", "net3", "net4"),
    layers: Mapping[str, Made] = DIGITS,
    digest: str = "0" * 64,
    config_text: str = "{}",
    top: int = 9,
    seeds: int = 1,
    channels: int = 1,
    n_images: int = 540,
    without: Sequence[str] = (),
    seed: int = 0,
) -> Path:
    """Random pictures in the real format. The last unit of each layer is dead; ``without`` names datasets left out.

    The second to last unit has only two top images, so that its other places are empty.
    """
    rng = np.random.default_rng(seed)
    with create_pictures(path, digest, config_text) as file:
        for net in nets:
            for layer, made in layers.items():
                stride = (1, 1) if made.kind == "conv" else (0, 0)
                padding = (made.field[0] // 2, made.field[1] // 2) if made.kind == "conv" else (0, 0)
                group = create_layer(file, net, layer, made.kind, made.field, stride, padding, made.map)
                n, images = made.n_units, (made.field[0], made.field[1], channels)
                none = np.zeros((n, top), bool)
                none[-1], none[-2, 2:] = True, True
                value = -np.sort(-rng.exponential(size=(n, top)).astype(np.float32), axis=1)
                position = rng.integers(0, made.map, (n, top, 2))
                start = position * stride - padding
                scale = rng.exponential(size=(n, top)).astype(np.float32)
                arrays = {
                    "top_value": np.where(none, np.float32(np.nan), value),
                    "top_image": np.where(
                        none, -1, np.stack([rng.choice(n_images, top, replace=False) for _ in range(n)])
                    ),
                    "top_position": np.where(none[..., None], -1, position),
                    "top_box": np.where(none[..., None], 0, np.concatenate([start, start + made.field], axis=2)),
                    "patches": rng.integers(0, 256, (n, top, *images), dtype=np.uint8),
                    "deconvolution": rng.integers(1, 256, (n, top, *images), dtype=np.uint8),
                    "guided": rng.integers(1, 256, (n, top, *images), dtype=np.uint8),
                    "deconvolution_scale": np.where(none, np.float32(0), scale),
                    "guided_scale": np.where(none, np.float32(0), scale),
                    "maximization": rng.integers(0, 256, (n, seeds, *images), dtype=np.uint8),
                    "maximization_value": rng.exponential(5, (n, seeds)).astype(np.float32),
                    "maximization_best_real": np.nan_to_num(value[:, 0]),
                    "dead": np.arange(n) == n - 1,
                }
                if made.first:
                    arrays["filters"] = rng.integers(1, 256, (n, *images), dtype=np.uint8)
                    arrays["filters_scale"] = rng.exponential(size=n).astype(np.float32)
                for name, array in arrays.items():
                    if name not in without:
                        axes, about = DATASETS[name]
                        hdf5.write_array(group, name, array, axes, about=about)
    return path
