"""``convergence.compare``: numbers of a run bit by bit, nets left unchanged, planted truths, and clear refusals."""

from __future__ import annotations

import copy
import gc
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import convergence
from convergence.cli import main
from convergence.config.load import read_config
from convergence.errors import UserError
from tests.helpers.runs import ORDER, datasets, planted_activations

FAST = {"rotations": 2, "measures": ["matching"], "sparse": {"enabled": False}, "clustering": {"enabled": False}}
QUICK = {"mutual_information": {"enabled": False}, "null": {"draws": 2}, "subset": 8}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def arrays():
    """Activations of three nets with the same units in another order, and of one with units of its own."""
    found = planted_activations()
    names = ("net1", "net2", "net3", "alone")
    nets = {name: {layer: found[f"{name}_{layer}"] for layer in ("conv1", "fc")} for name in names}
    pre = {name: {layer: found[f"{name}_{layer}_pre"] for layer in ("conv1", "fc")} for name in names}
    return nets, pre, found["labels"]


def make(torch, seed, width=6):
    """A small untrained net."""
    nn = torch.nn
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Flatten(),
            nn.Linear(16 * width, 5), nn.ReLU(), nn.Linear(5, 3),
        )  # fmt: skip


@pytest.fixture
def two(torch):
    return {"a": make(torch, 0), "b": make(torch, 1)}


@pytest.fixture
def images():
    return np.random.default_rng(0).standard_normal((40, 1, 6, 6)).astype(np.float32)


def quick(nets, data=None, layers=("0",), **more):
    """A comparison with few methods."""
    settings = {"statistics": QUICK, "analysis": FAST, "groups": 4, "progress": False} | more
    return convergence.compare(nets, data, list(layers) if isinstance(layers, tuple) else layers, **settings)


def test_modules_give_the_numbers_of_a_run_bit_by_bit(torch, tiny_config, tiny_run):
    from convergence.networks.weights import load_net

    experiment = read_config(tiny_config)
    images = experiment.images.load().test
    nets = {
        net.name: load_net(tiny_run / "nets" / net.name, net.spec, images.image_shape, images.n_classes)
        for net in experiment.all_nets()
    }
    statistics = experiment.statistics.model_dump(exclude={"comparisons", "groups"})
    results = convergence.compare(
        nets, images.read(np.arange(len(images))), ["conv1", "conv2", "fc1"], labels=images.labels, groups=5,
        untrained=[net.name for net in experiment.all_nets() if not net.trained], statistics=statistics, analysis=FAST,
        progress=False,
    )  # fmt: skip
    ours, theirs = datasets(results.statistics), datasets(tiny_run / "statistics.h5")
    different = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    about = ("label", "seed", "initialisation", "order_seed", "subset_seed", "held_out_accuracy", "weights_sha256")
    assert different <= {f"nets/{key}" for key in about}, "all numbers are equal; the training of live nets is unknown"


def test_arrays_give_the_numbers_of_a_run_bit_by_bit(arrays, planted_runs, tmp_path):
    nets, pre, labels = arrays
    experiment = read_config(planted_runs / "planted.toml")
    results = convergence.compare(
        nets, labels=labels, pre=pre, nonlinearity="relu", untrained=["alone"], groups=6, file=tmp_path / "kept",
        statistics=experiment.statistics.model_dump(exclude={"comparisons", "groups"}),
        analysis=FAST, progress=False,
    )  # fmt: skip
    assert datasets(results.statistics) == datasets(planted_runs / "runs" / "planted" / "statistics.h5")
    assert results["conv1"].matching("net1", "net2").partners.tolist() == ORDER
    assert main(["show", str(tmp_path / "kept")]) == 0


