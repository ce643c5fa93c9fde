"""Nets that are trained already: they take part as trained nets, known by the content of their files."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file  # noqa: E402

from convergence.cli import main  # noqa: E402
from convergence.config.load import parse_config, read_config  # noqa: E402
from convergence.errors import ConfigError  # noqa: E402
from convergence.networks.weights import initialise  # noqa: E402
from convergence.runs.run_folder import RunFolder  # noqa: E402

CONFIG = """
name = "given"
data = { name = "digits" }
[[nets]]
label = "mine"
network = { name = "small", channels = [4], hidden = [8] }
weights = ["a.pt", "b.safetensors"]
[[nets]]
label = "untrained"
network = { name = "small", channels = [4], hidden = [8] }
seeds = [7]
trained = false
[statistics]
comparisons = ["fc1"]
max_images = 60
groups = 4
threads = 1
loader_workers = 0
subset = 8
mutual_information = { enabled = false }
null = { draws = 0 }
[training]
threads = 1
loader_workers = 0
[analysis]
rotations = 2
[pictures]
enabled = false
[functional]
threads = 1
merge = { enabled = true, fit_images = 40, steps = 3 }
"""


def state(seed: int, n_outputs: int = 10) -> dict:
    spec = parse_config(CONFIG).nets[0].network
    return initialise(spec, seed, (1, 8, 8), n_outputs).state_dict()


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("convergence.runs.weights_record.RECHECK_S", 0.0)
    Path("c.toml").write_text(CONFIG)
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state(1).items()}}, "a.pt")
    save_file({key: value.half() for key, value in state(2).items()}, "b.safetensors")
    return tmp_path


def folder() -> RunFolder:
    return RunFolder("runs/given", read_config("c.toml"))


def states() -> list[str]:
    run = folder()
    return [run.state(task) for task in run.train_tasks()]


def log_of(caplog, *words: str) -> str:
    caplog.clear()
    with caplog.at_level("INFO"):
        assert main([*words]) == 0
    return caplog.text


def test_nets_with_weights_are_trained_nets_in_all_stages(place, caplog):
    text = log_of(caplog, "train", "c.toml")
    for verb in ("statistics", "merge"):
        assert main([verb, "c.toml"]) == 0
    run = folder()
    imported = [load_file(run.path / "nets" / f"mine{k}" / "weights.safetensors") for k in (1, 2)]
    assert all(torch.equal(imported[0][key], value) for key, value in state(1).items())
    assert all(torch.equal(imported[1][key], value.half().float()) for key, value in state(2).items())
    assert "weights stored as float16 were converted to float32" in text
    with h5py.File(run.statistics_file) as file:
        nets = file["nets"]
        assert [name.decode() for name in nets["name"]] == ["mine1", "mine2", "untrained1"]
        assert nets["trained"][:].tolist() == [True, True, False]
        assert nets["initialisation"][:2].tolist() == [b"mine1", b"mine2"]
        assert nets["seed"][:].tolist() == [-1, -1, 7]
        assert np.isfinite(nets["held_out_accuracy"][:]).all()
    assert (run.functional_folder / "merge.h5").exists()
    record = json.loads((run.path / "nets" / "mine1" / "record.json").read_text())
    assert len(record["values"]["weights"]["sha256"]) == 64
    assert "training" not in record["values"]


def test_content_of_files_decides_what_runs_again(place, caplog):
    assert main(["train", "c.toml"]) == 0
    Path("elsewhere").mkdir()
    shutil.move("a.pt", "elsewhere/renamed.pt")
    Path("c.toml").write_text(CONFIG.replace("a.pt", "elsewhere/renamed.pt"))
    assert "train mine1: already done" in log_of(caplog, "train", "c.toml")
    Path("elsewhere/renamed.pt").unlink()  # the weights in the run folder suffice
    assert "the files of mine1 are not here" in log_of(caplog, "train", "c.toml")
    torch.save(state(5), "elsewhere/renamed.pt")
    text = log_of(caplog, "train", "c.toml", "--no-check")
    assert "elsewhere/renamed.pt holds other weights than those recorded" in text
    assert "train mine2: already done" in text
    assert torch.equal(load_file("runs/given/nets/mine1/weights.safetensors")["fc1.weight"], state(5)["fc1.weight"])
    assert states() == ["done", "done", "done"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda: shutil.copy("a.pt", "c.pt") and text("b.safetensors", "c.pt"), "mine1 and mine2 have equal weights"),
        (lambda: save_file(state(1), "b.safetensors"), "mine1 and mine2 have equal weights, in different files"),
        (lambda: Path("a.pt").unlink(), "mine1: a.pt: there is no such file of weights"),
        (lambda: torch.save(torch.nn.Linear(2, 2), "a.pt"), "needs the code of torch.nn.modules.linear.Linear"),
        (lambda: torch.save(state(1) | {"fc9.weight": torch.ones(1)}, "a.pt"), "unknown to the net: fc9.weight"),
        (lambda: torch.save(state(1) | {"fc1.bias": torch.ones(3)}, "a.pt"), "fc1.bias: (3,) in the checkpoint, (8,)"),
    ],
)  # fmt: skip
def test_weights_that_cannot_be_used_are_refused_before_any_work(place, spoil, words, capsys):
    spoil()
    assert main(["train", "c.toml"]) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not list(Path("runs/given/nets").glob("*")) if Path("runs/given/nets").exists() else True


def test_other_number_of_outputs_than_classes_leaves_accuracy_out(place, caplog):
    for seed, name in ((1, "a.pt"), (2, "b.safetensors")):
        save_file(state(seed, 13), name)
    text = log_of(caplog, "train", "c.toml")
    assert "mine1: the net has 13 outputs, as its weights, and the data have 10 classes" in text
    assert main(["statistics", "c.toml"]) == 0
    with h5py.File(folder().statistics_file) as file:
        assert np.isnan(file["nets/held_out_accuracy"][:]).tolist() == [True, True, False]
    assert main(["merge", "c.toml"]) == 2, "merging measures accuracy"
    head = load_file("runs/given/nets/mine1/weights.safetensors")["classifier.weight"]
    assert torch.equal(head, state(1, 13)["classifier.weight"])


def text(old: str, new: str) -> None:
    Path("c.toml").write_text(CONFIG.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('weights = ["a.pt"', 'seeds = [1]\nweights = ["a.pt"', "seeds and weights are both given"),
        ('weights = ["a.pt"', 'trained = false\nweights = ["a.pt"', "weights are those of trained nets"),
        ('"b.safetensors"', '"a.pt"', "weights list 'a.pt' twice"),
        ('weights = ["a.pt", "b.safetensors"]', "", r"seeds are missing; give seeds = \[1, 2\]"),
        ('weights = ["a.pt"', 'download = true\nweights = ["a.pt"', "download is for named weights"),
        ("seeds = [7]", 'seeds = [7]\nkey_map = { "a" = "b" }', "key_map is given without weights"),
    ],
)
def test_contradictions_are_refused(old, new, words):
    with pytest.raises(ConfigError, match=words):
        parse_config(CONFIG.replace(old, new))


def test_nets_with_weights_share_no_initialisation():
    nets = parse_config(CONFIG).all_nets()
    assert len({net.initialisation for net in nets}) == 3
    assert [net.trained_here for net in nets] == [False] * 3
    assert [net.order_seed for net in nets] == [None] * 3


def test_nets_from_one_net_are_no_nets_trained_apart():
    """Their initial weights have a name, which is part of the statistics and of nothing before."""
    named = parse_config(CONFIG.replace('safetensors"]', 'safetensors"]\ninitialisations = "base"'))
    (a, b, untrained), apart = named.all_nets(), parse_config(CONFIG).all_nets()
    assert a.initialisation == b.initialisation == "initialisation base"
    assert untrained.initialisation == apart[2].initialisation
    assert [net.initialisation for net in apart[:2]] == ["mine1", "mine2"]
    listed = parse_config(CONFIG.replace('safetensors"]', 'safetensors"]\ninitialisations = ["base", "other"]'))
    assert [net.initialisation for net in listed.all_nets()[:2]] == ["initialisation base", "initialisation other"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('safetensors"]', 'safetensors"]\ninitialisations = ["base"]', "lists 1 names for 2 nets"),
        ("seeds = [7]", 'seeds = [7]\ninitialisations = "base"', "initialisations is given without weights"),
    ],
)
def test_names_of_initial_weights_that_fit_no_net_are_refused(old, new, words):
    with pytest.raises(ConfigError, match=words):
        parse_config(CONFIG.replace(old, new))


def test_checkpoints_of_one_training_are_recognised(place, capsys):
    """Two nets with weights around common ones, in every tensor."""
    near = {key: value + 0.5 * value.std() * torch.randn(value.shape) for key, value in state(1).items()}
    save_file(near, "b.safetensors")
    assert main(["check", "c.toml"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "warning nets the weights of mine1 and mine2 correlate at 0.8" in said
    assert 'give them a common name, initialisations = "base"' in said
    Path("c.toml").write_text(CONFIG.replace('safetensors"]', 'safetensors"]\ninitialisations = "base"'))
    assert main(["check", "c.toml"]) == 0
    assert "place by place" not in capsys.readouterr().out
