"""ONNX and LiteRT: what converts a function to a file's bytes, and what runs them.

Both need packages beside TensorFlow, which are extras of this project.
"""

import contextlib
import dataclasses
import importlib
import logging
import os
import re
import sys
from collections.abc import Callable

import tensorflow as tf

# ONNX operators of 2022, which everything since ONNX Runtime 1.12 knows.
OPSET = 17


@dataclasses.dataclass(frozen=True)
class Format:
    """A file format for functions.

    Attributes:
        name: What people call it.
        extra: The extra of this project with its packages.
        modules: Those that it imports.
        convert: Function from a `tf.function` without variables and the `tf.TensorSpec` of its one
            argument to bytes.
        open: Function from these bytes to one that takes and gives NumPy arrays.
    """

    name: str
    extra: str
    modules: tuple[str, ...]
    convert: Callable
    open: Callable

    def check_installed(self):
        """Raises ValueError if its packages are missing."""
        for module in self.modules:
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise ValueError(
                    f'{self.name} needs more packages: pip install "keras_bt[{self.extra}]" '
                    f"({error})."
                ) from error


def format_of(path):
    """The `Format` of a file by its ending; ValueError if there is none."""
    ending = re.search(r"\.\w*$|$", str(path))[0]
    if ending not in FORMATS:
        raise ValueError(f"A portable file must end in {' or '.join(FORMATS)}. Received: {path}")
    return FORMATS[ending]


def _to_onnx(function, spec):
    import tf2onnx

    # What it cannot convert it leaves as it is; whoever opens the file then says so.
    model, _ = tf2onnx.convert.from_function(function, input_signature=[spec], opset=OPSET)
    free = iter(("batch", "height", "width"))
    for dimension in model.graph.input[0].type.tensor_type.shape.dim:
        if not dimension.dim_value:
            dimension.dim_param = next(free)  # and not "unk__220"
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    return model.SerializeToString()


def _open_onnx(content):
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["features"], {"images": images})[0]


def _to_litert(function, spec):
    # The converter takes the names of inputs and outputs only together with an owner of variables.
    owner = tf.Module()
    concrete = function.get_concrete_function(spec)
    return tf.lite.TFLiteConverter.from_concrete_functions([concrete], owner).convert()


def _open_litert(content):
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(model_content=content).get_signature_runner()
    return lambda images: run(images=images)["features"]


@contextlib.contextmanager
def silent():
    """Around converting and running: hides what is logged, also by C++, which obeys no setting.

    What matters of it is in the exceptions.
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
