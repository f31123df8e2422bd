"""ONNX and LiteRT: how to convert a function to a file's bytes, and how to run them.

Both need packages besides TensorFlow, which are extras of this project.
"""

import contextlib
import dataclasses
import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from keras_bt.typing import Path

# ONNX operators of 2022, which ONNX Runtime 1.12 and later support.
OPSET = 17


@dataclasses.dataclass(frozen=True)
class Format:
    """A file format for functions.

    Attributes:
        name: Name to show to users.
        extra: The extra of this project that installs its packages.
        modules: The modules of those packages.
        convert: From a `tf.function` without variables and the `tf.TensorSpec` of its only argument
            to bytes.
        open: From these bytes to a function from images to features.
    """

    name: str
    extra: str
    modules: tuple[str, ...]
    convert: Callable[[Callable, tf.TensorSpec], bytes]
    open: Callable[[bytes], Callable[[np.ndarray], np.ndarray]]

    def check_installed(self) -> None:
        """Raises ValueError if a package is missing."""
        for module in self.modules:
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise ValueError(
                    f'{self.name} needs more packages: pip install "keras_bt[{self.extra}]" '
                    f"({error})."
                ) from error


def format_of(path: Path) -> Format:
    """Returns the format that a file's ending names.

    >>> format_of("backbone.tflite").name
    'LiteRT'

    Raises:
        ValueError: there is no such format.
    """
    for ending, form in FORMATS.items():
        if str(path).endswith(ending):
            return form
    raise ValueError(f"A portable file must end in {' or '.join(FORMATS)}. Received: {path}")


def _to_onnx(function, spec):
    import tf2onnx

    # tf2onnx leaves what it cannot convert as it is; opening the file then fails.
    model, _ = tf2onnx.convert.from_function(function, input_signature=[spec], opset=OPSET)
    free = iter(("batch", "height", "width"))
    for dimension in model.graph.input[0].type.tensor_type.shape.dim:
        if not dimension.dim_value:
            dimension.dim_param = next(free)  # instead of "unk__220"
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    return model.SerializeToString()


def _open_onnx(content):
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["features"], {"images": images})[0]


def _to_litert(function, spec):
    # The converter keeps the names of inputs and outputs only if given an owner of variables.
    owner = tf.Module()
    concrete = function.get_concrete_function(spec)
    return tf.lite.TFLiteConverter.from_concrete_functions([concrete], owner).convert()


def _open_litert(content):
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(model_content=content).get_signature_runner()
    return lambda images: run(images=images)["features"]


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Hides what converters and runtimes log, including C++ code, which obeys no setting.

    Whatever matters is in the exceptions.
    """
    logger = logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    sys.stderr.flush()
    shown = os.dup(2)
    try:
        with open(os.devnull, "wb") as hidden:
            os.dup2(hidden.fileno(), 2)
        yield
    finally:
        os.dup2(shown, 2)
        os.close(shown)
        logger.setLevel(level)


FORMATS = {
    ".onnx": Format("ONNX", "onnx", ("tf2onnx", "onnxruntime"), _to_onnx, _open_onnx),
    ".tflite": Format("LiteRT", "litert", ("ai_edge_litert",), _to_litert, _open_litert),
}
