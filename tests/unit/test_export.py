"""Figures for publications: exact widths, fonts that are embedded as outlines with their letters, clear refusals."""

from __future__ import annotations

import csv
import re

import pytest

from convergence.cli import main
from convergence.figures.export import inches


def widths(pdf: bytes) -> list[float]:
    """Widths of a file's pages in inches."""
    return [float(w) / 72 for w in re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) [\d.]+ \]", pdf)]


@pytest.mark.slow
def test_exported_figures_have_the_given_width(tiny_run, tmp_path, capsys):
    arguments = [
        "figures",
        str(tiny_run),
        "--format",
        "pdf",
        "--format",
        "svg",
        "--width",
        "3.25in",
        "--layer",
        "conv1",
    ]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    files = [line for line in capsys.readouterr().out.split("\n") if line]
    pdfs = sorted(tmp_path.glob("*.pdf"))
    assert len(pdfs) == 12
    assert len(files) == 2 * len(pdfs)
    for pdf in pdfs:
        content = pdf.read_bytes()
        assert widths(content) == [pytest.approx(3.25)]
        assert b"/Type3" not in content, "letters are drawn and not embedded"
        assert b"/FontFile2" in content
        with pdf.with_suffix(".csv").open(encoding="utf-8", newline="") as file:
            assert len(list(csv.reader(file))) > 1
        size = re.search(r'width="([\d.]+)pt"', pdf.with_suffix(".svg").read_text(encoding="utf-8"))
        assert size
        assert float(size[1]) / 72 == pytest.approx(3.25)


def test_figure_export_is_reproducible_and_titles_are_optional(tiny_run, tmp_path):
    arguments = ["figures", str(tiny_run), "--width", "82.5mm", "--layer", "fc1", "--figure", "matched_units"]
    for name in ("a", "b"):
        assert main([*arguments, "--no-titles", "--out", str(tmp_path / name)]) == 0
    assert main([*arguments, "--out", str(tmp_path / "c")]) == 0
    a, b, c = ((tmp_path / name / "fc1-matched.pdf").read_bytes() for name in "abc")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["fc1-matched.csv", "fc1-matched.pdf"]
    assert a == b
    assert a != c


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--layer", "conv9"], 'did you mean "conv'),
        (["--figure", "matched_unit"], 'did you mean "matched_units"'),
        (["--width", "wide"], "give a number and its unit"),
        (["--width", "80"], "1.5 to 20 inches"),
        (["--pair", "net1", "net7"], "has no results of these two"),
        (["--figure", "layer_map"], "nothing for layer_map"),
    ],
)
def test_invalid_figure_requests_are_refused(tiny_run, tmp_path, capsys, arguments, said):
    assert main(["figures", str(tiny_run), "--out", str(tmp_path), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_widths_in_every_unit():
    assert [round(inches(text), 3) for text in ("3.25", "3.25in", "8.255 cm", "82.55mm", "234.878pt")] == [3.25] * 5
