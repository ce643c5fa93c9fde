"""A run's files of results become a folder of pages."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from markupsafe import Markup

from convergence.config.stages import ReportConfig
from convergence.errors import UserError
from convergence.figures import drawings_of
from convergence.figures.groups import without_clusters
from convergence.figures.growth import growth_across
from convergence.figures.overview import overview
from convergence.figures.style import KIND_WORDS, slug
from convergence.io.files import put_folder_in_place
from convergence.report.comparison import compare, write_comparison
from convergence.report.functional_page import Chapter, read_chapters
from convergence.report.galleries import galleries
from convergence.report.published import SOURCES_SAID, published_tables
from convergence.report.results import (
    RunResults,
    distinguished,
    left_out_units,
    read_results,
    read_run,
    shown_pair,
)
from convergence.report.site import Link, MenuSection, Site
from convergence.report.tables import causes_table, layer_sentence, measures_table, nets_table, pairs_table
from convergence.report.thumbnail_sheets import (
    ABOUT,
    KINDS,
    NONE_YET,
    RunPictures,
    SheetWriter,
    gallery_sheets,
    place_sheets,
    run_pictures,
)
from convergence.report.units import data_file, manifest, script_json, unit_script
from convergence.results import ComparisonResults, PairResults, kinds_of
from convergence.results.findings import findings
from convergence.settings import PathSetting

logger = logging.getLogger(__name__)
OVERVIEW, UNITS, MATTERS, PAPER, COMPARISON, PROVENANCE = (
    Link("Overview", "index"), Link("Units, one by one", "units"), Link("Does it matter?", "matters"),
    Link("Beside the paper", "paper"), Link("Comparison", "comparison"), Link("Provenance", "provenance"),
)  # fmt: skip


class Titled(Protocol):
    """The settings that a report needs."""

    @property
    def name(self) -> str:
        """Of the run."""
        ...

    @property
    def report(self) -> ReportConfig:
        """How it is shown."""
        ...


def report(
    statistics: Path,
    analysis: Path,
    target: Path,
    experiment: Titled,
    pictures: Path | None = None,
    analysis_digest: str | None = None,
    pictures_digest: str | None = None,
    functional: Path | None = None,
    functional_digests: Mapping[str, str] | None = None,
    drawn: Mapping[str, bytes] | None = None,
) -> None:
    """Write the report to the folder ``target``, replacing what was there; ``index.html`` is where it begins.

    Parameters
    ----------
    statistics, analysis
        The two files of results.
    target
        The folder.
    experiment
        Its title, the pair of nets to show and the run to compare with.
    pictures
        The file of pictures; there need not be one.
    analysis_digest, pictures_digest
        Expected digests. Other analyses are shown with a notice; other pictures are left out. None accepts any.
    functional, functional_digests
        Folder of functional experiments, and the expected digest of each file; others are left out.
    drawn
        By file name, the figures of an earlier report of the same analysis.

    Raises
    ------
    UserError
        if no pair of nets has results.
    """
    run = read_results(statistics, analysis, experiment.name, experiment.report.title, analysis_digest)
    run, other = _with_other(run, experiment.report.compare)
    building = target.with_name(target.name + ".partial")
    shutil.rmtree(building, ignore_errors=True)
    for name in ("figures", "tables", "data", "pictures"):
        (building / name).mkdir(parents=True)
    chapters, left_out = read_chapters(functional, functional_digests)
    run = replace(run, notices=(*run.notices, *left_out))
    with run_pictures(pictures, pictures_digest) as found:
        _write(run, building, experiment.report, found, other, chapters, drawn or {})
    put_folder_in_place(building, target)


def _with_other(run: RunResults, compared: PathSetting | None) -> tuple[RunResults, RunResults | None]:
    """The run to compare with; where it cannot be read, none and a notice."""
    if compared is None:
        return run, None
    try:
        other = read_run(Path(compared))
    except UserError as error:
        notice = f"There is no comparison with {compared}: {error}"
        logger.warning("report: %s", notice)
        return replace(run, notices=(*run.notices, notice)), None
    return run, distinguished(run, other, [Path("this run"), Path(compared)])[1]


def _write(
    run: RunResults, folder: Path, config: ReportConfig, pictures: RunPictures, other: RunResults | None,
    chapters: list[Chapter], drawn: Mapping[str, bytes],
) -> None:  # fmt: skip
    layer_links = {layer.name: Link(layer.name, f"layer-{slug(layer.name)}") for layer in run.layers}
    gallery_links = {layer.name: Link(layer.name, f"gallery-{slug(layer.name)}") for layer in run.layers}
    shown = [(layer, pair) for layer in run.whole if (pair := shown_pair(layer, config.pair)) is not None]
    rest = [UNITS, *([MATTERS] if chapters else []), *([PAPER] if shown else [])]
    rest += [*([COMPARISON] if other else []), PROVENANCE]
    menu = (
        MenuSection("", (OVERVIEW,)),
        MenuSection("Layers", tuple(layer_links.values())),
        MenuSection("Galleries", tuple(gallery_links.values())),
        MenuSection("More", tuple(rest)),
    )
    notices = (*run.notices, *([pictures.why] if _is_wrong(pictures) else []))
    site = Site(folder, run.title, menu, notices, formats=config.formats, drawn=drawn)
    site.write_assets()
    sheets: dict[str, Any] = {}
    for layer in run.layers:
        pair = shown_pair(layer, config.pair)
        sheets[layer.name] = _write_gallery(site, gallery_links[layer.name], layer, pair, pictures)
        for k, net in enumerate(layer.nets):
            (folder / data_file(layer, net)).write_text(unit_script(layer, k, pictures), encoding="utf-8")
        placed = [site.place(drawing, of_analysis=True) for drawing in drawings_of(layer, pair)]
        site.write(
            layer_links[layer.name], "layer.html", layer=layer, pair=pair, figures=placed,
            sentence=layer_sentence(layer), left_out_units=left_out_units(layer),
            measures=measures_table([layer], with_layer=False),
            pairs=pairs_table(layer), not_drawn=without_clusters(pair) if pair else "", causes=causes_table(layer),
            links=[Link("Its galleries", gallery_links[layer.name].slug)],
        )  # fmt: skip
        logger.info("  %s: %d figures", layer.name, len(placed))
    _write_overview(site, run, shown, layer_links, chapters)
    if chapters:
        figures = {chapter.title: [site.place(drawing) for drawing in chapter.drawings] for chapter in chapters}
        site.write(MATTERS, "matters.html", chapters=chapters, figures=figures)
    _write_rest(site, run, shown, pictures, sheets, other)


def _is_wrong(pictures: RunPictures) -> bool:
    """Whether there is a file of pictures that is not used."""
    return pictures.file is None and pictures.why != NONE_YET


def _write_gallery(
    site: Site, link: Link, layer: ComparisonResults, pair: PairResults | None, pictures: RunPictures
) -> dict[str, list[dict[str, Any]]]:
    """The page of a layer's galleries, and the sheets of all of its units."""
    found = galleries(layer, pair)
    wanted = {unit for gallery in found for unit in gallery.units()}
    with SheetWriter() as writer:
        sheets, kept = place_sheets(layer, pictures, site.folder, writer, wanted)
        sheet = gallery_sheets(layer, kept, site.folder, writer)
    why = pictures.why or f"The file of pictures has none of {layer.name}, so its units are listed by their numbers."
    title = Link(f"Galleries of {link.title}", link.slug)
    site.write(
        title, "galleries.html", layer=layer, pair=pair, galleries=found, sheet=sheet, why=why,
        words={kind: word[0].upper() + word[1:] for kind, word in KINDS.items()},
    )  # fmt: skip
    return sheets


