"""Output to streams of any encoding, closed streams and pipes that end; folders that cannot be written."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from convergence.cli import main
from convergence.cli.output import print_json

ENCODINGS = ("cp1252", "iso-8859-1", "ascii", "cp437", "utf-8")
COMMAND = [sys.executable, "-m", "convergence"]


@pytest.fixture
def stream(monkeypatch):
    """A function that replaces standard output by one of an encoding, and returns its buffer."""

    def replace(encoding: str) -> io.BytesIO:
        buffer = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding=encoding))
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
        return buffer

    return replace


def printing(text: str, as_json: bool = False):
    """A stand-in for a verb that prints a text."""

    @click.command()
    def verb() -> None:
        if as_json:
            print_json("text", {"text": text})
        else:
            print(text)

    return verb


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_text_of_any_kind_is_printed_in_any_encoding(encoding, stream, monkeypatch):
    text = "r = 0.9 → −1 … \u2713 caf\udce9"
    buffer = stream(encoding)
    monkeypatch.setattr("convergence.cli.show.show", printing(text))
    assert main(["show"]) == 0
    if encoding != "utf-8":
        assert buffer.getvalue() == b"r = 0.9 -> -1 ... \\u2713 caf\xe9\n"
    assert buffer.getvalue().endswith(b" caf\xe9\n"), "a byte of a file name is printed as it is"
    buffer = stream(encoding)
    monkeypatch.setattr("convergence.cli.show.show", printing(text, as_json=True))
    assert main(["show"]) == 0
    assert json.loads(buffer.getvalue().decode(encoding))["text"] == text


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_help_and_errors_are_printed_in_any_encoding(encoding, stream):
    buffer = stream(encoding)
    assert main(["figures", "--help"]) == 0
    assert b"matched_units" in buffer.getvalue()
    assert main(["show", "→.toml"]) == 2


def test_reader_that_ends_is_no_error():
    for words in (["--help"], ["show", "--help"]):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run([*COMMAND, *words], stdout=write, stderr=subprocess.PIPE, text=True)
        os.close(write)
        assert (done.returncode, done.stderr) == (141, "")


def test_closed_streams_take_no_number_of_a_file(tmp_path):
    code = (
        "import os, sys; from convergence.cli import main; main(['--help']); "
        "print(os.open('x', os.O_CREAT | os.O_WRONLY)); print(sys.stdin.read(), flush=True)"
    )
    closed = subprocess.run(
        ["sh", "-c", f'exec {sys.executable} -c "{code}" <&- >&- 2>&-'], cwd=tmp_path, env=os.environ, check=False
    )
    assert closed.returncode == 0
    assert (tmp_path / "x").read_bytes() == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has /dev/full")
def test_full_standard_output_is_one_sentence():
    with open("/dev/full", "w", encoding="ascii") as full:
        done = subprocess.run([*COMMAND, "--version"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [30, 13])
def test_folder_that_cannot_be_written_is_one_sentence(number, monkeypatch, capsys, tmp_path):
    def refuse(*arguments, **options):
        raise OSError(number, os.strerror(number), str(tmp_path / "figures"))

    for module, verb in (
        ("convergence.figures.export:export", ["figures", "runs/x"]),
        ("convergence.paper.run:paper", ["paper", "runs/x"]),
        ("convergence.report.comparison:compare_runs", ["compare", "a", "b"]),
        ("convergence.transfer.fetch:fetch", ["fetch", "x"]),
    ):
        monkeypatch.setattr(module.replace(":", "."), refuse)
        assert main(verb) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"convergence: {tmp_path / 'figures'}: not permitted ({os.strerror(number)})")
        assert error.count("\n") == 1


def test_backend_of_a_notebook_is_not_used(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    assert main(["--help"]) == 0
    assert os.environ["MPLBACKEND"] == "agg"


@pytest.mark.parametrize("runs", ["a" * 300, "/proc/x", "/dev/null/x"])
def test_places_that_cannot_exist_are_one_paragraph(tiny_config, runs, capsys):
    assert main(["train", str(tiny_config), "--runs", runs]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "Choose another one" in error
