"""Sums on the device of the nets against those on the host: the same numbers, by other arithmetic."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch

from convergence.cli import main
from convergence.io import hdf5
from convergence.statistics.bin_edges import encode
from convergence.statistics.device_sums import DeviceSums, encode_on_device
from convergence.statistics.group_sums import GroupSums, shift_of
from convergence.statistics.histograms import UnitHistograms
from convergence.statistics.moments import symmetric
from tests.unit.test_moments import hostile_samples

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
WIDTHS = (6, 5)


def group_sums(path, samples: np.ndarray, precision: str, device) -> h5py.File:
    """Sums of a group in an open file, by either way; four samples an image."""
    file = h5py.File(path, "w")
    sums = GroupSums(file.create_group("layer"), WIDTHS, shift_of(samples[:, :400], WIDTHS), precision, True, device)
    for start in range(0, samples.shape[1], 1_200):
        piece = samples[:, start : start + 1_200]
        sums.update(piece if device is None else torch.from_numpy(piece).to(device), piece.shape[1] // 4)
    sums.close()
    hdf5.verify(file)
    return file


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-12), ("float32", 2e-6)])
def test_device_sums_agree_with_host_sums(tmp_path, precision, tolerance):
    samples = hostile_samples(12_000)
    with (
        group_sums(tmp_path / "host.h5", samples, precision, None) as host,
        group_sums(tmp_path / "device.h5", samples, precision, DEVICE) as device,
    ):
        host_layer, device_layer = host["layer"], device["layer"]
        assert host_layer["count"][()] == device_layer["count"][()] == 12_000
        for name in host_layer["histogram"]:
            np.testing.assert_array_equal(host_layer["histogram"][name][()], device_layer["histogram"][name][()])
        np.testing.assert_allclose(host_layer["sums"][()], device_layer["sums"][()], rtol=1e-6, atol=1e-6)
        for name in ("products", "shifted"):
            a, b = host_layer[name][()], device_layer[name][()]
            if name == "products":
                a, b = symmetric(a), symmetric(b)
            size = np.sqrt(np.diag(symmetric(host_layer["products"][()])))[: len(a)]
            assert np.abs((a - b) / np.outer(size, size)).max() <= tolerance


def test_device_codes_equal_host_codes():
    samples = np.concatenate([hostile_samples(5_000), np.full((1, 5_000), np.nan, np.float32)])
    samples[3, :7] = np.inf
    histograms = UnitHistograms.zeros(len(samples))
    histograms.update(samples)
    edges = histograms.edges(10).edges
    np.testing.assert_array_equal(encode_on_device(torch.from_numpy(samples).to(DEVICE), edges), encode(samples, edges))


def test_statistics_on_the_device_agree_with_host(tiny_config, tiny_copy, tiny_run):
    """The torch path through the stage, positions drawn and all, on whatever device there is."""
    arguments = ["statistics", str(tiny_config), "--runs", str(tiny_copy.parent), "--set", "statistics.sums=device"]
    assert main(arguments) == 0
    with h5py.File(tiny_copy / "statistics.h5") as device, h5py.File(tiny_run / "statistics.h5") as host:
        for name in ("conv1", "conv2", "fc1"):
            a, b = device["comparisons"][name], host["comparisons"][name]
            np.testing.assert_array_equal(a["group_count"][()], b["group_count"][()])
            for key in ("group_products", "group_shifted_products", "group_norm_cross"):
                np.testing.assert_allclose(a[key][()], b[key][()], rtol=1e-4, atol=1e-3 * np.abs(b[key][()]).max())
            np.testing.assert_allclose(a["mutual_information"][()], b["mutual_information"][()], atol=0.02)


def test_device_sums_do_not_depend_on_batch_size():
    samples = torch.from_numpy(hostile_samples(9_000)[:11]).to(DEVICE)
    shift = np.zeros(13)
    found = []
    for batch in (9_000, 500):
        sums = DeviceSums(WIDTHS, shift, "float64", False, DEVICE)
        for start in range(0, 9_000, batch):
            sums.update(samples[:, start : start + batch], 1)
        sums.finish()
        found.append((sums.sums.tobytes(), sums.products[:].tobytes()))
    assert found[0] == found[1]
