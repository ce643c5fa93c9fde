"""Image order and training subset of a net: one seed each, balanced classes, common images in a common order."""

import numpy as np
import pytest

from convergence.data.image_order import ImageOrder, draw_subset, subset_size


@pytest.mark.parametrize("share", [0.01, 0.1, 1 / 3, 0.5, 0.73, 0.999])
def test_subset_has_the_share_of_every_class_within_one_image(share):
    counts = np.array([3, 50, 51, 52, 400, 401])
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(6), counts))
    for seed in range(5):
        found = draw_subset(labels, share, seed)
        assert len(found) == subset_size(len(labels), share)
        assert (np.diff(found) > 0).all()
        assert (np.abs(np.bincount(labels[found], minlength=6) - share * counts) <= 1).all()


def test_images_left_over_by_rounding_go_to_random_classes():
    labels = np.repeat(np.arange(10), 5)
    extra = [np.bincount(labels[draw_subset(labels, 0.5, seed)]) == 3 for seed in range(200)]
    assert (np.sum(extra, axis=1) == 5).all()
    assert (np.abs(np.mean(extra, axis=0) - 0.5) < 0.15).all()


def test_every_image_is_as_likely_in_a_subset():
    labels = np.repeat(np.arange(3), 8)
    counts = sum(np.bincount(draw_subset(labels, 0.25, seed), minlength=24) for seed in range(800))
    assert (np.abs(counts / 800 - 0.25) < 0.06).all()


def test_order_depends_on_its_seed_and_epoch_only():
    labels = np.zeros(60, np.int64)
    first = ImageOrder.of(labels, seed=3)
    np.testing.assert_array_equal(first.epoch(2), np.random.default_rng([3, 2]).permutation(60))
    assert (first.epoch(2) != first.epoch(1)).any()
    assert (first.epoch(2) != ImageOrder.of(labels, seed=4).epoch(2)).any()
    assert first.augment_seed(2) != ImageOrder.of(labels, seed=4).augment_seed(2)
    assert [len(batch) for batch in first.batches(0, 25)] == [25, 25, 10]


def test_nets_of_one_order_see_common_images_in_one_order():
    labels = np.repeat(np.arange(4), 25)
    one, other = (ImageOrder.of(labels, 1, 0.6, subset_seed) for subset_seed in (7, 8))
    assert len(one) == len(one.epoch(0)) == 60
    np.testing.assert_array_equal(np.sort(one.epoch(0)), one.subset)
    common = np.intersect1d(one.subset, other.subset)
    assert 60 > len(common) > 20
    in_one, in_other = (order.epoch(5)[np.isin(order.epoch(5), common)] for order in (one, other))
    np.testing.assert_array_equal(in_one, in_other)
