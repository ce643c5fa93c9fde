"""``convergence compare RUN RUN``: two runs on one page, in a folder of its own."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from convergence.errors import UserError
from convergence.paper.run import find_run
from convergence.report.build import write_comparison
from convergence.report.compare import Compared, compare
from convergence.report.results import distinguished, read_run
from convergence.report.site import Link, Section, Site
from convergence.report.slugs import slug

logger = logging.getLogger(__name__)


def compare_runs(run_a: str, run_b: str, runs: str, out: str | None) -> tuple[Path, Compared]:
    """Write the comparison of two runs; return its page and its content.

    Parameters
    ----------
    run_a, run_b, runs
        Run folders, or configs whose run folders are below ``runs``.
    out
        Folder of the page, which is replaced; None takes ``comparisons/<b>/`` in the folder of a.

    Raises
    ------
    UserError
        if either is no analysed run, both are the same, or ``out`` holds something else.
    """
    folders = [find_run(run, runs) for run in (run_a, run_b)]
    if folders[0].resolve() == folders[1].resolve():
        raise UserError(f"{run_a} and {run_b} are the same run. Give two different ones.")
    a, b = distinguished(read_run(folders[0]), read_run(folders[1]), folders)
    target = folders[0] / "comparisons" / slug(folders[1].resolve().name) if out is None else Path(out)
    if target.exists() and not (target / "index.html").exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} holds something else than a comparison. Choose another folder with --out.")
    building = target.with_name(target.name + ".partial")
    shutil.rmtree(building, ignore_errors=True)
    for name in ("figures", "tables"):
        (building / name).mkdir(parents=True)
    page = Link("Comparison", "index")
    site = Site(building, f"{a.title} and {b.title}", (Section("", (page,)),), (*a.notices, *b.notices))
    site.write_assets()
    compared = compare(a, b)
    write_comparison(site, page, compared)
    shutil.rmtree(target, ignore_errors=True)
    building.replace(target)
    return target / "index.html", compared
