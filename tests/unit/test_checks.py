"""Checks before a run: planted faults are found with the right words, and sound nets cost little."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from convergence.checks import CHECKS
from convergence.checks.context import CheckContext
from convergence.checks.run import check_run, has_passed, stages_ahead
from convergence.cli import main
from convergence.config.load import parse_config
from convergence.data import DATA_SETS
from convergence.networks import NETWORKS
from convergence.runs.run_folder import RunFolder
from convergence.runs.stages import STAGE_TABLE
from tests.helpers import checked_nets

CONFIG = """
name = "checked"
data = {{ name = "noise"{data} }}
[[nets]]
network = {{ name = "planted", kind = "{kind}"{options} }}
seeds = [1, 2]
[training]
epochs = 1
batch_size = 8
threads = 1
[statistics]
comparisons = {layers}
groups = 4
threads = 1
[pictures]
enabled = false
threads = 1
[report]
formats = ["svg"]
"""


@pytest.fixture(autouse=True)
def planted(monkeypatch):
    """The data set and the networks of tests/helpers/checked_nets.py by name."""
    monkeypatch.setitem(DATA_SETS.entries, "noise", "tests.helpers.checked_nets:Noise")
    monkeypatch.setitem(NETWORKS.entries, "planted", "tests.helpers.checked_nets:Planted")


def config_text(
    kind: str = "Good", layers: str = '["conv1"]', data: str = "", options: str = "", more: str = ""
) -> str:
    return CONFIG.format(kind=kind, layers=layers, data=data, options=options) + more


def findings(tmp_path: Path, *overrides: str, **parts: str):
    experiment = parse_config(config_text(**parts), overrides)
    folder = RunFolder(tmp_path / "runs" / experiment.name, experiment)
    return check_run(folder, stages_ahead(folder)).findings


def only(found, level: str, check: str) -> str:
    """The text of the only finding."""
    (finding,) = found
    assert (finding.level, finding.check) == (level, check), finding
    return str(finding)


NET_FAULTS = {
    "AlwaysDropout": ("differ", "forward method of AlwaysDropout draws random numbers", "training=self.training"),
    "RandomModule": ("differ", "the module jitter (Jitter) draws random numbers"),
    "CoupledNorm": ("depends on the other images", "the module norm (BatchNorm2d) mixes images"),
    "TupleOutput": ("returns a tuple of 2 values", "(n_images, n_classes), here (2, 2)", "returns the logits alone"),
    "DictOutput": ("returns a dict with the keys logits",),
    "TupleInTraining": ("in training mode, the net returns a tuple of 2 values",),
    "OneLogit": ("shape (2, 1)", "One logit for two classes is two outputs"),
    "ManyClasses": ("shape (2, 10)", "2 outputs, one for each class"),
    "TokenLogits": ("shape (2, 3, 2)",),
    "WrongChannels": ("on images of shape (2, 6, 6) failed", "3 channels"),
    "Raises": ("KeyError", "a key that nobody has", "checked_nets.py, line"),
    "NotFinite": ("not finite",),
    "Lazy": ("fc.weight", "lazy modules"),
    "HiddenState": ("returns other values after its weights were saved and loaded", "register_buffer"),
    "OwnSeed": ("seeds 1 and 2 give the same initial weights",),
}
TRAINING_FAULTS = {
    "NumpySeed": ("built twice from seed 1", "fc.bias"),
    "InfiniteGradient": ("gradients of", "not finite"),
    "FixedBatch": ("a step with a batch of 8 failed", "shape '[3, 4]' is invalid"),
}


@pytest.mark.parametrize("kind", NET_FAULTS)
def test_faulty_nets_are_refused_with_the_cause(kind, tmp_path):
    text = only(findings(tmp_path, kind=kind), "fault", "nets")
    assert text.startswith("net1, net2: ")
    for words in NET_FAULTS[kind]:
        assert words in text


@pytest.mark.parametrize("kind", TRAINING_FAULTS)
def test_faulty_steps_are_refused_with_the_cause(kind, tmp_path):
    text = only(findings(tmp_path, kind=kind), "fault", "training")
    for words in TRAINING_FAULTS[kind]:
        assert words in text


def test_weights_of_other_precision_and_frozen_nets_are_refused(tmp_path):
    assert "float64" in only(findings(tmp_path, options=", double = true"), "fault", "nets")
    assert "no parameter that can be trained" in only(
        findings(tmp_path, options=", frozen = true"), "fault", "training"
    )


def test_last_batch_of_one_image_is_refused_only_where_a_norm_needs_two(tmp_path):
    data = ", n_train = 17"
    text = only(findings(tmp_path, kind="PooledNorm", data=data), "fault", "training")
    assert "17 images in batches of 8" in text
    assert "Set training.batch_size = 7" in text
    assert findings(tmp_path, "training.batch_size=7", kind="PooledNorm", data=data) == ()
    assert findings(tmp_path, data=data) == ()
    assert findings(tmp_path, kind="PooledNorm") == ()


def test_half_precision_and_other_optimiser_options_are_stepped(tmp_path):
    for options in (('training.precision="bfloat16"', 'training.optimizer="adamw"'), ("training.channels_last=true",)):
        assert findings(tmp_path, *options) == ()


def test_warnings_of_training(tmp_path):
    text = only(findings(tmp_path, kind="UnusedLayer"), "warning", "training")
    assert "2 of 8 parameters get no gradient" in text
    assert "unused.weight, unused.bias" in text
    assert "another generator than torch's" in only(
        findings(tmp_path, kind="PythonRandomInTraining"), "warning", "nets"
    )
    found = findings(tmp_path, "training.warmup_epochs=2", 'training.schedule="step"')
    assert [finding.level for finding in found] == ["warning", "warning"]
    assert "training.warmup_epochs = 2" in found[0].found
    assert "training.step_epochs = 20" in found[1].found


LAYER_FAULTS = {
    ("Good", '["convv1"]'): ('no layer "convv1"', 'did you mean "conv1"'),
    ("Good", '["conv1#2"]'): ("there is no call 2", "calls it once for an image"),
    ("Summed", '["summed"]'): ("shape () for 2 images and () for 3", "no axis runs over the images"),
}


@pytest.mark.parametrize(("kind", "layers"), LAYER_FAULTS)
def test_layers_that_cannot_be_read_are_refused_with_the_cause(kind, layers, tmp_path):
    text = only(findings(tmp_path, kind=kind, layers=layers), "fault", "layers")
    for words in LAYER_FAULTS[kind, layers]:
        assert words in text


def test_layers_of_any_axes_and_of_any_control_flow_pass(tmp_path):
    kinds = {"ChannelsLast": "linear", "OverSequence": "sequence", "Recurrent": "rnn", "Folded": "inner"}
    for kind, layer in [*kinds.items(), ("Untraceable", "conv1")]:
        assert findings(tmp_path, kind=kind, layers=f'["{layer}"]') == ()


def test_pictures_of_nets_without_a_graph_are_refused(tmp_path):
    text = only(findings(tmp_path, "pictures.enabled=true", kind="Untraceable"), "fault", "layers")
    assert "cannot be traced" in text
    assert "pictures.enabled = false" in text


def test_constant_layer_and_layers_without_common_positions(tmp_path):
    assert "gives 0 for every unit" in only(findings(tmp_path, kind="DeadLayer"), "warning", "layers")
    layers = '[{ name = "both", layers = ["conv1", "fc"] }]'
    assert "no positions in common" in only(findings(tmp_path, layers=layers), "fault", "layers")


def test_everything_is_reported_at_once(tmp_path):
    more = '[[nets]]\nlabel = "other"\nseeds = [3]\nnetwork = { name = "planted", kind = "HiddenState" }\n'
    found = findings(
        tmp_path, "statistics.groups=13", "pictures.enabled=true", 'pictures.layers=["fcc"]',
        layers='["conv1", "conv2"]', more=more,
    )  # fmt: skip
    named = [(finding.check, finding.found.split()[0]) for finding in found if finding.level == "fault"]
    assert [check for check, _ in named] == ["images", "nets", "layers", "layers", "layers", "layers"]
    text = " ".join(str(finding) for finding in found)
    for words in ("statistics.groups = 13", "other1: ", '"conv2"', '"fcc"', "pictures.layers"):
        assert words in text


def test_tied_weights_are_no_fault(tmp_path):
    assert [finding for finding in findings(tmp_path, kind="Tied") if finding.level == "fault"] == []


def test_images_with_wrong_labels_or_values_are_refused(tmp_path):
    assert "labels of training images are 1 to 2" in str(findings(tmp_path, data=", label = 1")[0])
    assert "not finite" in str(findings(tmp_path, data=", broken = true")[0])
    assert "there are 2 training images" in str(findings(tmp_path, data=", n_train = 2")[0])


def test_functional_experiments_are_refused_or_warned_of(tmp_path):
    layers = '["conv1"]'
    enabled = [f"functional.{name}.enabled=true" for name in ("stitch", "merge", "compress", "ensemble", "average")]
    small = ["training.batch_size=8", "functional.average.workers=2"]
    assert findings(tmp_path, *enabled, *small) == ()
    found = findings(tmp_path, *enabled, *small, kind="Chunked", layers=layers)
    assert {finding.check: finding.level for finding in found} == dict.fromkeys(
        ("merge", "compress", "average"), "warning"
    )
    assert all("cumsum" in str(finding) for finding in found)
    pooled = '[{ name = "conv1", layers = "conv1", pool = true }]'
    text = only(findings(tmp_path, "functional.stitch.enabled=true", layers=pooled), "fault", "stitch")
    assert "no comparison has both nets of a pair" in text


def test_a_sound_net_is_built_and_run_a_fixed_number_of_times(tmp_path):
    checked_nets.Good.calls = 0
    assert findings(tmp_path, "statistics.comparisons=['conv1', 'norm', 'fc']") == ()
    passes = "2 passes, 1 image alone, 1 of many, 1 loaded, 2 in training mode, 5 steps, 1 recorded, 4 readings"
    assert checked_nets.Good.calls <= 17, passes


def test_random_states_and_threads_are_restored(tmp_path):
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate(), torch.get_num_threads()  # noqa: NPY002
    findings(tmp_path, "training.threads=3", kind="PythonRandomInTraining")
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    assert before[2:] == (random.getstate(), torch.get_num_threads())


def test_resources_are_compared_with_this_machine(tmp_path, monkeypatch):
    usage = shutil._ntuple_diskusage(10**6, 10**6 - 1000, 1000)
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage)
    text = only(findings(tmp_path), "fault", "disk")
    assert "1 kB are free" in text
    assert "--runs" in text
    monkeypatch.undo()
    monkeypatch.setitem(DATA_SETS.entries, "noise", "tests.helpers.checked_nets:Noise")
    monkeypatch.setitem(NETWORKS.entries, "planted", "tests.helpers.checked_nets:Planted")
    monkeypatch.setattr("hpc.dask_executor.free_memory", lambda: 1e6)
    monkeypatch.setattr("hpc.dask_executor.usable_cores", lambda: 2)
    found = findings(tmp_path, "statistics.threads=5", "functional.threads=2")
    assert [finding.check for finding in found] == ["memory", "memory", "memory", "cores"]
    assert {finding.level for finding in found} == {"warning"}
    assert "statistics.threads = 5" in found[-1].found


def test_stages_name_known_checks():
    assert {name for stage in STAGE_TABLE.values() for name in stage.checks} == set(CHECKS)


# ---- verbs ----


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A function that writes a config and returns the arguments of a verb."""

    def write(**parts: str) -> list[str]:
        path = tmp_path / "checked.toml"
        path.write_text(config_text(**parts), encoding="utf-8")
        return [str(path), "--runs", str(tmp_path / "runs")]

    return write


