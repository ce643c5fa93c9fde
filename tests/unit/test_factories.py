"""Code that a config names: which factories may run, where, and what hides the toolkit's own modules."""

import subprocess
import sys
from pathlib import Path

import pytest

from convergence import registry
from convergence.cli import main
from convergence.config.load import read_config
from convergence.data import user_code
from convergence.errors import ConfigError
from convergence.provenance import FETCH_RECORD

torch = pytest.importorskip("torch")
CONFIG = """
name = "own"
data = { name = "digits" }
statistics = { comparisons = ["conv1"] }
[[nets]]
seeds = [1, 2]
network = { name = "%s" }
"""
NETS = """
from collections import OrderedDict
from os import system
import functools
from pathlib import Path
from torch import load, nn
Path(__file__).with_name("imported").touch()
run = functools.partial(system)
remember = functools.lru_cache(load)
def make(n_classes):
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), conv1=nn.Linear(64, n_classes)))
def number():
    return 3
def fails():
    raise KeyError("width")
class Perceptron(nn.Sequential):
    pass
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a config beside the module that it names, which no other folder of the import path has."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(user_code, "ALLOWED", [])
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "nets_of_ada.py").write_text(NETS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "exp"
    sys.modules.pop("nets_of_ada", None)


def build(folder: Path, factory: str):
    (folder / "c.toml").write_text(CONFIG % factory, encoding="utf-8")
    return read_config(folder / "c.toml").all_nets()[0].spec.build((1, 8, 8), 10)


def test_modules_beside_the_config_build_nets(folder):
    assert build(folder, "nets_of_ada:make")(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert isinstance(build(folder, "nets_of_ada:Perceptron"), torch.nn.Module)


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("os:system", "standard library"),
        ("posix:system", "standard library"),
        ("builtins:eval", "standard library"),
        ("subprocess:run", "standard library"),
        ("shutil:rmtree", "standard library"),
        ("importlib:import_module", "standard library"),
        ("pathlib:Path", "standard library"),
        ("os.path:exists", "standard library"),
        ("convergence.cli:main", "toolkit"),
        ("slurm.submit:submit", "toolkit"),
        ("torch:load", "torch.serialization.load"),
        ("torch.hub:load", "torch.hub.load"),
        ("numpy:load", "numpy"),
        ("numpy:fromfile", "is a builtin"),
        ("joblib:load", "may do more than build"),
        ("safetensors.numpy:save_file", "may do more than build"),
        ("safetensors.torch:save_file", "may do more than build"),
        ("h5py:File", "not of networks"),
        ("nets_of_ada:system", "is a builtin"),
        ("nets_of_ada:load", "torch.serialization.load"),
        ("nets_of_ada:run", "is a builtin"),
        ("nets_of_ada:remember", "torch.serialization.load"),
        ("nets_of_ada:Path", "not of networks"),
        ("nets_of_ada:NETS", 'has no "NETS"'),
        ("nets_of_ada:number", "returned a int"),
        ("nets_of_ada:fails", r"KeyError: 'width' \(.*nets_of_ada.py, line"),
        ("no_such_module:make", "could not be imported"),
        ("a b:c", "import path"),
    ],
)
def test_other_objects_are_refused(folder, factory, words):
    with pytest.raises(ConfigError, match=words):
        build(folder, factory)


def test_describing_a_run_imports_nothing_that_the_config_names(folder, capsys):
    (folder / "c.toml").write_text(CONFIG % "nets_of_ada:make", encoding="utf-8")
    profile = folder / "p.toml"
    profile.write_text("", encoding="utf-8")
    for verb in (
        ["show"],
        ["plan", "--cluster", str(profile)],
        ["submit", "--dry-run", "--no-check", "--cluster", str(profile)],
    ):
        assert main([verb[0], str(folder / "c.toml"), *verb[1:]]) == 0
    out = capsys.readouterr().out
    assert out.count("net2 is not built, because that runs the code of nets_of_ada:make") == 2
    assert str(folder) in out.split("PYTHONPATH")[1], "jobs find the module beside the config"
    assert not (folder / "imported").exists()
    assert main(["show", str(folder / "c.toml"), "--allow-code", "nets_of_ada"]) == 0
    assert (folder / "imported").exists()


def test_code_of_fetched_configs_needs_a_yes(folder, capsys, monkeypatch):
    (folder / "c.toml").write_text(CONFIG % "nets_of_ada:make", encoding="utf-8")
    (folder.parent / FETCH_RECORD).write_text("cluster:runs/own\n", encoding="utf-8")
    for verb in ("train", "run"):
        assert main([verb, str(folder / "c.toml")]) == 2
        refused = capsys.readouterr().err
        assert "nets_of_ada.py" in refused
        assert "--allow-code nets_of_ada" in refused
    assert not (folder / "imported").exists()
    assert main(["train", str(folder / "c.toml"), "--allow-code", "nets_of_ada", "--set", "nets.0.trained=false"]) == 0
    assert (folder / "imported").exists()


@pytest.mark.parametrize("name", ["hpc", "slurm", "convergence", "torch", "statistics"])
def test_files_of_the_user_do_not_hide_modules_of_the_toolkit(tmp_path, monkeypatch, name):
    (tmp_path / f"{name}.py").write_text("", encoding="utf-8")
    (tmp_path / "mynets.py").write_text("", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert f"{name}.py has the name of a package" in registry.hiding_remedy()
    before = [entry for entry in sys.path if entry != str(tmp_path)]
    registry.put_toolkit_first()
    assert sys.path[: len(before)] == before
    assert sys.path[-1] == str(tmp_path), "other modules of the folder are still found"


def test_import_path_without_hiding_files_is_not_changed(tmp_path, monkeypatch):
    (tmp_path / "mynets.py").write_text("", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = [*sys.path]
    registry.put_toolkit_first()
    assert sys.path == before


def test_a_hidden_package_is_named_with_its_file(tmp_path, monkeypatch):
    (tmp_path / "hpc.py").write_text("", encoding="utf-8")
    for module in [module for module in sys.modules if module.partition(".")[0] == "hpc"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"hpc\.py has the name of a package that the toolkit imports"):
        registry.load_object("hpc.comm:world")


@pytest.mark.slow
def test_the_command_works_beside_files_of_the_same_names(tmp_path):
    for name in ("hpc", "slurm", "torch", "numpy", "statistics", "click"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py was imported')", encoding="utf-8")
    (tmp_path / "c.toml").write_text(CONFIG % "small", encoding="utf-8")
    (tmp_path / "p.toml").write_text("", encoding="utf-8")
    command = [sys.executable, "-m", "convergence", "plan", "c.toml", "--cluster", "p.toml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "sbatch jobs" in done.stdout
