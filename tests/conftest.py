"""Markers by folder, what stays in one worker of pytest-xdist, and the runs that many tests read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from tests.helpers.runs import PLANTED, TINY, planted_activations

FOLDERS = ("cluster", "mpi", "pipeline", "browser", "unit")
"""In the order in which they run: what takes longest first, small files last."""
NEEDS = ("mpi", "cluster", "browser")
"""Folders whose tests have a marker of the same name, and run one at a time."""


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=6, help="how often the kill test kills")


def folder_of(item) -> str:
    """Folder of tests/ that holds a test."""
    return str(item.path.relative_to(Path(__file__).parent).parts[0])


def pytest_itemcollected(item):
    """Mark tests of folders that need more than one process."""
    if folder_of(item) in NEEDS:
        item.add_marker(folder_of(item))


def pytest_collection_modifyitems(items):
    """Start with the folders that take longest."""
    items.sort(key=lambda item: FOLDERS.index(folder_of(item)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """One worker for each folder of ``NEEDS``, and one for each other file, in the order of the items."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFolderOrFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = Path(nodeid.split("::")[0])
            return path.parent.name if path.parent.name in NEEDS else path.stem

    config.option.loadscopereorder = False
    return ByFolderOrFile(config, log)


@pytest.fixture(scope="session")
def shared(request, tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """A function that fills a folder once, whichever worker asks first, and returns it to every worker."""
    workers = hasattr(request.config, "workerinput")
    base = tmp_path_factory.getbasetemp().parent if workers else tmp_path_factory.getbasetemp()

    def folder(name: str, fill: Callable[[Path], object]) -> Path:
        path, done = base / name, base / f"{name}.done"
        with FileLock(base / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(path, ignore_errors=True)
                path.mkdir()
                fill(path)
                done.touch()
        return path

    return folder


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory) -> Path:
    """Path of the tiny experiment's config."""
    path = tmp_path_factory.mktemp("configs") / "tiny.toml"
    path.write_text(TINY, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_run(tiny_config, shared) -> Path:
    """Folder of the finished tiny run; tests must not change it."""
    from convergence.cli import main

    def fill(runs: Path) -> None:
        assert main(["run", str(tiny_config), "--runs", str(runs)]) == 0

    return shared("runs", fill) / "tiny"


@pytest.fixture
def tiny_copy(tiny_run, tmp_path) -> Path:
    """A copy of the finished tiny run below a fresh runs folder, to damage and re-run."""
    return Path(shutil.copytree(tiny_run, tmp_path / "runs" / "tiny"))


@pytest.fixture(scope="session")
def planted_runs(shared) -> Path:
    """Runs folder with a run of given activations, made without torch: nets with the same units in another order.

    Unit i of net1 is unit ``ORDER[i]`` of net2 and ``OTHER[i]`` of net3, with noise; "alone" has units of its own.
    """
    from convergence.cli import main

    def fill(root: Path) -> None:
        for name, values in planted_activations().items():
            np.save(root / f"{name}.npy", values)
        (root / "planted.toml").write_text(PLANTED.format(root=root.as_posix()), encoding="utf-8")
        assert main(["statistics", str(root / "planted.toml"), "--runs", str(root / "runs")]) == 0
        assert main(["analyze", str(root / "planted.toml"), "--runs", str(root / "runs")]) == 0

    return shared("planted", fill)


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
