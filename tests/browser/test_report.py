"""The report as people use it: opened from disk in a browser without network, clicked through, read with axe-core."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from convergence.cli import main
from convergence.config.load import read_config
from convergence.runs.run_folder import RunFolder
from tests.helpers.analysis_rows import rows
from tests.helpers.browser import Reader
from tests.helpers.pictures_file import write_pictures_file
from tests.pipeline.test_report import LAYERS, NETS

SIZES = (1440, 390)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """One browser for all tests."""
    one = Reader(tmp_path_factory.mktemp("profile"))
    yield one
    one.driver.quit()


@pytest.fixture(scope="module")
def folder(tiny_config, tiny_run, tmp_path_factory) -> Path:
    """The report of the tiny run with pictures, experiments, a comparison with another run, and all in one file."""
    runs = tmp_path_factory.mktemp("pictured")
    run = Path(shutil.copytree(tiny_run, runs / "tiny"))
    other = Path(shutil.copytree(tiny_run, runs / "other"))
    work = RunFolder(run, read_config(tiny_config)).pictures_task()
    write_pictures_file(run / "pictures.h5", NETS, LAYERS, digest=work.digest)
    for experiment in ("stitch", "merge", "compress", "ensemble"):
        assert main([experiment, str(tiny_config), "--runs", str(runs)]) == 0
    command = ["report", str(tiny_config), "--runs", str(runs), "--compare", str(other), "--single-file"]
    assert main(command) == 0
    return run / "report"


def check(reader: Reader, page: Path, folder: Path) -> None:
    """No error, nothing from outside the folder, all pictures there, nothing wider than the screen."""
    assert reader.broken_images() == []
    assert reader.complaints() == []
    asked = [address for address in reader.requests() if not address.startswith(("data:", "blob:"))]
    assert [address for address in asked if not address.startswith(folder.as_uri())] == []
    assert reader.sideways() <= 0, f"{page.name} scrolls sideways"


@pytest.mark.parametrize("width", SIZES)
def test_every_page_opens_offline(reader, folder, width):
    reader.screen(width)
    pages = [page for page in sorted(folder.glob("*.html")) if page.name != "single-file.html"]
    assert len(pages) == 1 + 2 * 3 + 5
    for page in pages:
        reader.open(page)
        check(reader, page, folder)
        assert reader.run("return document.querySelectorAll('main h1').length") == 1


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_page_is_accessible(reader, folder, dark):
    """Light, every page on a wide screen, those of one layer on a narrow one; dark, those of one layer once."""
    for width in SIZES[:1] if dark else SIZES:
        reader.screen(width, dark=dark)
        for page in sorted(folder.glob("*.html")):
            of_others = page.name.startswith(("layer-conv2", "layer-fc1", "gallery-conv2", "gallery-fc1"))
            if of_others and (dark or width == 390):
                continue
            reader.open(page)
            if page.name == "units.html":
                reader.wait("return document.getElementById('unit-name')")
            assert reader.accessibility() == [], f"{page.name}, {width} pixels"


@pytest.mark.parametrize("width", SIZES)
def test_a_reader_clicks_through(reader, folder, width):
    """From the overview to a layer, its galleries, a unit in them, that unit's partner, the comparison, and back."""
    reader.screen(width)
    reader.open(folder / "index.html")

    def follow(title: str) -> None:
        if width < 1000:
            reader.run("scrollTo(0, 0)")
            reader.find(".menu summary").click()
        link = reader.find(f".menu a[data-page='{title}']")
        reader.run("arguments[0].scrollIntoView({block: 'center'})", link)
        link.click()
        assert reader.run("return location.pathname.split('/').pop()") == f"{title}.html"

    follow("layer-conv2")
    assert reader.find("h1").text == "conv2"
    follow("gallery-conv2")
    unit = reader.find(".card .part a")
    wanted = unit.get_attribute("href").split("#")[1]
    reader.run("arguments[0].scrollIntoView({block: 'center'})", unit)
    unit.click()
    name = reader.wait("return document.getElementById('unit-name')?.textContent")
    assert name.replace(" · unit ", "/").replace(" · ", "/") == wanted
    partner = reader.find("#unit table a")
    href = partner.get_attribute("href").split("#")[1]
    reader.run("arguments[0].scrollIntoView({block: 'center'})", partner)
    partner.click()
    wanted = "{} · {} · unit {}".format(*href.split("/"))
    reader.wait(f"return document.getElementById('unit-name').textContent === {wanted!r}")
    check(reader, folder / "units.html", folder)
    reader.driver.back()
    reader.wait(f"return document.getElementById('unit-name').textContent === {name!r}")
    follow("comparison")
    assert "Settings that differ" in reader.find("main").text
    check(reader, folder / "comparison.html", folder)
    follow("index")


