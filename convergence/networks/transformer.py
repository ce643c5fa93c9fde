"""A small transformer for tokens or images: blocks of self-attention and an MLP, each with its norm before it.

Module paths: ``embedding``; for block k ``blocks.k.attention.query``, ``.key``, ``.value``, ``.heads`` (the weighted
sums of values, one head after the other, before the output projection ``.out``), ``blocks.k.mlp.up``, ``.act``,
``.down``, and ``blocks.k`` (the residual stream after the block); ``norm``, and ``classifier`` or ``next_token``.

Vaswani et al. 2017, arXiv 1706.03762; norms before the sublayers: Xiong et al. 2020, arXiv 2002.04745; images as
patches: Dosovitskiy et al. 2020, arXiv 2010.11929.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from convergence.errors import ConfigError
from convergence.networks import NetworkSpec, Task

if TYPE_CHECKING:
    import torch

MAX_WEIGHTS = 4_000_000_000
IN_BLOCK = (
    "norm1", "attention", "attention.query", "attention.key", "attention.value", "attention.heads", "attention.out",
    "dropout1", "norm2", "mlp", "mlp.up", "mlp.act", "mlp.down", "dropout2",
)  # fmt: skip


class Transformer(NetworkSpec):
    """A transformer with norms before attention and MLP, for token ids (tokens,) or images of any size."""

    name: Literal["transformer"]
    width: int = Field(64, ge=1, le=65_536, description="Width of the residual stream.")
    depth: int = Field(2, ge=1, le=1000, description="Number of blocks.")
    heads: int = Field(4, ge=1, le=1024, description="Attention heads of a block; they divide the width.")
    mlp_ratio: float = Field(4.0, gt=0, le=100, description="Units of an MLP, as a multiple of the width.")
    task: Task = Field(
        "classes",
        description="What the net answers and is trained for: the class of an input ('classes'), from the mean over "
        "its tokens, or at each token the next one ('next_token'), which needs no labels.",
    )
    causal: bool | None = Field(
        None, description="Whether a token sees earlier tokens only; default: for next_token, which needs it."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout of the output of attention and MLP, in training.")
    n_tokens: int = Field(256, ge=2, le=10_000_000, description="Tokens of the vocabulary: ids 0 to n_tokens − 1.")
    patch: int = Field(4, ge=1, le=1024, description="Side of the square patches of images, in pixels.")

    @model_validator(mode="after")
    def _fits(self) -> Transformer:
        if self.width % self.heads:
            raise ValueError(
                f"width = {self.width} is no multiple of heads = {self.heads}; all heads have the same number of units"
            )
        if self.hidden < 1:
            raise ValueError(f"mlp_ratio = {self.mlp_ratio:g} leaves no unit of an MLP; raise it")
        if self.task == "next_token" and self.causal is False:
            raise ValueError("causal = false: a net that sees the next token cannot learn to predict it; remove causal")
        n_weights = self.depth * self.width * (4 * self.width + 2 * self.hidden) + 2 * self.n_tokens * self.width
        if n_weights > MAX_WEIGHTS:
            raise ValueError(f"the net has {n_weights:,} weights, and at most {MAX_WEIGHTS:,} are valid; lower width")
        return self

    @property
    def hidden(self) -> int:
        """Units of an MLP."""
        return round(self.mlp_ratio * self.width)

    def trained_for(self) -> Task:
        return self.task

    def known_layers(self) -> Collection[str]:
        answer = "classifier" if self.task == "classes" else "next_token"
        blocks = [f"blocks.{k}{part}" for k in range(self.depth) for part in ("", *(f".{name}" for name in IN_BLOCK))]
        return dict.fromkeys(["embedding", "dropout", *blocks, "norm", answer])

    def check_images(self, image_shape: tuple[int, ...]) -> None:
        if len(image_shape) not in (1, 3):
            raise ConfigError(
                "the network transformer needs rows of token ids (tokens,) or images (channels, height, width), and an "
                f"input of the data set has the shape {tuple(image_shape)}."
            )
        if len(image_shape) == 1:
            return
        if self.task == "next_token":
            raise ConfigError(
                f'the network transformer: task = "next_token" needs rows of token ids, and the data set has images '
                f'{tuple(image_shape)}. Set task = "classes".'
            )
        if image_shape[1] % self.patch or image_shape[2] % self.patch:
            raise ConfigError(
                f"the network transformer: patches of {self.patch} × {self.patch} pixels do not divide images of "
                f"{image_shape[1]} × {image_shape[2]}. Set network.patch to a divisor of both sides."
            )

    def check_tokens(self, n_tokens: int) -> None:
        if n_tokens > self.n_tokens:
            raise ConfigError(
                f"the network transformer has {self.n_tokens:,} tokens (network.n_tokens), and the data have token ids "
                f"up to {n_tokens - 1:,}. Set n_tokens to {n_tokens:,} or more."
            )

    def build(self, image_shape: tuple[int, ...], n_classes: int) -> torch.nn.Module:
        from convergence.networks.transformer_modules import TransformerNet

        self.check_images(image_shape)
        if self.task == "classes":
            self.check_classes(n_classes)
        return TransformerNet(self, image_shape, n_classes)
