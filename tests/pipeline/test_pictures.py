"""Pictures of units as people make them: planted truth, kills, batches, and everything that may be missing."""

from __future__ import annotations

import shutil

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from convergence.cli import main
from convergence.config.load import read_config
from convergence.config.stages import MaximizationConfig
from convergence.data.digits import Digits
from convergence.data.images import ArrayImages, Splits
from convergence.errors import FileError
from convergence.io import hdf5
from convergence.networks.weights import save_weights
from convergence.runs.run_folder import RunFolder
from convergence.runs.signals import Stopped
from convergence.statistics.top_images import NONE
from convergence.visualization import picture_maker as stage
from convergence.visualization.colours import Colours
from convergence.visualization.file import open_pictures
from convergence.visualization.layer import PicturedLayer
from convergence.visualization.maximization import frame_of, maximize, on_canvas
from tests.helpers.runs import datasets

PATTERN = np.array([[1, -1, 1], [-1, 1, -1], [1, 1, -1]], np.float32)
N_IMAGES, SIDE, N_PLANTED = 60, 12, 12
CONFIG = """
name = "planted"
[data]
name = "digits"
[[nets]]
seeds = [1, 2]
network = { name = "tests.pipeline.test_pictures:detector" }
trained = false
[statistics]
comparisons = ["0", { name = "linear", layers = "last", pool = true }]
groups = 4
batch_size = 7
positions = 2
threads = 1
mutual_information = { enabled = false }
[pictures]
nets = ["net1"]
threads = 1
loader_workers = 0
"""


def detector(image_shape: tuple[int, ...], n_classes: int) -> nn.Module:
    """Unit 0 of layer "0" finds the pattern, unit 1 its negative, unit 2 is silent; "3" sees them through pooling."""
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten())
    net.add_module("last", nn.Linear(2 * 3 * 3, n_classes))
    with torch.no_grad():
        net[0].bias.zero_()
        net[0].weight[0, 0] = torch.from_numpy(PATTERN)
        net[0].weight[1, 0] = -torch.from_numpy(PATTERN)
        net[0].weight[2] = 0
    return net


def planted_images() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images (n, 1, 12, 12); which of them hold the pattern, strongest first, and where, (planted, 2)."""
    rng = np.random.default_rng(0)
    images = rng.uniform(-0.05, 0.05, (N_IMAGES, 1, SIDE, SIDE)).astype(np.float32)
    which = rng.choice(N_IMAGES, N_PLANTED, replace=False)
    where = rng.integers(0, SIDE - 2, (N_PLANTED, 2))
    for k, (image, (y, x)) in enumerate(zip(which, where, strict=True)):
        images[image, 0, y : y + 3, x : x + 3] = PATTERN * (1 - 0.05 * k)
    return images, which, where


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Config and run folder of nets that see planted images, their statistics done."""
    images, _, _ = planted_images()
    split = ArrayImages(images, np.arange(N_IMAGES) % 10, [str(k) for k in range(10)], (-1.0, 1.0))
    monkeypatch.setattr(Digits, "load", lambda self: Splits(split, split))
    config = tmp_path / "planted.toml"
    config.write_text(CONFIG, encoding="utf-8")
    for verb in ("train", "statistics"):
        assert main([verb, str(config), "--runs", str(tmp_path)]) == 0
    return config, tmp_path / "planted"


def make(config, run, *changes: str, verb: str = "pictures") -> int:
    sets = [word for change in changes for word in ("--set", change)]
    return main([verb, str(config), "--runs", str(run.parent), *sets])


