"""One tiny experiment, run once a session, for tests that look at what stages leave; a folder of real JPEG files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.fake_slurm import fake  # noqa: F401
from tests.helpers.runs import PLANTED, TINY, planted_activations
from tests.helpers.slurm_site import cluster, site  # noqa: F401


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory) -> Path:
    """Path of the tiny experiment's config."""
    path = tmp_path_factory.mktemp("configs") / "tiny.toml"
    path.write_text(TINY, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_run(tiny_config, tmp_path_factory) -> Path:
    """Folder of the finished tiny run; tests must not change it."""
    from convergence.cli import main

    runs = tmp_path_factory.mktemp("runs")
    assert main(["run", str(tiny_config), "--runs", str(runs)]) == 0
    return runs / "tiny"


@pytest.fixture
def tiny_copy(tiny_run, tmp_path) -> Path:
    """A copy of the finished tiny run below a fresh runs folder, to damage and re-run."""
    return Path(shutil.copytree(tiny_run, tmp_path / "runs" / "tiny"))


@pytest.fixture(scope="session")
def planted_runs(tmp_path_factory) -> Path:
    """Runs folder with a run of given activations, made without torch: nets with the same units in another order.

    Unit i of net1 is unit ``ORDER[i]`` of net2 and ``OTHER[i]`` of net3, with noise; "alone" has units of its own.
    """
    from convergence.cli import main

    root = tmp_path_factory.mktemp("planted")
    for name, values in planted_activations().items():
        np.save(root / f"{name}.npy", values)
    (root / "planted.toml").write_text(PLANTED.format(root=root.as_posix()), encoding="utf-8")
    assert main(["statistics", str(root / "planted.toml"), "--runs", str(root / "runs")]) == 0
    assert main(["analyze", str(root / "planted.toml"), "--runs", str(root / "runs")]) == 0
    return root


@pytest.fixture(scope="session")
def image_root(tmp_path_factory):
    """Two classes of real JPEG files of different sizes, in ImageNet's layout."""
    from PIL import Image

    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, n in (("train", 6), ("val", 4)):
        for label, colour in (("n01", (200, 40, 40)), ("n02", (40, 40, 200))):
            folder = root / split / label
            folder.mkdir(parents=True)
            for k in range(n):
                noise = rng.integers(-30, 30, (50 + 7 * k, 64, 3))
                Image.fromarray(np.clip(noise + colour, 0, 255).astype(np.uint8)).save(folder / f"{k}.JPEG")
    return root


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=6, help="how often the kill test kills")
