"""The shape of the house, held by reading every file's imports: slurm → hpc → convergence, one door each."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = sorted(path for package in ("convergence", "hpc", "slurm") for path in (ROOT / package).rglob("*.py"))
DOORS = {"mpi4py": "hpc/comm.py", "distributed": "hpc/dask_executor.py", "dask": "hpc/dask_executor.py",
         "dask_jobqueue": "hpc/dask_jobs.py", "submitit": "slurm/slurm_commands.py",
         "ot": "convergence/alignment/soft_matching.py"}  # fmt: skip
HEAVY = {"torch", "torchvision", "mpi4py", "submitit"}
LAPTOP = ["convergence/analysis", "convergence/alignment", "convergence/similarity", "convergence/figures",
          "convergence/paper", "convergence/report", "convergence/results",
          "convergence/inference"]  # fmt: skip


def imports(path: Path) -> list[str]:
    """Top-level packages that a file imports, wherever in it."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
    return found


def test_packages_import_in_one_direction_and_through_one_file():
    for path in FILES:
        here = path.relative_to(ROOT).as_posix()
        packages = {name.split(".")[0] for name in imports(path)}
        if here.startswith("convergence/"):
            assert not packages & {"hpc", "slurm"}, f"{here}: convergence imports neither hpc nor slurm"
        if here.startswith("hpc/"):
            assert "slurm" not in packages, f"{here}: hpc does not import slurm"
        for package, door in DOORS.items():
            if package in packages:
                assert here.startswith(door), f"{here}: only {door} imports {package}"
        if any(here.startswith(part) for part in LAPTOP):
            assert not packages & HEAVY, f"{here}: the base install runs analyze and report"


ROOMS = [
    "errors",
    "registry",
    "progress",
    "provenance",
    "settings",
    "linalg",
    "io",
    "kernels",
    "inference",
    "alignment",
    "similarity",
    "clustering",
    "data",
    "networks",
    "config",
    "runs",
    "training",
    "statistics",
    "analysis",
    "results",
    "functional",
    "visualization",
    "checks",
    "figures",
    "paper",
    "report",
    "notebook",
    "transfer",
    "cli",
]
"""Rooms of convergence in order: a room imports only rooms before it."""


def test_rooms_of_convergence_import_only_rooms_before_them():
    for path in (ROOT / "convergence").rglob("*.py"):
        inside = path.relative_to(ROOT / "convergence").with_suffix("").parts
        if inside[0].startswith("__"):
            continue
        for name in imported_modules(path):
            parts = name.split(".")
            if parts[0] == "convergence" and len(parts) > 1 and not parts[1].startswith("__"):
                assert ROOMS.index(parts[1]) <= ROOMS.index(inside[0]), f"{path}: {inside[0]} imports {name}"


def imported_modules(path: Path) -> list[str]:
    """Modules that a file imports, `from convergence import x` as `convergence.x`."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "convergence":
            found += [f"convergence.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
    return found


def test_top_level_of_convergence_has_at_most_eight_modules():
    assert len(list((ROOT / "convergence").glob("*.py"))) <= 8


def test_no_two_public_classes_have_one_name():
    places: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(path.relative_to(ROOT).as_posix())
    assert {name: files for name, files in places.items() if len(files) > 1} == {}
