"""CSV files: texts come back as they were, and no cell is a formula."""

from __future__ import annotations

import csv

import numpy as np

from convergence.io.csv_files import cell_text, write_csv

TEXTS = [
    "=HYPERLINK(\"http://x\",\"a\")", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "'", "''=1", "'=1",
    "conv1", 'a "quoted" name', "two\nlines", "a\r\nb", "a,b", "", " =1", "net1 'b'", "−1", "=", "-",
]  # fmt: skip


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_texts_come_back_and_none_is_a_formula(tmp_path):
    write_csv(tmp_path / "a.csv", [*TEXTS], [[text, 1.5] for text in TEXTS])
    header, *rows = read(tmp_path / "a.csv")
    assert [cell_text(cell) for cell in header] == [cell_text(row[0]) for row in rows] == TEXTS
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in (*header, *(row[0] for row in rows)))


def test_numbers_stay_numbers(tmp_path):
    numbers = [-1, -0.5, np.float64(-1e-300), np.int64(-3), "-0.25", "+1e5", float("nan"), float("-inf")]
    write_csv(tmp_path / "a.csv", ["x"], [[number] for number in numbers])
    assert [cell for (cell,) in read(tmp_path / "a.csv")[1:]] == [str(number) for number in numbers]
