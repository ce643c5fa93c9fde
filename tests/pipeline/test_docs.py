"""What the documents say, done: the README's new measure goes all the way to the report."""

from __future__ import annotations

import re
from pathlib import Path

from convergence.analysis.layout import document_layout
from convergence.cli import main
from convergence.similarity import MEASURES
from tests.helpers.analysis_rows import row

ROOT = Path(__file__).parents[2]


def test_measure_of_the_readme_reaches_the_report(tiny_config, tiny_copy, tmp_path, monkeypatch):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.S)
    (line,) = re.findall(r'`"(mean_strength)": "convergence\.similarity\.(mean_strength:mean_strength)"`', readme)
    (tmp_path / "mean_strength.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(MEASURES.entries, *line)
    runs = ["--runs", str(tiny_copy.parent), "--set", 'analysis.measures=["mean_strength", "matching"]']
    assert main(["run", str(tiny_config), *runs]) == 0
    found = row(tiny_copy / "analysis.h5", "conv1", "measures", x="net1", y="net2", measure="mean_strength")
    assert found["low"] < found["value"] < found["high"]
    assert 0 < found["null"] < 1
    assert "mean |r|" in (tiny_copy / "report" / "index.html").read_text(encoding="utf-8")


def test_files_md_holds_the_layout_of_analysis_h5():
    text = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
    generated = text.split("<!-- analysis.h5: generated -->\n")[1].split("<!-- end -->")[0]
    assert generated == document_layout(), "python -m convergence.analysis.layout docs/files.md writes it anew"


def test_files_and_commands_that_documents_name_exist():
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        name, text = document.relative_to(ROOT), document.read_text(encoding="utf-8")
        for path in re.findall(r"`((?:convergence|hpc|slurm|configs|tests|docs|benchmarks)/[\w./]*)`", text):
            assert (ROOT / path).exists() or "mean_strength" in path, f"{name} names {path}"
        for link in re.findall(r"\]\((?!http)([^)#]+)", text):
            assert (document.parent / link).exists(), f"{name} links to {link}"
