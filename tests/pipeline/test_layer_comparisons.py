"""Comparisons of epochs and layers, means over positions, and the stored subset: each against what it must equal."""

from __future__ import annotations

import shutil

import h5py
import numpy as np
import pytest
import torch

from convergence.cli import main
from convergence.config.load import parse_config, read_config
from convergence.data.images import read_batches
from convergence.errors import ConfigError, FileError
from convergence.networks.weights import initialise, load_net
from convergence.statistics.array_source import ArraySource
from convergence.statistics.file import open_statistics
from convergence.statistics.sampling import ImageGroups, mean_over_positions, mean_over_positions_plain
from tests.helpers.hdf5_edits import resealed
from tests.helpers.ranks import COMMAND, run_ranks
from tests.helpers.runs import datasets, forget_statistics

pytestmark = pytest.mark.slow

CONFIG = """
name = "members"
[data]
name = "digits"
[[nets]]
seeds = [1, 2]
network = { name = "small", channels = [4, 5], hidden = [6] }
[[nets]]
label = "start"
seeds = [1]
network = { name = "small", channels = [4, 5], hidden = [6] }
trained = false
[training]
epochs = 3
keep_epochs = [0, 1]
threads = 1
[statistics]
comparisons = [
  "conv2",
  { name = "over_time", layers = "conv2", epochs = [0, 1, 3] },
  { name = "layers", layers = ["conv1", "fc1"], pool = true },
  { name = "both", layers = { net = ["conv2", "fc1"], start = "conv1" }, epochs = [3, 1], pool = true },
]
max_images = 60
groups = 3
subset = 25
batch_size = 16
threads = 1
shifted_null = true
[statistics.mutual_information]
positions = 4
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "members.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """Folder of the run with trained nets and statistics; tests must not change it."""
    runs = tmp_path_factory.mktemp("runs")
    for stage in ("train", "statistics"):
        assert main([stage, str(config), "--runs", str(runs)]) == 0
    return runs / "members"


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "runs" / "members")


def sums_of_member(sums, member: str) -> list[np.ndarray]:
    """All sums over one member's units alone, and its stored means."""
    units = sums.units(member)
    cut = slice(units[0], units[-1] + 1)
    own = [sums.group_products[:, cut, cut], sums.group_shifted_products[:, cut, cut]]
    return [
        sums.shift[cut],
        sums.group_sums[:, cut],
        *own,
        sums.mutual_information[cut, cut],
        sums.subset_samples[:, cut],
    ]


def test_members_are_named_by_net_layer_and_epoch(run):
    with open_statistics(run / "statistics.h5") as file:
        plain, over_time, layers, both = (file.sums(name) for name in file.comparisons)
        assert plain.nets == plain.of_net == ("net1", "net2", "start1")
        assert plain.epochs == (-1, -1, -1)
        assert plain.trained == (True, True, False)
        assert over_time.nets == ("net1@0", "net1@1", "net1@3", "net2@0", "net2@1", "net2@3", "start1")
        assert over_time.of_net == ("net1", "net1", "net1", "net2", "net2", "net2", "start1")
        assert over_time.epochs == (0, 1, 3, 0, 1, 3, -1)
        assert over_time.trained == (False, True, True, False, True, True, False)
        assert layers.nets == ("net1:conv1", "net1:fc1", "net2:conv1", "net2:fc1", "start1:conv1", "start1:fc1")
        assert layers.layers == ("conv1", "fc1") * 3
        assert layers.pooled
        assert not plain.pooled
        assert both.nets[:4] == ("net1:conv2@3", "net1:conv2@1", "net1:fc1@3", "net1:fc1@1")
        assert both.nets[-1] == "start1"
        assert both.epochs == (3, 1, 3, 1, 3, 1, 3, 1, -1)
        np.testing.assert_array_equal(both.unit_net, np.repeat(range(9), [5, 5, 6, 6, 5, 5, 6, 6, 4]))


