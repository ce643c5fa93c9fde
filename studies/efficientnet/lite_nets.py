"""The nets of EfficientNet-Lite."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def lite(size: int) -> Any:
    """Build EfficientNet-Lite 0, 1 or 2."""
    return import_module("efficientnet_lite_pytorch").EfficientNet.from_name(f"efficientnet-lite{size}")