def test_train_refuses_before_any_net_is_trained_and_no_check_goes_past(config, tmp_path, capsys):
    given = config(kind="UnusedLayer", layers='["convv1"]')
    assert main(["train", *given]) == 2
    error = capsys.readouterr().err
    assert "1 fault was found before the run, and nothing was started:\n  1. layers: " in error
    assert "--no-check" in error
    assert not list((tmp_path / "runs").glob("*/nets"))
    assert main(["train", *given, "--no-check"]) == 0


def test_statistics_is_checked_for_trained_nets_and_warnings_do_not_stop(config, tmp_path, capsys, caplog):
    given = config(kind="UnusedLayer")
    assert main(["train", *given]) == 0
    assert "warning: training: net1, net2: 2 of 8 parameters get no gradient" in caplog.text
    assert main(["statistics", *given, "--set", 'statistics.comparisons=["fcc"]']) == 2
    assert 'did you mean "fc"' in capsys.readouterr().err


def test_a_passed_check_is_not_repeated_until_settings_change(config, tmp_path, monkeypatch):
    given = config()
    assert main(["train", *given, "--net", "net1"]) == 0
    made = []
    monkeypatch.setattr(CheckContext, "build", lambda self, *args: made.append(args) or 1 / 0)
    assert main(["train", *given]) == 0
    assert made == []
    assert main(["train", *given]) == 0  # all nets are trained
    experiment = parse_config(Path(given[0]).read_text(encoding="utf-8"), ["training.batch_size=7"])
    folder = RunFolder(tmp_path / "runs" / "checked", experiment)
    assert not has_passed(folder, stages_ahead(folder))


