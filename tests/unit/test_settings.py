"""Settings: paths that are expanded where they are used, and numbers that are what they seem."""

import os

import pytest

from convergence.cli import main
from convergence.config.load import parse_config, read_config
from convergence.data import DATA_SETS
from convergence.errors import LONGEST_MESSAGE, ConfigError, FileError
from convergence.networks import NETWORKS
from convergence.settings import PathSetting, Settings, expand_path, numbers_in
from slurm.profile import ClusterProfile

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
        assert main(["status", f"~/{name}" if name == "t.toml" else name, "--runs=~/runs"]) == 0
        assert f"paths: {tmp_path}/runs/paths" in capsys.readouterr().out
    assert main(["status", "t.toml", "--runs=$NOWHERE/runs"]) == 2
    assert "NOWHERE" in capsys.readouterr().err


def sections(base=Settings):
    """All sections of configs and profiles, and all data sets and networks."""
    for entries in (DATA_SETS, NETWORKS):
        for name in entries:
            entries.load(name)
    for section in base.__subclasses__():
        if section.__module__.partition(".")[0] in ("convergence", "slurm"):
            yield section
            yield from sections(section)


def test_every_number_of_a_config_has_a_smallest_and_a_largest_value():
    assert issubclass(ClusterProfile, Settings)
    unbounded = [
        f"{section.__name__}: {number}"
        for section in sections()
        for number in numbers_in(section.__pydantic_core_schema__)
        if number["type"] != "bool" and not ({"ge", "gt"} & set(number) and {"le", "lt"} & set(number))
    ]
    assert unbounded == []


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.epochs=true", "valid integer"),
        ('training.epochs="3"', "valid integer"),
        ("training.compile=1", "valid boolean"),
        ("training.learning_rate=nan", "finite"),
        ("training.epochs=100000000000000", "less than or equal to"),
        ("functional.average.scored=100000000000000", "less than or equal to"),
        ("training.epochs=0x" + "f" * 5000, "integer of"),
        ("training.epochs=" + "9" * 5000, "cannot be read"),
        (f'report.title="{"x" * 100_000}"', "100,000 characters"),
        ('report.title="\\u001b[31m"', "control character"),
        ("a" + ".a" * 30 + "=1", "more than 20 parts"),
        (f"nets.{'9' * 5000}.label='x'", "is no index"),
        ('statistics.comparisons=[{name="x", layers=["a\\u0000b"]}]', "control character"),
        ('statistics.comparisons=[{name="x", layers="conv9"}]', 'no layer "conv9"; did you mean "conv'),
        ('functional.stitch.pairs=[["net1", "net9"]]', 'no net "net9"'),
        ('functional.ensemble.comparisons=["conv9"]', 'no comparison "conv9"'),
        ("statistics.max_images=10", "needs at least 32 images"),
        ("data.resize=100", "data.crop = 224 is larger"),
        ("nets.0.network={name='alexnet'}", "3 × 227 × 227"),
        ("nets.0.seeds=[" + "7," * 9000 + "]", "list a seed twice"),
    ],
)
def test_invalid_values_are_refused_when_the_config_is_read(override, words):
    with pytest.raises(ConfigError) as refused:
        parse_config(CONFIG, [override])
    assert words in str(refused.value)
    assert len(str(refused.value)) <= LONGEST_MESSAGE


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfen\0a\0", "not UTF-8"),
        (b"name = " + b"[" * 5000, "nested"),
        (b"name = '\0'", "not valid TOML"),
        (b"#" * 9_000_000, "larger than"),
    ],
)
def test_files_that_are_no_config_are_refused(tmp_path, content, words):
    (tmp_path / "c.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        read_config(tmp_path / "c.toml")


def test_a_byte_order_mark_is_accepted(tmp_path):
    (tmp_path / "c.toml").write_text(CONFIG, encoding="utf-8-sig")
    assert read_config(tmp_path / "c.toml").name == "paths"
