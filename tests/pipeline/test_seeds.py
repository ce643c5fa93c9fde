"""Seeds of initial weights, image order and training subset: what each changes, alone and jointly."""

from types import SimpleNamespace

import numpy as np
import pytest

from convergence.config.load import parse_config
from convergence.config.stages import TrainingConfig
from convergence.data.images import ArrayImages, Splits
from convergence.functional.context import ExperimentContext
from convergence.networks.small import Small
from convergence.networks.weights import load_net
from convergence.runs.run_folder import RunFolder
from convergence.runs.stages import Options, _train
from convergence.training import loop
from convergence.training.trainer import Candidate

NETWORK = Small(name="small", channels=(4,), hidden=(6,))
CONFIG = TrainingConfig(epochs=2, batch_size=16, threads=1, loader_workers=0, keep_epochs=(0,))
TEXT = """
name = "t"
data = { name = "digits" }
training = { epochs = 1, threads = 1, loader_workers = 0 }
statistics = { comparisons = ["conv1"] }
[[nets]]
seeds = [1, 1, 2, 2]
order_seeds = [5, 6, 5, 6]
network = { name = "small", channels = [3], hidden = [4] }
"""


@pytest.fixture(scope="module")
def splits() -> Splits:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 20)
    images = rng.standard_normal((60, 1, 8, 8)).astype(np.float32)
    images[:, 0, 0, 0] += 3 * labels
    some = ArrayImages(images, labels, "abc")
    return Splits(some, some)


def trained(folder, splits, config=CONFIG, **seeds):
    row = loop.make_net(folder, NETWORK, 1, True, splits, config, **seeds)
    return [(folder / name).read_bytes() for name in ("epochs/00000.safetensors", "weights.safetensors")], row


def test_another_order_gives_other_weights_from_the_same_initial_weights(splits, tmp_path):
    (start, end), _ = trained(tmp_path / "default", splits)
    assert trained(tmp_path / "same", splits, order_seed=CONFIG.data_seed)[0] == [start, end]
    (same_start, other_end), _ = trained(tmp_path / "other", splits, order_seed=9)
    assert same_start == start
    assert other_end != end


def test_another_subset_gives_other_weights_and_an_equal_one_the_same_bits(splits, tmp_path):
    config = CONFIG.model_copy(update={"data_share": 0.5})
    (start, end), row = trained(tmp_path / "a", splits, config, order_seed=3, subset_seed=1)
    assert trained(tmp_path / "b", splits, config, order_seed=3, subset_seed=1)[0] == [start, end]
    other, _ = trained(tmp_path / "c", splits, config, order_seed=3, subset_seed=2)
    assert other[0] == start
    assert other[1] != end
    assert round(row["train_accuracy"] * 30, 6) == round(row["train_accuracy"] * 30)  # a share of 30 images
    assert row["test_accuracy"] > 0.3


def test_nets_of_different_orders_share_no_batches(splits, tmp_path):
    nets = [Candidate(tmp_path / str(k), NETWORK, 1, order_seed=k) for k in range(2)]
    with pytest.raises(ValueError, match="share no batches"):
        loop.train_jointly(nets, splits, CONFIG)


@pytest.mark.parametrize("jointly", [True, 2])
def test_joint_training_of_mixed_orders_equals_training_alone(tmp_path, jointly):
    experiment = parse_config(TEXT, ["training.data_share=0.1", "nets.0.subset_seeds=[1, 1, 1, 2]"])
    folders = []
    for name, together in (("alone", False), ("jointly", jointly)):
        config = experiment.training.model_copy(update={"train_jointly": together})
        folder = RunFolder(tmp_path / name, experiment.model_copy(update={"training": config}))
        _train(folder, Options(), Alone())
        folders.append(folder)
    for net in experiment.all_nets():
        one, other = ((folder.net_folder(net) / "weights.safetensors").read_bytes() for folder in folders)
        assert one == other, net.name
    shape = (1, 8, 8)
    first, second = (load_net(folders[0].net_folder(net), net.spec, shape, 10) for net in experiment.all_nets()[:2])
    assert any((x != y).any() for x, y in zip(first.parameters(), second.parameters(), strict=True))


class Alone:
    """A single process."""

    rank, size = 0, 1

    def share(self, value):
        return value


def test_digests_have_the_seeds_that_matter(tmp_path):
    def digests(*overrides):
        folder = RunFolder(tmp_path, parse_config(TEXT, overrides))
        return [task.digest for task in folder.train_tasks()]

    assert len(set(digests())) == 4
    plain = ["nets.0.seeds=[1, 2, 3, 4]"]
    same = digests(*plain, "nets.0.order_seeds=7")
    assert same == digests(*plain, "nets.0.order_seeds=[7, 7, 7, 7]", "training.data_seed=3")
    assert same != digests(*plain, "nets.0.order_seeds=8")
    half = ["nets.0.order_seeds=1", "training.data_share=0.5"]
    assert digests(*plain, *half) == digests(*plain, *half, "nets.0.subset_seeds=0")
    assert digests(*plain, *half)[0] != digests(*plain, *half, "nets.0.subset_seeds=1")[0]


def test_nets_without_these_seeds_keep_their_digest(tmp_path):
    """Values of a record made before order and subset had seeds."""
    experiment = parse_config(TEXT.replace("order_seeds = [5, 6, 5, 6]", "").replace("[1, 1, 2, 2]", "[1, 2]"))
    (values, _) = (task.values["training"] for task in RunFolder(tmp_path, experiment).train_tasks())
    assert not {"data_share", "subset_seed"} & set(values)
    assert values["data_seed"] == 0


def test_experiments_take_nets_trained_apart():
    def names(*overrides):
        nets = parse_config(TEXT, overrides).all_nets()
        return [net.name for net in ExperimentContext.trained_apart.fget(SimpleNamespace(trained=nets))]

    assert names() == ["net1", "net3"]
    assert names("nets.0.seeds=[4, 4, 4, 4]", "nets.0.order_seeds=[1, 2, 3, 4]") == ["net1", "net2", "net3", "net4"]


def test_initialisation_is_of_network_and_seed():
    nets = parse_config(
        TEXT + '[[nets]]\nlabel = "wide"\nseeds = [1]\nnetwork = { name = "small", channels = [9] }'
    ).all_nets()
    assert nets[0].initialisation == nets[1].initialisation
    assert len({net.initialisation for net in nets}) == 3
    assert [net.order_seed for net in nets] == [5, 6, 5, 6, 0]
    assert {net.subset_seed for net in nets} == {None}
