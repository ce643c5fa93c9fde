"""Masks of positions: padding changes no sum, valid positions are samples, and settings that do not fit are refused."""

from __future__ import annotations

import functools
from pathlib import Path

import h5py
import numpy as np
import pytest

from convergence.config.load import parse_config
from convergence.data.images import ArrayImages
from convergence.errors import ConfigError, FileError
from convergence.statistics.activation_source import HostArrays
from convergence.statistics.array_source import ArraySource
from convergence.statistics.masks import read_masks, some_of_valid
from convergence.statistics.partial_results import PartialResults
from convergence.statistics.passes import StatisticsPasses
from convergence.statistics.sampling import (
    mean_over_positions,
    mean_over_valid,
    mean_over_valid_plain,
    sample_positions,
)

N, T = 48, 12
TEXT = """
name = "masked"
[activations]
root = '{root}'
nonlinearity = "relu"
labels = "labels.npy"
nets = {{ a = {{ layer = "a.npy" }}, b = {{ layer = "b.npy" }} }}
pre = {{ a = {{ layer = "a-pre.npy" }}, b = {{ layer = "b-pre.npy" }} }}
{mask}
[statistics]
comparisons = [{{ name = "sampled", layers = "layer" }}, {{ name = "pooled", layers = "layer", pool = true }}]
groups = 4
batch_size = 7
positions = {positions}
shifted_null = true
subset = 20
pilot = 30
null = {{ draws = 2 }}
mutual_information = {{ positions = {positions} }}
threads = 1
"""


def masks(seed: int, counts: np.ndarray) -> np.ndarray:
    """Masks (N, T) with given numbers of valid positions, anywhere."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(T) < n for n in counts])


def sums(folder: Path, mask: np.ndarray | None, values: dict[str, np.ndarray], positions: str) -> dict[str, np.ndarray]:
    """All partial results but the pilot's samples, of activations whose pre-activations (N, T, units) are given."""
    folder.mkdir()
    for name, z in values.items():
        np.save(folder / f"{name}-pre.npy", z)
        np.save(folder / f"{name}.npy", np.maximum(z, 0))
    np.save(folder / "labels.npy", np.arange(N) % 3)
    if mask is not None:
        np.save(folder / "mask.npy", mask)
    experiment = parse_config(
        TEXT.format(root=folder, positions=positions, mask='mask = "mask.npy"' if mask is not None else "")
    )
    partial = PartialResults(folder / "partial", "digest")
    partial.prepare()
    for step in StatisticsPasses(ArraySource(experiment), experiment.statistics, partial):
        for item in step.items:
            partial.write(step.name(item), functools.partial(step.compute, item))
    found: dict[str, np.ndarray] = {}
    for path in sorted((folder / "partial").rglob("*.h5")):
        with h5py.File(path) as file:
            file.visititems(
                lambda name, item, path=path: found.__setitem__(f"{path.stem}/{name}", item[()])
                if isinstance(item, h5py.Dataset) and "about/" not in name else None
            )  # fmt: skip
    assert any("null/products" in name for name in found)
    assert any(name.endswith("shifted") for name in found)
    assert any("top/value" in name for name in found)
    return found


def equal(
    one: dict[str, np.ndarray], other: dict[str, np.ndarray], leave_out: tuple[str, ...] = (), close: str = "none"
) -> None:
    """Compare all arrays; those with ``close`` in their name have other roundings."""
    assert one.keys() == other.keys()
    for name, array in one.items():
        if close in name:
            np.testing.assert_allclose(array, other[name], rtol=1e-4, atol=1e-4, err_msg=name)
        elif not any(part in name for part in leave_out):
            np.testing.assert_array_equal(array, other[name], err_msg=name)


