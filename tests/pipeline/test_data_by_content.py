"""Results depend on what the images are: moved data change nothing, other images make the results stale."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from convergence.cli import main
from convergence.config.load import read_config
from convergence.data.files import FileError
from convergence.runs.run_folder import RunFolder

CONFIG = """
name = "t"
[data]
name = "image_folder"
root = "{root}"
resize = 16
crop = 16
augmentation = "crop"
[[nets]]
network = {{ name = "small", channels = [4], hidden = [6] }}
seeds = [1, 2]
[training]
epochs = 1
batch_size = 8
threads = 1
loader_workers = 0
[statistics]
comparisons = ["fc1"]
groups = 4
batch_size = 8
threads = 1
loader_workers = 0
subset = 8
[analysis]
rotations = 2
measures = ["matching"]
[pictures]
enabled = false
[report]
formats = ["svg"]
"""
RUN = "runs/t"


def draw(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (18, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Images, config and run: trained, with statistics."""
    place = tmp_path_factory.mktemp("content")
    for split, n in (("train", 4), ("val", 6)):
        for label, name in enumerate(("cats", "dogs")):
            folder = place / "imgs" / split / name
            folder.mkdir(parents=True)
            for k in range(n):
                draw(folder / f"{name}{k}.png", 1000 * (split == "val") + 100 * label + k)
    (place / "t.toml").write_text(CONFIG.format(root="imgs"), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["train", "t.toml"]) == 0
        assert main(["statistics", "t.toml"]) == 0
    return place


@pytest.fixture
def place(finished, tmp_path, monkeypatch) -> Path:
    """A copy of the finished run in the working folder; file times are kept."""
    shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def states(*overrides: str) -> dict[str, str]:
    folder = RunFolder(Path(RUN), read_config("t.toml", overrides))
    return {task.name: folder.state(task) for task in folder.tasks()}


def log_of(caplog, *words: str, code: int = 0) -> str:
    caplog.clear()
    with caplog.at_level("INFO"):
        assert main([*words]) == code
    return caplog.text


@pytest.mark.parametrize("keeps_times", [True, False])
def test_moved_images_leave_nothing_to_do(place, caplog, keeps_times):
    shutil.copytree("imgs", "scratch", copy_function=shutil.copy2 if keeps_times else shutil.copy)
    shutil.rmtree("imgs")
    os.rename("scratch/val", "scratch/held-out")
    moved = ["--set", "data.root=scratch", "--set", "data.test_folder=held-out"]
    for stage, n in (("train", 2), ("statistics", 1)):
        assert log_of(caplog, stage, "t.toml", *moved).count("already done with the same settings") == n
    assert states()["statistics"] == "done"


def test_replaced_images_make_nets_and_statistics_stale(place, caplog, capsys):
    for k in range(3):
        draw(Path(f"imgs/val/cats/cats{k}.png"), 5000 + k)
    draw(Path("imgs/train/dogs/more.png"), 6000)
    named = "3 of 12 images of val differ: cats/cats0.png, cats/cats1.png, cats/cats2.png"
    # A net that is added later does not mix images without a word: the statistics refuse the old nets.
    text = log_of(caplog, "train", "t.toml", "--set", "nets.0.seeds=[1, 2, 3]", "--net", "net3")
    assert f"data: 1 image of train added: dogs/more.png; {named}" in text
    assert main(["statistics", "t.toml", "--set", "nets.0.seeds=[1, 2, 3]"]) == 2
    assert named in capsys.readouterr().err
    assert states()["train net1"] == states()["statistics"] == "stale"
    text = log_of(caplog, "train", "t.toml")
    assert f"train net1: data: 1 image of train added: dogs/more.png; {named}" in text
    assert "train net2: data: 1 image of train added" in text
    assert "statistics: data: 1 image of train" in log_of(caplog, "statistics", "t.toml")


def test_removed_images_are_named_and_come_back_with_their_results(place, caplog):
    os.rename("imgs/val/dogs/dogs3.png", "dogs3.png")
    text = log_of(caplog, "train", "t.toml")
    assert "train net1: data: 1 image of val removed: dogs/dogs3.png" in text
    os.rename("dogs3.png", "imgs/val/dogs/dogs3.png")
    text = log_of(caplog, "train", "t.toml")
    assert text.count("restored from superseded results") == 2


