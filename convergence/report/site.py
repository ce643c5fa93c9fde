"""Pages of a report, their menu, their shared files, and figures placed among them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from convergence.figures.style import FORMATS, Drawing, slugged

_NUMBER_AND_UNIT = re.compile(r"(\d) ([%±])")
"""A number and its unit, joined by a non-breaking space."""
ASSETS = ("report.css", "report.js", "units.js")


@dataclass(frozen=True)
class Link:
    """A page in the menu: ``slug`` is its file without ending."""

    title: str
    slug: str


@dataclass(frozen=True)
class MenuSection:
    """A part of the menu."""

    title: str
    links: tuple[Link, ...]


@dataclass(frozen=True)
class Placed:
    """A drawing with its files by ending, relative to the report's folder."""

    drawing: Drawing
    files: dict[str, str]

    @property
    def image(self) -> str:
        """The file that the page shows."""
        return self.files["svg"]


@dataclass(frozen=True)
class Site:
    """A folder of pages.

    Attributes
    ----------
    folder : where they go
    title : of all pages
    menu : which pages there are
    notices : sentences at the head of every page
    formats : of the figures beside SVG, which the pages show
    drawn : by file name, figures of an earlier report of the same results, which need not be drawn again
    """

    folder: Path
    title: str
    menu: tuple[MenuSection, ...]
    notices: tuple[str, ...] = ()
    home: str = "index.html"
    formats: tuple[str, ...] = FORMATS
    drawn: Mapping[str, bytes] = field(default_factory=dict)

    def write(self, link: Link, template: str, scripts: Sequence[str] = (), **values: Any) -> None:
        """Write one page from its template."""
        environment = _environment()
        body = environment.get_template(template).render(page_slug=link.slug, **values)
        page = {"title": link.title, "slug": link.slug, "scripts": list(scripts)}
        text = environment.get_template("page.html").render(site=self, page=page, body=Markup(body))
        text = _NUMBER_AND_UNIT.sub("\\1\u00a0\\2", text)
        (self.folder / f"{link.slug}.html").write_text(text, encoding="utf-8")

    def write_assets(self) -> None:
        """The style and the scripts."""
        (self.folder / "assets").mkdir(exist_ok=True)
        for name in ASSETS:
            with resources.as_file(resources.files("convergence") / "templates" / name) as path:
                shutil.copyfile(path, self.folder / "assets" / name)

    def place(self, drawing: Drawing, of_analysis: bool = False) -> Placed:
        """Write a drawing and its numbers below the folder; one of the analysis alone may be in ``drawn``."""
        safe = slugged(drawing)
        formats = ["svg", *(name for name in self.formats if name != "svg")]
        figures, written = self.folder / "figures", {}
        for ending in list(formats):
            name = f"{safe.file_name}.{ending}"
            if of_analysis and name in self.drawn:
                (figures / name).write_bytes(self.drawn[name])
                written[ending] = figures / name
                formats.remove(ending)
        written |= safe.save(figures, self.folder / "tables", formats)
        return Placed(safe, {ending: path.relative_to(self.folder).as_posix() for ending, path in written.items()})


def unit_address(layer: str, net: str, unit: int) -> str:
    """Where the unit browser shows a unit."""
    return f"units.html#{quote(layer, safe='')}/{quote(net, safe='')}/{unit}"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("convergence", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["address"] = lambda path: quote(path, safe="/")
    environment.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    environment.globals["unit_address"] = unit_address
    return environment