def test_checked_training_ends_with_the_same_bits(config, tmp_path):
    from safetensors.torch import load_file

    found = []
    for options in ([], ["--no-check"]):
        given = config()[:1]
        runs = tmp_path / f"runs{len(found)}"
        assert main(["train", *given, "--runs", str(runs), *options]) == 0
        found.append(load_file(runs / "checked" / "nets" / "net1" / "weights.safetensors"))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_check_prints_findings_and_estimates(config, capsys):
    assert main(["check", *config(kind="NotFinite"), "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["kind", "experiment", "sound", "checks", "findings", "needs"]
    assert not document["sound"]
    assert document["findings"][0]["remedy"]
    assert main(["check", *config(kind="UnusedLayer")]) == 0
    text = capsys.readouterr().out
    assert "0 faults, 1 warning; checked: images, nets, training, layers, positions, resources" in text
    assert "train       memory" in text
    assert "about" in text.split("on disk")[0]


def test_cluster_verbs_check_first(config, tmp_path, capsys, monkeypatch):
    site = tmp_path / "site.toml"
    site.write_text("[train]\nmemory_gb = 0.2\n", encoding="utf-8")
    faulty, cluster = config(kind="NotFinite"), ["--cluster", str(site)]
    for more in ([], ["--dry-run"]):
        assert main(["submit", *faulty, *cluster, *more]) == 2
        assert "not finite" in capsys.readouterr().err
    assert main(["submit", *faulty, *cluster, "--dry-run", "--no-check"]) == 0
    assert "#SBATCH" in capsys.readouterr().out
    from slurm import doctor

    monkeypatch.setattr(doctor, "run_checks", lambda folder: [])
    assert main(["doctor", *faulty]) == 2
    assert "fault   nets" in capsys.readouterr().out
    sound = config()
    assert main(["plan", *sound, *cluster]) == 0
    assert "are estimated by `convergence check`" in capsys.readouterr().out
    assert main(["check", *sound]) == 0
    capsys.readouterr()
    assert main(["plan", *sound, *cluster]) == 0
    assert "estimates on the machine of `convergence check`" in capsys.readouterr().out