def test_members_have_the_weights_of_their_epoch(run):
    """Epoch 0 equals an untrained net of the same seed, the last epoch the final weights."""
    with open_statistics(run / "statistics.h5") as file:
        plain, over_time = file.sums("conv2"), file.sums("over_time")
        same = [
            (over_time, "net1@0", over_time, "start1"),
            (over_time, "net1@3", plain, "net1"),
            (over_time, "net2@3", plain, "net2"),
        ]
        for one, x, other, y in same:
            for a, b in zip(sums_of_member(one, x), sums_of_member(other, y), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)  # products of other widths round otherwise
            np.testing.assert_array_equal(sums_of_member(one, x)[-1], sums_of_member(other, y)[-1])
        for x, y in (("net1@0", "net1@1"), ("net1@1", "net1@3"), ("net1@0", "net2@0")):
            assert (sums_of_member(over_time, x)[-1] != sums_of_member(over_time, y)[-1]).any()


def test_kept_weights(run, config):
    experiment = read_config(config)
    net = experiment.all_nets()[0]
    folder, shape = run / "nets" / "net1", (1, 8, 8)
    assert sorted(path.name for path in (folder / "epochs").iterdir()) == ["00000.safetensors", "00001.safetensors"]
    assert not (run / "nets" / "start1" / "epochs").exists()
    start = initialise(net.spec, net.seed, shape, 10).state_dict()
    kept = load_net(folder, net.spec, shape, 10, epoch=0).state_dict()
    assert all(torch.equal(start[key], kept[key]) for key in start)
    with pytest.raises(FileError, match=r"epoch 2 were not kept.*with 2 among training\.keep_epochs"):
        load_net(folder, net.spec, shape, 10, epoch=2)


def test_missing_epochs_are_noticed(config, copy, capsys):
    forget_statistics(copy)
    (copy / "nets" / "net2" / "epochs" / "00001.safetensors").unlink()
    assert main(["statistics", str(config), "--runs", str(copy.parent)]) == 2
    assert "nets/net2/epochs/00001.safetensors is missing" in capsys.readouterr().err


