"""Parts of images decide the values of positions exactly; bytes and colours go there and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx

from convergence.data.images import ArrayImages
from convergence.errors import FileError
from convergence.networks.graphs import LayerGraph
from convergence.visualization.colours import Colours, reduced, signal_to_bytes
from convergence.visualization.patch_geometry import PatchGeometry
from convergence.visualization.receptive import ReceptiveField, receptive_fields
from tests.unit.test_receptive_fields import Residual, nets


def view_of(module, layer: str, image: tuple[int, int]) -> tuple[fx.GraphModule, PatchGeometry]:
    graph = LayerGraph(module, [layer], torch.rand(2, 1, *image, dtype=torch.float64))
    shape = graph.reader.layouts[layer].map_shape
    return graph.module, PatchGeometry(receptive_fields(graph.module)[graph.node(layer)], shape, image)


@settings(max_examples=10, deadline=None)
@given(net=nets() | st.builds(Residual), side=st.integers(24, 40), seed=st.integers(0, 99))
def test_patch_determines_the_unit_value(net, side, seed):
    layer = "last" if isinstance(net, Residual) else str(len(net) - 1)
    image = (side, side + 5)
    front, view = view_of(net.double(), layer, image)
    x = torch.randn((1, 1, *image), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    whole = front(x)[layer][0]
    positions = np.argwhere(np.ones(view.map_shape))
    seen = []
    for rows, boxes, within in view.batches(positions, 50):
        parts = torch.cat([x[:, :, y0:y1, x0:x1] for y0, x0, y1, x1 in boxes])
        found = front(parts)[layer]
        for k, row in enumerate(rows):
            y, z = positions[row]
            torch.testing.assert_close(found[k, :, within[k, 0], within[k, 1]], whole[:, y, z])
        seen.extend(rows)
    assert sorted(seen) == list(range(len(positions)))
    boxes, _ = view.parts(positions)
    assert len(np.unique(boxes[:, 2:] - boxes[:, :2], axis=0)) <= 4


def test_parts_of_a_small_field_are_small():
    view = PatchGeometry(ReceptiveField((11, 11), (4, 4), (0, 0)), (55, 55), (227, 227))
    boxes, _ = view.parts(np.argwhere(np.ones((55, 55))))
    assert (boxes[:, 2:] - boxes[:, :2]).max() == 11
    assert view.kind == "conv"
    assert PatchGeometry(ReceptiveField(whole="x"), (1, 1), (9, 9)).kind == "whole"


def images_of(channels: int) -> ArrayImages:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, channels, 6, 5)).astype(np.float32) / 255
    scale = np.arange(1, channels + 1, dtype=np.float32)[:, None, None]
    return ArrayImages(pixels * scale - 0.5, np.zeros(20), ["a"], (np.full(channels, -0.5), scale.ravel() - 0.5))


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_survive_conversion_to_bytes(channels):
    images = images_of(channels)
    colours = Colours.of(images, np.arange(20))
    seen = images.read(np.arange(20))
    pixels = colours.to_bytes(seen)
    assert pixels.shape == (20, 6, 5, channels)
    np.testing.assert_allclose(colours.from_bytes(pixels), seen, atol=1e-6)
    np.testing.assert_array_equal(colours.to_bytes(colours.from_bytes(pixels)), pixels)
    np.testing.assert_array_equal(colours.mean, np.rint(255 * 0.5 / np.arange(1, channels + 1)))
    assert colours.to_bytes(seen + 99).min() == 255


def test_pixel_range_defaults_to_that_of_the_images():
    images = ArrayImages(np.linspace(-3, 5, 48).reshape(3, 1, 4, 4), [0, 0, 0], ["a"])
    assert [float(end[0]) for end in images.pixel_range()] == [-3, 5]


def test_images_without_colours_are_refused():
    with pytest.raises(FileError, match="2 channels"):
        Colours.of(images_of(2), np.arange(3))
    flat = ArrayImages(np.zeros((3, 1, 4, 4)), [0, 0, 0], ["a"])
    with pytest.raises(FileError, match="larger in every channel"):
        Colours.of(flat, np.arange(3))


def test_signals_are_symmetric_about_128():
    signal = np.zeros((3, 1, 2, 2), np.float32)
    signal[0, 0] = [[-4, 2], [0, 4]]
    signal[1, 0, 0, 0] = 1e-30
    pixels, scale = signal_to_bytes(signal)
    np.testing.assert_array_equal(pixels[0, :, :, 0], [[1, 192], [128, 255]])
    np.testing.assert_array_equal(pixels[1, :, :, 0], [[255, 128], [128, 128]])
    np.testing.assert_array_equal(pixels[2], 128)
    np.testing.assert_array_equal(scale, np.array([4, 1e-30, 0], np.float32))


def test_large_images_are_reduced_to_means():
    images = np.arange(2 * 8 * 4, dtype=np.float32).reshape(2, 1, 8, 4)
    np.testing.assert_array_equal(reduced(images, 4), images.reshape(2, 1, 4, 2, 2, 2).mean(axis=(3, 5)))
    assert reduced(images, 8) is images
