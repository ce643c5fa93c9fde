"""Transformers trained here: on the next byte of Python's own source files, and on digits as patches."""

from __future__ import annotations

import csv
import re
import sysconfig
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file

import convergence
from convergence.cli import main
from convergence.config.load import parse_config
from convergence.networks.weights import load_net
from convergence.training import loop
from tests.helpers.torch_processes import finish, start
from tests.pipeline.test_distributed_training import curve
from tests.pipeline.test_resume import metrics, results

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

MODULES = (
    "abc",
    "bisect",
    "cmd",
    "colorsys",
    "copy",
    "fnmatch",
    "glob",
    "heapq",
    "keyword",
    "numbers",
    "operator",
    "pprint",
    "queue",
    "random",
    "runpy",
    "sched",
    "secrets",
    "shlex",
    "stat",
    "string",
    "struct",
    "textwrap",
    "this",
    "timeit",
)
"""Modules of the standard library, each a document."""
TEXT = """
name = "text"
[data]
name = "text"
root = "{root}"
files = "*.py"
length = 32
min_tokens = 8
held_out = 0.5
[[nets]]
seeds = [1, 2, 3]
network = {{ name = "transformer", task = "next_token", width = 16, heads = 2, mlp_ratio = 2, dropout = 0.1 }}
[[nets]]
label = "untrained"
seeds = [11]
network = {{ name = "transformer", task = "next_token", width = 16, heads = 2, mlp_ratio = 2, dropout = 0.1 }}
trained = false
[training]
epochs = 2
batch_size = 32
optimizer = "adamw"
learning_rate = 0.01
threads = 1
[layers."blocks.1.last"]
module = "blocks.1"
tokens = "last"
[statistics]
comparisons = ["blocks.1.mlp.up", "blocks.1.attention.heads", "blocks.1", "blocks.1.last"]
max_images = 400
groups = 6
subset = 20
positions = 4
threads = 1
mutual_information = {{ enabled = false }}
null = {{ draws = 2 }}
[analysis]
measures = ["matching", "absolute_matching", "linear_cka"]
rotations = 2
sparse = {{ enabled = false }}
clustering = {{ enabled = false }}
[pictures]
enabled = false
[report]
formats = ["svg"]
"""
VIT = """
name = "vit"
data = { name = "digits" }
[[nets]]
seeds = [1, 2]
network = { name = "transformer", width = 24, heads = 4, mlp_ratio = 2, patch = 2 }
[training]
epochs = 8
optimizer = "adamw"
learning_rate = 0.005
threads = 1
[statistics]
comparisons = ["blocks.0.mlp.up", "blocks.1.attention.heads", "blocks.1"]
max_images = 200
groups = 4
subset = 20
positions = 4
threads = 1
mutual_information = { enabled = false }
null = { draws = 2 }
[analysis]
measures = ["matching", "absolute_matching", "linear_cka"]
rotations = 2
sparse = { enabled = false }
clustering = { enabled = false }
[pictures]
enabled = false
[report]
formats = ["svg"]
"""


