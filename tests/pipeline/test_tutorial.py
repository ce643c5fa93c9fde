"""The tutorial's blocks run in order in an empty folder and print what stands there."""

import doctest
import re
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
def test_tutorial_blocks_print_what_the_tutorial_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", TUTORIAL.read_text(encoding="utf-8"), re.S | re.M)
    assert len(blocks) >= 8
    parsed = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, "tutorial", str(TUTORIAL), 0)
    assert sum(bool(example.want) for example in parsed.examples) >= 6
    said = []
    failed, tried = doctest.DocTestRunner(verbose=False).run(parsed, out=said.append)
    assert not failed, "".join(said)
    assert tried == len(parsed.examples)
