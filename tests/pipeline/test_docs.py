"""Documents: recipes work as written, generated sections are current, named files exist."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from convergence.analysis.layout import document_layout
from convergence.cli import VERBS, main
from convergence.config.load import parse_config
from convergence.data import DATA_SETS
from convergence.figures import FIGURES
from convergence.networks import NETWORKS
from convergence.networks.layer_config import LayerConfig
from convergence.similarity import MEASURES
from tests.helpers.analysis_rows import row

ROOT = Path(__file__).parents[2]
REGISTRIES = {"data": DATA_SETS, "figures": FIGURES, "networks": NETWORKS, "similarity": MEASURES}


@pytest.fixture
def recipes(tmp_path, monkeypatch):
    """The additions of docs/extend.md: each file importable, each line in its registry."""
    text = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
    found = re.findall(r"```python\n(# convergence/(\w+)/(\w+)\.py\n.*?)```", text, re.S)
    assert sorted(room for _, room, _ in found) == sorted(REGISTRIES)
    for code, room, module in found:
        (tmp_path / f"{module}.py").write_text(code, encoding="utf-8")
        ((name, attribute),) = re.findall(rf'`"(\w+)": "convergence\.{room}\.{module}:(\w+)"`', text)
        monkeypatch.setitem(REGISTRIES[room].entries, name, f"{module}:{attribute}")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.slow
def test_measure_and_figure_recipes_reach_the_report(recipes, tiny_config, tiny_copy):
    runs = ["--runs", str(tiny_copy.parent), "--set", 'analysis.measures=["mean_strength", "matching"]']
    assert main(["run", str(tiny_config), *runs]) == 0
    found = row(tiny_copy / "analysis.h5", "conv1", "measures", x="net1", y="net2", measure="mean_strength")
    assert found["low"] < found["value"] < found["high"]
    assert 0 < found["null"] < 1
    assert "mean |r|" in (tiny_copy / "report" / "index.html").read_text(encoding="utf-8")
    assert "How often are units silent?" in (tiny_copy / "report" / "layer-conv1.html").read_text(encoding="utf-8")


def test_network_recipe_classifies_images_of_the_data_set_recipe(recipes):
    torch = pytest.importorskip("torch")
    images = DATA_SETS.load("stripes")(name="stripes", n_images=20).load().test
    net = NETWORKS.load("perceptron")(name="perceptron").build(images.image_shape, images.n_classes)
    assert net(torch.from_numpy(images.read(np.arange(3)))).shape == (3, 2)


def test_files_md_holds_the_layout_of_analysis_h5():
    text = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
    generated = text.split("<!-- analysis.h5: generated -->\n")[1].split("<!-- end -->")[0]
    assert generated == document_layout(), "renew it: python -m convergence.analysis.layout docs/files.md"


def test_security_md_describes_every_verb():
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8").split("## What each verb does\n")[1]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")]
    assert [row[0].strip("`") for row in rows] == list(VERBS)
    assert {len(row) for row in rows} == {5}
    assert all(row[1] for row in rows), "each verb reads something"


def test_examples_of_data_md_are_valid_configs_and_name_every_source():
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    configs = [parse_config(example) for example in re.findall(r"```toml\n(.*?)```", text, re.S)]
    named = {row.split("`")[1] for row in text.splitlines() if row.startswith("| `")}
    named |= set(re.findall(r"`(digits|photos|cifar10)`", text))
    others = {"torchvision": "torchvision:<data set>", "factory": "package.module:factory"}
    assert {others.get(name, name) for name in DATA_SETS} <= named
    names = [config.images.name for config in configs]
    assert names == ["image_folder", "torchvision:FashionMNIST", "mydata:flowers", "arrays", "text"]


def test_examples_of_layers_md_are_valid_settings_of_layers():
    text = (ROOT / "docs" / "layers.md").read_text(encoding="utf-8")
    start = 'name = "x"\ndata = { name = "digits" }\n[[nets]]\nseeds = [1, 2]\nnetwork = "torchvision:resnet18"\n'
    configs = [parse_config(start + example) for example in re.findall(r"```toml\n(.*?)```", text, re.S)]
    assert [len(config.layers) for config in configs] == [0, 3]
    described = re.findall(r"^\| `(\w+)` \|", text[text.index("| key of") : text.index("## The axis")], re.M)
    assert described == list(LayerConfig.model_fields)


def test_examples_of_nets_md_are_valid_configs():
    pytest.importorskip("torchvision")
    text = (ROOT / "docs" / "nets.md").read_text(encoding="utf-8")
    first, group, last = re.findall(r"```toml\n(.*?)```", text, re.S)
    mine, zoo = parse_config(first), parse_config(last)
    network = 'network = { name = "my_package.nets:make_net", options = { width = 64 } }\n'
    tuned = parse_config(f"{first}\n{group}{network}").all_nets()[-3:]
    assert [net.initialisation for net in tuned] == ["initialisation base"] * 3
    assert [net.trained for net in mine.all_nets()] == [True] * 3 + [False] * 3
    assert [net.weights.named for net in zoo.all_nets()] == [True, True]
    assert zoo.data.interpolation == "bilinear"


def test_transformers_md_has_a_valid_config_all_settings_and_true_layers():
    text = (ROOT / "docs" / "transformers.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.S)
    network = parse_config(example).nets[0].network
    settings, layers = (part.split("\n\n")[0] for part in text.split("|---|---")[1:3])
    named = [
        name
        for row in settings.splitlines()
        for name in re.findall(r"`(\w+)`", row.split("|")[1] if row[:2] == "| " else "")
    ]
    assert named == [name for name in type(network).model_fields if name != "name"]
    rows = [re.findall(r"`([\w.]+)`", row.split("|")[1]) for row in layers.splitlines() if row.startswith("| `")]
    first = [row[0].rpartition(".")[0] for row in rows]
    paths = [stem + name if name[0] == "." else name for stem, row in zip(first, rows, strict=True) for name in row]
    assert len(paths) > 8
    assert set(paths) <= set(network.known_layers())


def test_paths_and_links_in_documents_exist():
    for document in [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]:
        name, text = document.relative_to(ROOT), document.read_text(encoding="utf-8")
        for path in re.findall(r"`((?:convergence|hpc|slurm|configs|tests|docs|benchmarks)/[\w./]*)`", text):
            assert (ROOT / path).exists(), f"{name} names {path}"
        for link in re.findall(r"\]\((?!http)([^)#]+)", text):
            assert (document.parent / link).exists(), f"{name} links to {link}"