def test_a_unit_is_found_by_its_number_and_by_keys(reader, folder):
    from selenium.webdriver.common.keys import Keys

    reader.screen(1440)
    reader.open(folder / "units.html", "#conv1/net2/3")
    said = "return document.getElementById('unit-name')?.textContent"
    assert reader.wait(said) == "conv1 · net2 · unit 3"
    reader.press(Keys.ARROW_RIGHT)
    reader.wait(f"{said} === 'conv1 · net2 · unit 4'")
    reader.press(Keys.ARROW_LEFT)
    reader.wait(f"{said} === 'conv1 · net2 · unit 3'")
    reader.press("/")
    assert reader.driver.switch_to.active_element.get_attribute("id") == "choose-unit"
    reader.press("5")
    reader.wait(f"{said} === 'conv1 · net2 · unit 5'")
    assert reader.run("return location.hash") == "#conv1/net2/5"
    reader.press("5")
    reader.wait("return document.getElementById('unit-problem').textContent.includes('has units 0 to 5')")
    reader.open(folder / "units.html", "#nowhere/nobody/0")
    assert reader.wait(said).endswith("unit 0")
    assert reader.complaints() == []


def test_the_browser_tells_what_the_analysis_holds(reader, folder):
    """The numbers of a unit on the page are those of analysis.h5."""
    found = rows(folder.parent / "analysis.h5", "conv1", "matching", x="net1", y="net2")
    first = found[found["unit_y"] >= 0][0]
    unit, partner = int(first["unit_x"]), int(first["unit_y"])
    reader.screen(1440)
    for net, other, mine, theirs in (("net1", "net2", unit, partner), ("net2", "net1", partner, unit)):
        reader.open(folder / "units.html", f"#conv1/{net}/{mine}")
        reader.wait("return document.getElementById('unit-name')")
        (row,) = (row for row in reader.all("#unit tbody tr") if row.find_element("css selector", "th").text == other)
        assert f"unit {theirs}" in row.text
        assert f"{first['correlation']:.3f} ± {first['standard_error']:.3f}" in row.text


def test_inactive_units_have_a_reason(reader, folder):
    found = rows(folder.parent / "analysis.h5", "conv2", "units", member="net1", active=False)[0]
    dead, reason = int(found["unit"]), found["inactive_reason"].decode()
    reader.screen(390)
    reader.open(folder / "units.html", f"#conv2/net1/{dead}")
    reader.wait("return document.getElementById('unit-name')")
    assert f"left out of every comparison: {reason}" in reader.find("#unit").text
    assert reader.all("#unit table") == []


def test_kinds_of_pictures_change_and_the_scheme_is_kept(reader, folder):
    reader.screen(1440)
    reader.open(folder / "gallery-conv1.html")
    before = reader.find(".tile img").get_attribute("src")
    reader.find("button[data-kind='maximization']").click()
    assert before != reader.find(".tile img").get_attribute("src")
    assert reader.find("button[data-kind='maximization']").get_attribute("aria-pressed") == "true"
    background = "return getComputedStyle(document.body).backgroundColor"
    light = reader.run(background)
    reader.find("#theme").click()
    assert reader.run(background) != light
    reader.open(folder / "index.html")
    assert reader.run(background) != light
    reader.find("#theme").click()
    assert reader.run(background) == light
    check(reader, folder / "gallery-conv1.html", folder)


def test_keys_alone_reach_the_content(reader, folder):
    from selenium.webdriver.common.keys import Keys

    reader.screen(1440)
    reader.open(folder / "index.html")
    reader.press(Keys.TAB)
    first = reader.driver.switch_to.active_element
    assert first.text == "Skip to the content"
    assert first.rect["x"] >= 0
    first.send_keys(Keys.ENTER)
    assert reader.driver.switch_to.active_element.get_attribute("id") == "main"


@pytest.mark.parametrize("width", SIZES)
def test_one_file_does_the_same(reader, folder, width):
    page = folder / "single-file.html"
    reader.screen(width)
    reader.requests()
    reader.open(page)
    shown = "return [...document.querySelectorAll('article')].filter(a => a.offsetParent).map(a => a.dataset.page)"
    assert reader.run(shown) == ["index"]
    reader.run("location.hash = '#page/gallery-conv1'")
    reader.wait(f"{shown}.join() === 'gallery-conv1'")
    reader.run("document.querySelector('article.shown .tile').scrollIntoView()")
    reader.wait("return document.querySelector('article.shown .tile img').naturalWidth > 1")
    reader.run("document.querySelector('article.shown .card .part a').click()")
    reader.wait("return document.getElementById('unit-name')")
    assert reader.run(shown) == ["units"]
    reader.run("document.querySelector('#unit .tile').scrollIntoView()")
    reader.wait("return document.querySelector('#unit .tile img').naturalWidth > 1")
    assert reader.complaints() == []
    assert [address for address in reader.requests() if not address.startswith(("data:", page.as_uri()))] == []
    assert reader.sideways() <= 0
