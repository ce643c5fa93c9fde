"""The base class of every section of a config: frozen, without unknown keys, with one sentence a field."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

SPEED_ONLY: dict[str, Any] = {"digest": False}
"""Mark of a field that changes the speed and never the result: ``json_schema_extra=SPEED_ONLY``."""


class Settings(BaseModel):
    """A frozen group of settings. Fields marked :data:`SPEED_ONLY` do not enter digests."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

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
