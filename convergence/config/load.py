"""Read a config: a TOML file and overrides become an ``Experiment`` (schema.py), or a ``ConfigError``."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from convergence.config.schema import Experiment
from convergence.errors import LONGEST_MESSAGE, LONGEST_VALUE, ConfigError, cut, did_you_mean, shown

MAX_BYTES = 8_000_000
"""Size of a config; one with 1,000 nets of 100 given layers takes 4 MB."""
MAX_DEPTH, MAX_TEXT, MAX_BITS = 20, 4096, 64
"""Nested tables and lists, characters of a text, and bits of an integer in a config."""
UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
INDEX = re.compile(r"[0-9]{1,9}")
Model = TypeVar("Model", bound=BaseModel)


def read_config(path: str | Path, overrides: Iterable[str] = ()) -> Experiment:
    """Read a TOML file, apply ``a.b=value`` overrides and validate the result.

    Raises
    ------
    ConfigError
        with the file, the full path of the key, the received value and the valid values.
    """
    path = Path(path)
    return parse_config(
        read_text(path, "config", "Give the path of a .toml file, for example configs/digits.toml"),
        overrides,
        where=str(path),
        folder=path.parent,
    )


def read_text(path: Path, kind: str, remedy: str) -> str:
    """Read the text of a TOML file; a byte order mark is removed.

    Raises
    ------
    ConfigError
        for a file that is missing, unreadable, too large or not UTF-8.
    """
    where = cut(str(path), LONGEST_VALUE)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{where}: the file is larger than {MAX_BYTES:,} bytes and no {kind}. {remedy}.")
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{where}: there is no such {kind} file. {remedy}.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{where}: the {kind} is not UTF-8 text (byte {error.start}: {error.reason}). Save it as UTF-8."
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where}: the {kind} could not be read: {cut(str(error), LONGEST_VALUE)}.") from error


def parse_config(
    text: str, overrides: Iterable[str] = (), where: str = "config", folder: Path | None = None
) -> Experiment:
    """Read a config from a text; see :func:`read_config`. Modules of networks are also looked up in ``folder``."""
    values = parse_toml(text, where)
    for override in overrides:
        apply_override(values, override)
    return validated(Experiment, values, where, folder)


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Parse TOML.

    Raises
    ------
    ConfigError
        for text that is not TOML, and for nesting or integers beyond what Python reads.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, OverflowError) as error:  # invalid TOML, integers of more than 4,300 digits
        reason = cut(str(error), LONGEST_VALUE)
    except RecursionError:
        reason = f"tables and lists are nested more than {MAX_DEPTH} times"
    raise ConfigError(f"{where}: not valid TOML: {reason}.")


def validated(model: type[Model], values: dict[str, Any], where: str, folder: Path | None = None) -> Model:
    """Validate values as a section of settings.

    Raises
    ------
    ConfigError
        with one sentence per fault.
    """
    where = cut(where, LONGEST_VALUE)
    _check_values(values, where)
    try:
        return model.model_validate(values, context={"folder": folder})
    except ValidationError as error:
        raise ConfigError(_explain_all(where, error, model, values)) from error
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set ``a.b=value`` in nested dicts.

    Raises
    ------
    ConfigError
        for an override of another form, or a path that does not exist.
    """
    key, equals, text = override.partition("=")
    where = f"--set {cut(override, LONGEST_VALUE)}"
    if not equals or not key.strip():
        raise ConfigError(f"{where}: write it as key=value, for example --set training.epochs=5.")
    *parents, last = key.strip().split(".")
    if len(parents) >= MAX_DEPTH:
        raise ConfigError(f"{where}: the key has more than {MAX_DEPTH} parts; `convergence show` lists all keys.")
    value = _override_value(text, where)
    here: Any = values
    for depth, part in enumerate(parents):
        here = here[_index(here, part, where)] if isinstance(here, list) else here.setdefault(part, {})
        if not isinstance(here, dict | list):
            raise ConfigError(f"{where}: {'.'.join(parents[: depth + 1])} is a value, not a table.")
    here[_index(here, last, where) if isinstance(here, list) else last] = value


def _override_value(text: str, where: str) -> Any:
    """The value of an override: TOML, or a bare word as a string."""
    try:
        found = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    except (ValueError, OverflowError, RecursionError) as error:
        raise ConfigError(f"{where}: the value cannot be read: {cut(str(error), LONGEST_VALUE)}.") from None
    return found["value"] if len(found) == 1 else text


