"""Image groups: whole families, balanced; and the ring of a group, in which neighbours are of different families."""

from __future__ import annotations

import numpy as np
import pytest

from convergence.errors import ConfigError
from convergence.statistics.sampling import ImageGroups, ring_order


@pytest.mark.parametrize("seed", range(5))
def test_families_stay_together_and_groups_are_balanced(seed):
    rng = np.random.default_rng(seed)
    families = rng.choice(1_000, 200, replace=False)[np.minimum(rng.geometric(0.02, 2_000) - 1, 199)]
    groups = ImageGroups(2_000, 8, seed, families=families)
    of_image = groups.group_of_image
    for family in np.unique(families):
        assert len(set(of_image[families == family])) == 1
    sizes = np.bincount(of_image)
    assert sizes.sum() == 2_000
    assert np.ptp(sizes) <= np.bincount(families).max()
    assert sorted(np.concatenate([groups.images(g) for g in range(8)])) == list(range(2_000))
    again = ImageGroups(2_000, 8, seed, families=families)
    np.testing.assert_array_equal(again.group_of_image, of_image)
    np.testing.assert_array_equal(again.images(3), groups.images(3))
    assert (ImageGroups(2_000, 8, seed + 1, families=families).group_of_image != of_image).any()


def test_families_of_one_image_are_divided_as_images_are():
    plain, families = ImageGroups(90, 6, 3), ImageGroups(90, 6, 3, families=np.arange(90)[::-1])
    np.testing.assert_array_equal(plain.group_of_image, families.group_of_image)
    for g in range(6):
        np.testing.assert_array_equal(plain.images(g), families.images(g))


def test_few_images_of_families_are_drawn_as_images():
    families = np.repeat(np.arange(50), 10)
    groups = ImageGroups(500, 4, 0, max_images=100, families=families)
    used = np.flatnonzero(groups.group_of_image >= 0)
    assert len(used) == groups.n_images == 100
    assert groups.n_families == len(np.unique(families[used])) > 30
    np.testing.assert_array_equal(used, np.flatnonzero(ImageGroups(500, 4, 0, max_images=100).group_of_image >= 0))
    subset = groups.subset(40)
    np.testing.assert_array_equal(np.bincount(groups.group_of_image[subset]), [10] * 4)


def test_too_few_families_are_refused_with_the_numbers():
    with pytest.raises(ConfigError, match=r"at least 32 families .* 2,000 images are of 16.* at most 8 groups"):
        ImageGroups(2_000, 16, families=np.arange(2_000) % 16)
    assert len(ImageGroups(2_000, 8, families=np.arange(2_000) % 16)) == 8


def test_neighbours_in_the_ring_are_of_different_families():
    for seed in range(300):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(2, 40))
        families = rng.integers(rng.integers(1, n + 1), size=n)
        if seed % 3 == 0:
            families[: n // 2] = 77  # half of the images
        ring = ring_order(rng.permutation(families), n, rng)
        assert sorted(ring) == list(range(n))
    for seed in range(300):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(2, 40))
        families = rng.integers(rng.integers(2, n + 1), size=n)
        if seed % 3 == 0:
            families[: n // 2] = 77
        ring = families[ring_order(families, n, rng)]
        if 2 * np.unique(families, return_counts=True)[1].max() <= n:
            assert (ring != np.roll(ring, 1)).all()


def test_ring_is_shuffled_also_where_images_are_sorted():
    labels = np.repeat(np.arange(10), 160)
    groups = ImageGroups(1_600, 16)
    same = [np.mean(labels[groups.images(g)] == np.roll(labels[groups.images(g)], -1)) for g in range(16)]
    assert np.mean(same) < 0.15


def test_previous_images_are_known_over_borders_of_batches():
    groups = ImageGroups(50, 2, families=np.arange(50) // 2)
    for g in (0, 1):
        batches, before = list(groups.batches(g, 7)), list(groups.previous(g, 7))
        assert list(map(len, batches)) == list(map(len, before))
        ring = np.concatenate(batches)
        np.testing.assert_array_equal(np.concatenate(before), np.roll(ring, 1))
        assert (ring // 2 != np.roll(ring, 1) // 2).all()