def test_unfinished_statistics_do_not_resume_over_other_images(place, caplog):
    record = Path(RUN, "statistics.json")
    values = json.loads(record.read_text(encoding="utf-8"))
    record.write_text(json.dumps(values | {"finished": None}), encoding="utf-8")
    assert states()["statistics"] == "unfinished"
    draw(Path("imgs/val/cats/cats0.png"), 5000)
    assert log_of(caplog, "train", "t.toml").count("1 of 12 images of val differ") >= 2
    text = log_of(caplog, "statistics", "t.toml")
    assert "statistics: data: 1 of 12 images of val differ: cats/cats0.png" in text
    assert "resuming" not in text


def test_a_run_without_its_images_is_shown_and_analyzed(place, caplog, capsys):
    """As on a laptop, with and without the record of the data, which older copies lack."""
    shutil.rmtree("imgs")
    assert states()["statistics"] == "done"
    assert main(["show", "t.toml"]) == 0
    assert "not found here; the record is used (recorded " in capsys.readouterr().out
    assert main(["status", "t.toml"]) == 0
    assert "train net1  done" in capsys.readouterr().out
    assert "the record of the run is used" in log_of(caplog, "train", "t.toml")
    assert main(["analyze", "t.toml"]) == 0
    assert main(["train", "t.toml", "--set", "nets.0.seeds=[1, 2, 3]"]) == 2
    assert "imgs/train: there is no such folder. data.root must hold" in capsys.readouterr().err
    Path(RUN, "data/manifest.json").unlink()
    Path(RUN, "data/files.json").unlink()
    assert states()["statistics"] == states()["analyze"] == "done"
    for content in (b'{"format": 1}', b'{"format": "\xff"}', b"[" * 100_000,
                    b'{"format": 1, "content": "", "recorded": "", "changes": [], "parts": {"train": 3}}'):  # fmt: skip
        Path(RUN, "data/manifest.json").write_bytes(content)
        assert main(["analyze", "t.toml"]) == 2
        assert "manifest.json: the record of the data is damaged" in capsys.readouterr().err


def test_show_reads_no_image_and_submit_does_not_trust_changed_files(place, capsys, monkeypatch):
    monkeypatch.setattr("convergence.data.image_folder.hash_image", None)
    for about, change in (
        ("8 files of train, 12 files of val, unchanged by size and time", lambda: None),
        ("1 file of val: another size or time: cats/cats0.png", lambda: os.utime("imgs/val/cats/cats0.png")),
    ):
        change()
        assert main(["show", "t.toml"]) == 0
        assert about in capsys.readouterr().out
    folder = RunFolder(Path(RUN), read_config("t.toml"))
    assert folder.state(folder.statistics_task()) == "done"
    folder.data.doubt_changes()
    assert folder.state(folder.statistics_task()) == "stale"


def test_unreadable_files_are_refused_before_training_or_left_out(place, caplog, capsys):
    Path("imgs/val/cats/cats1.png").write_bytes(b"not a png")
    Path("imgs/train/dogs/gone.png").symlink_to("nowhere.png")
    sets = ["--set", "data.unreadable=skip"]
    assert main(["train", "t.toml", "--runs", "other"]) == 2
    error = capsys.readouterr().err
    assert "imgs: 2 items cannot be used: 1 × dangling link, 1 × not an image that Pillow reads" in error
    assert 'set data.unreadable = "skip"' in error
    assert not Path("other/t/nets").exists()
    text = log_of(caplog, "train", "t.toml", *sets)
    assert "2 items left out" in text
    assert "train net1: data: 1 image of val removed: cats/cats1.png" in text
    assert log_of(caplog, "statistics", "t.toml", *sets)
    with h5py.File(Path(RUN, "statistics.h5")) as file:
        assert len(file["images/group_of_image"]) == 11
    record = json.loads(Path(RUN, "data/manifest.json").read_text(encoding="utf-8"))
    assert record["parts"]["test"]["left_out"] == [["cats/cats1.png", "not an image that Pillow reads"]]
    assert len(record["changes"]) == 1


def test_an_interrupted_check_keeps_what_it_has_read(place, monkeypatch):
    from convergence.data import image_folder

    read, hash_image = [], image_folder.hash_image
    monkeypatch.setattr("convergence.data.manifest.CHUNK_FILES", 1)

    def reading(path):
        read.append(path)
        if len(read) == 10:
            raise KeyboardInterrupt
        return hash_image(path)

    monkeypatch.setattr(image_folder, "hash_image", reading)
    folder = RunFolder(Path("other/t"), read_config("t.toml"))
    with pytest.raises(KeyboardInterrupt):
        folder.data.check()
    assert not folder.data.path.exists()
    n_read = len(read)
    folder.data.check()
    assert len(read) <= 20 + 2
    assert n_read >= 10
    assert sorted(path.name for path in Path("other/t/data").iterdir()) == ["files.json", "manifest.json"]


