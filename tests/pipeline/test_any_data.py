"""Nets that need no training, on images without labels and on texts: statistics to report, and what is refused."""

from __future__ import annotations

import shutil
import sys

import h5py
import numpy as np
import pytest

from convergence.cli import main

torch = pytest.importorskip("torch")

NETS = """
import torch
from torch import nn

class Words(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.embedding = nn.Embedding(257, width)
        self.mixed = nn.Linear(width, 5)

    def forward(self, tokens):
        return self.mixed(self.embedding(tokens.clamp(min=-1) % 257))

def words(width=6):
    return Words(width)

def pixels():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""
CONFIG = """
name = "any"
data = {{ {data} }}
[[nets]]
seeds = [1, 2, 3]
trained = {trained}
network = {{ name = "nets_of_eve:{net}" }}
[statistics]
comparisons = [{comparisons}]
groups = 4
subset = 8
positions = {positions}
threads = 1
mutual_information = {{ positions = {positions} }}
[analysis]
measures = ["matching", "linear_cka"]
rotations = 2
[pictures]
enabled = false
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "nets_of_eve.py").write_text(NETS, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("nets_of_eve", None)


def run(folder, verb="run", trained="false", positions="2", **settings) -> int:
    text = CONFIG.format(trained=trained, positions=positions, **settings)
    (folder / "c.toml").write_text(text, encoding="utf-8")
    return main([verb, str(folder / "c.toml"), *(["--runs", str(folder / "runs")])])


@pytest.fixture
def unlabelled(folder, image_root):
    (folder / "images" / "val").mkdir(parents=True)
    for k, path in enumerate(sorted(image_root.rglob("*.JPEG"))):
        shutil.copy(path, folder / "images" / "val" / f"{k}.jpg")
    return 'name = "image_folder", root = "images", resize = 16, crop = 16'


@pytest.mark.slow
def test_images_without_labels_reach_the_report(folder, unlabelled):
    assert run(folder, data=unlabelled, net="pixels", comparisons='"1"') == 0
    with h5py.File(folder / "runs" / "any" / "statistics.h5") as file:
        assert "group_products" in file["comparisons/1"]
        assert "class_sums" not in file["comparisons/1"]
    assert (folder / "runs" / "any" / "report" / "index.html").exists()


def test_training_without_labels_or_training_images_is_refused_first(folder, unlabelled, image_root, capsys):
    assert run(folder, data=unlabelled, net="pixels", comparisons='"1"', trained="true") == 2
    assert "train: there is no such folder" in capsys.readouterr().err
    shutil.copytree(folder / "images" / "val", folder / "images" / "train")
    assert run(folder, data=unlabelled, net="pixels", comparisons='"1"', trained="true") == 2
    assert "nets are trained, and the images have no labels" in capsys.readouterr().err
    assert not (folder / "runs" / "any" / "nets").exists()


def test_functional_experiments_without_labels_are_refused_first(folder, unlabelled, capsys):
    data = unlabelled + " }\nfunctional.ensemble = { enabled = true"
    assert run(folder, data=data, net="pixels", comparisons='"1"') == 2
    assert "ensemble measure accuracy, and the images have no labels" in capsys.readouterr().err


@pytest.mark.slow
def test_texts_reach_the_report_and_padding_is_no_sample(folder, capsys):
    rng = np.random.default_rng(0)
    for k in range(12):
        (folder / f"{k}.txt").write_bytes(rng.integers(97, 107, rng.integers(11, 40)).astype(np.uint8).tobytes())
    data = 'name = "text", root = ".", length = 16, min_tokens = 3'
    comparisons = '"mixed", { name = "pooled", layers = "embedding", pool = true }'
    assert run(folder, data=data, net="words", comparisons=comparisons, positions='"all"') == 2
    assert 'statistics.positions = "all": images have' in capsys.readouterr().err
    assert run(folder, data=data, net="words", comparisons=comparisons, positions="3") == 0
    assert (folder / "runs" / "any" / "report" / "index.html").exists()