@pytest.fixture(scope="session")
def sources(tmp_path_factory) -> Path:
    """Source files of the standard library, cut to 2,000 bytes."""
    folder = tmp_path_factory.mktemp("sources")
    for name in MODULES:
        text = (Path(sysconfig.get_paths()["stdlib"]) / f"{name}.py").read_text("utf-8")
        (folder / f"{name}.py").write_text(text[:2000], encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def text_run(sources, tmp_path_factory) -> Path:
    """A run of :data:`TEXT`, from training to report."""
    folder = tmp_path_factory.mktemp("text")
    config = folder / "text.toml"
    config.write_text(TEXT.format(root=sources), encoding="utf-8")
    assert main(["run", str(config), "--runs", str(folder)]) == 0
    return folder / "text"


def test_nets_learn_the_next_byte(text_run):
    with (text_run / "nets" / "untrained1" / "metrics.csv").open() as file:
        (before,) = csv.DictReader(file)
    assert float(before["test_loss"]) == pytest.approx(np.log(256), rel=0.02)
    for k in (1, 2, 3):
        rows = curve(text_run / "nets" / f"net{k}")
        assert (rows[-1, 2] < 4.0).all()
        assert (rows[-1, 3] > 0.15).all()


def test_metrics_are_of_all_next_tokens(text_run, sources):
    """The held-out loss of a net against a loop over the pieces of its held-out texts."""
    experiment = parse_config(TEXT.format(root=sources))
    images = experiment.images.load().test
    net = load_net(text_run / "nets" / "net2", experiment.all_nets()[1].spec, images.image_shape, 0)
    losses, right = [], []
    for k in range(len(images)):
        ids = images.read(np.array([k]))[0]
        ids = torch.from_numpy(ids[ids >= 0])
        with torch.no_grad():
            logits = net(torch.nn.functional.pad(ids, (0, 32 - len(ids)), value=-1)[None])[0, : len(ids) - 1]
        losses += torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none").tolist()
        right += (logits.argmax(1) == ids[1:]).tolist()
    found = curve(text_run / "nets" / "net2")[-1, 2:]
    np.testing.assert_allclose(found, [np.mean(losses), np.mean(right)], rtol=1e-5)


def test_sums_are_of_tokens_that_exist_and_documents_stay_together(text_run, sources):
    experiment = parse_config(TEXT.format(root=sources))
    images = experiment.images.load().test
    with h5py.File(text_run / "statistics.h5") as file:
        group, family = file["images/group_of_image"][:], file["images/family_of_image"][:]
        places = {name: file["comparisons"][name] for name in file["comparisons"]}
        last = places["blocks.1.last"]
        sums = last["group_sums"][:] + last["group_count"][:][:, None] * last["shift"][:]
        counts = {name: int(place["group_count"][:].sum()) for name, place in places.items()}
        nets = [name.decode() for name in last.attrs["nets"]] if isinstance(last.attrs["nets"][0], bytes) else list(
            last.attrs["nets"]
        )  # fmt: skip
    used = np.flatnonzero(group >= 0)
    assert counts == {name: len(used) * (1 if name == "blocks.1.last" else 4) for name in places}
    assert all(len(set(group[(family == one) & (group >= 0)])) <= 1 for one in set(family))
    assert len(set(family[used])) == 12
    rows = images.read(used)
    ends = (rows >= 0).sum(1) - 1
    assert len(set(ends)) > 1
    (net,) = (one for one in experiment.all_nets() if one.name == "net3")
    module = load_net(text_run / "nets" / "net3", net.spec, images.image_shape, 0)
    seen = []
    module.blocks[1].register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    with torch.no_grad():
        module(torch.from_numpy(rows))
    wanted = np.array([seen[0][ends_of, end].numpy() for ends_of, end in enumerate(ends)], np.float64)
    units = slice(16 * nets.index("net3"), 16 * nets.index("net3") + 16)
    for k in range(6):
        np.testing.assert_allclose(sums[k, units], wanted[group[used] == k].sum(0), rtol=1e-4, atol=1e-3)


def test_results_and_report_have_all_layers(text_run):
    run = convergence.open(text_run)
    assert [view.name for view in run] == ["blocks.1.mlp.up", "blocks.1.attention.heads", "blocks.1", "blocks.1.last"]
    for view in run:
        assert 0 < view.summary("linear_cka").value <= 1
    report = " ".join((text_run / "report" / "index.html").read_text("utf-8").split())
    for layers in ("blocks.1.attention.heads, blocks.1 and blocks.1.last", "blocks.1.mlp.up"):
        said = f"The basis of the units is not privileged in {layers}"
        assert (said in report) == (layers != "blocks.1.mlp.up")
    assert [view.results.unprivileged for view in run] == [False, True, True, True]


def test_a_stopped_training_ends_in_the_same_bits(sources, tmp_path, monkeypatch, caplog):
    """With dropout, stopped in the second epoch."""
    config = tmp_path / "text.toml"
    config.write_text(TEXT.format(root=sources).replace("seeds = [1, 2, 3]", "seeds = [1]"), encoding="utf-8")
    train = ["train", str(config), "--no-check", "--runs"]
    asked, stop_at = 0, 0

    def stopping():
        nonlocal asked
        asked += 1
        return asked == stop_at

    with monkeypatch.context() as patch, caplog.at_level("INFO"):
        patch.setattr(loop, "is_stopping", stopping)
        assert main([*train, str(tmp_path / "whole")]) == 0
        asked, stop_at = 0, 3 * asked // 4
        assert main([*train, str(tmp_path / "stopped")]) == 75
        assert main([*train, str(tmp_path / "stopped")]) == 0
    assert re.search("net1: resuming after epoch 1, step [1-9]", caplog.text)
    assert results(tmp_path / "whole") == results(tmp_path / "stopped")
    whole, stopped = (tmp_path / name / "text/nets/net1" for name in ("whole", "stopped"))
    assert metrics(whole) == metrics(stopped)


def test_two_processes_weigh_every_token_alike(sources, tmp_path):
    """To rounding. Rows with different numbers of tokens: a mean over rows or processes would differ."""
    config = tmp_path / "text.toml"
    text = TEXT.format(root=sources).replace("seeds = [1, 2, 3]", "seeds = [1]").replace(", dropout = 0.1", "")
    config.write_text(text.replace("batch_size = 32", "batch_size = 91"), encoding="utf-8")  # the last one of one row
    for size in (1, 2):
        codes, errors = finish(start(size, ["train", str(config), "--runs", str(tmp_path / f"{size}")]))
        assert codes == [0] * size, errors
    one, two = (tmp_path / f"{size}" / "text/nets/net1" for size in (1, 2))
    np.testing.assert_allclose(curve(two), curve(one), rtol=1e-4)
    first, second = (load_file(folder / "weights.safetensors") for folder in (one, two))
    for name, values in first.items():
        if not name.endswith("key.bias"):  # changes no attention: its gradient is rounding, which AdamW scales up
            np.testing.assert_allclose(second[name], values, atol=2e-4, err_msg=name)


def test_tokens_beyond_the_vocabulary_are_found_before_the_run(sources, tmp_path, capsys):
    config = tmp_path / "text.toml"
    config.write_text(TEXT.format(root=sources).replace("width = 16", "n_tokens = 100, width = 16"), encoding="utf-8")
    assert main(["run", str(config), "--runs", str(tmp_path)]) == 2
    assert "has 100 tokens (network.n_tokens), and the data have token ids up to " in capsys.readouterr().err
    assert not (tmp_path / "text" / "nets").exists()


def test_vision_transformer_learns_digits(tmp_path):
    config = tmp_path / "vit.toml"
    config.write_text(VIT, encoding="utf-8")
    assert main(["run", str(config), "--runs", str(tmp_path)]) == 0
    for k in (1, 2):
        assert curve(tmp_path / "vit" / "nets" / f"net{k}")[-1, 3] > 0.8
    run = convergence.open(tmp_path / "vit")
    heads = run["blocks.1.attention.heads"].estimate("linear_cka", "net1", "net2")
    assert 0.2 < heads.value <= 1