def test_planted_patches_are_found(planted):
    config, run = planted
    assert make(config, run) == 0
    _, which, where = planted_images()
    with open_pictures(run / "pictures.h5") as file:
        assert file.nets == ("net1",)
        assert file.layers("net1") == ("0",)
        found = file.of("net1", "0")
        assert (found.kind, found.receptive_field, found.stride, found.padding, found.map) == (
            "conv", (3, 3), (1, 1), (0, 0), (10, 10),
        )  # fmt: skip
        np.testing.assert_array_equal(found.top_image[0], which[:9])
        np.testing.assert_array_equal(found.top_position[0], where[:9])
        np.testing.assert_allclose(found.top_value[0], 9 * (1 - 0.05 * np.arange(9)), rtol=1e-5)
        np.testing.assert_array_equal(found.top_box[0], np.concatenate([where[:9], where[:9] + 3], axis=1))
        for k in range(9):
            wanted = np.rint(255 * (PATTERN * (1 - 0.05 * k) + 1) / 2)
            np.testing.assert_allclose(found.patches[0, k, :, :, 0], wanted, atol=1)
            signal = (found.deconvolution[0, k, :, :, 0].astype(float) - 128) / 127 * found.deconvolution_scale[0, k]
            np.testing.assert_allclose(signal, found.top_value[0, k] * PATTERN, rtol=1e-2)
            guided = (found.guided[0, k, :, :, 0].astype(float) - 128) / 127 * found.guided_scale[0, k]
            np.testing.assert_allclose(guided, PATTERN, rtol=1e-6)
        np.testing.assert_array_equal(found.filters[1, :, :, 0], 128 - 127 * PATTERN)
        np.testing.assert_allclose(found.filters_scale, [1, 1, 0])
        assert list(found.dead) == [False, False, True]
        assert (found.top_image[2] == NONE).all()
        assert (found.patches[2] == 128).all()  # the mean colour: half way from black to white
        # the best image of a linear unit is black and white, by the sign of its weights
        np.testing.assert_array_equal(found.maximization[0, 0, :, :, 0], 255 * (PATTERN > 0))
        np.testing.assert_array_equal(found.maximization[1, 0, :, :, 0], 255 * (PATTERN < 0))
        np.testing.assert_allclose(found.maximization_value[:, 0], [9, 9, 0], rtol=1e-6)
        np.testing.assert_allclose(found.maximization_best_real, np.append(found.top_value[:2, 0], 0))
        file.verify()


def test_a_pass_of_its_own_finds_the_same(planted):
    """Layers of no comparison, of a pooled one, and more images than the statistics keep."""
    config, run = planted
    layers = 'pictures.layers=["0", "3", "last"]'
    assert make(config, run, layers) == 0
    first = datasets(run / "pictures.h5")
    assert make(config, run, layers, "statistics.top_images=0", verb="statistics") == 0
    assert make(config, run, layers, "statistics.top_images=0") == 0
    assert datasets(run / "pictures.h5") == first
    assert make(config, run, layers, "pictures.top=11", verb="pictures") == 2  # the statistics are of other settings
    assert make(config, run, layers, "pictures.top=11", verb="statistics") == 0
    assert make(config, run, layers, "pictures.top=11") == 0
    with open_pictures(run / "pictures.h5") as file:
        np.testing.assert_array_equal(file.of("net1", "0").top_image[0], planted_images()[1][:11])
        assert file.of("net1", "3").receptive_field == (8, 8)
        last = file.of("net1", "last")
        assert (last.kind, last.receptive_field, last.map) == ("whole", (12, 12), (1, 1))
        assert last.patches.shape == (10, 11, 12, 12, 1)
        assert last.filters is None
        top = planted_images()[0][last.top_image[4, 0], 0]
        np.testing.assert_allclose(last.patches[4, 0, :, :, 0], 255 * (top + 1) / 2, atol=0.51)


