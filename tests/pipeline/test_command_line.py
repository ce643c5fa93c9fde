"""The command line: quick help, checked options, exit codes, JSON documents, and its documentation."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from convergence.cli import VERBS, command, main

ROOT = Path(__file__).parents[2]
HEAVY = {"numpy", "torch", "h5py", "mpi4py", "pydantic", "dask", "distributed", "scipy", "matplotlib"}
LIGHT = f"""
import sys
from convergence.cli import VERBS, main
codes = {{main([*arguments, "--help"]) for arguments in ((), *((verb,) for verb in VERBS))}}
print(codes, {HEAVY!r} & set(sys.modules), file=sys.stderr)
"""


def options_of(verb: str) -> set[str]:
    """Long options of a verb, but ``--help``."""
    ctx = click.Context(command)
    found = command.get_command(ctx, verb)
    assert found is not None
    return {name for parameter in found.params for name in parameter.opts if name.startswith("--")}


def test_help_is_immediate_and_loads_no_heavy_package():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "{0} set()"
    assert "Stages, in order:" in done.stdout
    before = os.times()
    subprocess.run([sys.executable, "-m", "convergence", "analyze", "--help"], capture_output=True, check=True)
    after = os.times()
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    assert seconds < 0.3, "processor time, which other processes do not change"


def test_verbs_and_options_are_documented():
    text = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")
    verbs = dict(re.findall(r"^\| `([a-z]+) ?[^`]*` \|[^|]*\| (`--[^|]*) \|$", text, re.M))
    assert list(verbs) == list(VERBS)
    explained = set(re.findall(r"^\| `(--[a-z-]+)", text, re.M))
    for verb, options in verbs.items():
        assert set(re.findall(r"`(--[a-z-]+)`", options)) == options_of(verb), verb
    assert explained == set().union(*map(options_of, VERBS))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rnu"], 'unknown verb "rnu"; did you mean "run"'),
        (["run", "c.toml", "--overwite"], "--overwrite"),
        (["analyze", "c.toml", "--workers", "0"], "'--workers': 0 is not in the range x>=1"),
        (["analyze", "c.toml", "--memory", "inf"], "inf is not a finite number"),
        (["figures", "runs/x", "--font-size", "3"], "3.0 is not in the range 4<=x<=24"),
        (["figures", "runs/x", "--format", "gif"], "'gif' is not one of 'pdf', 'svg', 'png'"),
        (["run"], "Missing argument 'CONFIG'"),
        ([], "Missing command"),
        (["submit", "c.toml"], "Missing option '--cluster'"),
    ],
)
def test_usage_errors_are_one_paragraph_with_exit_code_2(arguments, says, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("convergence: ")
    assert says in error
    assert error.rstrip().count("\n") == 0
    assert "--help`." in error


def test_exceptions_become_exit_codes(monkeypatch, capsys):
    from convergence.runs.signals import Stopped

    for error, code, says in (
        (Stopped("stopped by SIGTERM"), 75, "run the same command again to resume"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device", "x.h5"), 2, "its disk is full"),
    ):

        def fail(path, error=error):
            raise error

        monkeypatch.setattr("convergence.analysis.standalone.is_results_file", fail)
        assert main(["show", "c.toml"]) == code
        assert says in capsys.readouterr().err
    monkeypatch.setattr("convergence.analysis.standalone.is_results_file", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["show", "c.toml"])


def test_completion_of_the_shell_lists_verbs_and_options():
    def complete(words: str, position: int) -> str:
        environ = {"_CONVERGENCE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(position)}
        done = subprocess.run(
            [sys.executable, "-m", "convergence"],
            env=environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        return done.stdout

    assert complete("convergence comp", 1).split() == ["plain,compress", "plain,compare"]
    assert "plain,--font-size" in complete("convergence figures --f", 2)


def document(capsys, *arguments) -> dict:
    """What a verb prints with ``--json``."""
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["kind", *KEYS[found["kind"]].split()]
    return found


KEYS = {
    "run": "experiment folder settings data statistics statistics_unknown analysis stages",
    "statistics": "name bytes version digest images families groups pilot_images subset nets comparisons provenance "
    "analysis_file analysis analysis_changes checksums",
    "analysis": "bytes digest statistics_digest comparisons provenance checksums",
    "comparison": "page a b same_images findings measures settings only_a only_b",
    "plan": "experiment missing done sbatch_jobs stages gpu_hours cpu_hours limit_s measured_s requeue_method "
    "max_requeues disk disk_unknown checked",
    "layers": "networks",
    "check": "experiment sound checks findings needs",
    "status": "experiment folder submission submitted profile cancelled jobs report free_bytes",
    "doctor": "host sound findings",
}
"""Keys of the JSON documents, as scripts may rely on them."""


def test_keys_of_json_documents_are_documented():
    text = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")
    text = text[text.index("## JSON documents") : text.index("## Verbs")]
    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|$", text, re.M))
    for kind, keys in KEYS.items():
        assert set(re.findall(r"`(\w+)`", rows[kind])) == set(keys.split()), kind


def test_show_describes_a_run_and_its_files_as_json(tiny_config, tiny_run, capsys):
    run = document(capsys, "show", tiny_config, "--runs", tiny_run.parent)
    assert run["settings"]["name"] == "tiny"
    assert {stage["state"] for stage in run["stages"]} == {"done"}
    assert run["analysis"]["tasks"] > 0
    statistics = document(capsys, "show", tiny_run / "statistics.h5", "--verify")
    assert [net["name"] for net in statistics["nets"]] == ["net1", "net2", "untrained1", "untrained2"]
    assert (statistics["analysis"], statistics["checksums"]) == ("done", "ok")
    by_name = {item["name"]: item for item in run["statistics"]["comparisons"]}
    for item in statistics["comparisons"]:
        assert item["units"] == by_name[item["name"]]["units"]
        assert item["samples"] == by_name[item["name"]]["samples"]
    analysis = document(capsys, "show", tiny_run / "analysis.h5")
    assert analysis["statistics_digest"] == statistics["digest"]
    assert analysis["comparisons"][0]["pairs"] == 6
    assert "linear_cka" in analysis["comparisons"][0]["measures"]


def test_cluster_verbs_print_json(tiny_config, tiny_copy, tmp_path, capsys, monkeypatch):
    site = tmp_path / "site.toml"
    site.write_text("[train]\nwalltime_min = 90\n", encoding="utf-8")
    runs = ["--runs", tiny_copy.parent]
    found = document(capsys, "plan", tiny_config, *runs, "--cluster", site, "--set", "analysis.rotations=5")
    assert found["missing"] == ["analyze", "report"]
    assert [stage["stage"] for stage in found["stages"]] == found["missing"]
    assert all(item["bytes"] > 0 for item in found["disk"])
    found = document(capsys, "status", tiny_config, *runs)
    assert found["submission"] is None
    assert {job["state"] for job in found["jobs"]} == {"done"}
    from slurm import doctor

    monkeypatch.setattr(doctor, "run_checks", lambda folder: [doctor.Finding("clock", "ok", "within 0.0 s")])
    found = document(capsys, "doctor", *runs)
    assert found["sound"] is True
    assert found["findings"][0]["check"] == "clock"
