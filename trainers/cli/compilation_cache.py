"""Keeps what JAX compiles for the next start of a command, in the user's cache folder."""

import importlib.util
import os
import pathlib

MOST_BYTES = 2 * 2**30  # what was used longest ago is removed first


def keep_compiled():
    """Tells JAX, before it is imported, to keep what takes it a second or more to compile.

    It lies in `~/.cache/keras_bt/jax` (or below XDG_CACHE_HOME). JAX's own variables come first:
    JAX_COMPILATION_CACHE_DIR is another folder, JAX_ENABLE_COMPILATION_CACHE=false switches it off.
    """
    # Without filelock JAX cannot bound the size.
    if os.environ.get("KERAS_BACKEND") != "jax" or importlib.util.find_spec("filelock") is None:
        return
    folder = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "keras_bt" / "jax"))
    os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(MOST_BYTES))
