"""The report's files: links, figures with their numbers, words that come from one number, bad input, strange names."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from convergence.analysis.layout import TABLES
from convergence.cli import main
from convergence.config.load import read_config
from convergence.errors import UserError
from convergence.figures.style import slug
from convergence.report import report
from convergence.report.results import read_results
from convergence.results import CODES
from convergence.results.findings import findings
from convergence.runs.run_folder import RunFolder
from tests.helpers.analysis_rows import rewrite
from tests.helpers.hdf5_edits import resealed
from tests.helpers.pictures_file import Made, write_pictures_file

pytestmark = pytest.mark.slow

NETS = ("net1", "net2")
LAYERS = {"conv1": Made(6, "conv", (3, 3), (8, 8), True), "conv2": Made(8, "conv", (8, 8), (4, 4)),
          "fc1": Made(12, "whole", (8, 8), (1, 1))}  # fmt: skip


def text_of(path: Path) -> str:
    """A page's text, with non-breaking spaces as spaces."""
    return html.unescape(re.sub(r"<[^>]+>", "", path.read_text(encoding="utf-8"))).replace("\u00a0", " ")


def make(run: Path, config: Path, target: Path, *overrides: str, **files) -> Path:
    """A report of a run's files, made directly."""
    report(run / "statistics.h5", run / "analysis.h5", target, read_config(config, list(overrides)), **files)
    return target


def test_every_link_leads_to_a_file_or_a_place(tiny_run):
    folder = tiny_run / "report"
    pages = sorted(folder.glob("*.html"))
    names = {page.name for page in pages}
    assert {"index.html", "layer-conv1.html", "gallery-fc1.html", "units.html", "paper.html"} <= names
    seen = set()
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r'(?:href|src)="([^"]+)"', text):
            path, _, place = link.partition("#")
            if path.startswith("data:"):
                continue
            if path:
                assert (folder / path).stat().st_size > 0, link
                seen.add(path)
            elif place:
                assert f'id="{place}"' in text, link
        assert not re.search(r"(?:href|src)=\"(?:https?:)?//", text)
    for kept in [*folder.glob("figures/*"), *folder.glob("tables/*"), *pages]:
        assert kept.relative_to(folder).as_posix() in seen, f"nothing leads to {kept.name}"


