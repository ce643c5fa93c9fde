"""Compiled kernels whose machine code is cached where that is possible: the only place that calls ``numba.njit``
with ``cache=True``.

numba looks for a cache in ``NUMBA_CACHE_DIR``, beside the source file and in the user's cache folder. It refuses to
compile if none of them can be written. The cache is then in a private temporary folder, or the kernel is compiled in
every process. A cache that cannot be read or written later (damaged, full disk) costs a compilation, never a result.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import numba as nb

from convergence.io.caches import cache_folder

logger = logging.getLogger(__name__)


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorate a kernel: ``numba.njit`` with its options, and ``cache=True`` where a cache can be written."""

    def decorate(function: Callable[..., Any]) -> Any:
        kernel = nb.njit(**options)(function)
        if not _enable_caching(kernel):
            _use_private_cache()
            if not _enable_caching(kernel):
                return kernel
        kernel._cache = _ForgivingCache(kernel._cache)
        return kernel

    return decorate


def _enable_caching(kernel: Any) -> bool:
    try:
        kernel.enable_caching()
    except (RuntimeError, OSError):  # numba: no locator available
        return False
    return True


@functools.cache
def _use_private_cache() -> None:
    folder = cache_folder("numba")
    if folder is None:
        logger.warning("no folder for compiled kernels can be written: they are compiled in every process")
    else:
        numba_config: Any = nb.config
        numba_config.CACHE_DIR = str(folder)


class _ForgivingCache:
    """A cache of numba that is left out when it fails."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """Return the compiled kernel; None if it is not in the cache or the cache is damaged."""
        try:
            return self._cache.load_overload(signature, target_context)
        except Exception as error:  # a damaged pickle can raise anything
            logger.debug("compiled kernel not read: %r", error)
            return None

    def save_overload(self, signature: Any, data: Any) -> None:
        """Store a compiled kernel if the cache can be written."""
        try:
            self._cache.save_overload(signature, data)
        except Exception as error:
            logger.debug("compiled kernel not stored: %r", error)
