"""What the documents say, done: the README's new measure goes all the way to the report."""

from __future__ import annotations

import re
from pathlib import Path

import h5py

from convergence.cli import main
from convergence.similarity import MEASURES

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
    with h5py.File(tiny_copy / "analysis.h5") as file:
        found = file["comparisons/conv1/pairs/net1|net2/measures/mean_strength/xy"]
        assert found["low"][()] < found["value"][()] < found["high"][()]
        assert 0 < found["null"][()] < 1
    assert "mean |r|" in (tiny_copy / "report" / "index.html").read_text(encoding="utf-8")


def test_files_and_commands_that_documents_name_exist():
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        name, text = document.relative_to(ROOT), document.read_text(encoding="utf-8")
        for path in re.findall(r"`((?:convergence|hpc|slurm|configs|tests|docs|benchmarks)/[\w./]*)`", text):
            assert (ROOT / path).exists() or "mean_strength" in path, f"{name} names {path}"
        for link in re.findall(r"\]\((?!http)([^)#]+)", text):
            assert (document.parent / link).exists(), f"{name} links to {link}"
