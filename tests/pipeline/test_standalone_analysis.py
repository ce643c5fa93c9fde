"""Analysis, report and description of a statistics file without its run folder."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from convergence.analysis import run as analysis_run
from convergence.analysis.standalone import analysis_path, is_results_file, report_path
from convergence.cli import main
from convergence.errors import FileError
from convergence.io.files import name_beside, safe_name
from convergence.runs.signals import Stopped
from convergence.statistics.file import open_statistics
from tests.helpers.runs import datasets

pytestmark = pytest.mark.slow

QUICK = ["--set", "analysis.sparse.enabled=false", "--set", "analysis.clustering.enabled=false",
         "--set", 'analysis.measures=["matching"]', "--set", "analysis.rotations=2"]  # fmt: skip


@pytest.fixture(autouse=True)
def _say(caplog):
    caplog.set_level(logging.INFO)


@pytest.fixture
def downloaded(planted_runs, tmp_path):
    return Path(shutil.copy(planted_runs / "runs" / "planted" / "statistics.h5", tmp_path / "statistics.h5"))


def test_analysis_equals_that_of_the_run_folder(downloaded, planted_runs, caplog, capsys):
    assert main(["analyze", str(downloaded)]) == 0
    assert capsys.readouterr().out.strip() == str(downloaded.with_name("analysis.h5"))
    run = planted_runs / "runs" / "planted"
    assert datasets(downloaded.with_name("analysis.h5")) == datasets(run / "analysis.h5")
    mine, its = (json.loads((path / "analysis.json").read_text("utf-8")) for path in (downloaded.parent, run))
    assert mine["digest"] == its["digest"]
    caplog.clear()
    assert main(["run", str(downloaded.parent)]) == 0
    assert "analyze: already done" in caplog.text
    page = (downloaded.with_name("report") / "index.html").read_text(encoding="utf-8")
    assert "planted</title>" in page
    caplog.clear()
    assert main(["report", str(downloaded)]) == 0
    assert "report: already done" in caplog.text


def test_results_of_other_settings_are_superseded_and_restored(downloaded, caplog):
    analysis = downloaded.with_name("analysis.h5")
    assert main(["analyze", str(downloaded), *QUICK]) == 0
    first = analysis.read_bytes()
    assert main(["analyze", str(downloaded), *QUICK, "--set", "analysis.rotations=3"]) == 0
    assert "analysis.rotations: 2 → 3" in caplog.text
    (kept,) = downloaded.parent.glob("superseded/analyze-*/analysis.h5")
    assert kept.read_bytes() == first
    assert main(["analyze", str(downloaded), *QUICK]) == 0
    assert analysis.read_bytes() == first
    assert main(["analyze", str(downloaded), *QUICK, "--comparison", "fc"]) == 0
    with h5py.File(analysis) as file:
        assert list(file["comparisons"]) == ["fc"]


def test_stopped_analysis_is_resumed(downloaded, monkeypatch, caplog):
    def stop_after_two(*arguments):
        found = compute(*arguments)
        done.append(arguments)
        if len(done) == 2:
            raise Stopped("stopped by a test")
        return found

    done, compute = [], analysis_run.compute
    monkeypatch.setattr(analysis_run, "compute", stop_after_two)
    assert main(["analyze", str(downloaded), *QUICK]) == 75
    assert not downloaded.with_name("analysis.h5").exists()
    assert main(["report", str(downloaded)]) == 2  # and no report of half an analysis
    assert main(["analyze", str(downloaded), *QUICK]) == 0
    assert "resuming" in caplog.text
    assert len(done) == 14  # pairs, and what is about all nets, none of them twice
    assert not downloaded.with_name("analysis.partial").exists()


def test_analysis_without_record_is_not_overwritten(downloaded, planted_runs, tmp_path, caplog):
    analysis = Path(shutil.copy(planted_runs / "runs" / "planted" / "analysis.h5", tmp_path / "analysis.h5"))
    before = analysis.read_bytes()
    assert main(["analyze", str(downloaded)]) == 0
    assert "already done" in caplog.text
    analysis.with_suffix(".json").unlink()
    assert main(["analyze", str(downloaded), *QUICK]) == 0
    (kept,) = tmp_path.glob("superseded/*/analysis.h5")
    assert kept.read_bytes() == before
    downloaded.with_name("mine.h5").write_bytes(b"my own notes")
    assert main(["analyze", str(downloaded), *QUICK, "--out", str(tmp_path / "mine.h5")]) == 2
    assert (tmp_path / "mine.h5").read_bytes() == b"my own notes"
    assert main(["analyze", str(downloaded), *QUICK, "--out", str(downloaded)]) == 2


def test_report_does_not_replace_other_folders(downloaded, tmp_path):
    assert main(["analyze", str(downloaded), *QUICK, "--comparison", "fc"]) == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine", encoding="utf-8")
    assert main(["report", str(downloaded), "--out", str(tmp_path / "mine")]) == 2
    assert (tmp_path / "mine" / "notes.txt").exists()
    assert main(["report", str(downloaded), "--out", str(tmp_path / "new"), "--set", 'report.title="A & B"']) == 0
    assert "A &amp; B" in (tmp_path / "new" / "index.html").read_text(encoding="utf-8")
    (tmp_path / "new.json").unlink()
    assert main(["report", str(downloaded), "--out", str(tmp_path / "new")]) == 0
    assert list(tmp_path.glob("superseded/new-*/new/index.html"))  # one of ours, without its record, is kept


@pytest.mark.parametrize("name", ["ein Füchslein & mehr ‘λ’.h5", "x" * 251 + ".h5", "Ω" * 120 + ".H5", "a.b=c%20#1.h5"])
def test_unusual_file_names_work(downloaded, name, monkeypatch, capsys):
    folder = downloaded.parent / "sub folder; $HOME 'q'"
    folder.mkdir()
    path = downloaded.rename(folder / name)
    monkeypatch.chdir(folder)  # a relative path
    assert main(["analyze", name, *QUICK, "--comparison", "fc"]) == 0
    assert main(["report", name]) == 0
    page = Path(capsys.readouterr().out.splitlines()[-1])
    assert page.parent.parent == folder
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r'(?:href|src)="((?:figures|tables)/[^"]*)"', text):
        assert (page.parent / link).is_file(), link
    assert {path.name, analysis_path(path).name, report_path(path).name} <= {p.name for p in folder.iterdir()}
    assert main(["show", name, "--verify"]) == 0
    assert "checksums: all match" in capsys.readouterr().out


def test_unwritable_folder_is_refused(downloaded, capsys):
    """As a user without write permission; root becomes another user."""
    closed = downloaded.parent / "closed"
    closed.mkdir()
    path = downloaded.rename(closed / "statistics.h5")
    closed.chmod(0o555)
    code = (
        "import os, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from convergence.errors import FileError\nfrom convergence.io.files import check_writable\n"
        "from pathlib import Path\n"
        "if os.getuid() == 0: os.setgroups([]); os.setuid(65534)\n"
        "try: check_writable(Path('.'), 'Choose another place with --out')\n"
        "except FileError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=closed, capture_output=True, text=True, check=True)
    assert "the folder is not writable (Permission denied). Choose another place with --out." in done.stdout
    out = downloaded.parent / "elsewhere" / "a.h5"
    assert main(["analyze", str(path), *QUICK, "--comparison", "fc", "--out", str(out)]) == 0
    assert main(["report", str(path), "--analysis", str(out), "--out", str(out.with_name("page"))]) == 0
    assert os.listdir(closed) == ["statistics.h5"]
    (downloaded.parent / "file").touch()
    assert main(["analyze", str(path), "--out", str(downloaded.parent / "file" / "a.h5")]) == 2
    assert "the folder is not writable" in capsys.readouterr().err


def test_invalid_settings_of_a_file_are_refused(downloaded, capsys):
    for wrong, says in (
        (["--set", "training.epochs=5"], "only analysis.* and report.*"),
        (["--set", "analysis.rotation=5"], 'did you mean "rotations"'),
        (["--comparison", "conv"], 'did you mean "conv1"'),
        (["--runs", "elsewhere"], "Use --out"),
    ):
        assert main(["analyze", str(downloaded), *wrong]) == 2
        assert says in capsys.readouterr().err


def test_options_for_files_are_refused_with_a_config(tiny_config, capsys):
    for command in (["analyze", "--comparison", "fc1"], ["report", "--analysis", "a.h5"], ["show", "--verify"],
                    ["analyze", "--out", "a.h5"]):  # fmt: skip
        assert main([command[0], str(tiny_config), *command[1:]]) == 2
        assert "applies to a results file" in capsys.readouterr().err


def test_a_report_of_another_analysis_is_refused(downloaded, planted_runs, tmp_path, capsys):
    from convergence.statistics.subset import Selection, subset_statistics

    subset_statistics(downloaded, tmp_path / "part.h5", Selection(("fc",)))
    analysis = planted_runs / "runs" / "planted" / "analysis.h5"
    assert main(["report", str(tmp_path / "part.h5"), "--analysis", str(analysis)]) == 2
    assert "of other statistics" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "part.h5")]) == 2
    assert "there is no analysis" in capsys.readouterr().err


def test_show_lists_the_content_of_files(downloaded, planted_runs, capsys):
    assert main(["show", str(downloaded)]) == 0
    text = capsys.readouterr().out
    assert "240 images in 6 groups" in text
    assert re.search(r"conv1 +net1, net2, net3, alone +32 +2,160 .*mutual information", text)
    assert "analysis: none" in text
    assert main(["show", str(planted_runs / "runs" / "planted")]) == 0
    assert "analysis: analysis.h5, done" in capsys.readouterr().out
    assert main(["show", str(planted_runs / "runs" / "planted" / "analysis.h5"), "--verify"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"fc +net1, net2, net3, alone +6 +\d+", text)
    assert "checksums: all match" in text
    with h5py.File(downloaded, "r+") as file:
        file["comparisons/fc/group_sums"][0, 0] += 1
    assert main(["show", str(downloaded), "--verify"]) == 2
    assert "/comparisons/fc/group_sums does not match its checksum" in capsys.readouterr().err


def test_unusable_files_are_diagnosed(downloaded, planted_runs, tmp_path, capsys):
    whole = downloaded.read_bytes()

    def says(verb="analyze"):
        assert main([verb, str(downloaded)]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()  # one paragraph
        assert line.startswith(f"convergence: {downloaded}: ")
        return line

    for part in (len(whole) - 1, len(whole) // 2, 3000, 100, 4):
        downloaded.write_bytes(whole[:part])
        assert f"truncated: it holds {part:,} bytes" in says()
    for content, what in (
        (b"", "the file is empty"),
        (b"\n <!DOCTYPE html><html><body>Sign in</body>", "this is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a pointer of Git LFS"),
        (b"\x1f\x8b\x08" + whole, "compressed by gzip"),
        (b"PK\x03\x04" + whole, "a zip archive"),
        (b"just some text", "no readable HDF5 file"),
    ):
        downloaded.write_bytes(content)
        for verb in ("analyze", "show", "report"):
            assert what in says(verb)
    shutil.copy(planted_runs / "runs" / "planted" / "analysis.h5", downloaded)
    assert "this is an analysis file. A statistics file" in says()
    downloaded.write_bytes(whole)
    with h5py.File(downloaded, "r+") as file:
        file.attrs.modify("schema_version", 99)
    assert "schema version 99, written by a newer convergence" in says()
    with h5py.File(downloaded, "w") as file:
        file["x"] = 1
    assert "this is a file of another program" in says()
    downloaded.unlink()
    assert "there is no such file" in says()
    downloaded.with_name("statistics.partial").mkdir()
    assert "holds partial results: the file may still be written" in says()
    piece = Path(shutil.copytree(planted_runs / "runs" / "planted", tmp_path / "statistics.partial" / "x")).parent
    (piece / "x" / "statistics.h5").rename(piece / "statistics.h5")
    assert main(["analyze", str(piece / "statistics.h5")]) == 2
    assert "a partial result of an unfinished stage" in capsys.readouterr().err


def test_statistics_are_refused_as_analysis(downloaded, capsys):
    assert main(["report", str(downloaded), "--analysis", str(downloaded)]) == 2
    assert "is a statistics file. An analysis file" in capsys.readouterr().err


def test_file_open_for_writing_is_refused(downloaded):
    code = (
        "import h5py, sys\n"
        f"file = h5py.File({str(downloaded)!r}, 'r+', libver='latest')\n"
        "file.attrs['x'] = 1; file.flush(); print('open', flush=True); sys.stdin.read()\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout.readline() == "open\n"
        with pytest.raises(FileError, match=r"another process may still be writing it|still being written"):
            open_statistics(downloaded).__enter__()
    finally:
        writer.communicate("")


def test_results_files_are_distinguished_from_configs(downloaded, tmp_path):
    assert is_results_file(str(downloaded))
    assert is_results_file(str(tmp_path))  # it holds statistics.h5
    assert is_results_file("not there.HDF5")
    assert is_results_file(str(downloaded.rename(tmp_path / "no ending")))
    assert not is_results_file(str(tmp_path))
    assert not is_results_file("configs/digits.toml")
    assert not is_results_file(str(shutil.copy(tmp_path / "no ending", tmp_path / "x.toml")))


def test_file_names_are_valid_on_all_systems():
    assert name_beside(Path("a/digits.h5"), ".report") == Path("a/digits.report")
    long = {name_beside(Path(f"{'x' * 240}{k}.h5"), ".analysis.h5").name for k in range(3)}
    assert len(long) == 3
    assert max(map(len, long)) < 200
    assert safe_name("conv1-matched") == "conv1-matched"
    for odd in ("a|b", "net1:conv2", "x?", "NUL", "com1.h5", "ends."):
        safe = safe_name(odd)
        assert not set(safe) & set('<>:"/\\|?*')
        assert safe != odd
        assert safe.split(".")[0].upper() not in ("NUL", "COM1")
        assert not safe.endswith(".")
    assert safe_name("a|b") != safe_name("a:b")
