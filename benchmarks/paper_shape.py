"""The statistics of the paper's shape on a part of its images: where the time goes, beside what the machine could do.

    python -m benchmarks.paper_shape                          # 96 images
    python -m benchmarks.paper_shape --images 2000 --threads 8 --scratch /local

Four AlexNets (as initialised), JPEG files that are made for it, conv1 … conv5, all positions, correlation and mutual
information of all pairs. Each step is timed on one process and stands beside its floor: the work that it cannot do
without, divided by the best rate that the same process reaches for such work (a float32 matrix product, joint counts
of one tile, a raw write). The last columns are for 50,000 images: what grows with images is told from what does not by
a run on a third of them. On a machine with CUDA forward passes and sums run there, and so does the matrix product that
sets their floors. Takes two minutes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.timing import describe_blas  # before numpy, see there

# isort: split
import numpy as np
import torch
from PIL import Image

from convergence.config.load import parse_config
from convergence.data.images import read_batches
from convergence.networks.devices import devices_of_process, reproducible_arithmetic
from convergence.networks.weights import initialise
from convergence.statistics.joint_counts import JointCounts
from convergence.statistics.partial_results import PartialResults
from convergence.statistics.passes import Pass, StatisticsPasses
from convergence.statistics.schema import UNKNOWN
from convergence.statistics.torch_source import NetSource
from convergence.statistics.writer import StatisticsWriter
from hpc.comm import SerialCommunicator
from hpc.hdf5_writers import write_blocks

PAPER_IMAGES = 50_000
FORWARD_FLOPS = 2 * 0.72e9
"""Of one AlexNet without groups up to conv5, on one image: multiplications and additions."""
CONFIG = """
name = "paper"
data = {{ name = "image_folder", root = "{root}", resize = [256, 256], crop = 227, scale = 1.0 }}
nets = [{{ seeds = [1, 2, 3, 4], network = {{ name = "alexnet" }}, trained = false }}]
[statistics]
comparisons = ["conv1", "conv2", "conv3", "conv4", "conv5"]
groups = 8
batch_size = 6
threads = {threads}
loader_workers = {threads}
pilot = {pilot}
image_gram = false
null.draws = 0
"""
PILOT = 24
"""Ratio of all images to the images of the pilot, as 50,000 to 2,048."""


def write_images(folder: Path, n: int) -> None:
    """JPEG files of ordinary size in ImageNet's layout: two classes to train on, and the same to evaluate on."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 2), ("val", n)):
        for k in range(count):
            place = folder / split / f"n{k % 2}"
            place.mkdir(parents=True, exist_ok=True)
            coarse = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC).save(place / f"{k}.JPEG", quality=90)


def seconds(run: Callable[[], object], repeat: int = 1, waits: bool = False) -> float:
    """Best of a few runs: processor time of one thread that never ``waits``, else by the clock on the wall."""
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    clock = time.process_time if alone and not waits else time.perf_counter
    times = []
    for _ in range(repeat):
        start = clock()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(clock() - start)
    return min(times)


def product_rate(device: torch.device) -> float:
    """Floating-point operations a second of a float32 matrix product."""
    n = 8192 if device.type == "cuda" else 2048
    if device.type == "cuda":
        a = torch.randn(n, n, device=device)
        return 2 * n**3 / seconds(lambda: a @ a, 5)
    b = np.random.default_rng(0).standard_normal((n, n), dtype=np.float32)
    return 2 * n**3 / seconds(lambda: b @ b, 5)


def counting_rate() -> float:
    """Pair-samples a second of joint counts, half of the activations zero."""
    rng = np.random.default_rng(0)
    codes = (rng.integers(1, 10, (256, 65_536)) * (rng.random((256, 65_536)) < 0.5)).astype(np.uint8)
    joint = JointCounts(128, 256, 10)
    return codes.shape[1] * 128 * 256 / seconds(lambda: joint.update(codes[:128], codes), 3)


def disk_rate(folder: Path) -> float:
    """Bytes a second of a raw write, flushed."""
    data = np.random.default_rng(0).bytes(256 << 20)

    def write() -> None:
        with (folder / "raw").open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    return len(data) / seconds(write, 3, waits=True)


