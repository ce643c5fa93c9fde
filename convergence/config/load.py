"""Read a config: a TOML file and overrides become an ``Experiment`` (schema.py), or a ``ConfigError``."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from convergence.config.schema import Experiment
from convergence.errors import ConfigError, did_you_mean

Model = TypeVar("Model", bound=BaseModel)


def read_config(path: str | Path, overrides: Iterable[str] = ()) -> Experiment:
    """Read a TOML file, apply ``a.b=value`` overrides and validate the result.

    Raises
    ------
    ConfigError
        with the file, the full path of the key, the received value and the valid values.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no such config file. Give the path of a .toml file, for example configs/digits.toml."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the config could not be read: {error}.") from error
    return parse_config(text, overrides, where=str(path))


def parse_config(text: str, overrides: Iterable[str] = (), where: str = "config") -> Experiment:
    """Read a config from a text; see :func:`read_config`."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: not valid TOML: {error}.") from error
    for override in overrides:
        apply_override(values, override)
    return validated(Experiment, values, where)


def validated(model: type[Model], values: dict[str, Any], where: str) -> Model:
    """Validate values as a section of settings.

    Raises
    ------
    ConfigError
        with one sentence per fault.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(where, item, model) for item in error.errors())) from error
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
    if not equals or not key.strip():
        raise ConfigError(f"--set {override}: write it as key=value, for example --set training.epochs=5.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string
    *parents, last = key.strip().split(".")
    here: Any = values
    for depth, part in enumerate(parents):
        here = _item(here, part, override) if isinstance(here, list) else here.setdefault(part, {})
        if not isinstance(here, dict | list):
            raise ConfigError(f"--set {override}: {'.'.join(parents[: depth + 1])} is a value, not a table.")
    if isinstance(here, list):
        _item(here, last, override)
        here[int(last)] = value
    else:
        here[last] = value


def _item(items: list[Any], part: str, override: str) -> Any:
    if not re.fullmatch(r"\d+", part) or int(part) >= len(items):
        raise ConfigError(f'--set {override}: "{part}" is no index of a list of {len(items)} items; count from 0.')
    return items[int(part)]


def _explain(where: str, item: Any, root: type[BaseModel]) -> str:
    """Describe one validation error of pydantic in one sentence."""
    location = [part for part in item["loc"] if not (isinstance(part, str) and "[" in part)]
    path = ".".join(str(part) for part in location) or "the config"
    if item["type"] == "extra_forbidden":
        known = _fields_at(location[:-1], root)
        hint = did_you_mean(str(location[-1]), known) if known else "remove it"
        return f'{where}: unknown key "{path}"; {hint}.'
    if item["type"] == "missing":
        return f'{where}: "{path}" is missing; add it.'
    message = item["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    received = "" if item["type"] == "value_error" else f" (received: {item['input']!r})"
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
