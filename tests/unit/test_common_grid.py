"""Layers of different map sizes on a common grid, and positions drawn from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convergence.config.load import parse_config
from convergence.data.images import ArrayImages
from convergence.errors import ConfigError
from convergence.statistics.sampling import grid_positions, sample_positions
from convergence.statistics.torch_source import NetSource

TEXT = """
name = "grids"
[data]
name = "digits"
[[nets]]
label = "a"
seeds = [1]
network = { name = "small", channels = [3, 4], hidden = [6] }
[[nets]]
label = "b"
seeds = [2]
network = { name = "small", channels = [5, 7], hidden = [6] }
[statistics]
comparisons = [{ name = "mixed", layers = { a = "conv1", b = "LAYER" } }]
"""


def source(layer: str) -> NetSource:
    experiment = parse_config(TEXT.replace("LAYER", layer))
    torch.manual_seed(0)
    modules = {net.name: net.network.build((1, 8, 8), 10) for net in experiment.all_nets()}
    images = ArrayImages(np.zeros((3, 1, 8, 8), np.float32), np.zeros(3), "ab")
    return NetSource(experiment, modules, images, ["cpu"])


@pytest.mark.parametrize("positions", ["all", 5])
def test_the_coarsest_map_is_the_grid(positions):
    nets = source("conv2")
    about = nets.joined["mixed"]
    assert about.map_shapes == ((8, 8), (4, 4))
    assert about.map_shape == (4, 4)
    images = np.random.default_rng(0).standard_normal((3, 1, 8, 8)).astype(np.float32)
    indices = np.array([4, 7, 9])
    ((name, samples, n_images),) = nets.samples(nets.maps(images, indices), indices, positions, seed=1)
    assert (name, n_images) == ("mixed", 3)
    fine, coarse = (
        nets.readers[net](torch.from_numpy(images))[layer].numpy() for net, layer in (("a1", "conv1"), ("b1", "conv2"))
    )
    drawn = sample_positions(indices, 16, positions, seed=1)
    columns = []
    for image in range(3):
        for position in range(16) if drawn is None else drawn[image]:
            y, x = divmod(position, 4)  # point (y, x) of the grid has its centre in row 2 y + 1, column 2 x + 1
            columns.append(np.concatenate([fine[image, :, 8 * (2 * y + 1) + 2 * x + 1], coarse[image, :, 4 * y + x]]))
    np.testing.assert_array_equal(samples, np.array(columns).T)


def test_grid_points_are_the_centres_of_their_cells():
    assert grid_positions((4, 4), (4, 4)) is None
    np.testing.assert_array_equal(grid_positions((3, 9), (1, 3)), [9 + 1, 9 + 4, 9 + 7])
    for side, n in ((55, 27), (13, 6), (27, 26), (7, 1)):
        found = grid_positions((side, 1), (n, 1))
        assert (np.abs((found + 0.5) / side - (np.arange(n) + 0.5) / n) <= 0.5 / side + 1e-12).all()


def test_maps_and_vectors_cannot_be_joined_unpooled():
    with pytest.raises(ConfigError, match=r"no positions in common \(a1\.conv1: \(8, 8\), b1\.fc1: \(\)\)"):
        source("fc1")
