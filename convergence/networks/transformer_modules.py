"""The modules of :class:`~convergence.networks.transformer.Transformer`; torch.fx can trace them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from convergence.networks.transformer import Transformer

EMBEDDING, ANSWER = 0.5, 0.02
"""Standard deviations of the initial weights of tokens and positions, and of the last layer."""


class Attention(nn.Module):
    """Self-attention (n, tokens, width); heads are consecutive units of query, key, value and of ``heads``."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.heads = nn.Identity()
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, visible: torch.Tensor | None) -> torch.Tensor:
        """``visible``, which broadcasts to (n, heads, tokens, tokens): whether a token sees another one."""
        query, key, value = (
            part.unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            for part in (self.query(x), self.key(x), self.value(x))
        )
        z = functional.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        result: torch.Tensor = self.out(self.heads(z.transpose(1, 2).flatten(2)))
        return result


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.down(self.act(self.up(x)))
        return result


class Block(nn.Module):
    """Attention and MLP, each of which adds to the residual stream (n, tokens, width)."""

    def __init__(self, spec: Transformer) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(spec.width), Attention(spec.width, spec.heads)
        self.dropout1 = nn.Dropout(spec.dropout)
        self.norm2, self.mlp = nn.LayerNorm(spec.width), MLP(spec.width, spec.hidden)
        self.dropout2 = nn.Dropout(spec.dropout)

    def forward(self, x: torch.Tensor, visible: torch.Tensor | None) -> torch.Tensor:
        x = x + self.dropout1(self.attention(self.norm1(x), visible))
        result: torch.Tensor = x + self.dropout2(self.mlp(self.norm2(x)))
        return result


class TransformerNet(nn.Module):
    """Token ids (n, tokens), −1 for padding, or images (n, channels, height, width) to logits.

    Logits are (n, n_classes) from the mean over the tokens that are no padding, or (n, tokens, n_tokens) of the next
    token.
    """

    def __init__(self, spec: Transformer, image_shape: tuple[int, ...], n_classes: int) -> None:
        super().__init__()
        self.of_tokens, self.task = len(image_shape) == 1, spec.task
        if self.of_tokens:
            length = image_shape[0]
            self.embedding: nn.Module = nn.Embedding(spec.n_tokens, spec.width)
        else:
            length = (image_shape[1] // spec.patch) * (image_shape[2] // spec.patch)
            self.embedding = nn.Conv2d(image_shape[0], spec.width, spec.patch, stride=spec.patch)
        self.positions = nn.Parameter(torch.empty(length, spec.width))
        self.dropout = nn.Dropout(spec.dropout)
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.depth))
        self.norm = nn.LayerNorm(spec.width)
        if spec.task == "classes":
            self.classifier = nn.Linear(spec.width, n_classes)
        else:
            self.next_token = nn.Linear(spec.width, spec.n_tokens)
        causal = spec.causal if spec.causal is not None else spec.task == "next_token"
        order = torch.ones(length, length, dtype=torch.bool)
        self.order: torch.Tensor
        self.register_buffer("order", order.tril() if causal else order, persistent=False)
        self._initialise(spec.depth)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        present = visible = None
        if self.of_tokens:
            present = x >= 0
            itself = torch.eye(self.positions.shape[0], dtype=torch.bool, device=x.device)  # no row without a token
            visible = (present[:, None, None, :] & self.order) | itself
            x = self.embedding(x.clamp(min=0))
        else:
            visible = self.order
            x = self.embedding(x).flatten(2).transpose(1, 2)
        x = self.dropout(x + self.positions)
        for block in self.blocks:
            x = block(x, visible)
        x = self.norm(x)
        if self.task == "next_token":
            of_tokens: torch.Tensor = self.next_token(x)
            return of_tokens
        if present is None:
            x = x.mean(1)
        else:
            weights = present[:, :, None].float()
            x = (x * weights).sum(1) / weights.sum(1).clamp(min=1)
        logits: torch.Tensor = self.classifier(x)
        return logits

    def _initialise(self, depth: int) -> None:
        """Draw initial weights that keep the variance of what they are applied to (LeCun et al. 1998).

        Weights whose results are added to the residual stream are smaller by the root of the number of additions
        (Radford et al. 2019).
        """
        for name, part in self.named_modules():
            if isinstance(part, nn.Linear | nn.Conv2d):
                deviation = part.weight[0].numel() ** -0.5
                if name.endswith((".out", ".down")):
                    deviation /= (2 * depth) ** 0.5
                nn.init.normal_(part.weight, std=ANSWER if name in ("classifier", "next_token") else deviation)
                assert part.bias is not None
                nn.init.zeros_(part.bias)
            elif isinstance(part, nn.Embedding):
                nn.init.normal_(part.weight, std=EMBEDDING)
        nn.init.normal_(self.positions, std=EMBEDDING)
