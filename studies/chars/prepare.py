"""Write the documentation that comes with Python as text files: help topics, and docstrings of each standard module."""

from __future__ import annotations

import ast
import sysconfig
import warnings
from pathlib import Path

FOLDER = Path(__file__).parent / "data"
SHORTEST = 500
LEFT_OUT = {"site-packages", "dist-packages", "test", "idlelib", "lib2to3", "pydoc_data"}


def main() -> None:
    """Write the files, if they are not there yet."""
    if FOLDER.exists():
        return
    from pydoc_data.topics import topics

    texts = {f"topic-{name}": text for name, text in topics.items()}
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted([*library.glob("*.py"), *library.glob("*/*.py")]):
        if path.parent.name not in LEFT_OUT:
            name = ".".join(path.relative_to(library).with_suffix("").parts)
            texts[f"module-{name}"] = docstrings(path.read_text(encoding="utf-8"))
    part = FOLDER.with_name("data.part")
    part.mkdir(exist_ok=True)
    kept = {name: text for name, text in texts.items() if len(text) >= SHORTEST}
    for name, text in kept.items():
        (part / f"{name}.txt").write_text(text, encoding="utf-8")
    part.rename(FOLDER)
    print(f"{len(kept)} documents, {sum(map(len, kept.values())):,} characters")


def docstrings(source: str) -> str:
    """Docstrings of a module, its classes and functions."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes in old modules
        found = [ast.get_docstring(node) for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    return "\n\n".join(text for text in found if text)


if __name__ == "__main__":
    main()
