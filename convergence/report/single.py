"""The report as one file: every page, picture and table inlined, to be sent by mail or kept beside a publication."""

from __future__ import annotations

import base64
import html
import json
import logging
import re
from pathlib import Path

from convergence.errors import FileError
from convergence.io.files import atomic_write, confined, printable

logger = logging.getLogger(__name__)
NAME = "single-file.html"
TYPES = {
    ".svg": "image/svg+xml", ".png": "image/png", ".webp": "image/webp", ".pdf": "application/pdf", ".csv": "text/csv",
}  # fmt: skip
CONTENT = re.compile(r"<!-- content -->(.*)<!-- /content -->", re.S)
_PAGE_LINK = re.compile(r'href="([A-Za-z0-9_.-]+)\.html(?:#([^"]*))?"')
_IMAGE = re.compile(r'src="((?:figures|pictures)/[^"]+)"')
_FILE = re.compile(r'href="((?:figures|tables)/[^"]+)" download')
_SHEETS = re.compile(r'data-kinds="([^"]*)"')


def single_file(folder: Path) -> Path:
    """Write ``single-file.html`` into a report's folder, from its pages; returns its path.

    Raises
    ------
    FileError
        if there is no report, or a page names a file that is not in the report's folder.
    """
    try:
        first = (folder / "index.html").read_text(encoding="utf-8")
    except OSError as error:
        raise FileError(f"{folder}: there is no report ({error}). Run `convergence report CONFIG` first.") from error
    slugs = list(dict.fromkeys(re.findall(r'data-page="([^"]+)"', first)))
    inlined: dict[str, str] = {}
    articles = []
    for slug in slugs:
        found = CONTENT.search(_read(folder, f"{slug}.html"))
        if found is None:
            raise _foreign(folder, f"{slug}.html")
        content = _rewrite(found[1], folder, inlined, slugs)
        articles.append(f'<article id="page/{slug}" data-page="{slug}">{content}</article>')
    for path in sorted((folder / "data").glob("*.js")):
        inlined[f"data/{path.name}"] = _data(folder, f"data/{path.name}")
    for path in sorted((folder / "pictures").glob("*.webp")):
        inlined.setdefault(f"pictures/{path.name}", _address(folder, f"pictures/{path.name}"))
    style, scripts = _read(folder, "assets/report.css"), ("report.js", "units.js")
    text = first.replace('<link rel="stylesheet" href="assets/report.css">', f"<style>{style}</style>")
    text = CONTENT.sub(lambda _: f"<div data-pages>{''.join(articles)}</div>", text)
    text = _PAGE_LINK.sub(lambda m: _page_address(m, slugs), text)
    holders = "".join(_holder(path, content) for path, content in inlined.items())
    code = "".join(f"<script>{_read(folder, f'assets/{name}')}</script>" for name in scripts)
    text = text.replace('<script src="assets/report.js"></script>', holders + code)
    target = folder / NAME
    with atomic_write(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    logger.info("  one file: %.1f MB", target.stat().st_size / 1e6)
    return target


def _rewrite(content: str, folder: Path, inlined: dict[str, str], slugs: list[str]) -> str:
    """A page's content with its pictures inlined, its files kept aside, and its links within the file."""

    def image(found: re.Match[str]) -> str:
        return f'src="{_address(folder, found[1])}"'

    def picture(found: re.Match[str]) -> str:
        # a sheet is shown by many tiles: it is kept once, and the page's script puts it in
        inlined.setdefault(found[1], _address(folder, found[1]))
        return f'data-src="{found[1]}" src="data:,"'

    def file(found: re.Match[str]) -> str:
        path = found[1]
        inlined.setdefault(path, _address(folder, path))
        return f'href="#" data-file="{path}"'

    content = _IMAGE.sub(lambda m: image(m) if m[1].startswith("figures/") else picture(m), content)
    content = _FILE.sub(file, content)
    return _PAGE_LINK.sub(lambda m: _page_address(m, slugs), content)


def _page_address(found: re.Match[str], slugs: list[str]) -> str:
    slug, place = found[1], found[2]
    if slug not in slugs:
        return found[0]
    return f'href="#units/{place}"' if slug == "units" and place else f'href="#page/{slug}"'


def _data(folder: Path, name: str) -> str:
    """The data of a file that calls the page's function with them."""
    called, _, rest = _read(folder, name).removeprefix("unitData(").partition(", ")
    if called != json.dumps(name):
        raise _foreign(folder, name)
    return rest.rstrip().removesuffix(");")


def _address(folder: Path, name: str) -> str:
    path = confined(folder, name)
    if path.suffix not in TYPES:
        raise _foreign(folder, name)
    return f"data:{TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _read(folder: Path, name: str) -> str:
    try:
        return confined(folder, name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{folder / name}: the file cannot be read ({error}). Make the report again.") from error


def _foreign(folder: Path, name: str) -> FileError:
    return FileError(f"{folder}: {printable(name)} was not written by this toolkit. Make the report again.")


def _holder(path: str, content: str) -> str:
    """An element that is never shown, from which the page's scripts take a file."""
    kind = "application/json" if path.startswith("data/") else "text/plain"
    return f'<script type="{kind}" id="inline:{html.escape(path)}">{content}</script>\n'
