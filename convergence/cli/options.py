"""Options and arguments that several verbs share. Ranges, choices and kinds of paths are checked by click."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class ExpandedPath(click.Path):
    """A path in which ``~`` and ``$NAME`` are expanded, as in configs, unless it exists as it is written.

    Shells do not expand ``--runs=~/runs``.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and ("$" in value or value.startswith("~")) and not os.path.lexists(value):
            from convergence.settings import expand_path

            value = str(expand_path(value))
        return super().convert(value, param, ctx)


PATH = ExpandedPath()
FILE = ExpandedPath(dir_okay=False)
FOLDER = ExpandedPath(file_okay=False)
NUMBER = click.IntRange(min=1)


class Amount(click.FloatRange):
    """A finite number above 0."""

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        return number if math.isfinite(number) else self.fail(f"{value} is not a finite number.", param, ctx)


def together(*decorators: Decorator) -> Decorator:
    """Several decorators as one; the first one given comes first in ``--help``."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def comparisons_option(about: str) -> Decorator:
    """``--comparison NAME``, several times."""
    return click.option("--comparison", "comparisons", multiple=True, metavar="NAME", help=f"{about}; repeatable.")


config_argument = click.argument("config", type=PATH)
run_argument = click.argument("run", type=PATH)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a setting, for example --set training.epochs=5; repeatable.",
)
runs_option = click.option(
    "--runs", default="runs", show_default=True, type=FOLDER, metavar="DIR", help="Folder of the run folders."
)


def _allow_code(ctx: click.Context, param: click.Parameter, modules: tuple[str, ...]) -> None:
    if modules or "convergence.data.user_code" in sys.modules:
        from convergence.data.user_code import ALLOWED

        ALLOWED[:] = modules


code_option = click.option(
    "--allow-code",
    multiple=True,
    metavar="MODULE",
    expose_value=False,
    callback=_allow_code,
    help="Run the code of this module, which the config names as a network or a data set; repeatable.",
)
config_options = together(config_argument, set_option, runs_option)
overwrite_option = click.option(
    "--overwrite",
    is_flag=True,
    help="Delete results of other settings instead of moving them to RUN/superseded/.",
)
no_check_option = click.option(
    "--no-check", is_flag=True, help="Start without the checks before a run (`convergence check`)."
)
jobs_option = click.option(
    "--jobs", default=1, show_default=True, type=click.IntRange(1, 64), metavar="N",
    help="Run up to N stages side by side that do not depend on each other; the results are the same.",
)  # fmt: skip
sharing_options = together(
    click.option("--wait", is_flag=True, help="Wait for other commands that use the same outputs of the run folder."),
    click.option(
        "--take-over",
        is_flag=True,
        help="End the leases of other commands that use the same outputs; they stop without writing.",
    ),
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document (docs/command_line.md).")
pair_option = click.option(
    "--pair", nargs=2, metavar="NET1 NET2", help="Nets to show unit by unit.  [default: the first two trained nets]"
)
single_file_option = click.option(
    "--single-file", is_flag=True, help="Also write the report as one file, report/single-file.html."
)
worker_options = together(
    click.option(
        "--workers",
        type=NUMBER,
        metavar="N",
        help="Worker processes of the analysis; 1 uses this process.  [default: 1 for less than a minute of work, else "
        "by cores and memory]",
    ),
    click.option(
        "--threads", type=NUMBER, default=1, show_default=True, metavar="N", help="Threads of each analysis worker."
    ),
    click.option(
        "--memory",
        type=Amount(),
        metavar="GB",
        help="Memory limit of a worker.  [default: an equal share of the free memory]",
    ),
    click.option(
        "--lifetime",
        type=Amount(),
        metavar="MIN",
        help="Minutes after which a worker is replaced; choose less than the walltime.",
    ),
    click.option("--dashboard", is_flag=True, help="Serve Dask's dashboard on the loopback interface."),
    click.option(
        "--cluster",
        type=FILE,
        metavar="PROFILE",
        help="Start the workers as Slurm jobs of this profile (configs/clusters/).",
    ),
)
