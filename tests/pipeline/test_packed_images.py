"""Packed images have the folder's pixels, and the same bytes for any ranks and kills; damage is detected."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from convergence.cli import main
from convergence.data import DATA_SETS, packed
from convergence.data.images import batches_on_device
from convergence.data.packed import cut_on_device
from convergence.errors import ConfigError, FileError
from convergence.runs.run_lock import Claim, holding
from convergence.runs.tasks import StageTask
from tests.helpers.attempts import kill_repeatedly
from tests.helpers.hdf5_edits import resealed
from tests.helpers.photographs import config, digest, pack_command, write_photographs
from tests.helpers.recording import drawn, states_of


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("photographs"))


def source(name: str, **settings):
    return DATA_SETS.load(name).model_validate({"name": name, **settings})


@pytest.fixture(autouse=True, scope="module")
def small_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "BLOCK_IMAGES", 4)
        yield


@pytest.mark.parametrize(
    ("resize", "crop"), [("[40, 44]", 30), ("[40, 44]", 33), ("40", 31), ("37", 30), ("37", 33), ("[33, 64]", 31)]
)
def test_packed_pixels_equal_folder_pixels(root, tmp_path, resize, crop):
    """Exactly, in evaluation; and in training where the whole resized image is packed."""
    assert main(pack_command(config(tmp_path, root, resize, crop), tmp_path / "out")) == 0
    settings = {"crop": crop, "augmentation": "crop"}
    folder = source("image_folder", root=str(root), resize=eval(resize), **settings).load()
    pack = source("packed", root=str(tmp_path / "out"), **settings).load()
    for mine, theirs in zip(pack, folder, strict=True):
        everyone = np.arange(len(theirs))
        np.testing.assert_array_equal(mine.labels, theirs.labels)
        assert mine.class_names == theirs.class_names
        assert mine.manifest_hash() == theirs.manifest_hash()
        np.testing.assert_array_equal(mine.read(everyone), theirs.read(everyone))
        if resize.startswith("["):
            np.testing.assert_array_equal(mine.read(everyone, 7), theirs.read(everyone, 7))
        assert (mine.read(everyone, 7) != mine.read(everyone, 8)).any()


@pytest.fixture(scope="module")
def packs(root, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("packs")
    assert main(pack_command(config(folder, root), folder)) == 0
    return folder


@pytest.mark.parametrize("name", ["packed", "image_folder"])
@pytest.mark.parametrize("augmentation", ["crop", "resized_crop"])
@pytest.mark.parametrize(("seed", "workers"), [(None, 0), (3, 0), (3, 3)])
def test_images_on_device_equal_images_read(packs, root, name, augmentation, seed, workers):
    place = {"packed": {"root": str(packs)}, "image_folder": {"root": str(root), "resize": [40, 44]}}[name]
    images = source(name, crop=31, augmentation=augmentation, **place).load().train
    batches = [np.arange(20)[::-1], np.arange(20, 38)]
    found = list(batches_on_device(images, batches, torch.device("cpu"), workers, seed))
    for (indices, batch), wanted in zip(found, batches, strict=True):
        np.testing.assert_array_equal(indices, wanted)
        read = images.read(wanted, seed)
        assert batch.numpy().tobytes() == read.tobytes()
        if (name, augmentation, seed) != ("packed", "resized_crop", 3):  # that is equal to a rounding, see below
            finished = images.finish(torch.from_numpy(images.fetch(wanted, seed)), wanted, seed)
            np.testing.assert_array_equal(finished.numpy(), read)


@pytest.mark.parametrize("seed", [None, 3])
def test_device_crops_equal_host_crops(packs, seed):
    images = source("packed", root=str(packs), crop=31, augmentation="crop").load().train
    everyone = np.arange(len(images))
    whole = torch.from_numpy(images.fetch(everyone, seed))
    assert whole.shape[1:] == (40, 44, 3)
    crops = [images._crop(int(k), seed) for k in everyone]
    np.testing.assert_array_equal(cut_on_device(whole, crops, 31, False).numpy(), images.pixels(everyone, seed))


def test_device_resized_crops_equal_host_to_rounding(packs):
    images = source("packed", root=str(packs), crop=20, augmentation="resized_crop").load().train
    everyone = np.arange(len(images))
    whole = torch.from_numpy(images.whole(everyone))
    found = cut_on_device(whole, [images._crop(int(k), 3) for k in everyone], 20, True).numpy().astype(int)
    difference = np.abs(found - images.pixels(everyone, 3))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.05


def test_training_from_pack_equals_training_from_folder(packs, root, tmp_path):
    groups = ["--set", "statistics.groups=4"]
    assert main(["train", str(config(tmp_path, root)), "--runs", str(tmp_path / "a"), *groups]) == 0
    sets = ["statistics.groups=4", "data.name=packed", f'data.root="{packs}"']
    text = (tmp_path / "folder.toml").read_text().replace("resize = [40, 44]\n", "")
    (tmp_path / "packed.toml").write_text(text)
    arguments = ["train", str(tmp_path / "packed.toml"), "--runs", str(tmp_path / "b")]
    assert main([*arguments, *(word for change in sets for word in ("--set", change))]) == 0
    first, second = (tmp_path / run / "folder/nets/net1/weights.safetensors" for run in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_pack_has_plain_arrays_and_checksums(packs, root, caplog, tmp_path):
    with h5py.File(packs / "train.h5") as file:
        pixels = file["images"][()]
        assert pixels.shape == (38, 40, 44, 3)
        sums = [hashlib.sha256(image.tobytes()).digest() for image in pixels]
        assert file["image_sha256"][()].tobytes() == b"".join(sums)
        assert list(file["class_names"].asstr()) == ["n01", "n02"]
    assert sorted(path.name for path in packs.iterdir()) == ["folder.toml", "runs", "train.h5", "val.h5"]
    with caplog.at_level("INFO"):
        assert main(pack_command(config(tmp_path, root), packs)) == 0
    assert caplog.text.count("checksums verified") == 2


def test_pack_of_other_images_is_not_overwritten(packs, root, tmp_path, capsys):
    before = digest(packs / "train.h5")
    assert main(pack_command(config(tmp_path, root, resize="[41, 44]"), packs)) == 2
    assert "packed from other images, or with another data.resize" in capsys.readouterr().err
    assert digest(packs / "train.h5") == before


def test_damaged_pack_is_refused(packs, root, tmp_path, capsys):
    content = bytearray((packs / "train.h5").read_bytes())
    with h5py.File(packs / "train.h5") as file:
        content[file["images"].id.get_offset() + 9 * 40 * 44 * 3] ^= 1
    (tmp_path / "train.h5").write_bytes(content)
    assert main(pack_command(config(tmp_path, root), tmp_path)) == 2
    assert re.search(r"train.h5: images 8 … 11 do not match their checksum", capsys.readouterr().err)
    (tmp_path / "train.h5").write_bytes(content[:-5000])
    (tmp_path / "val.h5").write_bytes((packs / "val.h5").read_bytes())
    with pytest.raises(FileError, match="truncated"):
        source("packed", root=str(tmp_path), crop=31).load()
    with pytest.raises(FileError, match="Make it with: convergence pack"):
        source("packed", root=str(tmp_path / "none")).load()
    with pytest.raises(ConfigError, match=r"40 × 44, less than data\.crop = 224"):
        source("packed", root=str(packs)).load()


@pytest.mark.parametrize("name", ["digest", "source_manifest_sha256"])
def test_pack_without_an_attribute_is_refused(packs, tmp_path, name):
    for split in ("train", "val"):
        shutil.copy(packs / f"{split}.h5", tmp_path)
    with resealed(tmp_path / "train.h5", ["images"]) as file:
        del file.attrs[name]
    with pytest.raises(FileError, match=f"train.h5.*{name}"):
        source("packed", root=str(tmp_path), crop=31).load()


def test_unusable_pack_inputs_are_refused(root, tmp_path, capsys):
    path = config(tmp_path, root, crop=42)
    assert main(pack_command(path, tmp_path)) == 2
    assert "data.crop = 42 is larger than" in capsys.readouterr().err
    path.write_text(re.sub(r"\[data\].*?\[\[", '[data]\nname = "digits"\n[[', path.read_text(), flags=re.S))
    assert main(pack_command(path, tmp_path)) == 2
    assert '"digits": only "image_folder" can be packed' in capsys.readouterr().err


SMALL_BLOCKS = """
import PIL.Image, torchvision.transforms, h5py, convergence.config, hpc.pack
from convergence.data import packed, image_folder
packed.BLOCK_IMAGES = 4
"""


@pytest.mark.slow
def test_killed_pack_resumes_to_the_same_bytes(packs, root, tmp_path, request):
    kills = request.config.getoption("kills")
    arguments = pack_command(config(tmp_path, root), tmp_path / "out")
    killed, _ = kill_repeatedly(arguments, kills, tmp_path / "scratch", 12, SMALL_BLOCKS)
    assert killed >= min(kills, 3)
    assert_same_packs(tmp_path / "out", packs)


def test_second_pack_in_one_folder_is_refused(packs, root, tmp_path, capsys):
    """While another command packs to the folder, and not afterwards."""
    out = tmp_path / "out"
    out.mkdir()
    arguments = ["pack", str(config(tmp_path, root)), "--out", str(out)]
    with holding(Claim(out, [StageTask("pack", (out,), out / "pack", {})])):
        assert main(arguments) == 2
    assert "in use by another command (pack)" in capsys.readouterr().err
    assert main(arguments) == 0
    assert_same_packs(out, packs)


def assert_same_packs(found: Path, expected: Path) -> None:
    for name in ("train.h5", "val.h5"):
        assert digest(found / name) == digest(expected / name)
    assert sorted(path.name for path in found.iterdir()) == ["train.h5", "val.h5"]


def test_pack_resumes_from_crash_states(packs, root, tmp_path, monkeypatch):
    """The machine stops while blocks and journals are written; some states of each kind, by a seed."""
    monkeypatch.setattr(packed, "BLOCK_IMAGES", 4)
    out, trial = tmp_path / "out", tmp_path / "trial"
    out.mkdir()
    arguments = ["pack", str(config(tmp_path, root)), "--runs", str(tmp_path / "runs"), "--out"]
    states, disk = states_of(out, lambda: main([*arguments, str(out)]))
    assert disk.at_risk() == []
    for state in drawn(states, 5):
        state.write(trial)
        assert main([*arguments, str(trial)]) == 0, state
        assert_same_packs(trial, packs)


def test_only_damaged_blocks_are_packed_again(packs, root, tmp_path, monkeypatch):
    """Stop by signal after three blocks, flip a bit in one of them, tear the journal's last line."""
    made, decode = [], packed.decode

    def decoding(images, index, plan):
        made.append(index)
        if len(made) == 10:
            os.kill(os.getpid(), signal.SIGTERM)
        return decode(images, index, plan)

    monkeypatch.setattr(packed, "decode", decoding)
    arguments = [*pack_command(config(tmp_path, root), tmp_path), "--set", "training.loader_workers=1"]
    assert main(arguments) == 75
    assert sorted(made) == list(range(12))
    partial = tmp_path / "train.h5.partial"
    content = bytearray(partial.read_bytes())
    content[packed.offset(partial, "images") + 5 * 40 * 44 * 3] ^= 1
    partial.write_bytes(content)
    (journal,) = (tmp_path / "train.h5.journals").iterdir()
    journal.write_text(journal.read_text()[:-20])
    made.clear()
    made.extend(range(100, 110))
    assert main(arguments) == 0
    assert sorted(set(range(12)) & set(made[10 : 10 + 34])) == [4, 5, 6, 7, 8, 9, 10, 11]
    assert digest(tmp_path / "train.h5") == digest(packs / "train.h5")


def test_packed_images_keep_their_families(root, tmp_path):
    command = pack_command(config(tmp_path, root, "40", 30), tmp_path / "out")
    assert main([*command, "--set", 'data.families="folder"']) == 0
    folder = source("image_folder", root=str(root), resize=40, crop=30, families="folder").load()
    pack = source("packed", root=str(tmp_path / "out"), crop=30).load()
    for mine, theirs in zip(pack, folder, strict=True):
        assert len(set(theirs.families.tolist())) > 1
        np.testing.assert_array_equal(mine.families, theirs.families)
