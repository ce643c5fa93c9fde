"""Experiments of other kinds through the same path: the ImageNet config as it ships, residual nets, unequal layers."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from convergence.cli import main
from tests.helpers.analysis_rows import row

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).parents[2] / "configs"


def test_imagenet_config_runs_on_small_images(image_root, tmp_path):
    """The paper's AlexNet and preprocessing on twenty JPEG files, with nothing changed but how much there is of it."""
    changes = [
        f'data.root="{image_root}"', "nets.0.seeds=[1]", "nets.1.seeds=[101]", "training.epochs=1",
        "training.batch_size=8", "training.learning_rate=1e-4", 'statistics.comparisons=["conv1", "conv5"]',
        "statistics.groups=2", "statistics.batch_size=4", "analysis.rotations=2", "analysis.sparse.enabled=false",
        "pictures.layers=['conv1']", "pictures.top=2", "pictures.maximization.steps=1", "pictures.max_side=32",
    ]  # fmt: skip
    sets = [word for change in changes for word in ("--set", change)]
    assert main(["run", str(CONFIGS / "imagenet_alexnet.toml"), "--runs", str(tmp_path), *sets]) == 0
    run = tmp_path / "imagenet_alexnet"
    with h5py.File(run / "statistics.h5") as file:
        conv1, conv5 = file["comparisons/conv1"], file["comparisons/conv5"]
        assert list(conv1.attrs["widths"]) == [96, 96]
        assert list(conv1.attrs["map_shape"]) == [55, 55]
        assert conv1["group_count"][()].sum() == 8 * 55 * 55
        assert list(conv5.attrs["sources"]) == ["relu5", "relu5"]
    assert (run / "report" / "index.html").exists()


RESIDUAL = """
name = "residual"
[data]
name = "image_folder"
root = "{root}"
resize = 64
crop = 64
[[nets]]
label = "narrow"
seeds = [1, 2]
network = {{ name = "torchvision:resnet18" }}
trained = false
[[nets]]
label = "wide"
seeds = [1]
network = {{ name = "torchvision:wide_resnet50_2" }}
trained = false
[training]
threads = 2
[statistics]
comparisons = [
  {{ name = "block", layers = {{ narrow = "layer2.0.conv2", wide = "layer2.0.conv3" }} }},
  {{ name = "same", layers = {{ narrow = "layer1.0.conv2" }} }},
]
groups = 2
batch_size = 4
[statistics.mutual_information]
positions = 10
[analysis]
rotations = 2
measures = ["matching", "linear_cka"]
[analysis.sparse]
enabled = false
[analysis.clustering]
enabled = false
"""


def test_residual_nets_of_unequal_width(image_root, tmp_path):
    config = tmp_path / "residual.toml"
    config.write_text(RESIDUAL.format(root=image_root.as_posix()))
    assert main(["run", str(config), "--runs", str(tmp_path)]) == 0
    with h5py.File(tmp_path / "residual" / "statistics.h5") as file:
        block = file["comparisons/block"]
        assert list(block.attrs["nets"]) == ["narrow1", "narrow2", "wide1"]
        assert list(block.attrs["widths"]) == [128, 128, 512]
        assert list(block.attrs["sources"]) == ["layer2.0.relu#2", "layer2.0.relu#2", "layer2.0.relu#3"]
        assert list(file["comparisons/same"].attrs["nets"]) == ["narrow1", "narrow2"]
    analysis, names = tmp_path / "residual" / "analysis.h5", {"x": "narrow1", "y": "wide1"}
    pair, matching = row(analysis, "block", "pairs", **names), row(
        analysis, "block", "measures", **names, measure="matching", evaluation="all_images"
    )  # fmt: skip
    assert np.isfinite(matching["value"])
    assert (pair["n_x"], pair["n_y"]) == (128, 512)
