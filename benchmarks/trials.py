"""Small experiments that ``benchmarks.storm`` and ``benchmarks.replay`` interrupt."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convergence.config.load import read_config
from convergence.runs.run_folder import RunFolder
from convergence.runs.stages import STAGE_TABLE
from tests.helpers.attempts import Attempt, forked, launched
from tests.helpers.runs import PLANTED, TINY, planted_activations

FUNCTIONAL = """
[functional.stitch]
comparisons = ["conv1"]
draws = 2
transplant_units = 2
cumulative_steps = 2
sgd_steps = [5]
units_per_target = [2]
penalties = [1e-3]
[functional.merge]
steps = 3
permutations = 2
fit_images = 60
depths = 2
[functional.compress]
shares = [0.5]
draws = 2
images = 60
[functional.average]
workers = 2
epochs = 1
local_steps = [20, "whole"]
alignments = ["none", "weight"]
inits = ["same"]
scored = 2
"""
PACKED = """
name = "images"
[data]
name = "image_folder"
root = "{root}/images"
resize = [40, 44]
crop = 32
[[nets]]
seeds = [1, 2]
network = {{ name = "small" }}
[training]
epochs = 1
loader_workers = 1
[statistics]
comparisons = ["conv1"]
"""
TORCH = ("train", "pictures", "stitch", "merge", "compress", "ensemble", "average")


@dataclass(frozen=True)
class Work:
    """A command that is interrupted.

    Attributes
    ----------
    name : as it is chosen with ``--stages``
    config : "planted" (given activations, no torch), "tiny" (nets on digits) or "images" (a folder of JPEG files)
    arguments : verb and options
    redone : stages whose results are missing at the start; all for ()
    ranks : number of MPI ranks; 0 for one process without a launcher
    """

    name: str
    config: str
    arguments: tuple[str, ...]
    redone: tuple[str, ...] = ()
    ranks: int = 0


def works(ranks: int, workers: int) -> dict[str, Work]:
    """All of them, by name."""
    found = [
        Work("statistics", "planted", ("statistics",), ("statistics",)),
        Work("analyze", "planted", ("analyze", "--workers", "1"), ("analyze",)),
        Work("report", "planted", ("report",), ("report",)),
        Work("run", "planted", ("run", "--workers", "1")),
        Work("ranks", "planted", ("statistics",), ("statistics",), ranks),
        Work("workers", "planted", ("analyze", "--workers", str(workers)), ("analyze",)),
        *(Work(stage, "tiny", (stage,), (stage,)) for stage in TORCH),
        Work("pack", "images", ("pack",)),
    ]
    return {work.name: work for work in found}


class Laboratory:
    """A folder with the inputs of all experiments, and their undisturbed runs in ``base/``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, values in planted_activations().items():
            np.save(folder / f"{name}.npy", values)
        planted = PLANTED.format(root=folder.as_posix()).replace('["conv1", "fc"]', '["fc"]')
        tiny = TINY.replace('["conv1", "conv2", "fc1"]', '["conv1"]').replace("max_images = 200", "max_images = 60")
        tiny = tiny.replace("threads = 1\n", "threads = 1\ncheckpoint_minutes = 1e-6\nkeep_epochs = [0, 1]\n", 1)
        texts = {"planted": planted, "tiny": tiny + FUNCTIONAL, "images": PACKED.format(root=folder.as_posix())}
        for name, text in texts.items():
            (folder / f"{name}.toml").write_text(text, encoding="utf-8")

    def config(self, work: Work) -> Path:
        return self.folder / f"{work.config}.toml"

    def command(self, work: Work, runs: Path) -> list[str]:
        """Arguments of ``convergence``."""
        verb, *options = work.arguments
        return [verb, str(self.config(work)), "--runs", str(runs), *options]

    def make_base(self, chosen: list[Work]) -> None:
        """Make the undisturbed runs that the chosen works need."""
        configs, names = {work.config for work in chosen}, {work.name for work in chosen}
        needed = names | {"statistics"} | ({"analyze"} if names & {"workers", "report"} else set())
        if "images" in configs:
            write_images(self.folder / "images")
        commands = {
            "planted": [[stage] for stage in ("statistics", "analyze", "report") if stage in needed or names & {"run"}],
            "tiny": [["train"], ["statistics"], *([work.name] for work in chosen if work.name in TORCH[1:])],
            "images": [["pack"]],
        }
        for config in sorted(configs):
            for verb, *options in commands[config]:
                arguments = [verb, str(self.folder / f"{config}.toml"), "--runs", str(self.base(config)), *options]
                attempt = forked(arguments, self.folder / f"base-{config}")
                if attempt.wait(1800) != 0:
                    raise SystemExit(f"undisturbed {verb} of {config} failed:\n{attempt.log()}")

    def base(self, config: str) -> Path:
        """The runs folder of an undisturbed run."""
        return self.folder / "base" / config

    def prepare(self, work: Work, runs: Path) -> None:
        """Make a runs folder in which the work is to be done."""
        shutil.rmtree(runs, ignore_errors=True)
        if not work.redone:
            runs.mkdir(parents=True)
            return
        shutil.copytree(self.base(work.config), runs)
        experiment = read_config(str(self.config(work)))
        folder = RunFolder(runs / experiment.name, experiment)
        for stage in work.redone:
            for task in STAGE_TABLE[stage].tasks(folder):
                for path in (*task.outputs, task.record):
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def start(self, work: Work, runs: Path, prelude: Callable[[], None] = lambda: None) -> Attempt:
        """Start the work's command."""
        place = runs.with_name(f"{runs.name}.scratch")
        if work.ranks:
            return launched(work.ranks, self.command(work, runs), place)
        return forked(self.command(work, runs), place, prelude)


def write_images(root: Path) -> None:
    """Two classes of small JPEG files of different sizes, 15 and 6 images each."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, n in (("train", 150), ("val", 60)):
        for label in ("n01", "n02"):
            folder = root / split / label
            folder.mkdir(parents=True)
            for k in range(n):
                Image.fromarray(rng.integers(0, 255, (50 + k % 7, 64, 3), np.uint8)).save(folder / f"{k}.JPEG")
