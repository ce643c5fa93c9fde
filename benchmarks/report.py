"""The report of four AlexNets' convolutions, 1,376 units a net with pictures: time to build it, and to open it.

    python -m benchmarks.report FOLDER

Units are planted: every net has the same sources, permuted, with noise of its own. Statistics and analysis are the
real ones, over few samples and with few rotations and penalties, for their files have the size that they always have.
Pictures are made up, of the sizes of an AlexNet's receptive fields (at most 128 pixels), blurred as photographs are.
They are made once and kept in FOLDER (6 GB). The clock is the one on the wall; beside it stands what of it matplotlib
took, the named peer of everything that is drawn.
Bars: built in 120 s, overview open in 2 s with 5 MB.
"""

from __future__ import annotations

import benchmarks.timing  # noqa: F401  # isort: skip

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from convergence.cli import main as convergence
from convergence.config.load import read_config
from convergence.figures.style import Drawing
from convergence.io import hdf5
from convergence.report import report
from convergence.visualization.file import DATASETS, create_layer, create_pictures

LAYERS = {"conv1": (96, 11), "conv2": (256, 51), "conv3": (384, 99), "conv4": (384, 128), "conv5": (256, 128)}
NETS = ("net1", "net2", "net3", "net4")
SAMPLES, TOP = 3000, 9
CONFIG = """
name = "alexnets"
[activations]
root = "{root}"
[activations.nets]
{nets}
[statistics]
comparisons = [{layers}]
groups = 4
[statistics.mutual_information]
bins = 8
[analysis]
rotations = 2
[analysis.sparse]
alphas = 4
max_units = 3
"""


def make_activations(root: Path) -> None:
    """One array a net and layer: the same sources in another order, with noise."""
    for number, (layer, (width, _)) in enumerate(LAYERS.items()):
        sources = np.random.default_rng([0, number]).exponential(size=(SAMPLES, width))
        for k, net in enumerate(NETS):
            rng = np.random.default_rng([1, number, k])
            noise = rng.standard_normal(sources.shape) * rng.uniform(0.2, 2.0, width)
            values = np.maximum(sources + noise, 0)[:, rng.permutation(width)]
            np.save(root / f"{net}_{layer}.npy", values.astype(np.float32))


def blurred(rng: np.random.Generator, n: int, side: int) -> np.ndarray[Any, Any]:
    """(n, TOP, side, side, 3) coarse noise, enlarged, with detail."""
    coarse = rng.integers(0, 200, (n, TOP, -(-side // 8), -(-side // 8), 3), dtype=np.uint8)
    large = coarse.repeat(8, axis=2).repeat(8, axis=3)[:, :, :side, :side]
    return large + rng.integers(0, 56, (1, TOP, side, side, 3), dtype=np.uint8)


def make_pictures(path: Path) -> None:
    """Patches, deconvolution, guided backpropagation and one image by maximisation of every unit."""
    with create_pictures(path, "0" * 64, "{}") as file:
        for k, net in enumerate(NETS):
            for number, (layer, (width, side)) in enumerate(LAYERS.items()):
                rng = np.random.default_rng([2, k, number])
                group = create_layer(file, net, layer, "conv", (side, side), (4, 4), (0, 0), (13, 13))
                images = blurred(rng, width, side)
                value = -np.sort(-rng.exponential(size=(width, TOP)).astype(np.float32), axis=1)
                arrays = {
                    "top_value": value,
                    "top_image": rng.integers(0, 50_000, (width, TOP)),
                    "dead": np.zeros(width, bool),
                    "patches": images,
                    "deconvolution": images,
                    "guided": images,
                    "maximization": images[:, :1],
                    "maximization_value": value[:, :1] * 2,
                    "maximization_best_real": value[:, 0],
                }
                for name, array in arrays.items():
                    hdf5.write_array(group, name, array, *DATASETS[name][:1])


def open_overview(page: Path) -> tuple[float, int]:
    """Seconds from the address to the page with all of its pictures, and the bytes of everything that it took."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with tempfile.TemporaryDirectory() as profile:
        for flag in ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=service)
        seconds = []
        for _ in range(5):
            driver.get("about:blank")
            driver.get(page.as_uri())
            milliseconds = driver.execute_async_script(
                "const done = arguments[0];"
                "for (const image of document.images) image.loading = 'eager';"
                "Promise.all([...document.images].map(image => image.decode())).then(() => done(performance.now()))"
            )
            seconds.append(milliseconds / 1e3)
        names = driver.execute_script(
            "return [...document.querySelectorAll('img, script[src], link')].map(e => e.currentSrc || e.src || e.href)"
        )
        driver.quit()
    files = {page, *(Path(name.removeprefix("file://")) for name in names if name.startswith("file://"))}
    return float(np.median(seconds)), sum(file.stat().st_size for file in files)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.report FOLDER")
    root = Path(sys.argv[1]).resolve()
    root.mkdir(parents=True, exist_ok=True)
    run, config = root / "alexnets", root / "alexnets.toml"
    if not (run / "analysis.h5").exists():
        make_activations(root)
        files = {net: ", ".join(f'{layer} = "{net}_{layer}.npy"' for layer in LAYERS) for net in NETS}
        nets = "\n".join(f"{net} = {{ {named} }}" for net, named in files.items())
        layers = ", ".join(f'"{layer}"' for layer in LAYERS)
        config.write_text(CONFIG.format(root=root, nets=nets, layers=layers), encoding="utf-8")
        for stage in ("statistics", "analyze"):
            assert convergence([stage, str(config), "--runs", str(root)]) == 0
    pictures = root / "pictures.h5"
    if not pictures.exists():
        make_pictures(pictures)
    drawn = 0.0
    save = Drawing.save

    def timed(self: Drawing, *arguments: Any) -> Any:
        nonlocal drawn
        start = time.perf_counter()
        files = save(self, *arguments)
        drawn += time.perf_counter() - start
        return files

    Drawing.save = timed  # type: ignore[method-assign]
    start = time.perf_counter()
    report(run / "statistics.h5", run / "analysis.h5", run / "report", read_config(config), pictures)
    seconds = time.perf_counter() - start
    size = sum(path.stat().st_size for path in (run / "report").rglob("*") if path.is_file())
    n_figures = len(list((run / "report" / "figures").glob("*.svg")))
    opened, loaded = open_overview(run / "report" / "index.html")
    units = open_overview(run / "report" / "units.html")
    print(f"built in {seconds:.1f} s, of which matplotlib {drawn:.1f} s for {n_figures} figures (bar: 120 s)")
    print(f"pictures read: {pictures.stat().st_size / 1e9:.1f} GB; report: {size / 1e6:.0f} MB")
    print(f"overview opens in {opened:.2f} s with {loaded / 1e6:.2f} MB (bars: 2 s, 5 MB)")
    print(f"unit browser opens in {units[0]:.2f} s with {units[1] / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