def _write_overview(
    site: Site,
    run: RunResults,
    shown: list[tuple[ComparisonResults, PairResults]],
    layer_links: dict[str, Link],
    chapters: list[Chapter],
) -> None:
    whole = run.whole
    site.write(
        OVERVIEW,
        "overview.html",
        run=run,
        n_trained=sum(bool(net["trained"]) for net in run.nets),
        n_initialisations=len({str(net["initialisation"]) for net in run.nets if net["trained"]}),
        n_untrained=sum(not net["trained"] for net in run.nets),
        links=[*layer_links.values(), UNITS, *([MATTERS] if chapters else []), *([PAPER] if shown else [])],
        findings=findings(whole),
        kinds=[KIND_WORDS[kind] for kind in kinds_of(whole)],
        overview=site.place(overview(whole), of_analysis=True) if whole else None,
        growth=[site.place(drawing, of_analysis=True) for drawing in growth_across(whole)],
        measures=measures_table(whole),
        nets=nets_table(run.nets),
    )


def _write_rest(
    site: Site,
    run: RunResults,
    shown: list[tuple[ComparisonResults, PairResults]],
    pictures: RunPictures,
    sheets: dict[str, Any],
    other: RunResults | None,
) -> None:
    kinds = {kind: {"word": word[0].upper() + word[1:], "about": _capital(ABOUT[kind])} for kind, word in KINDS.items()}
    data = script_json({"layers": manifest(run.layers, sheets), "kinds": kinds})
    site.write(UNITS, "units.html", scripts=["assets/units.js"], manifest=Markup(data), why=pictures.why)
    if shown:
        pairs = dict.fromkeys(f"{pair.x} to {pair.y} ({pair.kind})" for _, pair in shown)
        site.write(
            PAPER, "published.html", tables=published_tables(shown), shown="; ".join(pairs), sources=SOURCES_SAID
        )
    if other is not None:
        write_comparison(site, COMPARISON, compare(run, other))
    config = json.dumps(run.config, indent=1, ensure_ascii=False)
    site.write(PROVENANCE, "provenance.html", run=run, config=config)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
