"""The images that excite units most: against the definition, for any order, division and device."""

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convergence.cli import main
from convergence.statistics.file import open_statistics
from convergence.statistics.top_images import TopImages, top_images_plain


def same(a: TopImages, b: TopImages) -> None:
    for name in ("value", "image", "position"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def made_maps(seed: int, n_images: int = 40, n_units: int = 7, n_positions: int = 12) -> np.ndarray:
    """Rectified, coarse (many ties), negative, constant, silent and broken units."""
    rng = np.random.default_rng(seed)
    maps = rng.standard_normal((n_images, n_units, n_positions)).astype(np.float32)
    maps[:, 0] = np.maximum(maps[:, 0], 0)
    maps[:, 1] = np.round(maps[:, 1])
    maps[:, 2] -= 10
    maps[:, 3] = 0
    maps[:, 3, ::2] = -0.0
    maps[:, 4][rng.random((n_images, n_positions)) < 0.2] = np.nan
    maps[:, 5][rng.random((n_images, n_positions)) < 0.2] = np.inf
    maps[:, 6] = np.nan
    return maps


@pytest.mark.parametrize("n_kept", [1, 9, 64])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), pieces=st.integers(1, 5))
def test_top_images_equal_definition_for_any_batches(n_kept, seed, pieces):
    maps = made_maps(seed)
    rng = np.random.default_rng(seed)
    images = np.sort(rng.choice(1000, len(maps), replace=False))
    expected = top_images_plain(maps, images, n_kept)
    parts = []
    for rows in np.array_split(rng.permutation(len(maps)), pieces):
        parts.append(TopImages.zeros(7, n_kept))
        for some in np.array_split(rows, 3):
            if len(some):
                parts[-1].update(np.ascontiguousarray(maps[some]), images[some])
    total = TopImages.zeros(7, n_kept)
    for k in rng.permutation(len(parts)):
        total.merge(parts[k])
    same(total, expected)


def test_top_images_on_the_device_equal_definition():
    maps = made_maps(3)
    images = np.arange(len(maps))
    found = TopImages.zeros(7, 9)
    for start in range(0, len(maps), 7):
        found.update(torch.from_numpy(maps[start : start + 7]), images[start : start + 7])
    same(found, top_images_plain(maps, images, 9))


def test_silent_unit_has_first_images_and_nan_unit_none():
    found = top_images_plain(made_maps(0), np.arange(40), 3)
    np.testing.assert_array_equal(found.image[3], [0, 1, 2])
    np.testing.assert_array_equal(found.position[3], 0)
    np.testing.assert_array_equal(found.image[6], -1)
    assert np.isnan(found.value[6]).all()


CONFIG = """
name = "given"
[activations]
root = "{root}"
[activations.nets]
a = {{ conv = "a.npy", tokens = "t.npy" }}
b = {{ conv = "b.npy", tokens = "t.npy" }}
[statistics]
comparisons = ["conv", "tokens", {{ name = "pooled", layers = "conv", pool = true }}]
max_images = 41
groups = 4
batch_size = 7
positions = 2
threads = 1
mutual_information = {{ enabled = false }}
"""


def test_statistics_store_top_images_over_all_positions(tmp_path):
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((50, 6, 4, 4)), rng.standard_normal((50, 3, 2, 2))
    tokens = rng.standard_normal((50, 5, 4))
    for name, array in (("a", a), ("b", b), ("t", tokens)):
        np.save(tmp_path / f"{name}.npy", array.astype(np.float32))
    (tmp_path / "given.toml").write_text(CONFIG.format(root=tmp_path.as_posix()), encoding="utf-8")
    assert main(["statistics", str(tmp_path / "given.toml"), "--runs", str(tmp_path)]) == 0
    with h5py.File(tmp_path / "given" / "statistics.h5") as file:
        images = np.flatnonzero(file["images/group_of_image"][()] >= 0)
        assert len(images) == 41
        assert "top_value" not in file["comparisons/pooled"]
    with open_statistics(tmp_path / "given" / "statistics.h5") as file:
        assert file.top_images("pooled") is None
        for name, parts in (("conv", (a, b)), ("tokens", (tokens.transpose(0, 2, 1),) * 2)):
            maps = [part.astype(np.float32).reshape(50, part.shape[1], -1)[images] for part in parts]
            wanted = TopImages.side_by_side([top_images_plain(part, images, 9) for part in maps])
            same(file.sums(name).top_images, wanted)


def test_sampled_positions_and_device_change_no_top_image(tiny_config, tiny_copy, tiny_run):
    for change in ("statistics.positions=3", "statistics.sums=device"):
        assert main(["statistics", str(tiny_config), "--runs", str(tiny_copy.parent), "--set", change]) == 0
        with open_statistics(tiny_copy / "statistics.h5") as one, open_statistics(tiny_run / "statistics.h5") as other:
            for name in ("conv1", "fc1"):
                same(one.top_images(name), other.top_images(name))


def test_top_images_can_be_disabled(tiny_config, tiny_copy):
    arguments = ["statistics", str(tiny_config), "--runs", str(tiny_copy.parent), "--set", "statistics.top_images=0"]
    assert main(arguments) == 0
    with open_statistics(tiny_copy / "statistics.h5") as file:
        assert file.sums("conv1").top_images is None