def test_every_figure_has_the_configured_format_and_its_numbers(tiny_run):
    folder = tiny_run / "report" / "figures"
    assert {path.suffix for path in folder.iterdir()} == {".svg"}
    figures = {path.stem for path in folder.glob("*.svg")}
    assert len(figures) == 1 + 3 * 11
    for name in figures:
        with (tiny_run / "report" / "tables" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        assert rows
        assert all(len(row) == len(header) for row in rows)


def test_findings_quote_the_table(tiny_run):
    """The sentence of a layer, the answer and the overview's figure come from one number."""
    with (tiny_run / "report" / "tables" / "overview.csv").open(encoding="utf-8", newline="") as file:
        rows = {(r["measure"], r["layer"], r["kind"]): r for r in csv.DictReader(file)}
    overview = text_of(tiny_run / "report" / "index.html")
    for layer in ("conv1", "conv2", "fc1"):
        row = rows["matching", layer, "trained"]
        quoted = f"{float(row['value']):.3f}"  # the run has too few nets for an interval over nets
        assert overview.count(quoted) >= 3, f"{layer}: sentence, table of the answer, table of measures"
        assert text_of(tiny_run / "report" / f"layer-{layer}.html").count(quoted) >= 2
        assert float(row["image_low"]) <= float(row["value"]) <= float(row["image_high"])
        assert float(row["null"]) > 0


def test_all_five_questions_are_answered_with_numbers(tiny_run):
    run = read_results(tiny_run / "statistics.h5", tiny_run / "analysis.h5", "tiny")
    found = findings(run.whole)
    assert {answer.asks for answer in found} == {"RQ1", "RQ2", "RQ3", "RQ4", "RQ5"}
    for answer in found:
        assert re.search(r"\d", answer.verdict) or " no" in answer.verdict
    (agreement,) = (answer for answer in found if "mutual information" in answer.question)
    halves = np.mean([pair.same_halves for pair in run.layers[0].of_kind("trained")])
    assert (
        agreement.rows[0][agreement.columns.index("same on both halves of the images")].split(" [")[0]
        == f"{100 * halves:.0f} %"
    )


def test_shares_have_no_interval_over_images(tiny_run):
    """Shares change in steps, and intervals of the jackknife over images do not cover them."""
    run = read_results(tiny_run / "statistics.h5", tiny_run / "analysis.h5", "tiny")
    shares = ("same_partner_semi_matching", *(f"code_{code}" for code in CODES))
    for layer in run.layers:
        found = [pair.need(name) for pair in layer.pairs for name in shares]
        assert all(0 <= estimate.value <= 1 and np.isnan([estimate.low, estimate.high]).all() for estimate in found)
        for name in shares:
            summary = layer.summary(name, "trained")
            assert np.isnan([summary.image_low, summary.image_high]).all()


def test_figures_for_the_pair_that_the_config_names(tiny_config, tiny_run, tmp_path):
    folder = make(tiny_run, tiny_config, tmp_path / "report", 'report.pair=["net2", "untrained1"]')
    assert "Correlations of net2 and untrained1" in text_of(folder / "layer-conv1.html")
    assert "net2 to untrained1 (mixed)" in text_of(folder / "paper.html")


def test_without_pictures_the_lists_have_numbers_and_say_why(tiny_config, tiny_run, tmp_path):
    folder = make(tiny_run, tiny_config, tmp_path / "report", pictures=tmp_path / "none.h5")
    gallery = text_of(folder / "gallery-conv2.html")
    assert "There are no pictures of the units of this run" in gallery
    assert "convergence pictures CONFIG" in gallery
    assert len(re.findall(r"r = \d\.\d{3} ± \d\.\d{3}", gallery)) >= 2
    assert len(re.findall(r"mean [\d.e-]+ ± ", gallery)) >= 6
    assert not list((folder / "pictures").iterdir())
    assert 'class="notice"' not in (folder / "index.html").read_text(encoding="utf-8"), "nothing is wrong"


def test_pictures_come_with_the_next_report(tiny_config, tiny_copy):
    """The report is made again when the file of pictures comes, and not again after that."""
    folder = RunFolder(tiny_copy, read_config(tiny_config))
    command = ["report", str(tiny_config), "--runs", str(tiny_copy.parent)]
    for present in (folder.pictures_file, tiny_copy / "pictures.json"):
        present.unlink(missing_ok=True)
    assert main(command) == 0
    assert not list((tiny_copy / "report" / "pictures").iterdir())
    write_pictures_file(folder.pictures_file, NETS, LAYERS, digest=folder.pictures_task().digest)
    assert folder.state(folder.report_task()) == "stale"
    assert main(command) == 0
    assert folder.state(folder.report_task()) == "done"
    sheets = {path.name for path in (tiny_copy / "report" / "pictures").iterdir()}
    assert {"conv1--net1--patches-0.webp", "conv1--net2--filters-0.webp", "fc1--gallery-maximization.webp"} <= sheets
    assert not any("conv2" in name and "filters" in name for name in sheets)
    gallery = (tiny_copy / "report" / "gallery-conv1.html").read_text(encoding="utf-8")
    assert gallery.count('class="tile') == gallery.count('alt="Pictures of unit') > 10


@pytest.mark.parametrize("fault", ["another run", "no HDF5 file", "another width"])
def test_pictures_that_do_not_fit_are_left_out(tiny_config, tiny_run, tmp_path, caplog, fault):
    path = tmp_path / "pictures.h5"
    if fault == "another run":
        write_pictures_file(path, NETS, LAYERS, digest="f" * 64)
    elif fault == "another width":
        write_pictures_file(path, NETS, {**LAYERS, "conv1": Made(5, "conv", (3, 3), (8, 8), True)}, digest="e" * 64)
    else:
        path.write_text("nothing of the kind", encoding="utf-8")
    folder = make(tiny_run, tiny_config, tmp_path / "report", pictures=path, pictures_digest="e" * 64)
    overview = text_of(folder / "index.html")
    sheets = [sheet.name for sheet in (folder / "pictures").iterdir()]
    if fault == "another width":
        assert sheets
        assert not any(name.startswith("conv1") for name in sheets)
        assert "has none of conv1" in text_of(folder / "gallery-conv1.html")
    else:
        assert not sheets
        assert {"another run": "is of another run", "no HDF5 file": "cannot be used"}[fault] in overview
    assert "pictures" in caplog.text
    assert (folder / "gallery-fc1.html").exists()


def rename_members(analysis: Path, comparison: str, prefix: str, suffix: str = "") -> None:
    """Give the members of a comparison other names, in every table."""

    def renamed(found: np.ndarray) -> np.ndarray:
        longer = {
            n: f"S{found.dtype[n].itemsize + len(prefix + suffix)}"
            for n in {"member", "x", "y"} & set(found.dtype.names)
        }
        fields = [(n, longer.get(n, found.dtype[n])) for n in found.dtype.names]
        out = found.astype(fields)
        for name in {"member", "x", "y"} & set(found.dtype.names):
            out[name] = [prefix.encode() + text + suffix.encode() if text else text for text in found[name]]
        return out

    for table in TABLES:
        rewrite(analysis, comparison, table.name, renamed)


def test_an_analysis_of_other_sums_is_left_out_or_refused(tiny_config, tiny_copy, tmp_path, caplog):
    analysis = tiny_copy / "analysis.h5"
    rename_members(analysis, "conv1", "x")
    folder = make(tiny_copy, tiny_config, tmp_path / "report")
    assert "does not fit statistics.h5 in conv1" in text_of(folder / "index.html")
    assert not (folder / "layer-conv1.html").exists()
    assert (folder / "layer-conv2.html").exists()
    assert "conv1" in caplog.text
    for name in ("conv2", "fc1"):
        rename_members(analysis, name, "x")
    with pytest.raises(UserError, match="of another run"):
        make(tiny_copy, tiny_config, tmp_path / "report")


def test_results_of_other_settings_are_announced(tiny_config, tiny_run, tmp_path):
    folder = make(tiny_run, tiny_config, tmp_path / "report", analysis_digest="0" * 64)
    assert "made with other settings" in text_of(folder / "layer-fc1.html")


SCRIPT = '</script><script>document.title = "taken"</script>'
IMAGE = "<img src=x>"


def test_names_are_text_wherever_they_come_from(tiny_config, tiny_copy, tmp_path):
    """A title from the config; labels of members and nodes as a made-up file may hold them."""
    with resealed(tiny_copy / "statistics.h5") as file:
        place = file["comparisons/fc1"]
        for key in ("nets", "sources"):
            place.attrs[key] = [f"{name}{IMAGE}" for name in place.attrs[key]]
    rename_members(tiny_copy / "analysis.h5", "fc1", "", IMAGE)
    folder = make(tiny_copy, tiny_config, tmp_path / "report", f"report.title={json.dumps(SCRIPT)}")
    everything = [path for path in folder.rglob("*") if path.is_file()]
    assert len([path for path in everything if "img-src-x" in path.name]) >= 4
    assert all(re.fullmatch(r"[\w.-]+", path.name) for path in everything)
    for page in folder.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "<script>document.title" not in text, page.name
        assert "<img src=x" not in text, page.name
        assert "taken" in text, page.name
    scripts = list(folder.glob("data/*.js"))
    assert any("img src" in script.read_text(encoding="utf-8") for script in scripts)
    assert not any("<" in script.read_text(encoding="utf-8") for script in scripts)


def test_names_of_files_stay_in_the_folder_and_apart():
    names = ["conv1", "net1:conv2@5", "../evil", "..", "a/b", "a-b", "a:b", "", "é", "x" * 300]
    slugs = [slug(name) for name in names]
    assert slugs[0] == "conv1"
    assert len(set(slugs)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,90}", one) for one in slugs)


def test_one_file_holds_everything(tiny_run, tmp_path):
    from convergence.report.single import single_file

    folder = Path(shutil.copytree(tiny_run / "report", tmp_path / "report"))
    path = single_file(folder)
    text = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 40e6
    for page in folder.glob("*.html"):
        if page != path:
            assert f'id="page/{page.stem}"' in text
    for data in folder.glob("data/*.js"):
        assert f'id="inline:data/{data.name}"' in text
    for link in re.findall(r'(?<![-\w])(?:href|src)="([^"]*)"', text):
        assert link.startswith(("data:", "#")), link
    places = set(re.findall(r'id="([^"]+)"', text))
    for link in re.findall(r'href="#([^"]+)"', text):
        assert link in places or link.startswith("units/"), link
