"""The stages as people use them: what runs again, what is skipped, what is refused, what survives a kill."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from convergence.cli import main
from convergence.figures import style
from convergence.visualization import picture_maker
from tests.helpers.fingerprints import differences, fingerprint
from tests.helpers.runs import datasets

pytestmark = pytest.mark.slow


def run(arguments, caplog) -> tuple[int, str]:
    """Exit code and log of a command in this process."""
    caplog.clear()
    with caplog.at_level("INFO"):
        code = main([str(a) for a in arguments])
    return code, caplog.text


def test_a_finished_run_is_skipped_and_says_so(tiny_config, tiny_copy, caplog):
    before = {p: p.stat().st_mtime_ns for p in tiny_copy.rglob("*.h5")}
    code, log = run(["run", tiny_config, "--runs", tiny_copy.parent], caplog)
    assert code == 0
    assert log.count("already done with the same settings") == 4 + 4
    assert before == {p: p.stat().st_mtime_ns for p in tiny_copy.rglob("*.h5")}


def test_the_analysis_is_reported_before_the_pictures_are_made(tiny_config, tiny_copy, tiny_run, caplog, monkeypatch):
    """The report at the end has the files of one that is made at once, and draws no figure again."""
    first, drawn = {}, []
    make, draw = picture_maker.pictures, style._write_svg

    def write(figure, path):
        drawn.append(path.name.split(".")[1])
        draw(figure, path)

    monkeypatch.setattr(style, "_write_svg", write)

    def pictures(folder):
        assert (tiny_copy / "report" / "index.html").exists()
        first.update({path.name: path.read_bytes() for path in (tiny_copy / "report" / "figures").iterdir()})
        assert not list((tiny_copy / "report" / "pictures").iterdir())
        make(folder)

    monkeypatch.setattr(picture_maker, "pictures", pictures)
    for name in ("pictures.h5", "pictures.json", "report.json"):
        (tiny_copy / name).unlink()
    shutil.rmtree(tiny_copy / "report")
    code, log = run(["run", tiny_config, "--runs", tiny_copy.parent], caplog)
    assert code == 0
    assert first
    assert f"first report: {tiny_copy / 'report' / 'index.html'}; pictures and experiments are added at the end" in log
    assert differences(fingerprint(tiny_copy), fingerprint(tiny_run)) == []
    figures = sorted(path.name for path in (tiny_run / "report" / "figures").iterdir())
    assert sorted(drawn) == [name.removesuffix(".svg") for name in figures], "each is drawn once"
    for name, content in first.items():
        assert (tiny_copy / "report" / "figures" / name).read_bytes() == content
    assert not (tiny_copy / "superseded").exists()


def test_figures_of_another_analysis_are_not_used_again(tiny_config, tiny_copy, caplog):
    """Although their report was finished after this command began, by the clock of another machine."""
    record = tiny_copy / "report.json"
    values = json.loads(record.read_text(encoding="utf-8"))
    for path in (tiny_copy / "report" / "figures").iterdir():
        path.write_text("of the earlier analysis")
    values["outputs"] = {
        path.relative_to(tiny_copy).as_posix(): path.stat().st_size
        for path in (tiny_copy / "report").rglob("*") if path.is_file()
    }  # fmt: skip
    record.write_text(json.dumps(values | {"finished": "2999-01-01T00:00:00+00:00"}), encoding="utf-8")
    arguments = ["run", tiny_config, "--runs", tiny_copy.parent, "--set", "analysis.rotations=4"]
    assert run(arguments, caplog)[0] == 0
    for path in (tiny_copy / "report" / "figures").iterdir():
        assert path.read_text(encoding="utf-8") != "of the earlier analysis"
    assert list((tiny_copy / "superseded").glob("report-*")), "the earlier report is kept"


def test_scratch_left_by_a_late_kill_is_cleared_up(tiny_config, tiny_copy, caplog):
    (tiny_copy / "statistics.partial").mkdir()
    (tiny_copy / "statistics.partial" / "moments-00000.h5").write_bytes(b"left over")
    code, log = run(["statistics", tiny_config, "--runs", tiny_copy.parent], caplog)
    assert code == 0
    assert "already done" in log
    assert not (tiny_copy / "statistics.partial").exists()


def test_a_changed_key_reruns_only_what_it_touches(tiny_config, tiny_copy, caplog):
    arguments = ["run", tiny_config, "--runs", tiny_copy.parent, "--set", "analysis.rotations=4"]
    code, log = run(arguments, caplog)
    assert code == 0
    assert "analyze: analysis.rotations: 3 → 4" in log
    assert log.count("already done") == 4 + 2  # the nets, the statistics and the pictures
    assert "report: analyze changed" in log
    assert list((tiny_copy / "superseded").glob("analyze-*/analysis.h5"))
    code, log = run(arguments[:-2], caplog)
    assert "restored from superseded results" in log
    assert code == 0


def test_overwrite_keeps_nothing(tiny_config, tiny_copy, caplog):
    arguments = ["run", tiny_config, "--runs", tiny_copy.parent, "--set", "analysis.seed=1", "--overwrite"]
    assert run(arguments, caplog)[0] == 0
    assert not (tiny_copy / "superseded").exists()


def test_adding_a_net_trains_that_net_only(tiny_config, tiny_copy, caplog):
    code, log = run(["train", tiny_config, "--runs", tiny_copy.parent, "--set", "nets.0.seeds=[1, 2, 3]"], caplog)
    assert code == 0
    assert log.count("already done") == 4
    assert "train net3: done" in log


def test_a_stage_before_its_input_is_refused(tiny_config, tmp_path, capsys):
    assert main(["analyze", str(tiny_config), "--runs", str(tmp_path)]) == 2
    assert 'statistics" has not run. First run `convergence statistics`' in capsys.readouterr().err
    assert main(["report", str(tiny_config), "--runs", str(tmp_path)]) == 2
    assert 'statistics" has not run. First run `convergence statistics`' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_stale_input_is_refused(tiny_config, tiny_copy, capsys):
    arguments = ["analyze", str(tiny_config), "--runs", str(tiny_copy.parent), "--set", "statistics.groups=4"]
    assert main(arguments) == 2
    assert "was made with other settings" in capsys.readouterr().err


def test_loader_workers_and_group_order_change_no_bit(tiny_config, tiny_copy, tiny_run, caplog):
    shutil.rmtree(tiny_copy / "statistics.h5", ignore_errors=True)
    (tiny_copy / "statistics.h5").unlink()
    (tiny_copy / "statistics.json").unlink()
    arguments = [
        "statistics",
        tiny_config,
        "--runs",
        tiny_copy.parent,
        "--set",
        "statistics.loader_workers=3",
    ]
    assert run(arguments, caplog)[0] == 0
    assert datasets(tiny_copy / "statistics.h5") == datasets(tiny_run / "statistics.h5")


def test_workers_change_no_bit(tiny_config, tiny_copy, tiny_run, caplog):
    (tiny_copy / "analysis.h5").unlink()
    (tiny_copy / "analysis.json").unlink()
    assert run(["analyze", tiny_config, "--runs", tiny_copy.parent, "--workers", "2"], caplog)[0] == 0
    assert datasets(tiny_copy / "analysis.h5") == datasets(tiny_run / "analysis.h5")


@pytest.mark.parametrize("name", ["statistics.h5", "analysis.h5"])
def test_truncated_newer_and_foreign_files(tiny_config, tiny_copy, name, capsys):
    verb = "analyze" if name == "statistics.h5" else "report"
    record = tiny_copy / {"analyze": "analysis.json", "report": "report.json"}[verb]
    path, whole = tiny_copy / name, (tiny_copy / name).read_bytes()

    def refused() -> str:
        record.unlink(missing_ok=True)
        assert main([verb, str(tiny_config), "--runs", str(tiny_copy.parent)]) == 2
        return capsys.readouterr().err

    path.write_bytes(whole[: len(whole) // 2])
    assert f"{name} holds {len(whole) // 2:,} bytes of {len(whole):,}" in refused()  # the record knows the size
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        file.attrs.modify("schema_version", 99)  # in place: the size stays
    assert "newer convergence" in refused()
    with h5py.File(path, "r+") as file:
        file.attrs.modify("schema_version", 1)
        other = file.attrs["schema"][::-1]
        file.attrs.modify("schema", other)
    assert f"schema '{other}'" in refused()


def test_a_truncated_download_says_so(tiny_run, tmp_path):
    from convergence.errors import FileError
    from convergence.statistics.file import open_statistics

    path = tmp_path / "statistics.h5"
    whole = (tiny_run / "statistics.h5").read_bytes()
    path.write_bytes(whole[:-1000])
    with pytest.raises(FileError, match="truncated"), open_statistics(path):
        pass
    path.write_bytes(b"not HDF5 at all")
    with pytest.raises(FileError, match="no readable HDF5 file"), open_statistics(path):
        pass
    with pytest.raises(FileError, match="there is no such file"), open_statistics(tmp_path / "none.h5"):
        pass


def test_a_flipped_bit_is_found(tiny_run, tmp_path):
    from convergence.errors import FileError
    from convergence.statistics.file import open_statistics

    path = tmp_path / "statistics.h5"
    shutil.copy(tiny_run / "statistics.h5", path)
    with h5py.File(path, "r+") as file:
        file["comparisons/conv1/group_products"][0, 0, 0] += 1
        file["comparisons/conv2/group_sums"][0, 0] += 1
    with open_statistics(path) as file:
        products = file.sums("conv1").group_products  # a matrix is verified when it is first read
        for found in (
            lambda: products[1, :2], lambda: file.verify("conv1"), lambda: file.verify(), lambda: file.sums("conv2")
        ):  # fmt: skip
            with pytest.raises(FileError, match="does not match its checksum"):
                found()
        file.verify("fc1")


def test_statistics_are_readable_with_h5py_and_numpy_alone(tiny_run):
    """The lines of docs/files.md, run as they stand there, in a process that cannot import the package."""
    docs = (Path(__file__).parents[2] / "docs" / "files.md").read_text(encoding="utf-8")
    lines, *_ = re.findall(r"```python\n(.*?)```", docs, re.S)
    code = f"import sys; sys.modules['convergence'] = None\n{lines}\nnp.save('r.npy', r)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tiny_run, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    r = np.load(tiny_run / "r.npy")
    (tiny_run / "r.npy").unlink()
    with h5py.File(tiny_run / "analysis.h5") as file:
        wanted = file["comparisons/conv1/correlation"][()]
        alive = file["comparisons/conv1/units"]["active"]
    np.testing.assert_allclose(r[np.ix_(alive, alive)], wanted[np.ix_(alive, alive)], atol=1e-12)


def test_show_computes_nothing(tiny_config, tiny_run, tmp_path, capsys):
    assert main(["show", str(tiny_config), "--runs", str(tiny_run.parent)]) == 0
    text = capsys.readouterr().out
    assert re.search(r"statistics +done", text)
    assert "conv1" in text
    assert "graph nodes" in text
    assert main(["show", str(tiny_config), "--runs", str(tmp_path / "elsewhere")]) == 0
    assert re.search(r"statistics +missing", capsys.readouterr().out)
    assert not (tmp_path / "elsewhere").exists()


def test_user_errors_are_one_paragraph(tiny_config, tmp_path, capsys):
    assert main(["run", str(tiny_config), "--runs", str(tmp_path), "--set", "training.epoch=3"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert 'did you mean "epochs"' in error
    assert main(["run", str(tiny_config), "--runs", str(tmp_path), "--set", "data.name=image_folder"]) == 2
    assert main(["train", str(tiny_config), "--runs", str(tmp_path), "--net", "net9"]) == 2
    assert "the config has no net of this name" in capsys.readouterr().err