def planted(seed: int, mask: np.ndarray, padding: float) -> dict[str, np.ndarray]:
    """Pre-activations (N, T, units) of two nets, with the same value at all positions that are not valid."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((N, T, 3))
    nets = {"a": 5, "b": 4}
    values = {
        name: (common @ rng.standard_normal((3, width)) + rng.standard_normal((N, T, width))).astype(np.float32)
        for name, width in nets.items()
    }
    return {name: np.where(mask[:, :, None], z, np.float32(padding)) for name, z in values.items()}


def test_values_of_padding_change_no_sum(tmp_path):
    mask = masks(0, np.random.default_rng(1).integers(3, T + 1, N))
    zeros = sums(tmp_path / "zeros", mask, planted(2, mask, 0.0), "3")
    for name, padding in (("huge", 1e15), ("nan", np.nan)):
        equal(zeros, sums(tmp_path / name, mask, planted(2, mask, padding), "3"))


def test_masked_tokens_have_the_sums_of_valid_tokens_alone(tmp_path):
    mask = masks(3, np.full(N, 5))
    values = planted(4, mask, 1e15)
    alone = {name: z[mask].reshape(N, 5, -1) for name, z in values.items()}
    masked = sums(tmp_path / "masked", mask, values, '"all"')
    # top images name positions of the whole map, and Gram matrices are of maps with zeros in them
    equal(
        masked,
        sums(tmp_path / "alone", None, alone, '"all"'),
        leave_out=("top/position", "maps/", "gram"),
        close="pooled/null",
    )


def test_a_mask_without_padding_changes_no_bit(tmp_path):
    mask = np.ones((N, T), bool)
    values = planted(5, mask, 0.0)
    equal(sums(tmp_path / "with", mask, values, "4"), sums(tmp_path / "without", None, values, "4"))


def test_positions_of_an_image_depend_on_seed_index_and_mask_alone():
    rng = np.random.default_rng(6)
    images = rng.permutation(500)[:N]
    mask = masks(7, rng.integers(4, T + 1, N))
    drawn = sample_positions(images, T, 4, 11, mask)
    assert drawn.shape == (N, 4)
    assert (np.diff(drawn) > 0).all()
    assert np.take_along_axis(mask, drawn, axis=1).all()
    some = rng.permutation(N)[:9]
    np.testing.assert_array_equal(sample_positions(images[some], T, 4, 11, mask[some]), drawn[some])
    assert (sample_positions(images, T, 4, 12, mask) != drawn).any()
    whole = mask.all(axis=1)
    assert whole.any()
    np.testing.assert_array_equal(drawn[whole], sample_positions(images[whole], T, 4, 11))


def test_all_valid_positions_are_drawn_equally_often():
    mask = np.tile(np.arange(T) % 2 == 0, (4000, 1))
    drawn = sample_positions(np.arange(4000), T, 2, 0, mask)
    counts = np.bincount(drawn.ravel(), minlength=T)
    assert (counts[1::2] == 0).all()
    np.testing.assert_allclose(counts[::2] / 8000, 1 / 6, atol=0.02)
    chosen = some_of_valid(mask[:3], 2, 0)
    assert chosen.sum(axis=1).tolist() == [2, 2, 2]
    assert not (chosen & ~mask[:3]).any()


@pytest.mark.parametrize("padding", [7.0, np.inf])
def test_means_over_valid_positions_follow_their_definition(padding):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(8)
    mask = masks(9, rng.integers(1, T + 1, N))
    maps = np.where(mask[:, None, :], rng.standard_normal((N, 6, T)), padding).astype(np.float32)
    found = mean_over_valid(maps, mask)
    np.testing.assert_allclose(found, mean_over_valid_plain(maps, mask), rtol=1e-6)
    tensors = HostArrays().mean_over_valid(torch.from_numpy(maps), mask)
    np.testing.assert_allclose(tensors.numpy(), found, rtol=1e-6)
    every = np.ones_like(mask)
    np.testing.assert_array_equal(mean_over_valid(maps, every), mean_over_positions(maps))


@pytest.mark.parametrize(
    ("counts", "positions", "found"),
    [
        ([5, 9], '"all"', 'statistics.positions = "all": images have 5 to 9 valid positions'),
        ([5, 9], "6", "statistics.positions = 6: 24 of 48 images have fewer valid positions, the shortest 5"),
        ([0, 9], "2", "24 of 48 images have no valid position"),
    ],
)
def test_images_with_too_few_valid_positions_are_refused(tmp_path, counts, positions, found):
    mask = masks(0, np.resize(counts, N))
    with pytest.raises(ConfigError, match=found):
        sums(tmp_path / "run", mask, planted(1, mask, 0.0), positions)


def test_layers_that_a_mask_does_not_fit_are_refused(tmp_path):
    mask = masks(0, np.full(N, 5))
    values = {name: z[:, :10] for name, z in planted(1, mask, 0.0).items()}
    with pytest.raises(ConfigError, match=r"layer of a has positions of shape \(10,\), and the mask of an image has"):
        sums(tmp_path / "run", mask, values, "3")


def test_arrays_that_are_no_masks_are_refused(tmp_path):
    values = planted(1, np.ones((N, T), bool), 0.0)
    with pytest.raises(FileError, match="needed are 48 × positions booleans"):
        sums(tmp_path / "type", np.ones((N, T)), values, "3")
    with pytest.raises(FileError, match=r"mask.npy: an array of shape \(7, 12\)"):
        sums(tmp_path / "length", np.ones((7, T), bool), values, "3")


class Padded(ArrayImages):
    """Images of which those of odd index have no valid position."""

    def position_mask(self, indices):
        return np.repeat((indices % 2 == 0)[:, None], 4, axis=1)


def test_only_images_that_are_used_are_counted():
    config = parse_config(
        'name = "x"\ndata = { name = "digits" }\nstatistics = { comparisons = ["conv1"], max_images = 8, groups = 2 }\n'
        '[[nets]]\nseeds = [1, 2]\nnetwork = { name = "small" }'
    ).statistics
    found = read_masks(Padded(np.zeros((100, 1, 4, 4)), None), config)
    assert len(found.counts) == 8
    assert set(found.counts) <= {0, 4}