def main() -> None:
    """Parse the arguments, time the steps, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scratch", default=None, help="folder for images and results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as name:
        folder = Path(name)
        write_images(folder / "images", arguments.images)
        reproducible_arithmetic(arguments.threads)
        (device, *_) = devices_of_process("auto")
        products, counting, disk = product_rate(device), counting_rate(), disk_rate(folder)
        print(f"{describe_blas()}; torch {torch.__version__} on {device}; {arguments.threads} threads")
        rates = (
            f"products {products / 1e9:.0f} Gflop/s, joint counts {counting / 1e9:.1f} G/s, disk {disk / 1e6:.0f} MB/s"
        )
        print(f"rates: {rates}")
        few = measure(folder, arguments.images // 3, arguments.threads)
        many = measure(folder, arguments.images, arguments.threads)
    print(f"{'step':24s}{'work':30s}{'floor s':>9s}{'measured s':>12s}{'50,000 images: floor':>24s}{'estimate':>12s}")
    rate_of = {"flop": products, "pair-samples": counting, "bytes": disk}
    grown = PAPER_IMAGES / arguments.images
    whole = 0.0
    for step, (work, unit, measured) in many.items():
        each = 0.0 if step in FIXED else (measured - few[step][2]) / (arguments.images - arguments.images // 3)
        estimate = measured + max(each, 0.0) * (PAPER_IMAGES - arguments.images)
        whole += estimate if step not in PARTS else 0.0
        floor, there, amount = "", "", ""
        if unit:
            floor = f"{work / rate_of[unit]:.2f}"
            there = f"{work / rate_of[unit] * (1 if unit == 'bytes' else grown) / 60:.1f} min"
            amount = f"{work / 1e9:.1f} G {unit}"
        print(f"{step:24s}{amount:30s}{floor:>9s}{measured:12.2f}{there:>24s}{estimate / 60:8.1f} min")
    print(f"all of it, 50,000 images: {whole / 3600:.2f} h of one process; groups and tiles are shared by ranks")


PARTS = ("decode", "forward passes")
"""Steps that the sums contain."""
FIXED = ("fine bins", "the file")
"""Steps that take as long for any number of images."""
Step = tuple[float, str, float]


def measure(folder: Path, n_images: int, threads: int) -> dict[str, Step]:
    """Every step of the stage on so many images: work, its unit, seconds."""
    text = CONFIG.format(root=(folder / "images").as_posix(), threads=threads, pilot=max(n_images // PILOT, 2))
    config = parse_config(text, [f"statistics.max_images={n_images}"])
    images = config.images.load().test
    modules = {net.name: initialise(net.spec, net.seed, images.image_shape, 2).eval() for net in config.all_nets()}
    source = NetSource(config, modules, images, devices_of_process("auto"))
    partial = PartialResults(folder / f"partial{n_images}", "benchmark")
    partial.prepare()
    passes = StatisticsPasses(source, config.statistics, partial, kept_bytes=0)
    sums = passes.assembly
    indices = [batch for run in range(len(passes.batches.runs)) for batch in passes.batches.batches(run)]
    samples = {name: joined.n_positions * n_images for name, joined in source.joined.items()}
    widths = {name: joined.n_units for name, joined in source.joined.items()}
    batches = [images.read(batch) for batch in indices]
    source.maps(batches[0], indices[0])
    ahead = iter(passes)
    found = {"pilot": next(ahead)}
    partial.write(found["pilot"].name(0), lambda new_matrix: found["pilot"].compute(0, new_matrix))  # compiled and warm
    path, comm = folder / f"statistics{n_images}.h5", SerialCommunicator()
    known = {"trained": False, "held_out_accuracy": 0.0, "weights_sha256": ""}
    known |= {"order_seed": UNKNOWN, "subset_seed": UNKNOWN}
    nets = [
        {"name": net.name, "label": net.label, "seed": net.seed, "initialisation": net.initialisation} | known
        for net in config.all_nets()
    ]

    def run(each: Pass) -> None:
        for item in each.items:
            partial.write(each.name(item), lambda new_matrix, item=item: each.compute(item, new_matrix))

    def assemble() -> None:
        writer = StatisticsWriter(path, {name: sums.matrices(name) for name in sums.joined})
        header = sums.header("benchmark", "{}", images.manifest_hash(), nets)
        writer.create(header, (sums.sums(name).record() for name in sums.joined))
        writer.seal(write_blocks(path, writer.blocks(), writer.block, comm))

    gram = sum(widths[name] ** 2 * n for name, n in samples.items())
    pairs = sum(widths[name] * (widths[name] + 1) / 2 * n for name, n in samples.items())
    steps: dict[str, tuple[float, str, Callable[[], object]]] = {
        "decode": (0, "", lambda: list(read_batches(images, indices, threads))),
        "forward passes": (
            4 * n_images * FORWARD_FLOPS,
            "flop",
            lambda: [source.maps(b, i) for b, i in zip(batches, indices, strict=True)],
        ),
        "pilot, with both": (0, "", lambda: run(found["pilot"])),
        "fine bins": (0, "", lambda: found.update(sums=next(ahead))),
        "sums, with both": (gram, "flop", lambda: run(found["sums"])),
        "mutual information": (pairs, "pair-samples", lambda: run(next(ahead))),
        "the file": (0, "bytes", assemble),
    }
    taken = {name: (work, unit, seconds(step)) for name, (work, unit, step) in steps.items()}
    return taken | {"the file": (float(path.stat().st_size), "bytes", taken["the file"][2])}


if __name__ == "__main__":
    main()