def _index(items: list[Any], part: str, where: str) -> int:
    if not INDEX.fullmatch(part) or int(part) >= len(items):
        raise ConfigError(
            f'{where}: "{cut(part, LONGEST_VALUE)}" is no index of a list of {len(items)} items; count from 0.'
        )
    return int(part)


def _check_values(values: Any, where: str) -> None:
    """Reject values that no setting has, whatever its type.

    Raises
    ------
    ConfigError
        for deep nesting, long texts, texts with control characters, integers beyond 64 bits, and ``nan`` and ``inf``.
    """
    stack: list[tuple[Any, tuple[Any, ...]]] = [(values, ())]
    while stack:
        value, path = stack.pop()
        fault = ""
        if len(path) > MAX_DEPTH:
            fault = f"tables and lists are nested more than {MAX_DEPTH} times; remove some"
        elif isinstance(value, dict):
            fault = next(filter(None, map(_text_fault, value)), "")
            stack += [(item, (*path, key)) for key, item in value.items()]
        elif isinstance(value, list | tuple):
            stack += [(item, (*path, k)) for k, item in enumerate(value)]
        elif isinstance(value, str):
            fault = _text_fault(value)
        elif isinstance(value, int) and value.bit_length() >= MAX_BITS:
            fault = f"integers have less than {MAX_BITS} bits (received: {shown(value)})"
        elif isinstance(value, float) and not math.isfinite(value):
            fault = f"input should be a finite number (received: {value})"
        if fault:
            raise ConfigError(f'{where}: "{_dotted(path)}": {fault}.')


def _text_fault(text: Any) -> str:
    text = str(text)
    if len(text) > MAX_TEXT:
        return f"a text of {len(text):,} characters; shorten it to at most {MAX_TEXT:,}"
    found = UNPRINTABLE.search(text)
    return f"the text {shown(text)} has the control character {found[0]!r}; remove it" if found else ""


def _dotted(path: Iterable[Any]) -> str:
    """A path of keys and indices, with characters that terminals do not print escaped."""
    text = cut(".".join(str(part) for part in path), LONGEST_VALUE) or "the config"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _explain_all(where: str, error: ValidationError, root: type[BaseModel], values: Any) -> str:
    """Describe the errors of a validation, a line each, as many as a message takes."""
    items = [(_input_path(item["loc"], values), item) for item in error.errors(include_url=False)]
    deepest = [path for path, item in items if item["type"] != "too_short"]
    lines: list[str] = []
    for k, (path, item) in enumerate(items):
        if item["type"] == "too_short" and any(p[: len(path)] == path and len(p) > len(path) for p in deepest[:100]):
            continue  # an item of the list is invalid, and pydantic does not count it
        line = cut(_explain(where, path, item, root), LONGEST_MESSAGE // 2)
        if sum(map(len, lines)) + len(line) > LONGEST_MESSAGE - 100:
            return "\n".join([*lines, f"{where}: {len(items) - k:,} more faults."])
        if line not in lines:
            lines.append(line)
    return "\n".join(lines)


def _input_path(location: Iterable[Any], values: Any) -> list[Any]:
    """The keys and indices of a location; pydantic also names the alternatives of a union there."""
    path: list[Any] = []
    for part in location:
        if (isinstance(values, dict) and part in values) or (
            isinstance(values, list | tuple) and isinstance(part, int) and part < len(values)
        ):
            values = values[part]
        elif not isinstance(values, dict) or part == "[key]":
            continue
        path.append(part)
    return path


def _explain(where: str, location: list[Any], item: Any, root: type[BaseModel]) -> str:
    """Describe one validation error of pydantic in one sentence."""
    path = _dotted(location)
    if item["type"] == "extra_forbidden":
        known = _fields_at(location[:-1], root)
        hint = did_you_mean(str(location[-1]), known) if known else "remove it"
        return f'{where}: unknown key "{path}"; {hint}.'
    if item["type"] == "missing":
        return f'{where}: "{path}" is missing; add it.'
    message = item["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    received = "" if item["type"] == "value_error" else f" (received: {shown(item['input'])})"
    return f'{where}: "{path}": {message}{received}.'


def _fields_at(location: list[Any], root: type[BaseModel]) -> list[str]:
    """Names of the settings of the section at a path."""
    model: Any = root
    for part in location:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part) if model is not None else None
        if field is None:
            return []
        model = _section_in(field.annotation)
    return list(model.model_fields) if model is not None else []


def _section_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _section_in(inner)
        if found is not None:
            return found
    return None
