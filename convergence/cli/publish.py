"""``convergence paper``, ``figures`` and ``compare``: results of analyzed runs for readers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convergence.cli import options
from convergence.cli.output import print_json

if TYPE_CHECKING:
    from convergence.report.comparison import Compared
    from convergence.results import Difference, Summary


@click.command()
@options.run_argument
@options.runs_option
@options.pair_option
@click.option(
    "--steps", type=options.NUMBER, default=4000, show_default=True, metavar="N", help="Steps of the long SGD training."
)
@click.option("--out", type=options.FOLDER, metavar="DIR", help="Folder of tables and figures.  [default: RUN/paper]")
def paper(run: str, runs: str, pair: tuple[str, str] | None, steps: int, out: str | None) -> None:
    """Print the paper's tables for a run, beside the published values.

    RUN is a run folder (for example runs/digits) or a config. Also draws the paper's figures.
    """
    from convergence.paper.run import paper as make_paper

    print(make_paper(run, runs, pair or None, steps, out))


@click.command()
@options.run_argument
@options.runs_option
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(["pdf", "svg", "png"]),
    help="File format; repeatable.  [default: pdf]",
)
@click.option("--width", metavar="WIDTH", help="Width of a figure, for example 3.25in or 8.25cm.")
@click.option(
    "--font-size",
    type=click.FloatRange(4, 24),
    default=8.0,
    show_default=True,
    metavar="POINTS",
    help="Font size, 4 to 24 points.",
)
@click.option("--layer", "layers", multiple=True, metavar="NAME", help="Draw this layer only; repeatable.")
@click.option(
    "--figure",
    "figures",
    multiple=True,
    metavar="NAME",
    help="Draw this figure only (overview, matched_units, …); repeatable.",
)
@options.pair_option
@click.option("--no-titles", is_flag=True, help="Draw panels without titles, for figures with a caption.")
@click.option("--out", type=options.FOLDER, metavar="DIR", help="Folder of the figures.  [default: RUN/figures]")
def figures(
    run: str,
    runs: str,
    formats: tuple[str, ...],
    width: str | None,
    font_size: float,
    layers: tuple[str, ...],
    figures: tuple[str, ...],
    pair: tuple[str, str] | None,
    no_titles: bool,
    out: str | None,
) -> None:
    """Draw figures of a run for a publication.

    RUN is a run folder or a config. Fonts are embedded, and the numbers of every figure are written as CSV.
    """
    from convergence.figures.export import export

    formats = formats or ("pdf",)
    written = export(run, runs, formats, width, font_size, layers, figures, pair or None, not no_titles, out)
    print(*(path for path in written if path.suffix != ".csv"), sep="\n")


@click.command()
@options.run_argument
@click.argument("other", type=options.PATH)
@options.runs_option
@click.option("--out", type=options.FOLDER, metavar="DIR", help="Folder of the page.  [default: RUN/comparisons/OTHER]")
@options.json_option
def compare(run: str, other: str, runs: str, out: str | None, as_json: bool) -> None:
    """Compare two analyzed runs on one page and print its path.

    RUN and OTHER are run folders or configs. The page has the findings of both runs, differences of measures with
    intervals, and settings that differ; --json prints the same.
    """
    from convergence.report.comparison import compare_runs

    page, compared = compare_runs(run, other, runs, out)
    if as_json:
        print_json("comparison", _comparison(page.resolve(), compared))
    else:
        print(page.resolve())


def _comparison(page: Path, compared: Compared) -> dict[str, Any]:
    """The JSON document of ``compare``; its keys are in docs/command_line.md."""
    return {
        "page": page,
        "a": compared.a.title,
        "b": compared.b.title,
        "same_images": compared.same_images,
        "findings": [
            {"question": question, "asks": asks, "a": a.verdict if a else None, "b": b.verdict if b else None}
            for asks, question, a, b in compared.findings
        ],
        "measures": [
            {
                "layer": item.layer,
                "measure": item.measure,
                "nets": item.nets,
                "a": _interval(item.a),
                "b": _interval(item.b),
                "difference": _interval(item.difference),
                "excludes_zero": item.excludes_zero,
            }
            for item in compared.differences
        ],
        "settings": compared.changed,
        "only_a": compared.only_a,
        "only_b": compared.only_b,
    }


def _interval(found: Summary | Difference) -> dict[str, float | str]:
    ends = ("value", "low", "high", "image_low", "image_high", "missing")
    return {name: getattr(found, name) for name in ends}
