"""Images prepared as the named weights of the nets ask for: ``data.preparation = "network"``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from convergence.config.nets import Net
from convergence.errors import ConfigError, shown

Source = TypeVar("Source")


def prepared_data(data: Source, nets: Iterable[Net]) -> Source:
    """The data set with the settings that the named weights of the nets ask for, as if the config gave them.

    Settings that the config gives are not changed. Digests and stored configs hold the resulting settings.

    Raises
    ------
    ValueError
        if no net asks for a preparation, or two nets ask for different ones.
    """
    if getattr(data, "preparation", "settings") == "settings":
        return data
    given: set[str] = data.model_fields_set  # type: ignore[attr-defined]
    known = type(data).model_fields  # type: ignore[attr-defined]
    found: dict[str, Any] = {}
    asked_by = ""
    for net in nets:
        try:
            asked = net.spec.preprocessing()
        except (ConfigError, ImportError) as error:
            raise ValueError(
                f'data.preparation = "network" needs the model zoo of {net.name} here: {error} Or write the settings '
                "in [data]; `convergence show` prints them where the zoo is installed"
            ) from error
        if asked is None:
            continue
        wanted = {name: value for name, value in asked.settings().items() if name in known and name not in given}
        if asked_by and wanted != found:
            name = next(name for name in wanted if wanted[name] != found[name])
            raise ValueError(
                f'data.preparation = "network": {asked_by} asks for {name} = {shown(found[name])}, and {net.name} for '
                f"{shown(wanted[name])}; set data.{name}, or compare nets that are prepared alike"
            )
        found, asked_by = wanted, net.name
    if not asked_by:
        raise ValueError(
            'data.preparation = "network", and no net has named weights that say how images are prepared; write crop, '
            "resize, mean and deviation in [data]"
        )
    own = {name: getattr(data, name) for name in given}
    prepared: Source = type(data).model_validate(own | found | {"preparation": "settings"})  # type: ignore[attr-defined]
    return prepared
