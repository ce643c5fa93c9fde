"""How a layer is read: which module, at which point, and which axis of its output runs over units."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from convergence.settings import Settings

Point = Literal["post", "pre", "output", "input"]
Place = Annotated[int, Field(ge=-1_000_000, le=1_000_000)]


class LayerConfig(Settings):
    """A layer with settings of its own; layers without an entry have the defaults."""

    module: str = Field(
        "",
        max_length=255,
        description="Path of the module, as in named_modules(), and #2 for its second call; default: the name of the "
        "layer.",
    )
    point: Point = Field(
        "post",
        description="Where the layer is read: after the activation function that follows it ('post'; through norms, "
        "dropout and addition), before that function ('pre'), what the module returns ('output'), or what it is given "
        "('input').",
    )
    unit_axis: int | None = Field(
        None, ge=-8, le=8, description="Axis of the units in the output; default: from the operations of the net."
    )
    output: str = Field(
        "",
        max_length=255,
        description='Which tensor of a module that returns several: "0", "1", or a name such as "last_hidden_state".',
    )
    tokens: Literal["all", "first", "last"] | tuple[Place, ...] = Field(
        "all",
        description="Positions of a sequence that are read; 'last' is the last token that is no padding.",
    )