def test_partial_records_of_a_stopped_machine_are_removed(place):
    """A crash between creating and renaming a file of the record leaves the temporary file of a process that ended."""
    data = Path(RUN, "data")
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from convergence.io.files import atomic_write\n"
        "writing = [atomic_write(Path(sys.argv[1], name), shared=True) for name in sys.argv[2:]]\n"
        "for name, one in zip(sys.argv[2:], writing):\n"
        "    one.__enter__()\n"
        "    os.unlink(Path(sys.argv[1], name))\n"
        "os._exit(1)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(data), "files.json", "manifest.json"], check=False)
    assert len(list(data.glob(".*.partial"))) == 2
    assert main(["train", "t.toml"]) == 0
    assert sorted(path.name for path in data.iterdir()) == ["files.json", "manifest.json"]


def test_names_of_other_encodings_reach_the_report(place):
    os.rename("imgs/val/cats/cats3.png", os.fsdecode(b"imgs/val/cats/caf\xe9.png"))
    for split in ("train", "val"):
        os.rename(f"imgs/{split}/dogs", os.fsdecode(f"imgs/{split}/".encode() + b"chiens \xe9"))
    for stage in ("train", "statistics", "analyze", "report", "show"):
        assert main([stage, "t.toml"]) == 0
    assert main(["pack", "t.toml", "--out", "packs"]) == 0
    with h5py.File("packs/val.h5") as file:
        assert list(file["class_names"].asstr()) == ["cats", "chiens \\xe9"]


def test_packed_files_are_identified_by_their_pixels(place, caplog):
    assert main(["pack", "t.toml", "--out", "packs"]) == 0
    text = Path("t.toml").read_text(encoding="utf-8").replace("resize = 16\n", "")
    Path("p.toml").write_text(text.replace('"image_folder"', '"packed"').replace('"imgs"', '"packs"'), encoding="utf-8")
    assert main(["train", "p.toml", "--runs", "packed"]) == 0
    os.rename("packs", "elsewhere")
    moved = ["--runs", "packed", "--set", "data.root=elsewhere"]
    assert log_of(caplog, "train", "p.toml", *moved).count("already done") == 2
    draw(Path("imgs/train/cats/cats0.png"), 7000)
    assert main(["pack", "t.toml", "--out", "others"]) == 0
    shutil.copy("others/train.h5", "elsewhere/train.h5")
    assert "1 of 1 file of train.h5 differ" in log_of(caplog, "train", "p.toml", *moved)


def test_rewritten_activations_with_equal_content_change_nothing(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    os.mkdir("arrays")
    for net in "ab":
        np.save(f"arrays/{net}.npy", np.random.default_rng(ord(net)).standard_normal((40, 5)))
    Path("g.toml").write_text(
        'name = "g"\n[activations]\nroot = "arrays"\nnets = { a = { fc = "a.npy" }, b = { fc = "b.npy" } }\n'
        '[statistics]\ncomparisons = ["fc"]\ngroups = 4\nsubset = 8\nthreads = 1\n',
        encoding="utf-8",
    )
    assert main(["statistics", "g.toml"]) == 0
    shutil.copytree("arrays", "moved", copy_function=shutil.copy)
    moved = ["--set", "activations.root=moved"]
    assert "already done with the same settings" in log_of(caplog, "statistics", "g.toml", *moved)
    np.save("moved/b.npy", np.random.default_rng(9).standard_normal((40, 5)))
    text = log_of(caplog, "statistics", "g.toml", *moved)
    assert "statistics: data: 1 of 2 files of the activations differ: b.npy" in text
    shutil.rmtree("moved")
    assert "the record of the run is used" in log_of(caplog, "statistics", "g.toml", *moved)
    assert main(["analyze", "g.toml", *moved]) == 0


def test_data_of_a_class_in_one_split_only_are_refused(place):
    os.mkdir("imgs/val/birds")
    with pytest.raises(FileError, match="only in one of them: birds"):
        read_config("t.toml").images.load()
