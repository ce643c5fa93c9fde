"""Data sets: what they hold, that nothing leaks, that readers change no bit, what they say when images are missing."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from convergence.data import DATA_SETS
from convergence.data.images import read_batches
from convergence.data.photos import Photos, blocks_of, places
from convergence.errors import ConfigError, FileError


def source(name: str, **settings):
    return DATA_SETS.load(name).model_validate({"name": name, **settings})


def test_digits_are_divided_by_class():
    splits = source("digits").load()
    assert len(splits.train) + len(splits.test) == 1797
    assert splits.train.image_shape == (1, 8, 8)
    assert abs(float(splits.train.images.mean())) < 1e-5
    share = np.bincount(splits.test.labels) / (np.bincount(splits.train.labels) + np.bincount(splits.test.labels))
    np.testing.assert_allclose(share, 0.3, atol=0.005)
    joined = {image.tobytes() for image in splits.train.images}
    assert sum(image.tobytes() in joined for image in splits.test.images) == 0


def test_photos_hold_out_pixels():
    """Paint the pixels of all candidate training and held-out patches of a photograph: no pixel is painted twice."""
    photos = Photos(name="photos", n_train=160, n_test=160)
    for photograph, shape in ((0, (303, 384)), (3, (512, 512))):
        painted = {}
        for split in ("train", "test"):
            canvas = np.zeros(shape, dtype=bool)
            for y, x in places(shape, photograph, photos, split, 2000).reshape(-1, 2):
                assert 0 <= y <= shape[0] - photos.patch
                assert 0 <= x <= shape[1] - photos.patch
                canvas[y : y + photos.patch, x : x + photos.patch] = True
            painted[split] = canvas
        assert not (painted["train"] & painted["test"]).any()
        assert blocks_of(shape, photograph, photos).mean() == pytest.approx(0.25, abs=0.05)


def test_photos_are_normalised_and_half_grey():
    splits = source("photos", n_train=320, n_test=320).load()
    assert splits.train.n_classes == 16
    assert (np.bincount(splits.train.labels) == 20).all()
    images = splits.train.images
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), 0, atol=1e-4)
    assert np.median(images.std(axis=(1, 2, 3))) == pytest.approx(1, abs=1e-3)
    grey = (images[:, 0] == images[:, 1]).all(axis=(1, 2)) & (images[:, 0] == images[:, 2]).all(axis=(1, 2))
    assert 0.5 <= grey.mean() < 0.85  # six photographs have no colour to begin with


def test_image_folder_in_imagenets_layout(image_root):
    splits = source("image_folder", root=str(image_root), resize=40, crop=32).load()
    assert (len(splits.train), len(splits.test)) == (12, 8)
    assert splits.train.class_names == ("n01", "n02")
    batch = splits.test.read(np.arange(8))
    assert batch.shape == (8, 3, 32, 32)
    red, blue = batch[splits.test.labels == 0].mean((0, 2, 3)), batch[splits.test.labels == 1].mean((0, 2, 3))
    assert red[0] > red[2]
    assert blue[2] > blue[0]
    assert splits.train.manifest_hash() != splits.test.manifest_hash()


def test_preprocessing_equals_the_papers(image_root):
    settings = {"resize": [256, 256], "crop": 227, "scale": 1.0, "mean": [0, 0, 0], "deviation": [1, 1, 1]}
    batch = source("image_folder", root=str(image_root), augmentation="crop", **settings).load().test.read(np.arange(2))
    assert batch.shape == (2, 3, 227, 227)
    assert 150 < batch.max() <= 255


@pytest.mark.parametrize("name", ["digits", "photos", "image_folder"])
@pytest.mark.parametrize("augment_seed", [None, 5])
def test_reader_processes_give_identical_batches(name, augment_seed, image_root):
    settings = {"photos": {"n_train": 64, "n_test": 64}, "image_folder": {"root": str(image_root), "crop": 32}}
    images = source(name, **settings.get(name, {})).load().train
    batches = [np.arange(12)[k : k + 5] for k in (0, 5, 10)]
    found = []
    for workers in (0, 1, 3):
        read = list(read_batches(images, batches, workers, augment_seed))
        assert [list(indices) for indices, _ in read] == [list(batch) for batch in batches]
        found.append(np.concatenate([pixels for _, pixels in read]))
    assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()
    if augment_seed is not None and name != "digits":
        assert (found[0] != images.read(np.arange(12))).any()


def write_cifar(root, **changes):
    root.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for file in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        batch = {b"data": rng.integers(0, 256, (20, 3072), dtype=np.uint8), b"labels": [k % 10 for k in range(20)]}
        (root / file).write_bytes(pickle.dumps(batch, protocol=2))
    meta = {b"label_names": [f"class{k}".encode() for k in range(10)]}
    (root / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))


def test_cifar10_from_a_folder(tmp_path):
    write_cifar(tmp_path / "cifar")
    splits = source("cifar10", root=str(tmp_path / "cifar")).load()
    assert (len(splits.train), len(splits.test)) == (100, 20)
    assert splits.train.class_names[3] == "class3"
    np.testing.assert_allclose(splits.train.images.mean(axis=(0, 2, 3)), 0, atol=1e-4)


class Intruder:
    def __reduce__(self):
        return (print, ("code from a pickle ran",))


def test_cifar10_runs_no_code_from_a_pickle(tmp_path, capsys):
    root = tmp_path / "cifar"
    write_cifar(root)
    (root / "test_batch").write_bytes(pickle.dumps({b"data": Intruder()}))
    with pytest.raises(FileError, match=r"builtins\.print"):
        source("cifar10", root=str(root)).load()
    assert "ran" not in capsys.readouterr().out


def test_binary_cifar10_holds_the_same_images(tmp_path):
    write_cifar(tmp_path / "py")
    (tmp_path / "bin").mkdir()
    for file in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        batch = pickle.loads((tmp_path / "py" / file).read_bytes())
        rows = np.column_stack([np.array(batch[b"labels"], np.uint8), batch[b"data"]])
        (tmp_path / "bin" / f"{file}.bin").write_bytes(rows.tobytes())
    (tmp_path / "bin" / "batches.meta.txt").write_text("\n".join(f"class{k}" for k in range(10)) + "\n\n")
    plain, binary = (source("cifar10", root=str(tmp_path / name)).load() for name in ("py", "bin"))
    assert plain.train.images.tobytes() == binary.train.images.tobytes()
    assert plain.test.labels.tolist() == binary.test.labels.tolist()
    assert plain.train.class_names == binary.train.class_names
    (tmp_path / "bin" / "test_batch.bin").write_bytes(bytes(3074))
    with pytest.raises(FileError, match="no multiple of 3,073"):
        source("cifar10", root=str(tmp_path / "bin")).load()


def crafted(opcodes: bytes) -> bytes:
    """A pickle that rebuilds an array, with these instructions for its state."""
    return (
        b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        + opcodes
        + b"bs."
    )


@pytest.mark.parametrize(
    "content",
    [
        crafted(b"(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R\x89U\x04aaaat"),  # objects: pointers
        crafted(b"(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R\x89U\x04aaaat"),  # too few bytes
        crafted(b"(K\x01J\xff\xff\xff\xffK\x01\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R\x89U\x01at"),  # below 0
        crafted(b"K\x01"),
        b"\x80\x02cnumpy\ndtype\nU\x03f4,K\x00K\x01\x87R.",
        b"\x80\x02]r\xff\xff\xff\x7f" + b"(h\x00" * 40 + b"l.",
        b"\x80\x02K\x01.",
        b"",
    ],
)
def test_crafted_cifar10_pickles_are_refused(tmp_path, content):
    write_cifar(tmp_path)
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(FileError, match="damaged, or no CIFAR-10 batch"):
        source("cifar10", root=str(tmp_path)).load()


def test_missing_images_are_explained(tmp_path, image_root):
    with pytest.raises(FileError, match=r"there is no such folder.*must hold train"):
        source("image_folder", root=str(tmp_path / "none")).load()
    with pytest.raises(FileError, match="Unpack cifar-10-python"):
        source("cifar10", root=str(tmp_path / "none")).load()
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
    with pytest.raises(FileError, match=r"no images were found\. Images are"):
        source("image_folder", root=str(tmp_path)).load()


def test_images_without_class_folders_have_no_labels_and_need_no_training_images(tmp_path, image_root):
    import shutil

    (tmp_path / "val").mkdir()
    for k, path in enumerate(sorted((image_root / "val").rglob("*.JPEG"))):
        shutil.copy(path, tmp_path / "val" / f"{k}.jpg")
    data = source("image_folder", root=str(tmp_path), resize=40, crop=32)
    with pytest.raises(FileError, match=r"train: there is no such folder"):
        data.load()
    data.without_train()
    splits = data.load()
    assert (splits.test.labels, splits.test.n_classes, len(splits.test), len(splits.train)) == (None, 0, 8, 0)
    labelled = source("image_folder", root=str(image_root), resize=40, crop=32).load().test
    np.testing.assert_array_equal(splits.test.read(np.arange(8)), labelled.read(np.arange(8)))
    with pytest.raises(ConfigError, match="the images have no labels"):
        splits.test.known_labels()
    with pytest.raises(FileError, match="was not read, because no net of the config is trained"):
        splits.train.read(np.arange(1))
    assert list(data.list_parts()) == ["test"]


def test_a_damaged_image_is_named(tmp_path, image_root):
    import shutil

    root = tmp_path / "copy"
    shutil.copytree(image_root, root)
    (root / "val" / "n01" / "2.JPEG").write_bytes(b"\xff\xd8 no picture")
    images = source("image_folder", root=str(root), crop=32).load().test
    with pytest.raises(FileError, match=r"2\.JPEG: the image could not be decoded"):
        images.read(np.arange(4))
    shutil.rmtree(root / "val" / "n02")
    with pytest.raises(FileError, match="only in one of them: n02"):
        source("image_folder", root=str(root)).load()


def test_unknown_data_sets_are_refused():
    with pytest.raises(ConfigError, match='did you mean "photos"'):
        DATA_SETS.load("fotos")


def values_of(held):
    return held.numpy() if isinstance(held, torch.Tensor) else np.asarray(held)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("held", [
    lambda batch: batch, lambda batch: batch[1:, 0], torch.from_numpy, lambda batch: torch.from_numpy(batch)[1:, 0],
    memoryview,
])  # fmt: skip
def test_held_batches_are_not_overwritten(held, workers):
    """Batches that nobody holds make room for later ones; a view or a tensor of one keeps it as it is."""
    images = source("digits").load().train
    order = np.arange(len(images))[: 16 * 60]
    kept, wanted, addresses = [], [], set()
    for indices, batch in read_batches(images, [order[k : k + 16] for k in range(0, len(order), 16)], workers):
        np.testing.assert_array_equal(batch, images.images[indices])
        addresses.add(batch.ctypes.data)
        if indices[0] % 3 == 0:
            kept.append(held(batch))
            wanted.append(values_of(kept[-1]).copy())
        del batch
    for one, value in zip(kept, wanted, strict=True):
        np.testing.assert_array_equal(values_of(one), value)
    assert len(addresses) <= len(kept) + 6 < 60