def test_batches_and_kills_change_no_bit(planted, monkeypatch):
    config, run = planted
    layers = 'pictures.layers=["0", "3"]'
    assert make(config, run, layers, "pictures.batch=64") == 0
    whole = datasets(run / "pictures.h5")
    monkeypatch.setattr(stage, "BLOCK_IMAGES", 10)
    assert make(config, run, layers, "pictures.batch=2") == 0
    other = datasets(run / "pictures.h5")
    rounded = ("deconvolution_scale", "guided_scale")  # floats, in which the order of sums may show
    assert {k: v for k, v in other.items() if not k.endswith(rounded)} == {
        k: v for k, v in whole.items() if not k.endswith(rounded)
    }

    monkeypatch.setattr(stage, "BLOCK_IMAGES", 256)
    (run / "pictures.json").unlink()
    shutil.rmtree(run / "superseded")
    made = []
    best = stage.PictureMaker.make_best

    def stopping(self, net, name):
        made.append(name)
        if len(made) == 2:
            raise Stopped("stopped")
        best(self, net, name)

    monkeypatch.setattr(stage.PictureMaker, "make_best", stopping)
    assert make(config, run, layers, "pictures.batch=64") == 75
    pieces = sorted((run / "pictures.partial").glob("*.h5"))
    assert [piece.name for piece in pieces] == ["net1-0-maximization.h5", "net1-0-top.h5", "net1-3-top.h5"]
    content = bytearray(pieces[1].read_bytes())
    with h5py.File(pieces[1]) as file:
        content[file["patches"].id.get_offset()] ^= 1
    pieces[1].write_bytes(content)
    top, made = stage.PictureMaker.make_top, []
    monkeypatch.setattr(
        stage.PictureMaker, "make_top", lambda self, net, name: (made.append(name), top(self, net, name))
    )
    monkeypatch.setattr(stage.PictureMaker, "make_best", best)
    assert make(config, run, layers, "pictures.batch=64") == 0
    assert made == ["0"]  # what was damaged is made again, what was whole is not
    assert datasets(run / "pictures.h5") == whole
    assert not (run / "pictures.partial").exists()


def test_skipped_superseded_and_brought_back(planted, caplog):
    config, run = planted
    assert make(config, run, 'pictures.methods=["patches"]') == 0
    with open_pictures(run / "pictures.h5") as file:
        assert (
            file.digest == RunFolder(run, read_config(config, ['pictures.methods=["patches"]'])).pictures_task().digest
        )
        assert file.of("net1", "0").guided is None
        assert file.of("net1", "0").patches is not None
    with caplog.at_level("INFO"):
        assert make(config, run, 'pictures.methods=["patches"]') == 0
        assert "already done" in caplog.text
        assert make(config, run, 'pictures.methods=["guided"]') == 0
        assert "pictures.methods" in caplog.text
        caplog.clear()
        assert make(config, run, 'pictures.methods=["patches"]') == 0
        assert "restored from superseded results" in caplog.text


@pytest.fixture(scope="module")
def tiny_pictures(tiny_run):
    return tiny_run / "pictures.h5"


def test_maximisation_beats_the_best_real_image(tiny_config, tiny_copy):
    """Of 95 % of the live convolutional units of the trained nets, as stored."""
    settings = ["steps=96", 'methods=["maximization"]', 'layers=["conv1", "conv2"]']
    overrides = [f"pictures.{'maximization.' if setting.startswith('steps') else ''}{setting}" for setting in settings]
    assert make(tiny_config, tiny_copy, *overrides) == 0
    with open_pictures(tiny_copy / "pictures.h5") as file:
        assert file.nets == ("net1", "net2")
        reached = []
        for net in file.nets:
            for layer in ("conv1", "conv2"):
                found = file.of(net, layer)
                reached.extend((found.maximization_value.max(axis=1) >= found.maximization_best_real)[~found.dead])
                assert np.isfinite(found.maximization_value).all()
    assert np.mean(reached) >= 0.95


