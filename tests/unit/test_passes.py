"""One reading of the images: the same bits in any order, and the counts of a second reading with the same edges."""

from __future__ import annotations

import functools
from pathlib import Path

import h5py
import numpy as np
import pytest

from convergence.config.load import parse_config
from convergence.statistics.array_source import ArraySource
from convergence.statistics.assembly import Tile
from convergence.statistics.bin_edges import encode
from convergence.statistics.information import leave_one_out
from convergence.statistics.joint_counts import JointCounts, joint_counts_plain
from convergence.statistics.partial_results import PartialResults
from convergence.statistics.passes import StatisticsPasses

N, UNITS, POSITIONS = 120, {"a": 5, "b": 4}, (2, 3)
TEXT = """
name = "t"
[statistics]
comparisons = ["layer", {{ name = "pooled", layers = ["layer"], pool = true }}]
groups = 6
batch_size = {batch_size}
pilot = {pilot}
subset = 20
null.draws = 2
positions = {positions}
mutual_information = {{ blocks = 3, bins = 4, positions = {bin_positions} }}
threads = 1
[activations]
root = '{root}'
nets = {{ a = {{ layer = "a.npy" }}, b = {{ layer = "b.npy" }} }}
pre = {{ a = {{ layer = "a-pre.npy" }}, b = {{ layer = "b-pre.npy" }} }}
nonlinearity = "relu"
"""


def save(folder: Path) -> dict[str, np.ndarray]:
    """Rectified activations of two nets that share a signal."""
    rng = np.random.default_rng(0)
    common = rng.standard_normal((N, 3, *POSITIONS))
    found = {}
    for name, width in UNITS.items():
        z = np.einsum("ui,nixy->nuxy", rng.standard_normal((width, 3)), common)
        z = (z + rng.standard_normal(z.shape) + 0.5).astype(np.float32)
        found[name] = np.maximum(z, 0)
        np.save(folder / f"{name}-pre.npy", z)
        np.save(folder / f"{name}.npy", found[name])
    return found


def passes_of(root: Path, place: str, **settings) -> StatisticsPasses:
    """New passes, of a process that starts or resumes."""
    values = {"batch_size": 16, "pilot": 30, "positions": '"all"', "bin_positions": '"all"'} | settings
    experiment = parse_config(TEXT.format(root=root, **values))
    partial = PartialResults(root / place, "digest")
    partial.prepare()
    return StatisticsPasses(ArraySource(experiment), experiment.statistics, partial, kept_bytes=1 << 20)


def compute(root: Path, place: str, resume: bool = False, **settings) -> StatisticsPasses:
    """Compute all passes in order, or every item in a process of its own and backwards."""
    passes = passes_of(root, place, **settings)
    for number, step in enumerate(passes):
        for item in reversed(step.items) if resume else step.items:
            own, partial = step, passes.assembly._partial
            if resume:
                own = [*zip(range(number + 1), passes_of(root, place, **settings), strict=False)][-1][1]
            partial.write(own.name(item), functools.partial(own.compute, item))
    return passes


def contents(folder: Path) -> dict[str, bytes]:
    """All arrays of all partial results."""
    found = {}
    for path in sorted(folder.glob("*.h5")):
        with h5py.File(path) as file:
            file.visititems(
                lambda name, item, path=path: found.__setitem__(f"{path.stem}/{name}", item[()].tobytes())
                if isinstance(item, h5py.Dataset) else None
            )  # fmt: skip
    return found


@pytest.mark.parametrize("settings", [{}, {"batch_size": 64}, {"pilot": 2048}, {"positions": 4, "bin_positions": 5}])
def test_order_and_interruptions_change_no_bit(tmp_path, settings):
    save(tmp_path)
    compute(tmp_path, "one", **settings)
    compute(tmp_path, "many", resume=True, **settings)
    first, second = contents(tmp_path / "one"), contents(tmp_path / "many")
    assert first == second
    assert any("codes" in name for name in first)
    assert any("null/products" in name for name in first)


@pytest.mark.parametrize("pilot", [30, 2048])
def test_information_is_that_of_a_second_reading_with_the_edges_of_the_file(tmp_path, pilot):
    activations = save(tmp_path)
    passes = compute(tmp_path, "partial", pilot=pilot)
    sums = passes.assembly.sums("layer")
    together = np.concatenate([values.reshape(N, values.shape[1], -1) for values in activations.values()], axis=1)
    assert passes.batches.pilot_is_whole == (pilot > N)
    counts = []
    for block in passes.groups.blocks(3):
        images = np.concatenate([passes.groups.images(group) for group in block])
        codes = encode(together[images].transpose(1, 0, 2).reshape(together.shape[1], -1), sums.bins.edges)
        counts.append([[joint_counts_plain(x, y, 4) for y in codes] for x in codes])
        stored = JointCounts(9, 9, 4)
        for x, y in (of for group in block for of in passes.assembly.codes(group, Tile("layer", 0, 9, 0, 9))):
            stored.update(x, y)
        np.testing.assert_array_equal(stored.counts(), counts[-1])
    estimate, without = leave_one_out(np.array(counts))
    np.testing.assert_allclose(sums.mutual_information[(slice(0, 9),)], estimate, atol=1e-12)
    for block in range(3):
        np.testing.assert_allclose(sums.mutual_information_without[block, slice(0, 9)], without[block], atol=1e-12)


def test_forward_batches_of_several_groups_change_no_sum(tmp_path):
    save(tmp_path)
    few, many = (compute(tmp_path, f"p{size}", batch_size=size).assembly.sums("layer") for size in (20, 128))
    for key in ("group_count", "group_sums", "subset_samples"):
        if key == "group_sums":
            np.testing.assert_allclose(
                few.group_sums + few.group_count[:, None] * few.shift,
                many.group_sums + many.group_count[:, None] * many.shift, rtol=1e-9,
            )  # fmt: skip
        else:
            np.testing.assert_array_equal(getattr(few, key), getattr(many, key))
