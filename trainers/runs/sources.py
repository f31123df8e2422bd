"""The kinds of sources, for the help of `--data`."""

import importlib.util
import pathlib
import runpy

# Read without importing keras_bt, which imports TensorFlow and takes seconds.
_PACKAGE = pathlib.Path(importlib.util.find_spec("keras_bt").origin).parent
SOURCES = runpy.run_path(str(_PACKAGE / "data" / "kinds.py"))["usages"](with_help=True)