@pytest.mark.parametrize("objective", ["position", "channel"])
@pytest.mark.parametrize("layer", ["conv1", "conv2", "fc1"])
def test_the_value_is_that_of_the_stored_image(tiny_config, tiny_run, objective, layer):
    """The picture put into a whole image gives the unit the value that stands beside it."""
    experiment = read_config(tiny_config, [f"pictures.maximization.objective={objective}"])
    config = experiment.pictures.maximization.model_copy(update={"steps": 20, "seeds": 2})
    images = experiment.images.load().test
    module = stage.load_net(tiny_run / "nets" / "net1", experiment.nets[0].network, images.image_shape, 10)
    found = PicturedLayer(module, layer, images.image_shape, torch.device("cpu"))
    colours = Colours.of(images, np.arange(100))
    frame, position = frame_of(found, objective), found.geometry.central()
    (box,) = found.geometry.boxes(position[None])
    for unit, (pixels, values) in enumerate(maximize(found, np.arange(5), colours, config, 3)):
        assert pixels.shape == (2, *frame.size, 1)
        if (objective, layer) != ("position", "conv1"):  # of a linear unit there is but one best image
            assert not np.array_equal(pixels[0], pixels[1])
        canvas = np.zeros((2, *images.image_shape), np.float32)
        y, x = (0, 0) if objective == "channel" else np.maximum(box[:2], 0)
        canvas[:, :, y : y + frame.size[0], x : x + frame.size[1]] = colours.from_bytes(pixels)
        maps = found.values(torch.from_numpy(canvas))[:, unit]
        wanted = maps.flatten(1).amax(dim=1) if objective == "channel" else maps[:, position[0], position[1]]
        np.testing.assert_allclose(values, wanted.numpy(), rtol=1e-4, atol=1e-5)
    assert on_canvas(torch.zeros(1, 1, *frame.size), frame).shape[2:] == frame.canvas