def test_nets_and_settings_of_torch_are_unchanged(torch, two, images):
    called = []
    two["a"].train()
    two["a"][1].eval()  # a frozen norm
    two["b"][0].weight.requires_grad_(False)
    two["b"][4].register_forward_hook(lambda *_: called.append(1))
    before = {name: copy.deepcopy(net.state_dict()) for name, net in two.items()}
    modes = {name: [part.training for part in net.modules()] for name, net in two.items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    quick(two, images, ["0", "4"], statistics=QUICK | {"threads": threads + 1})
    for name, net in two.items():
        assert [part.training for part in net.modules()] == modes[name]
        for key, value in net.state_dict().items():
            assert torch.equal(value, before[name][key])
        assert net[2].inplace
    assert two["a"][0].weight.requires_grad
    assert not two["b"][0].weight.requires_grad
    assert len(two["b"][4]._forward_hooks) == 1
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert torch.are_deterministic_algorithms_enabled() == deterministic


def test_loader_data_set_and_array_are_the_same_images(torch, two, images, monkeypatch):
    from torch.utils.data import DataLoader, TensorDataset

    from convergence.notebook import inputs

    labels = np.arange(40) % 3
    pairs = TensorDataset(torch.from_numpy(images), torch.from_numpy(labels))
    given = [
        quick(two, images, labels=labels),
        quick(two, torch.from_numpy(images), labels=torch.from_numpy(labels)),
        quick(two, pairs),
        quick(two, DataLoader(pairs, batch_size=7)),
    ]
    monkeypatch.setattr(inputs, "IN_MEMORY", 1000)  # the same from a scratch file
    given.append(quick(two, DataLoader(pairs, batch_size=7)))
    first, *others = [datasets(results.statistics) for results in given]
    assert any("class_sums" in name for name in first)
    for other in others:
        assert other == first
    folder = given[-1].statistics.parent
    del given
    gc.collect()
    assert not folder.exists(), "temporary files are removed with the results"


def test_activations_of_the_pilot_are_used_again_with_the_same_numbers(torch, two, images, monkeypatch):
    from convergence.notebook import stage
    from convergence.statistics.torch_source import NetSource

    read = []
    forward = NetSource.maps
    monkeypatch.setattr(NetSource, "maps", lambda self, *given: read.append(1) or forward(self, *given))
    settings = {"statistics": QUICK | {"mutual_information": {"enabled": True}, "null": {"draws": 0}}}
    found = []
    for bytes_kept, n_read in ((1 << 20, 1), (0, 2)):
        read.clear()
        monkeypatch.setattr(stage, "MOST", bytes_kept)
        found.append(datasets(quick(two, images, **settings).statistics))
        assert len(read) == n_read, "a batch of all four groups once, or twice"
    assert found[0] == found[1]


def test_a_permuted_copy_is_matched_unit_by_unit(torch, images):
    net, other = make(torch, 0), make(torch, 0)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(other[0], name).copy_(getattr(net[0], name)[order])
    matching = quick([net, other], images)["0"].matching("net1", "net2")
    assert matching.partners.tolist() == order.argsort().tolist()
    np.testing.assert_allclose(matching.correlation, 1, atol=1e-6)


def test_layers_are_aligned_by_position_or_chosen(torch, images):
    nets = {"narrow": make(torch, 0, 6), "wide": make(torch, 1, 9)}
    results = quick(nets, images, None)
    assert results.comparisons == ("0", "4"), "weights that all nets have, without those of the answer"
    assert "Layers were not given: 0, 4" in repr(results)
    aligned = convergence.compare(
        nets, images, {"narrow": ["0", "4"], "wide": ["0", "6"]}, groups=4, statistics=QUICK, analysis=FAST,
        progress=False,
    )  # fmt: skip
    assert aligned["4"].widths == (5, 3)
    assert aligned["0"].widths == (6, 9)


def test_a_kept_file_is_read_again_unless_nets_change(torch, two, images, tmp_path):
    results = quick(two, images, file=tmp_path)
    assert results.statistics == tmp_path / "statistics.h5"
    value = results["0"].estimate("matching", "a", "b").value
    before = (tmp_path / "statistics.h5").stat().st_mtime_ns
    assert quick(two, images, file=tmp_path)["0"].estimate("matching", "a", "b").value == value
    assert (tmp_path / "statistics.h5").stat().st_mtime_ns == before
    two["a"][0].weight.data += 1
    changed = quick(two, images, file=tmp_path)
    assert changed["0"].estimate("matching", "a", "b").value != value
    assert list((tmp_path / "superseded").rglob("statistics.h5")), "earlier results are kept"


def test_results_report_sentences_and_tables(arrays, tmp_path, monkeypatch):
    nets, pre, labels = arrays
    results = convergence.compare(
        nets, layers=["fc"], labels=labels, pre=pre, nonlinearity="relu", untrained=["alone"], groups=6,
        statistics=QUICK, analysis=FAST, progress=False,
    )  # fmt: skip
    assert "Matched units of trained nets are more similar than chance in fc" in repr(results)
    assert "Matched units of trained nets are more similar than chance in fc" in results._repr_html_()
    page = results.report(tmp_path / "report", title="Three nets")
    assert page == tmp_path / "report" / "index.html"
    assert "Three nets" in page.read_text(encoding="utf-8")
    with pytest.raises(UserError, match="Name a folder"):
        results.report()
    values = results.labelled()
    assert values.dims == ("layer", "measure", "x", "y")
    place = [values.labels[axis].tolist().index(name) for axis, name in
             (("layer", "fc"), ("measure", "matching"), ("x", "net2"), ("y", "net1"))]  # fmt: skip
    assert values[tuple(place)] == results["fc"].estimate("matching", "net1", "net2").value
    assert np.isnan(values[0, place[1], 0, 0])
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(UserError, match="pip install xarray"):
        results.to_xarray()
    pytest.importorskip("pandas")
    assert len(results.to_pandas()) == len(results.measures())


def test_arrays_need_no_torch():
    code = (
        "import sys, numpy as np, convergence\n"
        "x = np.random.default_rng(0).standard_normal((2, 20, 4))\n"
        f"settings = {{'groups': 4, 'statistics': {QUICK!r}, 'analysis': {FAST!r}}}\n"
        "r = convergence.compare([{'fc': x[0]}, {'fc': x[1]}], **settings)\n"
        "print(r['fc'].widths, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "(4, 4) False", done.stderr


SCRIPT = """
import numpy as np
import convergence
print("started")
rng = np.random.default_rng(0)
nets = {name: {"layer": rng.standard_normal((60, 8))} for name in "abc"}
found = convergence.compare(nets, nonlinearity="none", workers=2, progress=False)
print(len(found["layer"].results.pairs))
"""


@pytest.mark.slow
def test_a_script_without_a_main_guard_runs_once_with_worker_processes(tmp_path):
    """Processes that are spawned run the main module of their parent again, which would compare in each of them."""
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == ["started", "3"], done.stderr


def test_few_images_make_fewer_groups_unless_the_number_is_given(two, images):
    results = quick(two, images[:10], groups=None)
    assert results.n_groups == 5
    assert "10 images make 5 image groups instead of 20" in results.notes[0]
    with pytest.raises(UserError, match=r"at least 40 images.* choose at most 5"):
        quick(two, images[:10], groups=20)
    with pytest.raises(UserError, match="3 images; errors need"):
        quick(two, images[:3], groups=None)


def test_units_that_are_not_finite_are_named(torch, two, images):
    two["a"][0].weight.data[1] = np.nan
    assert "a, 0: 1 of 6 units are not finite and left out." in quick(two, images).notes
    with pytest.raises(UserError, match='all units of "a" in 4 have values that are not finite'):
        quick(two, images, ["4"])
    images[3, 0, 0, 0] = np.nan
    with pytest.raises(UserError, match="image 3 has values that are not finite"):
        quick(two, images)


def test_unusable_nets_layers_and_data_are_refused_with_the_remedy(torch, two, images, arrays):
    from torch.utils.data import DataLoader, TensorDataset

    a, b = two["a"], two["b"]
    other = {"a": a, "b": torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 3))}
    data = TensorDataset(torch.from_numpy(images))
    for nets, data_given, layers, said in (
        ({"a": a}, images, ["0"], "needs at least two"),
        ("a", images, ["0"], "valid are a dict"),
        ({"a": a, "b": 3}, images, ["0"], '"b" is a int'),
        ({"a": a, "b": {"fc": images}}, images, ["0"], "give one kind"),
        ({"a b": a, "b": b}, images, ["0"], "a b"),
        (other, images, ["4"], '"b": .*has no layer'),
        (other, images, None, "no layers of a common name"),
        (two, images, ["conv"], '"a": .*has no layer "conv"'),
        (two, images, [], "name at least one layer"),
        (two, images, {"a": ["0"], "b": ["0", "4"]}, "aligned by position"),
        (two, images, {"a": ["0"], "c": ["0"]}, 'no net "c"'),
        (two, None, ["0"], "data is missing"),
        (two, images[:0], ["0"], "there are no images"),
        (two, images[:, 0], ["0"], r'"a" cannot take inputs of shape \(2, 6, 6\)'),
        (two, list(images), ["0"], "Stack single images"),
        (two, DataLoader(data, shuffle=True), ["0"], "shuffle=False"),
        (two, DataLoader(data, collate_fn=lambda items: "x"), ["0"], "a batch is a str"),
        (two, [[images]], ["0"], "valid are an array"),
        (two, np.array(["a", "b"]), ["0"], "valid are numbers"),
        (arrays[0], images, ["fc"], "remove data"),
    ):
        with pytest.raises(UserError, match=said):
            quick(nets, data_given, layers)
    with pytest.raises(UserError, match='untrained: there is no net "c"'):
        quick(two, images, untrained=["c"])
    with pytest.raises(UserError, match="labels: an array of shape"):
        quick(two, images, labels=[1, 2])
    with pytest.raises(UserError, match="same images"):
        quick([{"fc": images[:, 0, 0]}, {"fc": images[1:, 0, 0]}], layers=["fc"])


