"""Configs: what is accepted, what is refused, and how the refusal helps."""

from pathlib import Path

import pytest

from convergence.config.load import parse_config, read_config
from convergence.errors import ConfigError

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))
TEXT = """
name = "trial"
[data]
name = "digits"
[[nets]]
seeds = [1, 2]
network = { name = "small", channels = [4, 8] }
[statistics]
comparisons = ["conv1"]
"""


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_are_valid(path):
    experiment = read_config(path)
    assert experiment.name == path.stem
    assert len(experiment.all_nets()) >= 2


def test_names_of_nets_and_layers():
    experiment = parse_config(TEXT)
    assert [net.name for net in experiment.all_nets()] == ["net1", "net2"]
    assert [(net.name, layer) for net, layer in experiment.nets_of(experiment.statistics.comparisons[0])] == [
        ("net1", "conv1"),
        ("net2", "conv1"),
    ]


def test_overrides_reach_tables_and_lists():
    experiment = parse_config(
        TEXT,
        [
            "training.epochs=3",
            "nets.0.seeds=[5, 6, 7]",
            "name=other",
            'statistics.positions="all"',
            "analysis.sparse.alphas=5",
        ],
    )
    assert experiment.training.epochs == 3
    assert experiment.nets[0].seeds == (5, 6, 7)
    assert experiment.name == "other"
    assert experiment.analysis.sparse.alphas == 5


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.epoch=3", ['unknown key "training.epoch"', 'did you mean "epochs"']),
        ("training.epochs=0", ['"training.epochs"', "greater than or equal to 1", "received: 0"]),
        ("training.optimizer=adm", ['"training.optimizer"', "'sgd' or 'adamw'", "'adm'"]),
        ("data.name=dijits", ['unknown data set "dijits"', 'did you mean "digits"']),
        ("nets.0.network.name=smal", ['unknown network "smal"', 'did you mean "small"']),
        ("nets.0.network.chanels=[3]", ['unknown key "nets.0.network.chanels"']),
        ("analysis.measures=['linear_ka']", ['unknown measure "linear_ka"', "linear_cka"]),
        ("nets.0.seeds=[1, 1]", ["seeds [1, 1] list a seed twice"]),
        ("nets.0.order_seeds=[1, 2, 3, 4, 5, 6]", ["order_seeds lists 6 seeds for", "one integer for all"]),
        ("nets.0.order_seeds=[-1]", ["greater than or equal to 0"]),
        (
            "nets.0={label='a', seeds=[4, 4], order_seeds=[2, 2], network={name='small'}}",
            ["two nets have seed 4 and order_seed 2", "change a seed"],
        ),
        ("nets.0={label='a', seeds=[4, 4], order_seeds=2, network={name='small'}}", ["list a seed twice"]),
        (
            "nets.0={label='a', seeds=[4, 5], order_seeds=2, trained=false, network={name='small'}}",
            ["order_seeds are given for untrained nets", "remove them"],
        ),
        ("nets.0.subset_seeds=3", ["net has subset_seeds", "training.data_share = 1"]),
        ("training.data_share=0.0", ['"training.data_share"', "greater than 0"]),
        ("training.data_share=0.01", ["more than the 13 training images of a net (training.data_share = 0.01)"]),
        ("nets.0.seeds=[1]", ["joins fewer than two nets"]),
        ("nets.3.seeds=[1]", ['"3" is no index of a list of 1 items']),
        ("training", ["write it as key=value"]),
        ("name.first=x", ["name is a value, not a table"]),
        ("report.pair=['net1', 'net7']", ['unknown net "net7"']),
        ("analysis.sparse.alpha_min=2.0", ["alpha_min 2.0 must be below"]),
        ("training.keep_epochs=[0, 11]", ["epoch 11 is after the last epoch, training.epochs = 10"]),
        ("training.keep_epochs=[1, 1]", ["keep_epochs [1, 1] lists an epoch twice"]),
        (
            'statistics.comparisons=[{name="a", layers="conv1", epochs=[2, 10]}]',
            ['"a" lists epoch 2', "training.keep_epochs (now []; the last epoch, 10, is always kept)"],
        ),
        ('statistics.comparisons=[{name="a", layers="conv1", epochs=[]}]', ["at least 1 item"]),
        (
            'statistics.comparisons=[{name="a", layers="conv1", epochs=[10, 10]}]',
            ["[10, 10] lists a layer"],
        ),
        (
            'statistics.comparisons=[{name="a", layers=["conv1", "conv1"]}]',
            ["['conv1', 'conv1'] lists a layer or an"],
        ),
        ('statistics.comparisons=[{name="a", layers=[]}]', ["at least 1 item"]),
        ('statistics.comparisons=[{name="a", layers={ne="conv1"}}]', ['unknown group "ne"', 'did you mean "net"']),
        ('statistics.comparisons=[{name="a", layers={net=["x/y", "z"]}}]', ['"x/y" contains "/"']),
        ("statistics.subset=-1", ['"statistics.subset"', "greater than or equal to 0"]),
    ],
)
def test_config_errors_name_value_and_valid_choices(override, words):
    with pytest.raises(ConfigError) as refused:
        parse_config(TEXT, [override])
    for word in words:
        assert word in str(refused.value)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(ConfigError, match="there is no such config file"):
        read_config(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("name = ")
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_config(tmp_path / "broken.toml")


def test_net_groups_may_name_different_layers():
    text = TEXT + '\n[[nets]]\nlabel = "wide"\nseeds = [1, 2]\nnetwork = { name = "small", channels = [8, 8] }\n'
    text = text.replace('["conv1"]', '[{ name = "mixed", layers = { net = "conv1", wide = "conv2" } }]')
    experiment = parse_config(text)
    members = experiment.nets_of(experiment.statistics.comparisons[0])
    assert [(net.name, layer) for net, layer in members] == [
        ("net1", "conv1"),
        ("net2", "conv1"),
        ("wide1", "conv2"),
        ("wide2", "conv2"),
    ]


def test_one_net_at_two_epochs_is_a_comparison():
    for layers in ('"conv1", epochs = [3, 0]', '["conv1", "conv2"]'):
        text = TEXT.replace('["conv1"]', f'[{{ name = "own", layers = {layers} }}]')
        experiment = parse_config(text, ["nets.0.seeds=[4]", "training.epochs=3", "training.keep_epochs=[0, 1]"])
        first, second = experiment.layer_refs_of(experiment.statistics.comparisons[0])
        assert first.net == second.net == "net1"
        assert {first.name, second.name} in ({"net1@3", "net1@0"}, {"net1:conv1", "net1:conv2"})
        assert first.kept is None


def test_activations_have_no_epochs():
    text = """
name = "given"
[activations.nets]
a = { fc = "a.npy" }
b = { fc = "b.npy" }
[statistics]
comparisons = [{ name = "fc", layers = "fc", epochs = [1] }]
"""
    with pytest.raises(ConfigError, match=r"\[activations\] have no epochs"):
        parse_config(text)


def test_speed_settings_do_not_change_the_digest():
    slow, quick = parse_config(TEXT), parse_config(TEXT, ["statistics.loader_workers=7"])
    assert slow.statistics.digest_values() == quick.statistics.digest_values()
    other = parse_config(TEXT, ["statistics.batch_size=7"])
    assert slow.statistics.digest_values() != other.statistics.digest_values()
