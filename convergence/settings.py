"""The base of every configuration section: frozen, no unknown keys, one sentence a field."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen group of settings.

    Fields marked ``json_schema_extra={"digest": False}`` change speed, never results. Those marked ``"unless default"``
    came later than results that are still good: they enter digests only when they are set.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def digest_values(self) -> dict[str, Any]:
        """The settings on which results depend, as plain values (nested sections included)."""
        values: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra
            role = extra.get("digest") if isinstance(extra, dict) else None
            value = getattr(self, name)
            if role is False or (role == "unless default" and value == field.default):
                continue
            values[name] = _plain(value)
        return values


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return value.digest_values()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
