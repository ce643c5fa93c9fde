"""Groups share forward batches, the pilot is a part of all groups, and neither depends on who computes them."""

from __future__ import annotations

import numpy as np
import pytest

from convergence.statistics.forward_batches import ForwardBatches
from convergence.statistics.sampling import ImageGroups


@pytest.mark.parametrize(
    ("n_images", "n_groups", "batch_size", "n_pilot"),
    [(100, 10, 32, 40), (100, 10, 1, 7), (103, 7, 10, 50), (60, 20, 128, 2048), (1000, 16, 20, 100), (90, 9, 10, 1)],
)
def test_runs_cover_all_images_once(n_images, n_groups, batch_size, n_pilot):
    groups = ImageGroups(n_images, n_groups)
    found = ForwardBatches(groups, batch_size, n_pilot)
    assert [group for run in found.runs for group in run] == list(range(n_groups))
    everything = []
    for number, run in enumerate(found.runs):
        images = np.concatenate([groups.images(group) for group in run])
        assert len(run) == 1 or len(images) <= batch_size
        np.testing.assert_array_equal(np.concatenate(found.batches(number)), images)
        assert all(len(batch) <= batch_size for batch in found.batches(number))
        assert all(found.run_of_group[group] == number for group in run)
        everything.append(images)
    assert sorted(np.concatenate(everything).tolist()) == list(range(n_images))
    pilot = found.pilot
    assert 0 in pilot, "the first batch gives the shift"
    for number, batches in pilot.items():
        for one, other in zip(batches, found.batches(number), strict=False):
            np.testing.assert_array_equal(one, other)
    assert found.n_pilot_images >= min(n_pilot, n_images) - batch_size
    assert found.n_pilot_images <= n_pilot + len(found.runs) * batch_size
    assert (found.n_pilot_images == n_images) == found.pilot_is_whole or n_pilot > n_images / 2


def test_pilot_takes_equal_shares_of_large_groups():
    found = ForwardBatches(ImageGroups(50_000, 16), 128, 2048)
    assert {len(batches) for batches in found.pilot.values()} <= {1, 2}
    assert len(found.pilot) == 16
    assert 2048 <= found.n_pilot_images < 2048 + 3 * 128
