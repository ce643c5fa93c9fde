"""The base class of every section of a config, and the type of its paths.

Sections are frozen, without unknown keys, with one sentence a field. Numbers are not converted: ``"3"`` and
``true`` are no integers, and ``nan`` and ``inf`` are no floats.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from convergence.errors import ConfigError

SPEED_ONLY: dict[str, Any] = {"digest": False}
"""Mark of a field that changes the speed and never the result: ``json_schema_extra=SPEED_ONLY``."""
MAX_SEED = 2**32 - 1
"""Largest seed of a config: what all generators accept."""
PLACE_ONLY: dict[str, Any] = {"digest": False}
"""Mark of a field that says where data are; what they are enters digests by their content."""
LONGEST_PATH = 4096
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f]")


def expand_path(text: str | os.PathLike[str]) -> Path:
    """Expand ``~``, ``~user``, ``$NAME`` and ``${NAME}`` in a path; ``$$`` is a dollar sign.

    Raises
    ------
    ConfigError
        for a variable that is not set or empty, a dollar sign without a name, and an unknown user.
    """
    if isinstance(text, PathSetting):
        return text.expanded()
    text = os.fspath(text)
    try:
        path = Template(text).substitute({name: value for name, value in os.environ.items() if value})
    except KeyError as error:
        raise ConfigError(
            f'the path "{text}" needs the environment variable {error.args[0]}, which is not set where this command '
            "runs. Set it, or write the path without it."
        ) from None
    except ValueError:
        raise ConfigError(
            f'the path "{text}" has a "$" without the name of a variable. Write $NAME or ${{NAME}}, or $$ for a dollar '
            "sign."
        ) from None
    if path.startswith("~"):
        user, path = path, os.path.expanduser(path)
        if path == user:
            raise ConfigError(
                f'the path "{text}": the home folder of {user.split("/")[0]} is not known. Write the path of the '
                "folder, or ./~NAME for a folder whose name starts with ~."
            )
    return Path(path)


class PathSetting:
    """A path of a config: expanded where it is used, and stored and compared as it is written.

    A job on another machine therefore reads its own ``$SCRATCH``. ``open``, ``Path`` and every other function that
    takes a path receive the expanded path (:func:`expand_path`); ``str`` is the text of the config.
    """

    def __init__(self, text: str | os.PathLike[str]) -> None:
        self.text: str = str(text)

    def expanded(self) -> Path:
        """Return the path on this machine; ConfigError as :func:`expand_path`."""
        return expand_path(self.text)

    def __fspath__(self) -> str:
        return str(self.expanded())

    def __truediv__(self, other: str | os.PathLike[str]) -> Path:
        return self.expanded() / other

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"PathSetting({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return self.text == other.text if isinstance(other, PathSetting) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.text)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._validated, serialization=core_schema.to_string_ser_schema()
        )

    @classmethod
    def _validated(cls, value: Any) -> PathSetting:
        if not isinstance(value, str | os.PathLike):
            raise ValueError(f"a path is a string, and this is a {type(value).__name__}; write it in quotes")
        path = cls(value)
        if not path.text or len(path.text) > LONGEST_PATH or CONTROL_CHARACTERS.search(path.text):
            raise ValueError(f"a path has 1 to {LONGEST_PATH:,} characters, and none of them is a control character")
        return path


def numbers_in(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield the schemas of all integers, floats and booleans inside a schema of pydantic."""
    if isinstance(schema, dict):
        if schema.get("type") in ("int", "float", "bool"):
            yield schema
        for key, inner in schema.items():
            if key not in ("default", "metadata", "serialization", "function", "config"):
                yield from numbers_in(inner)
    elif isinstance(schema, list | tuple):
        for inner in schema:
            yield from numbers_in(inner)


class Settings(BaseModel):
    """A frozen group of settings. Fields marked :data:`SPEED_ONLY` or :data:`PLACE_ONLY` do not enter digests.

    Integers, floats and booleans are strict. Every number needs a smallest and a largest value in its field, so that
    a slip of the keyboard is refused when the config is read and not by a lack of memory hours later.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        for number in numbers_in(schema):
            number["strict"] = True
        return schema

    def digest_values(self) -> dict[str, Any]:
        """Return the settings on which results depend, as plain values; nested sections become dicts."""
        values: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra
            if not (isinstance(extra, dict) and extra.get("digest") is False):
                values[name] = _plain(getattr(self, name))
        return values


def _plain(value: Any) -> Any:
    if isinstance(value, Settings):
        return value.digest_values()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
