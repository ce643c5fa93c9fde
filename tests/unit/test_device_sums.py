"""Sums on a device agree with those on the host."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch

from convergence.cli import main
from convergence.networks.devices import devices_of_process
from convergence.statistics.bin_edges import encode, equal_mass_bins
from convergence.statistics.group_sums import HostGroupSums, shift_of
from convergence.statistics.histograms import UnitHistograms
from convergence.statistics.moments import symmetric
from convergence.statistics.torch_source import DeviceArrays, DeviceGroupSums
from tests.unit.test_moments import hostile_samples

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def group_sums(samples: np.ndarray, precision: str, on_device: bool) -> dict[str, np.ndarray]:
    """Sums of a group with four samples per image."""
    arguments = (shift_of(samples[:, :400]), precision, True, 3)
    sums = DeviceGroupSums(*arguments, DEVICE) if on_device else HostGroupSums(*arguments)
    for start in range(0, samples.shape[1], 1_200):
        batch = samples[:, start : start + 1_200]
        n_images = batch.shape[1] // 4
        of_device = [
            torch.from_numpy(part).to(DEVICE) if on_device else part for part in (batch, batch[:, ::-1].copy())
        ]
        sums.update(of_device[0], n_images, np.arange(n_images) % 3, of_device[1])
    return {name: np.asarray(array[...]) if array.shape else array for name, array in sums.arrays()}


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-12), ("float32", 2e-6)])
def test_device_and_host_sums_agree(precision, tolerance):
    samples = hostile_samples(12_000)
    host, device = (group_sums(samples, precision, on_device) for on_device in (False, True))
    assert host.keys() == device.keys()
    assert host["count"] == device["count"] == 12_000
    for name in host:
        if name.startswith("histogram/"):
            np.testing.assert_array_equal(host[name], device[name])
    np.testing.assert_allclose(host["sums"], device["sums"], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(host["class_count"], device["class_count"])
    np.testing.assert_allclose(host["class_sums"], device["class_sums"], rtol=1e-6, atol=1e-6)
    for name in ("products", "shifted"):
        a, b = host[name], device[name]
        if name == "products":
            a, b = symmetric(a), symmetric(b)
        size = np.sqrt(np.diag(symmetric(host["products"])))[: len(a)]
        assert np.abs((a - b) / np.outer(size, size)).max() <= tolerance


def test_device_and_host_codes_agree():
    samples = np.concatenate([hostile_samples(5_000), np.full((1, 5_000), np.nan, np.float32)])
    samples[3, :7] = np.inf
    histograms = UnitHistograms.zeros(len(samples))
    histograms.update(samples)
    edges = equal_mass_bins(histograms, 10).edges
    np.testing.assert_array_equal(
        DeviceArrays(DEVICE).encode(torch.from_numpy(samples).to(DEVICE), edges), encode(samples, edges)
    )


def test_statistics_on_a_device_agree_with_the_host(tiny_config, tiny_copy, tiny_run):
    """The device path through the whole stage, with sampled positions."""
    arguments = ["statistics", str(tiny_config), "--runs", str(tiny_copy.parent), "--set", "statistics.sums=device"]
    assert main(arguments) == 0
    with h5py.File(tiny_copy / "statistics.h5") as device, h5py.File(tiny_run / "statistics.h5") as host:
        for name in ("conv1", "conv2", "fc1"):
            a, b = device["comparisons"][name], host["comparisons"][name]
            np.testing.assert_array_equal(a["group_count"][()], b["group_count"][()])
            for key in ("group_products", "group_shifted_products", "class_sums"):
                np.testing.assert_allclose(a[key][()], b[key][()], rtol=1e-4, atol=1e-3 * np.abs(b[key][()]).max())
            np.testing.assert_allclose(a["mutual_information"][()], b["mutual_information"][()], atol=0.02)


def test_device_sums_do_not_depend_on_the_batch_size():
    samples = torch.from_numpy(hostile_samples(9_000)[:11]).to(DEVICE)
    shift = np.zeros(11)
    found = []
    for batch in (9_000, 500):
        sums = DeviceGroupSums(shift, "float64", False, 0, DEVICE)
        for start in range(0, 9_000, batch):
            sums.update(samples[:, start : start + batch], 1)
        finished = sums.finish()
        found.append((finished.sums.tobytes(), finished.products[:].tobytes()))
    assert found[0] == found[1]


def test_gpus_of_a_machine_are_divided_among_its_processes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for n_gpus, size, wanted in (
        (4, 1, [[0, 1, 2, 3]]),
        (4, 2, [[0, 2], [1, 3]]),
        (2, 3, [[0], [1], [0]]),
        (1, 2, [[0], [0]]),
    ):
        monkeypatch.setattr(torch.cuda, "device_count", lambda n_gpus=n_gpus: n_gpus)
        found = [[device.index for device in devices_of_process("auto", rank, size)] for rank in range(size)]
        assert found == wanted
        assert devices_of_process("cpu", 0, size) == [torch.device("cpu")]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices_of_process("auto", 1, 2) == [torch.device("cpu")]
