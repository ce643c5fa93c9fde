"""Old and new versions of the layouts that take turns on one run folder lose nothing and never overwrite."""

from __future__ import annotations

import numpy as np
import pytest

from convergence.analysis import layout, run
from convergence.analysis.file import open_analysis
from convergence.cli import main
from convergence.errors import FileError
from convergence.runs import run_folder
from convergence.statistics import file, writer
from tests.helpers.runs import PLANTED, planted_activations


@pytest.fixture
def given(tmp_path):
    """Config of a run of given activations, in a folder of its own."""
    for name, values in planted_activations().items():
        np.save(tmp_path / f"{name}.npy", values[:60])
    text = PLANTED.format(root=tmp_path.as_posix()).replace("groups = 6", "groups = 3")
    (tmp_path / "planted.toml").write_text(text.replace('["conv1", "fc"]', '["fc"]'), encoding="utf-8")
    return tmp_path / "planted.toml"


def at_version(monkeypatch, version):
    """Have the package write and read this version of statistics.h5."""
    monkeypatch.setattr(run_folder, "STATISTICS_SCHEMA_VERSION", version)
    for module in (writer, file):
        monkeypatch.setattr(module, "VERSION", version)


def test_versions_that_take_turns_set_the_other_file_aside(given, monkeypatch, caplog):
    caplog.set_level("INFO")
    runs = given.parent / "runs"
    words = ["statistics", str(given), "--runs", str(runs)]
    assert main(words) == 0
    statistics = runs / "planted" / "statistics.h5"
    written: dict[int, bytes] = {file.VERSION: statistics.read_bytes()}
    current = file.VERSION
    for version in (current + 1, current, current - 1, current + 1, current):
        at_version(monkeypatch, version)
        caplog.clear()
        assert main(words) == 0
        assert "statistics_schema: " in caplog.text, "the change is named"
        found = statistics.read_bytes()
        assert written.setdefault(version, found) == found, "a file of this version came back as it was"
        kept = [path.read_bytes() for path in (runs / "planted" / "superseded").glob("*/statistics.h5")]
        assert sorted(kept) == sorted(content for other, content in written.items() if other != version)


def test_a_newer_file_without_a_record_is_refused_and_kept(given, monkeypatch, capsys):
    runs = given.parent / "runs"
    assert main(["statistics", str(given), "--runs", str(runs)]) == 0
    statistics = runs / "planted" / "statistics.h5"
    newer = layout.VERSION + 1
    monkeypatch.setattr(run, "VERSION", newer)
    monkeypatch.setattr("convergence.analysis.standalone.ANALYSIS_SCHEMA_VERSION", newer)
    assert main(["analyze", str(statistics), "--workers", "1"]) == 0
    analysis, record = statistics.with_name("analysis.h5"), statistics.with_name("analysis.json")
    content = analysis.read_bytes()
    record.unlink()
    monkeypatch.undo()
    assert main(["analyze", str(statistics), "--workers", "1"]) == 2
    assert "written by a newer convergence" in capsys.readouterr().err
    assert analysis.read_bytes() == content
    with pytest.raises(FileError, match="newer convergence"), open_analysis(analysis):
        pass