def test_the_documented_notebook_was_executed_and_its_calls_exist(tmp_path):
    cells = json.loads((Path(__file__).parents[2] / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "executed once, from the top"
    assert all(cell["outputs"] for cell in code)
    assert not any(output["output_type"] == "error" for cell in code for output in cell["outputs"])
    assert "matched units of trained nets" in json.dumps(code[1]["outputs"]).lower()
    named = re.findall(r"[(,]\s*(\w+)=(?!=)", "".join(code[1]["source"]))
    assert {"layers", "labels", "untrained"} <= set(named) <= set(inspect.signature(convergence.compare).parameters)


def test_modules_from_one_net_are_recognised(torch, images, caplog):
    nets = {"a": make(torch, 0), "b": make(torch, 0), "c": make(torch, 1)}
    with torch.no_grad():
        for parameter in nets["b"].parameters():
            parameter += (
                0.3 * parameter.std() * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
            )
    with caplog.at_level("INFO"):
        quick(nets, images)
        assert "the weights of a and b correlate at 0.9" in caplog.text
        assert 'initialisations={"a": "base", "b": "base"}' in caplog.text
        caplog.clear()
        quick(nets, images, initialisations={"a": "one", "b": "one"})
        assert "place by place" not in caplog.text


def test_nets_from_one_initialisation_give_no_conclusion_about_nets_trained_apart(arrays, tmp_path):
    nets, pre, _ = arrays
    settings = {"untrained": ["alone"], "pre": pre, "nonlinearity": "relu", "layers": ["fc"], "file": tmp_path / "kept"}
    apart = quick(nets, **settings)
    assert len(apart["fc"].results.of_kind("trained")) == 3
    value = apart["fc"].summary("matching").value
    same = quick(nets, initialisations=dict.fromkeys(("net1", "net2", "net3"), "base"), **settings)
    assert same["fc"].results.of_kind("trained") == []
    assert len(same["fc"].results.of_kind("same_init")) == 3
    assert same["fc"].summary("matching", "same_init").value == value
    assert same.findings() == []
    page = (same.report(tmp_path / "report")).read_text(encoding="utf-8")
    assert "3 nets trained from 1 initialisation and 1 untrained" in page
    assert "pairs of these kinds: trained with untrained, trained from one initialisation." in page
    for wrong, words in (({"nte1": "base"}, 'unknown net "nte1"'), ({"alone": "base"}, "is untrained")):
        with pytest.raises(UserError, match=words):
            quick(nets, initialisations=wrong, **settings)


@pytest.mark.slow
def test_the_documented_notebook_runs(torch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = json.loads((Path(__file__).parents[2] / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "notebook.ipynb", "exec"), names)
    assert (tmp_path / "report" / "index.html").exists()
