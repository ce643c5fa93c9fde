"""The heads of ``nn.MultiheadAttention``: weighted sums of values before the output projection.

They are computed inside one function of torch. Calling that function again with the identity as output projection
returns them, exactly.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

ATTENTION = "multi_head_attention_forward"
HEADS = "heads"
"""Name of the function whose result they are: the layer ``encoder.attention.heads`` of the module ``attention``."""
_SIGNATURE = inspect.signature(functional.multi_head_attention_forward)


def heads(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor:
    """The heads (tokens, n, units), one after the other, of a call of ``multi_head_attention_forward``."""
    given = _SIGNATURE.bind(*args, **kwargs)
    weight = given.arguments["out_proj_weight"]
    given.arguments["out_proj_weight"] = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
    given.arguments["out_proj_bias"] = None
    given.arguments["need_weights"] = False
    with torch._C.DisableTorchFunction():
        found: torch.Tensor = function(*given.args, **given.kwargs)[0]
    return found