def test_colour_images_by_frequencies():
    """A linear unit of a colour image is raised most of the way to what it can reach, and looks like its weights."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:12, :12]
    weight = np.stack([np.sin(y / 2), np.cos(x / 3), np.sin((x + y) / 4)]).astype(np.float32)
    net = nn.Sequential(nn.Conv2d(3, 1, 12, bias=False), nn.ReLU())
    net[0].weight.data = torch.from_numpy(weight)[None]
    images = ArrayImages(rng.uniform(0, 1, (30, 3, 24, 24)), np.zeros(30), ["a"], (0.0, 1.0))
    colours = Colours.of(images, np.arange(30))
    layer = PicturedLayer(net, "0", (3, 24, 24), torch.device("cpu"))
    ((pixels, (value,)),) = maximize(layer, np.array([0]), colours, MaximizationConfig(), 8)
    assert pixels.shape == (1, 12, 12, 3)
    assert value >= 0.8 * weight.clip(0).sum()
    agrees = (pixels[0].transpose(2, 0, 1) > 127) == (weight > 0)
    assert agrees[np.abs(weight) > 0.5].mean() > 0.95


def test_weights_that_are_no_numbers(planted):
    """One broken unit is dead and grey; the others are as they were."""
    config, run = planted
    assert make(config, run) == 0
    with open_pictures(run / "pictures.h5") as file:
        whole = file.of("net1", "0").unit(0)
    module = detector((1, SIDE, SIDE), 10)
    module[0].weight.data[1] = torch.nan
    save_weights(module, run / "nets" / "net1")
    assert make(config, run, "pictures.max_side=99", "statistics.seed=1", verb="statistics") == 0
    assert make(config, run, "pictures.max_side=99", "statistics.seed=1", verb="train") == 0
    assert make(config, run, "pictures.max_side=99", "statistics.seed=1") == 0
    with open_pictures(run / "pictures.h5") as file:
        found = file.of("net1", "0")
        assert list(found.dead) == [False, True, True]
        assert np.isnan(found.maximization_value[1]).all()
        assert (found.maximization[1] == 128).all()
        same = found.unit(0)
        for name in ("patches", "deconvolution", "maximization", "top_image", "filters"):
            np.testing.assert_array_equal(same[name], whole[name], err_msg=name)


FOLDER = """
name = "folder"
[data]
name = "image_folder"
root = "{root}"
resize = 32
crop = 32
[[nets]]
seeds = [1, 2]
network = {{ name = "small", channels = [4], hidden = [5], kernel_size = 5 }}
[training]
epochs = 1
threads = 1
[statistics]
comparisons = ["conv1"]
groups = 2
threads = 1
mutual_information = {{ enabled = false }}
[analysis]
rotations = 2
measures = ["matching"]
sparse = {{ enabled = false }}
clustering = {{ enabled = false }}
[pictures]
threads = 1
maximization = {{ steps = 3, seeds = 2 }}
"""


def test_photographs_and_images_that_are_gone(image_root, tmp_path, capsys, caplog):
    root = tmp_path / "images"
    shutil.copytree(image_root, root)
    config = tmp_path / "folder.toml"
    config.write_text(FOLDER.format(root=root.as_posix()), encoding="utf-8")
    run = tmp_path / "folder"
    for verb in ("train", "statistics", "pictures"):
        assert make(config, run, verb=verb) == 0
    with open_pictures(run / "pictures.h5") as file:
        found = file.of("net2", "conv1")
        assert found.patches.shape == (4, 9, 5, 5, 3)
        assert (found.top_image[~found.dead][:, 8] == NONE).all()  # there are only eight images
        assert found.filters.shape == (4, 5, 5, 3)
        assert found.maximization.shape == (4, 2, 5, 5, 3)
    shutil.rmtree(root)
    (run / "pictures.json").unlink()
    (run / "pictures.h5").unlink()
    assert make(config, run) == 2
    errors = capsys.readouterr().err
    assert "there is no such folder. data.root must hold" in errors
    assert "there is no such folder" in errors
    assert make(config, run, verb="run") == 0
    assert "pictures: failed; continuing without it" in caplog.text
    assert (run / "report" / "index.html").exists()


def test_nothing_to_do(planted, tmp_path, caplog, capsys):
    config, run = planted
    with caplog.at_level("INFO"):
        assert make(config, run, "pictures.enabled=false") == 0
        assert "pictures.enabled is false" in caplog.text
        assert make(config, run, "pictures.nets=[]") == 0
        assert "no trained net has a comparison with positions" in caplog.text
        np.save(tmp_path / "a.npy", np.random.default_rng(0).standard_normal((20, 3)))
        given = tmp_path / "given.toml"
        given.write_text(
            f'name = "given"\n[activations]\nroot = "{tmp_path.as_posix()}"\n'
            '[activations.nets]\na = { fc = "a.npy" }\nb = { fc = "a.npy" }\n[statistics]\ncomparisons = ["fc"]\n',
            encoding="utf-8",
        )
        assert make(given, run) == 0
        assert "pictures need nets and images" in caplog.text
    assert not (run / "pictures.h5").exists()
    assert make(config, run, 'pictures.layers=["conv9"]') == 2
    assert 'no layer "conv9"' in capsys.readouterr().err
    assert make(config, run, 'pictures.nets=["net9"]') == 2
    assert "unknown net" in capsys.readouterr().err
    assert make(config, run, "statistics.seed=5") == 2
    assert "statistics" in capsys.readouterr().err


def test_a_dataset_that_grows_is_as_one_written_at_once(tmp_path, monkeypatch):
    values = np.random.default_rng(0).integers(0, 256, (7, 3, 5), dtype=np.uint8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        hdf5.write_array(file, "whole", values)
        growing = hdf5.Growing(file, "grown", values.shape, np.uint8)
        for start in range(0, 7, 3):
            growing.add(values[start : start + 3])
        hdf5.Growing(file, "empty", (0, 2), np.float32)
        assert file["grown"].attrs["sha256"] == file["whole"].attrs["sha256"]
        assert hdf5.read_array(file, "empty").shape == (0, 2)
        hdf5.Growing(file, "half", values.shape, np.uint8).add(values[:3])
        monkeypatch.setattr(hdf5, "WHOLE_BYTES", 20)
        with pytest.raises(FileError, match="half"):
            hdf5.verify(file)
        del file["half"]
        hdf5.verify(file)
        file["grown"][6, 2, 4] ^= 1
        with pytest.raises(FileError, match="grown"):
            hdf5.verify(file)