def test_subset_samples_are_means_of_the_nets_activations(run, config):
    experiment = read_config(config)
    images = experiment.images.load().test
    net = experiment.all_nets()[1]
    with h5py.File(run / "statistics.h5") as file:
        chosen, group = file["images/subset"][()], file["images/subset_group"][()]
        np.testing.assert_array_equal(file["images/group_of_image"][()][chosen], group)
    assert len(np.unique(chosen)) == 25
    assert (np.bincount(group) >= 8).all()
    ((_, batch),) = read_batches(images, [chosen])
    with open_statistics(run / "statistics.h5") as file:
        for name, member, layer, epoch in (
            ("conv2", "net2", "conv2", None),
            ("over_time", "net2@1", "conv2", 1),
            ("layers", "net2:fc1", "fc1", None),
        ):
            sums = file.sums(name)
            whole = load_net(run / "nets" / "net2", net.spec, (1, 8, 8), 10, epoch)
            names = [key for key, _ in whole.named_children()]
            with torch.no_grad():
                maps = whole[: names.index(f"{layer}_relu") + 1](torch.from_numpy(batch)).numpy()
            means = maps.reshape(len(batch), maps.shape[1], -1).astype(float).mean(axis=2)
            np.testing.assert_allclose(sums.subset_samples[:, sums.units(member)], means, rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(sums.subset_group, group)


def test_pooled_sums_follow_from_the_stored_means_of_all_images(config, copy):
    """With every image in the subset, numpy reproduces all sums in float64."""
    forget_statistics(copy)
    sets = ["--set", "statistics.subset=999", "--set", "statistics.precision=float64"]
    assert main(["statistics", str(config), "--runs", str(copy.parent), *sets]) == 0
    with open_statistics(copy / "statistics.h5") as file:
        for name in ("layers", "both"):
            sums = file.sums(name)
            assert len(sums.subset_samples) == 60 == sums.group_count.sum()
            header = file.header()
            for g in range(3):
                x = sums.subset_samples[sums.subset_group == g] - sums.shift
                stored = header.subset[sums.subset_group == g]
                ring = ImageGroups.of(read_config(config).statistics, len(header.group_of_image), None).images(g)
                following = np.searchsorted(stored, np.roll(ring, -1)[np.argsort(ring)])
                np.testing.assert_allclose(sums.group_sums[g], x.sum(axis=0), atol=1e-9)
                np.testing.assert_allclose(sums.group_products[g], x.T @ x, atol=1e-9)
                np.testing.assert_allclose(sums.group_shifted_products[g], x.T @ x[following], atol=1e-9)


def test_stored_activations_of_any_shape_pool(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "conv": rng.standard_normal((40, 3, 5, 4)).astype(np.float32),
        "tokens": rng.standard_normal((40, 7, 6)).astype(np.float32),
        "fc": rng.standard_normal((40, 5)).astype(np.float32),
    }
    for key, array in arrays.items():
        np.save(tmp_path / f"{key}.npy", array)
    text = f"""
name = "given"
[activations]
root = "{tmp_path.as_posix()}"
[activations.nets.a]
conv = "conv.npy"
fc = "fc.npy"
[activations.nets.b]
conv = "conv.npy"
fc = "tokens.npy"
[statistics]
comparisons = [{{ name = "all", layers = {{ a = ["conv", "fc"], b = "fc" }}, pool = true }}]
groups = 2
subset = 15
positions = 3
mutual_information = {{ enabled = false }}
"""
    (tmp_path / "given.toml").write_text(text)
    assert main(["statistics", str(tmp_path / "given.toml"), "--runs", str(tmp_path)]) == 0
    units_last = [arrays["conv"].transpose(0, 2, 3, 1).reshape(40, -1, 3), arrays["fc"][:, None], arrays["tokens"]]
    means = np.concatenate([a.astype(float).mean(axis=1).astype(np.float32) for a in units_last], axis=1)
    with h5py.File(tmp_path / "given" / "statistics.h5") as file:
        attributes = dict(file["comparisons/all"].attrs)
        assert list(attributes["nets"]) == ["a:conv", "a:fc", "b"]
        np.testing.assert_array_equal(attributes["map_shapes"], [[5, 4], [0, 0], [7, 0]])
        assert len(attributes["map_shape"]) == 0
        assert attributes["positions"] == "all"
        assert attributes["pooled"]
        chosen = file["images/subset"][()]
    with open_statistics(tmp_path / "given" / "statistics.h5") as file:
        sums = file.sums("all")
        np.testing.assert_array_equal(sums.subset_samples, means[chosen])
        total = sums.group_sums.sum(axis=0) + sums.shift * 40
        np.testing.assert_allclose(total, means.sum(axis=0, dtype=float), atol=1e-5)
    unpooled = parse_config(text.replace("pool = true", "pool = false"))
    with pytest.raises(ConfigError, match=r"no positions in common .*pool = true"):
        ArraySource(unpooled)


def test_means_over_positions():
    maps = np.random.default_rng(0).standard_normal((4, 3, 50)).astype(np.float32) + 100
    for values in (maps, maps.transpose(0, 2, 1), maps[:, :, :1]):
        np.testing.assert_allclose(mean_over_positions(values), mean_over_positions_plain(values), rtol=1e-7)
    np.testing.assert_array_equal(mean_over_positions(maps)[2:3], mean_over_positions(maps[2:3]))
    maps[1, 2, 3] = np.nan
    np.testing.assert_array_equal(np.isnan(mean_over_positions(maps))[..., 0], np.isnan(maps).any(axis=2))


@pytest.mark.mpi
def test_two_ranks_with_nets_change_no_bit(config, copy, run):
    forget_statistics(copy)
    code, errors = run_ranks(2, [*COMMAND, "statistics", str(config), "--runs", str(copy.parent)])
    assert code == 0, errors
    assert datasets(copy / "statistics.h5") == datasets(run / "statistics.h5")


@pytest.mark.mpi
def test_ranks_name_damaged_weights(config, copy):
    forget_statistics(copy)
    (copy / "nets" / "net2" / "weights.safetensors").write_bytes(b"damaged")
    code, errors = run_ranks(2, [*COMMAND, "statistics", str(config), "--runs", str(copy.parent)])
    assert code == 2
    assert "net2" in errors


def test_device_and_host_means_agree(config, copy, run):
    forget_statistics(copy)
    arguments = ["statistics", str(config), "--runs", str(copy.parent), "--set", "statistics.sums=device"]
    assert main(arguments) == 0
    with open_statistics(copy / "statistics.h5") as device, open_statistics(run / "statistics.h5") as host:
        for name in host.comparisons:
            a, b = device.sums(name), host.sums(name)
            np.testing.assert_allclose(a.subset_samples, b.subset_samples, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(a.group_products[:], b.group_products[:], rtol=1e-3, atol=1e-2)


def test_subset_has_equally_many_images_of_each_group():
    groups = ImageGroups(1_000, 7, seed=3, max_images=500)
    few, more = groups.subset(50), groups.subset(90)
    assert (np.diff(few) > 0).all()
    assert set(few) < set(more)
    assert set(np.bincount(groups.group_of_image[few], minlength=7)) <= {7, 8}
    np.testing.assert_array_equal(groups.subset(10_000), np.flatnonzero(groups.group_of_image >= 0))
    assert not len(groups.subset(0))
    assert set(ImageGroups(1_000, 7, seed=4, max_images=500).subset(50)) != set(few)


def test_no_subset(config, copy):
    forget_statistics(copy)
    assert main(["statistics", str(config), "--runs", str(copy.parent), "--set", "statistics.subset=0"]) == 0
    with open_statistics(copy / "statistics.h5") as file:
        sums = file.sums("layers")
        assert sums.subset_samples is None
        assert sums.subset_group is None
    with h5py.File(copy / "statistics.h5") as file:
        assert set(file["images"]) == {"group_of_image", "family_of_image"}


def test_matrices_are_read_by_slices_and_verified_separately(copy):
    path = copy / "statistics.h5"
    with open_statistics(path) as file, h5py.File(path, "r") as plain:
        file.verify()
        sums, place = file.sums("over_time"), plain["comparisons/over_time"]
        x, y = (slice(u[0], u[-1] + 1) for u in (sums.units("net1@1"), sums.units("net2@3")))
        np.testing.assert_array_equal(sums.group_products[1, x, y], place["group_products"][()][1, x, y])
        np.testing.assert_array_equal(
            sums.group_shifted_products[:, x, y], place["group_shifted_products"][()][:, x, y]
        )
        np.testing.assert_array_equal(sums.mutual_information[x, y], place["mutual_information"][()][x, y])
        np.testing.assert_array_equal(
            sums.mutual_information_without[:, x, y], place["mutual_information_without"][()][:, x, y]
        )
    with h5py.File(path, "r+") as file:
        file["comparisons/over_time/mutual_information"][0, 1] += 1
        file["comparisons/both/subset_samples"][0, 0] += 1
    with open_statistics(path) as file:
        sums = file.sums("over_time")
        with pytest.raises(FileError, match="mutual_information does not match its checksum"):
            sums.mutual_information[0, :2]
        file.verify("conv2")
        for name in ("over_time", "both", None):
            with pytest.raises(FileError, match="does not match its checksum"):
                file.verify(name)
        with pytest.raises(FileError, match="does not match its checksum"):
            file.sums("both")
        with pytest.raises(FileError, match='no comparison "conv9"'):
            file.verify("conv9")
    with resealed(path) as file:
        del file["comparisons/layers/group_products"]
    with pytest.raises(FileError, match="group_products is missing"), open_statistics(path):
        pass


def test_show_names_members(config, run, capsys):
    assert main(["show", str(config), "--runs", str(run.parent)]) == 0
    text = capsys.readouterr().out
    assert "over_time joins net1@0, net1@1, net1@3, net2@0, net2@1, net2@3, start1" in text
    assert "mean of all" in text
    assert "25 images are stored as means over positions" in text
    assert "training.keep_epochs = [0, 1]" in text
    assert "conv2 joins" not in text
