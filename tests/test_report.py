"""The report in a real browser, offline, and the numbers beside it."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from convergence.figures import FIGURES

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--allow-file-access-from-files",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium that resolves no name: what the page needs must be in the folder."""
    if CHROMIUM is None or CHROMEDRIVER is None:
        pytest.skip("no chromium or chromedriver: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("profile")
    for flag in (*FLAGS, f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    yield driver
    driver.quit()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_opens_offline(browser, tiny_run, width):
    page = tiny_run / "report" / "index.html"
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.get(page.as_uri())
    loaded = "return [...document.images].map(i => [i.complete && i.naturalWidth > 0, i.alt.length > 10])"
    images = browser.execute_script(loaded)
    assert len(images) == 1 + 3 * len(list(FIGURES))
    assert all(ok and described for ok, described in images)
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    fetched = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in fetched if not name.startswith("data:")] == []
    overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert browser.execute_script(overflow) <= 0, "the page scrolls sideways"


def test_every_link_leads_to_a_file_or_a_place(tiny_run):
    folder = tiny_run / "report"
    text = (folder / "index.html").read_text(encoding="utf-8")
    links = set(re.findall(r'href="([^"]+)"', text))
    assert links
    for link in links:
        if link.startswith("#"):
            assert f'id="{link[1:]}"' in text
        else:
            assert (folder / link).stat().st_size > 0, link
    assert "http" not in re.sub(r'"data:[^"]*"', "", text).replace("http://www.w3.org", "")


def test_every_figure_has_its_numbers(tiny_run):
    figures = {path.stem for path in (tiny_run / "report" / "figures").glob("*.svg")}
    assert figures == {path.stem for path in (tiny_run / "report" / "figures").glob("*.png")}
    for name in figures:
        with (tiny_run / "report" / "tables" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        assert rows
        assert all(len(row) == len(header) for row in rows)


def test_the_answers_quote_the_table(tiny_run):
    """The sentence of a layer and the table of the overview come from one number."""
    with (tiny_run / "report" / "tables" / "overview.csv").open(encoding="utf-8", newline="") as file:
        rows = {(r["measure"], r["layer"], r["kind"]): r for r in csv.DictReader(file)}
    text = (tiny_run / "report" / "index.html").read_text(encoding="utf-8")
    for layer in ("conv1", "conv2", "fc1"):
        row = rows["matching", layer, "trained"]
        quoted = f"{float(row['value']):.3f} [{float(row['low']):.3f}, {float(row['high']):.3f}]"
        assert text.count(quoted) >= 3, f"{layer}: answer, table and sentence"
        assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
        assert float(row["null"]) > 0


def test_a_laptop_needs_neither_torch_nor_mpi(tiny_config, tiny_copy):
    """analyze and report in a process in which nothing of the other installs can be imported."""
    for name in ("analysis.h5", "analysis.json", "report.json"):
        (tiny_copy / name).unlink()
    shutil.rmtree(tiny_copy / "report")
    code = (
        "import sys\n"
        "class NotInstalled:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'torch', 'torchvision', 'mpi4py', 'submitit', 'skimage', 'safetensors'}:\n"
        "            raise ModuleNotFoundError(f'no module named {name}', name=name)\n"
        "sys.meta_path.insert(0, NotInstalled())\n"
        "from convergence.cli import main\n"
        "for verb in ('analyze', 'report', 'show'):\n"
        "    assert main([verb, sys.argv[1], '--runs', sys.argv[2]]) == 0, verb\n"
    )
    command = [sys.executable, "-c", code, str(tiny_config), str(tiny_copy.parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tiny_copy / "report" / "index.html").exists()
    assert "sizes are not known without torch" in done.stdout


def test_figures_for_the_pair_that_the_config_names(tiny_config, tiny_copy):
    from convergence.cli import main

    arguments = ["report", str(tiny_config), "--runs", str(tiny_copy.parent)]
    assert main([*arguments, "--set", 'report.pair=["net2", "untrained1"]']) == 0
    text = Path(tiny_copy / "report" / "index.html").read_text(encoding="utf-8")
    assert "Correlations of net2 and untrained1" in text
