"""Data sets of torchvision and of a user's function: the items, their classes, their content, and what is refused."""

from __future__ import annotations

import struct
import sys

import numpy as np
import pytest

from convergence.config.load import parse_config
from convergence.data import user_code
from convergence.data.images import AbsentImages, DataSource
from convergence.data.manifest import KnownFiles, make_manifest
from convergence.errors import ConfigError, FileError
from convergence.provenance import FETCH_RECORD

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
CONFIG = """
name = "any"
statistics = {{ comparisons = ["conv1"] }}
nets = [{{ seeds = [1, 2], network = {{ name = "small" }} }}]
[data]
{data}
"""
MODULE = """
import numpy as np
import torch
from PIL import Image

class Items:
    def __init__(self, items, **columns):
        self.items = items
        vars(self).update(columns)
    def __len__(self):
        return len(self.items)
    def __getitem__(self, k):
        return self.items[k]

def photos(n=6, shade=10):
    images = [Image.fromarray(np.full((9 + k, 12, 3), shade * k, np.uint8)) for k in range(n)]
    both = [(image, k % 2) for k, image in enumerate(images)]
    return Items(both, classes=["even", "odd"]), Items(both[:4], classes=["even", "odd"])

def tokens():
    rows = [torch.arange(5) + k for k in range(6)]
    return Items(rows, families=list("abcabc"), mask=torch.ones(6, 5, dtype=torch.bool))

def series():
    return Items([(np.full((2, 7), k / 2), torch.tensor(k % 3)) for k in range(6)])

def bytes_():
    return Items([np.zeros((4, 4, 3), np.uint8)] * 3)

def ragged():
    return Items([np.zeros((1, 4, 4 + k)) for k in range(3)])

def missing():
    return Items([np.full((1, 2, 2), np.nan)] * 3)

def boxes():
    return Items([(np.zeros((1, 4, 4)), {"boxes": [1]})] * 3)

def triples():
    return Items([(np.zeros((1, 4, 4)), 1, 2)] * 3)

def stream():
    return iter(range(3))

def wrong(size):
    return size
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(user_code, "ALLOWED", [])
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "data_of_eve.py").write_text(MODULE, encoding="utf-8")
    yield tmp_path / "exp"
    sys.modules.pop("data_of_eve", None)


def source(folder, function: str, **settings) -> DataSource:
    lines = [f'name = "data_of_eve:{function}"', *(f"{key} = {value}" for key, value in settings.items())]
    return parse_config(CONFIG.format(data="\n".join(lines)), folder=folder).images


def test_photographs_of_a_function_are_cropped_and_normalised(folder):
    given = source(
        folder, "photos", resize=8, crop=6, mean="[0.1, 0.2, 0.3]", deviation="[0.5]", options="{ shade = 30 }"
    )
    train, test = given.load()
    assert (len(train), len(test), test.image_shape, test.class_names) == (6, 4, (3, 6, 6), ("even", "odd"))
    assert test.known_labels().tolist() == [0, 1, 0, 1]
    read = test.read(np.array([3, 1]))
    wanted = (np.array([90, 30]) / 255)[:, None] - [0.1, 0.2, 0.3]
    np.testing.assert_allclose(
        read, np.broadcast_to((wanted / 0.5)[:, :, None, None], (2, 3, 6, 6)), rtol=1e-5, atol=1e-6
    )
    black, white = test.pixel_range()
    np.testing.assert_allclose(black, np.array([-0.1, -0.2, -0.3]) / 0.5, rtol=1e-5)
    np.testing.assert_allclose(white, np.array([0.9, 0.8, 0.7]) / 0.5, rtol=1e-5)


def test_tensors_and_arrays_pass_as_they_are(folder):
    splits = source(folder, "tokens").load()
    assert isinstance(splits.train, AbsentImages)
    test = splits.test
    assert (test.labels, test.image_shape, test.dtype) == (None, (5,), np.int64)
    assert test.families.tolist() == [0, 1, 2, 0, 1, 2]
    assert test.position_mask(np.arange(2)).all()
    np.testing.assert_array_equal(test.read(np.array([4])), [[4, 5, 6, 7, 8]])
    series = source(folder, "series").load().test
    assert (series.image_shape, series.dtype, series.class_names) == ((2, 7), np.float32, ("0", "1", "2"))
    assert series.known_labels().tolist() == [0, 1, 2, 0, 1, 2]
    np.testing.assert_array_equal(series.read(np.array([3])), np.full((1, 2, 7), 1.5))


def test_content_is_that_of_all_items_or_the_given_version(folder):
    def content(**settings) -> tuple[str, str]:
        return tuple(split.manifest_hash() for split in source(folder, "photos", resize="[8, 8]", **settings).load())

    assert content() == content()
    assert len(set(content())) == 2
    assert content(options="{ shade = 11 }") != content()
    versions = [content(version=f'"{version}"', options="{ shade = 12 }") for version in ("a", "a", "b")]
    assert versions[0] == versions[1] != versions[2]


@pytest.mark.parametrize(
    ("function", "found"),
    [
        ("bytes_", r"item 0 is a ndarray of shape \(4, 4, 3\) and type uint8; needed are floats"),
        ("ragged", r"item 1 has the shape \(1, 4, 5\)"),
        ("missing", "item 0 holds NaN"),
        ("boxes", "the second value of an item is no class"),
        ("triples", "item 0 has 3 values"),
        ("stream", "is a range_iterator; needed is a map-style data set"),
        ("wrong", r"wrong\(\) failed: .*Check data\.options"),
        ("absent", 'has no "absent"'),
    ],
)
def test_other_items_are_refused(folder, function, found):
    with pytest.raises((FileError, ConfigError), match=found):
        source(folder, function).load().test.read(np.arange(3))


def test_code_of_other_machines_packages_and_the_standard_library_is_refused(folder):
    assert source(folder, "tokens").refusal() == ""
    (folder / FETCH_RECORD).write_text("{}")
    given = source(folder, "tokens")
    assert "--allow-code data_of_eve" in given.refusal()
    with pytest.raises(ConfigError, match="was fetched from another machine"):
        given.load()
    assert "data_of_eve" not in sys.modules
    user_code.ALLOWED.append("data_of_eve")
    assert len(given.load().test) == 6
    for name, found in (
        ("os:listdir", "which builds no data sets"),
        ("torch.utils.data:TensorDataset", "--allow-code"),
    ):
        with pytest.raises(ConfigError, match=found):
            parse_config(CONFIG.format(data=f'name = "{name}"'), folder=folder.parent).images.load()


def write_mnist(root, seed=0, n=7) -> np.ndarray:
    """Files in the format of MNIST, and the held-out images."""
    rng = np.random.default_rng(seed)
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for part in ("train", "t10k"):
        images, labels = rng.integers(0, 256, (n, 28, 28)).astype(np.uint8), np.arange(n, dtype=np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, n, 28, 28) + images.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, n) + labels.tobytes())
    return images


def mnist(root, name="MNIST", **settings) -> DataSource:
    lines = [
        f'name = "torchvision:{name}"',
        f"root = '{root}'",
        *(f"{key} = {value}" for key, value in settings.items()),
    ]
    return parse_config(CONFIG.format(data="\n".join(lines))).images


def test_a_torchvision_data_set_is_read_from_its_files(tmp_path):
    images = write_mnist(tmp_path)
    splits = mnist(tmp_path, mean="[0.5]", deviation="[0.25]").load()
    assert (len(splits.train), splits.test.image_shape, splits.test.n_classes) == (7, (1, 28, 28), 10)
    assert splits.test.class_names[3].startswith("3")
    assert splits.test.known_labels().tolist() == list(range(7))
    np.testing.assert_allclose(
        splits.test.read(np.array([5]))[0, 0], (images[5] / 255 - 0.5) / 0.25, rtol=1e-5, atol=1e-5
    )
    resized = mnist(tmp_path, resize=32, crop=30, channels=3).load().test
    assert resized.read(np.arange(2)).shape == (2, 3, 30, 30)


def test_files_of_a_torchvision_data_set_identify_it(tmp_path):
    def content() -> str:
        given = mnist(tmp_path)
        return make_manifest(given, given.list_parts(), KnownFiles()).content

    write_mnist(tmp_path)
    before = content()
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte.gz").write_bytes(b"archive")
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "file").write_bytes(b"of another data set")
    assert content() == before
    write_mnist(tmp_path, seed=1)
    assert content() != before


def test_data_sets_that_torchvision_does_not_have_or_find_are_refused(tmp_path):
    with pytest.raises(FileError, match=r"there are no files of torchvision:MNIST.*data\.download = true"):
        mnist(tmp_path).list_parts()
    (tmp_path / "MNIST").mkdir()
    (tmp_path / "MNIST" / "x").write_text("")
    with pytest.raises(FileError, match="could not be read: Dataset not found"):
        mnist(tmp_path).load()
    with pytest.raises(ConfigError, match='no data set "MNITS"; did you mean'):
        mnist(tmp_path, "MNITS").load()
