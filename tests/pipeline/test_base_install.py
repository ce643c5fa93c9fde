"""The base package alone, in an environment without other packages: a laptop that never saw torch or MPI."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.helpers.runs import ORDER

ROOT = Path(__file__).parents[2]
PACKAGES = ("convergence", "hpc", "slurm")
NOTEBOOK = """
import importlib.util, sys
for name in ("torch", "torchvision", "mpi4py", "submitit", "safetensors", "skimage", "pytest", "pandas"):
    assert importlib.util.find_spec(name) is None, name
import convergence
run = convergence.open(sys.argv[1])
matching = run["conv1"].matching("net1", "net2")
assert matching.figure()._repr_png_().startswith(b"\\x89PNG")
assert matching.estimate is not None
print(matching.partners.tolist())
"""


def required(names: list[str]) -> dict[str, metadata.Distribution]:
    """The installed distributions of some requirements, and those that they need, by name."""
    found: dict[str, metadata.Distribution] = {}
    waiting = [Requirement(name) for name in names]
    while waiting:
        requirement = waiting.pop()
        key = requirement.name.lower().replace("_", "-")
        if key in found:
            continue
        found[key] = metadata.distribution(requirement.name)
        for line in found[key].requires or ():
            further = Requirement(line)
            extras = requirement.extras or {""}
            if further.marker is None or any(further.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(further)
    return found


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """Python of an environment that has links to the packages of setup.cfg's install_requires and nothing else."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    place = tmp_path_factory.mktemp("base") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    site = place / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for distribution in required(setup["options"]["install_requires"].split("\n")[1:]).values():
        for name in {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}:
            link = site / name
            if not link.exists() and name != "__pycache__":
                link.symlink_to(Path(str(distribution.locate_file(name))))
    (site / "checkout.pth").write_text(f"{ROOT}\n")
    return place / "bin" / "python"


def run(python: Path, *command: object, cwd: Path) -> str:
    environ = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    words = [str(word) for word in (python, *command)]
    done = subprocess.run(words, cwd=cwd, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_the_base_package_analyses_and_reports_a_downloaded_file(python, planted_runs, tmp_path):
    shutil.copy(planted_runs / "runs" / "planted" / "statistics.h5", tmp_path / "statistics.h5")

    def convergence(*arguments: object) -> str:
        code = "import sys; from convergence.cli import main; sys.exit(main(sys.argv[1:]))"
        return run(python, "-c", code, *arguments, cwd=tmp_path)

    assert convergence("analyze", "statistics.h5", "--comparison", "conv1") == str(tmp_path / "analysis.h5")
    page = Path(convergence("report", "statistics.h5"))
    assert page.is_file()
    assert len(list((page.parent / "figures").glob("*.svg"))) > 5
    assert "checksums: all match" in convergence("show", "statistics.h5", "--verify")
    convergence("subset", "statistics.h5", "--comparison", "fc", "fc.h5")
    assert run(python, "-c", NOTEBOOK, "statistics.h5", cwd=tmp_path) == str(ORDER)


@pytest.mark.slow
def test_a_downloaded_run_folder_needs_neither_torch_nor_mpi(python, tiny_config, tiny_copy):
    for name in ("analysis.h5", "analysis.json", "report.json"):
        (tiny_copy / name).unlink()
    shutil.rmtree(tiny_copy / "report")
    code = (
        "import sys\n"
        "from convergence.cli import main\n"
        "for verb in ('analyze', 'report', 'show'):\n"
        "    assert main([verb, sys.argv[1], '--runs', sys.argv[2]]) == 0, verb\n"
        "assert main(['figures', sys.argv[2] + '/tiny', '--layer', 'fc1', '--figure', 'matched_units']) == 0\n"
    )
    said = run(python, "-c", code, tiny_config, tiny_copy.parent, cwd=tiny_copy.parent)
    assert (tiny_copy / "report" / "index.html").exists()
    assert (tiny_copy / "figures" / "fc1-matched.pdf").exists()
    assert "sizes are not known without torch" in said


def test_every_file_that_the_code_reads_is_in_the_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    declared = setup["options.package_data"]
    for package in PACKAGES:
        patterns = [pattern.strip() for pattern in declared.get(package, "").split(",")]
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts:
                place = path.relative_to(ROOT / package)
                assert any(place.match(pattern) for pattern in patterns if pattern), f"{place}: not in setup.cfg"
            elif path.suffix == ".py":
                assert (path.parent / "__init__.py").exists(), f"{path}: its folder is no package"
