"""Compiled kernels and caches on a read-only installation without a writable home."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from numba.core import caching

from convergence.io import caches
from convergence.kernels import jit


def add(x, y):
    return x + y


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """The temporary folder, the only one where numba may write."""
    monkeypatch.setattr(caches.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(jit.nb.config, "CACHE_DIR", "")
    usual = caching._CacheLocator.ensure_cache_path

    def ensure(locator):
        if not Path(locator.get_cache_path()).is_relative_to(tmp_path):
            raise PermissionError(13, "Permission denied")
        usual(locator)

    monkeypatch.setattr(caching._CacheLocator, "ensure_cache_path", ensure)
    jit._use_private_cache.cache_clear()
    yield tmp_path
    jit._use_private_cache.cache_clear()


def test_kernel_is_cached_in_private_folder_where_nothing_else_is_writable(temporary):
    with pytest.raises(RuntimeError, match="no locator"):
        jit.nb.njit(cache=True)(add)
    assert jit.njit()(add)(2, 3) == 5
    (index,) = temporary.rglob("*.nbi")
    base = index.relative_to(temporary).parts[0]
    assert stat.S_IMODE((temporary / base).stat().st_mode) == 0o700
    again = jit.njit()(add)
    assert again(4, 5) == 9
    assert sum(again.stats.cache_hits.values()) == 1


def test_kernel_works_without_any_cache_or_with_a_damaged_one(temporary, monkeypatch):
    assert jit.njit()(add)(2, 3) == 5
    for path in temporary.rglob("*.nb[ic]"):
        path.write_bytes(b"")
    assert jit.njit()(add)(2, 3) == 5
    monkeypatch.setattr(jit.nb.config, "CACHE_DIR", "")
    jit._use_private_cache.cache_clear()
    monkeypatch.setattr(jit, "cache_folder", lambda name: None)
    assert np.array_equal(jit.njit()(add)(np.ones(2), np.ones(2)), [2, 2])


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="folders have owners and modes on Unix")
def test_folder_that_others_can_write_or_that_is_a_link_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(caches.tempfile, "tempdir", str(tmp_path))
    base = tmp_path / f"convergence-{os.getuid()}"
    base.mkdir()
    base.chmod(0o777)
    assert caches.cache_folder("numba") is None
    base.chmod(0o700)
    assert caches.cache_folder("numba") == base / "numba"
    (base / "planted").symlink_to(tmp_path)
    assert caches.cache_folder("planted") is None
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    (tmp_path / "convergence-12345").mkdir(mode=0o700)
    assert caches.cache_folder("numba") is None, "it belongs to another user"


def test_caches_of_libraries_move_only_from_an_unwritable_home(tmp_path, monkeypatch):
    monkeypatch.setattr(caches.tempfile, "tempdir", str(tmp_path))
    for variable in (*caches.HOMES, "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path))
    caches.use_writable_caches()
    assert not set(caches.HOMES) & set(os.environ)
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "home"))
    monkeypatch.setenv("TRITON_CACHE_DIR", "mine")
    caches.use_writable_caches()
    assert Path(os.environ["MPLCONFIGDIR"]).is_relative_to(tmp_path)
    assert os.environ["TRITON_CACHE_DIR"] == "mine"
