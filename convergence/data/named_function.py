"""A section of a config that names a function of the user: ``package.module:function``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from convergence.data.user_code import beside_config
from convergence.errors import shown
from convergence.settings import Settings


class NamedFunction(Settings):
    """The name of a function, and the folder of the config, beside which its module may be."""

    name: str = Field(max_length=255)
    _folder: Path | None = PrivateAttr(None)

    @field_validator("name")
    @classmethod
    def _import_path(cls, name: str) -> str:
        module, _, attribute = name.partition(":")
        if not all(part.isidentifier() for part in (*module.split("."), attribute)):
            raise ValueError(f"{shown(name)} is not an import path; write it as package.module:attribute")
        return name

    @model_validator(mode="after")
    def _remember_folder(self, info: ValidationInfo) -> NamedFunction:
        self._folder = (info.context or {}).get("folder")
        return self

    def code(self) -> str:
        """Return the name."""
        return self.name

    def code_folder(self) -> Path | None:
        """Return the folder beside the config from which the module is imported; None for other modules."""
        return beside_config(self.name, self._folder)
