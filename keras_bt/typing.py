"""Types of arguments and results, for annotations."""

import os
from collections.abc import Callable
from typing import Any, TypeAlias

Tensor: TypeAlias = Any  # of the backend, or what it converts to one; docstrings give the shape
Path: TypeAlias = str | os.PathLike[str]
Metrics: TypeAlias = dict[str, float]  # by name, as `fit` logs them
View: TypeAlias = Callable[..., Tensor]  # images (b, h, w, 3), seed → images (b, h', w', 3)
