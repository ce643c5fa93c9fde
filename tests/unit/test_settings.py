"""Settings: paths that are expanded where they are used, and numbers that are what they seem."""

import os

import pytest

from convergence.cli import main
from convergence.config.load import parse_config
from convergence.errors import ConfigError, FileError
from convergence.settings import PathSetting, expand_path

CONFIG = """
name = "paths"
[data]
name = "image_folder"
root = "$IMAGES/small"
train_folder = "${PART}-train"
[[nets]]
seeds = [1, 2]
network = { name = "small" }
[statistics]
comparisons = ["conv1"]
[report]
compare = "~/runs/other"
"""
GIVEN = """
name = "given"
[activations]
root = "$ARRAYS"
nets = { a = { fc = "$LAYER/a.npy" }, b = { fc = "$LAYER/b.npy" } }
[statistics]
comparisons = ["fc"]
"""


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("~/images", "/home/ada/images"),
        ("$DATA/images", "/data/images"),
        ("${DATA}x/~", "/datax/~"),
        ("$HERE/images", "/home/ada/here/images"),
        ("cost $$5", "cost $5"),
        ("plain", "plain"),
        ("./~plain", "~plain"),
    ],
)
def test_paths_expand_home_and_variables(monkeypatch, text, path):
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("DATA", "/data")
    monkeypatch.setenv("HERE", "~/here")
    assert os.fspath(PathSetting(text)) == str(PathSetting(text) / ".") == path
    assert str(PathSetting(text)) == text


@pytest.mark.parametrize(
    ("text", "word"),
    [("$NOWHERE/a", "NOWHERE"), ("${EMPTY}/a", "EMPTY"), ("a$", "without the name"), ("~nobody_here/a", "nobody")],
)
def test_paths_that_cannot_be_expanded_name_the_variable_when_they_are_used(monkeypatch, text, word):
    monkeypatch.delenv("NOWHERE", raising=False)
    monkeypatch.setenv("EMPTY", "")
    setting = PathSetting(text)
    with pytest.raises(ConfigError, match=word):
        expand_path(setting)


def test_configs_keep_paths_as_they_are_written(monkeypatch):
    for name in ("IMAGES", "PART"):
        monkeypatch.delenv(name, raising=False)
    experiment = parse_config(CONFIG)
    assert "root" not in experiment.images.digest_values()
    assert experiment.report.digest_values()["compare"] == "~/runs/other"
    assert '"$IMAGES/small"' in experiment.model_dump_json()
    with pytest.raises(ConfigError, match="IMAGES"):
        experiment.images.load()


def test_variables_in_paths_of_activations_are_read_where_the_command_runs(monkeypatch, tmp_path):
    (tmp_path / "fc").mkdir()
    (tmp_path / "fc" / "a.npy").write_bytes(b"12345")
    given = parse_config(GIVEN).activations
    with pytest.raises(ConfigError, match="which is not set"):
        given.list_parts()
    monkeypatch.setenv("ARRAYS", str(tmp_path))
    monkeypatch.setenv("LAYER", "fc")
    with pytest.raises(FileError, match=r"b\.npy: there is no such file"):
        given.list_parts()
    (tmp_path / "fc" / "b.npy").write_bytes(b"123")
    files = given.list_parts()["files"].files
    assert [(file.name, file.size) for file in files] == [("$LAYER/a.npy", 5), ("$LAYER/b.npy", 3)]


def test_paths_of_the_command_line_are_expanded_unless_they_exist(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NOWHERE", raising=False)
    monkeypatch.chdir(tmp_path)
    text = CONFIG.replace("$IMAGES", str(tmp_path))
    for name in ("t.toml", "a$NOWHERE.toml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert main(["show", f"~/{name}" if name == "t.toml" else name, "--runs=~/runs"]) == 0
        assert f"run folder {tmp_path}/runs/paths" in capsys.readouterr().out
    assert main(["show", "t.toml", "--runs=$NOWHERE/runs"]) == 2
    assert "NOWHERE" in capsys.readouterr().err
