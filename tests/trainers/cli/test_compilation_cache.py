import importlib.util

import pytest

from trainers.cli import compilation_cache

NAMES = "JAX_COMPILATION_CACHE_DIR", "JAX_COMPILATION_CACHE_MAX_SIZE"


@pytest.mark.parametrize(
    ("backend", "given", "bounded", "folder"),
    [
        ("jax", None, True, "/cache/keras_bt/jax"),
        ("jax", "/elsewhere", True, "/elsewhere"),
        ("jax", None, False, None),
        ("tensorflow", None, True, None),
    ],
)
def test_where_compiled_programs_are_kept(backend, given, bounded, folder, monkeypatch):
    environment = {"KERAS_BACKEND": backend, "XDG_CACHE_HOME": "/cache"}
    environment |= {NAMES[0]: given} if given else {}
    monkeypatch.setattr(compilation_cache.os, "environ", environment)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: bounded or None)
    compilation_cache.keep_compiled()
    assert environment.get(NAMES[0]) == folder
    assert (NAMES[1] in environment) == (folder is not None)
