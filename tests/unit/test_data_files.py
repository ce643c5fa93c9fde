"""The listing and the manifest of image folders: what is found, what is refused, what is read again."""

from __future__ import annotations

import builtins
import io
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convergence.data import DATA_SETS
from convergence.data.files import MissingDataError, hash_image, name_text
from convergence.data.image_folder import ImageFolder
from convergence.data.manifest import (
    KnownFiles,
    Manifest,
    describe_changed_times,
    describe_differences,
    from_json,
    make_manifest,
    pillow_version,
    to_json,
)
from convergence.errors import FileError

LATIN_1 = os.fsdecode(b"caf\xe9.png")


def picture(seed: int = 0, ending: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, ending, **options)
    return stream.getvalue()


@pytest.fixture
def root(tmp_path) -> Path:
    """Twelve PNG files, all different, an hour old: two classes of three in each split."""
    for k in range(12):
        folder = tmp_path / "imgs" / ("train", "val")[k // 6] / ("cats", "dogs")[k // 3 % 2]
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{k % 3}.png"
        path.write_bytes(picture(k))
        os.utime(path, ns=(1_700_000_000_000_000_000 + k,) * 2)
    return tmp_path / "imgs"


def source(root: Path, **settings) -> ImageFolder:
    return ImageFolder(name="image_folder", root=root, resize=16, crop=16, **settings)


def manifest(root: Path, known: KnownFiles | None = None, **settings) -> Manifest:
    data = source(root, **settings)
    return make_manifest(data, data.list_parts(), known or KnownFiles())


def problems(made: Manifest) -> dict[str, str]:
    return {f"{title}/{name_text(problem.name)}": problem.kind for title, problem in made.all_problems()}


def test_hidden_files_and_folders_are_neither_images_nor_classes(root):
    content = manifest(root).content
    for split in ("train", "val"):
        for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX"):
            (root / split / name).mkdir()
            (root / split / "cats" / name).mkdir()
            (root / split / "cats" / name / "copy.png").write_bytes(picture())
        for path in list((root / split).rglob("?.png")):
            path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7Mac OS X")
    made = manifest(root)
    assert made.content == content
    assert problems(made) == {}
    assert made.parts["train"].n_hidden == 12
    assert source(root).load().train.class_names == ("cats", "dogs")


def test_linked_folders_are_followed_and_loops_and_dangling_links_found(root, tmp_path):
    content, store = manifest(root).content, tmp_path / "store"
    (root / "train" / "cats").rename(store)
    (root / "train" / "cats").symlink_to(store)
    assert manifest(root).content == content
    more = tmp_path / "more"
    more.mkdir()
    (more / "x.png").write_bytes(picture(99))
    (root / "val" / "dogs" / "part").symlink_to(more)
    assert "dogs/part/x.png" in [file.name for file in manifest(root).parts["test"].files]
    (root / "val" / "dogs" / "up").symlink_to(root / "val")
    (root / "val" / "dogs" / "self.png").symlink_to("self.png")
    (root / "val" / "dogs" / "gone.png").symlink_to("../../.git/annex/objects/none.png")
    (root / "val" / "fish").symlink_to(tmp_path / "none")
    assert problems(manifest(root)) == {
        "val/dogs/up": "link loop", "val/dogs/self.png": "link loop", "val/dogs/gone.png": "dangling link",
        "val/fish": "dangling link",
    }  # fmt: skip
    with pytest.raises(FileError, match=r"4 items cannot be used: 2 × .*dangling link: to .*none\.png"):
        source(root).load()


def huge(width: int, height: int) -> bytes:
    """A PNG whose header claims a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def with_large_text() -> bytes:
    text = zlib.compress(b"a" * 4_000_000)
    data = b"note\0\0" + text
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))
    whole = picture()
    return whole[:33] + chunk + whole[33:]


BAD = {
    "empty.png": (b"", "empty file"),
    "page.png": (b"<html>404</html>", "not an image that Pillow reads"),
    "cut.png": (picture()[:-300], "damaged or truncated"),
    "cut.jpg": (picture(1, "JPEG")[:-200], "damaged or truncated"),
    "bomb.png": (huge(60_000, 60_000), "more pixels than Pillow accepts"),
    "text.png": (with_large_text(), "damaged or truncated"),
}


def test_all_files_that_do_not_decode_are_found_at_once(root):
    for name, (content, _) in BAD.items():
        (root / "train" / "cats" / name).write_bytes(content)
    os.mkfifo(root / "train" / "dogs" / "s.png")
    for split in ("train", "val"):
        (root / split / "birds").mkdir()
    expected = {f"train/cats/{name}": kind for name, (_, kind) in BAD.items()}
    expected |= {"train/dogs/s.png": "not a regular file"}
    found = manifest(root)
    assert problems(found) == expected | {"train/birds": "empty class", "val/birds": "empty class"}
    left = manifest(root, unreadable="skip")
    assert problems(left) == expected
    assert left.parts["train"].class_names == ("cats", "dogs")
    assert [file.label for file in left.parts["train"].files] == [0, 0, 0, 1, 1, 1]


def test_formats_that_decode_pass_the_check(tmp_path):
    path, pixels = tmp_path / "image", np.arange(600, dtype=np.uint8).reshape(20, 30)
    for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "LA", "I;16", "I", "F"):
        for ending in ("PNG", "JPEG", "TIFF", "WEBP", "BMP"):
            try:
                image = Image.fromarray(pixels).convert(mode)
                image.save(path, ending)
                Image.open(path).convert("RGB")
            except (OSError, ValueError):
                continue
            assert hash_image(str(path))[1:] == ("", ""), (mode, ending)
    for size in ((1, 1), (1, 300), (300, 1)):
        Image.new("RGB", size).save(path, "JPEG")
        assert hash_image(str(path))[1:] == ("", "")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads every file")
def test_files_without_permission_are_found_and_tried_again(root):
    path, folder = root / "train" / "cats" / "0.png", root / "val" / "dogs" / "deep"
    folder.mkdir()
    known = KnownFiles()
    path.chmod(0)
    folder.chmod(0)
    try:
        found = problems(manifest(root, known))
        assert found == {"train/cats/0.png": "no permission", "val/dogs/deep": "folder that cannot be read"}
    finally:
        path.chmod(0o600)
        folder.chmod(0o700)
    assert problems(manifest(root, known)) == {}


def test_only_files_of_another_size_or_time_are_read_again(root, tmp_path, monkeypatch):
    known, opened = KnownFiles(), []
    first = manifest(root, known)
    known = KnownFiles()
    known.add(*from_json(json.loads(json.dumps(to_json(first, pillow_version())))))
    open_file = builtins.open

    def counting(path, *arguments, **options):
        if str(path).endswith(".png"):
            opened.append(str(path))
        return open_file(path, *arguments, **options)

    monkeypatch.setattr(builtins, "open", counting)
    assert manifest(root, known) == first
    moved = tmp_path / "elsewhere"
    root.rename(moved)
    assert manifest(moved, known) == first
    assert opened == []
    os.utime(moved / "val" / "cats" / "1.png")
    assert manifest(moved, known).content == first.content
    assert [Path(path).name for path in opened] == ["1.png"]


def test_differences_name_replaced_added_and_removed_images(root):
    first = manifest(root)
    (root / "val" / "cats" / "0.png").write_bytes(picture(50))
    (root / "val" / "cats" / "more.png").write_bytes(picture(51))
    (root / "train" / "dogs" / "2.png").unlink()
    times = describe_changed_times(first, source(root).list_parts())
    assert times.count("1 file of") == 3
    second = manifest(root)
    assert describe_differences(first, second) == (
        "1 image of train removed: dogs/2.png; 1 of 6 images of val differ: cats/0.png; 1 image of val added: "
        "cats/more.png"
    )
    assert second.content != first.content


def test_images_in_both_splits_are_found_by_content(root):
    assert manifest(root).in_both() == []
    (root / "val" / "dogs" / "again.png").write_bytes((root / "train" / "cats" / "1.png").read_bytes())
    assert manifest(root).in_both() == ["dogs/again.png"]


def test_renamed_and_relabelled_images_are_other_data(root):
    found = {manifest(root).content}
    (root / "val" / "cats" / "0.png").rename(root / "val" / "cats" / "9.png")
    found.add(manifest(root).content)
    (root / "val" / "cats" / "9.png").rename(root / "val" / "dogs" / "9.png")
    found.add(manifest(root).content)
    assert len(found) == 3


def test_names_of_other_encodings_survive_the_manifest(root):
    os.rename(root / "val" / "cats" / "0.png", root / "val" / "cats" / LATIN_1)
    for split in ("train", "val"):
        os.rename(root / split / "dogs", root / split / os.fsdecode(b"\xe9l\xe9phants"))
    made = manifest(root)
    text = json.dumps(to_json(made, pillow_version()))
    assert text.isascii()
    assert from_json(json.loads(text))[0] == made
    images = source(root).load().test
    assert images.class_names == ("cats", "\\xe9l\\xe9phants")
    assert len(images.read(np.arange(6))) == 6


def test_data_sets_of_packages_are_identified_without_an_import(monkeypatch):
    for name, n in (("digits", 1), ("photos", 16)):
        data = DATA_SETS.load(name).model_validate({"name": name})
        made = make_manifest(data, data.list_parts(), KnownFiles())
        assert len(made.parts["files"].files) == n
        assert not made.all_problems()
    monkeypatch.setattr("convergence.data.files.find_spec", lambda name: None)
    with pytest.raises(MissingDataError, match="Install it: pip install"):
        data.list_parts()


def test_a_manifest_of_another_format_is_refused(root):
    values = to_json(manifest(root), "")
    for broken in ({}, None, values | {"format": 99}, values | {"parts": {"train": {}}}):
        with pytest.raises(ValueError, match=r".+"):
            from_json(broken)
