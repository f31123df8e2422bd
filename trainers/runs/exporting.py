"""The SavedModel of a run, which TensorFlow makes: on JAX, in a process that the run starts."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time

import keras

from keras_bt import saved_model
from keras_bt.data import Decoding
from keras_bt.messages import first_line
from keras_bt.workdir import load_model


def export(backbone, file, directory, image_size, resize, mean, std, card, decoding):
    """Writes the next version of a SavedModel, see `keras_bt.saved_model.export_saved_model`.

    `file` is where the backbone was saved.

    Raises:
        OSError: if the disk is full, or the process fails.
    """
    how = [str(directory), image_size, resize, list(mean), list(std), card]
    if keras.backend.backend() == "tensorflow":
        saved_model.export_saved_model(backbone, *how, decoding)
        return
    print("Exporting with TensorFlow, in a process of its own … ", end="", flush=True)
    started = time.monotonic()
    decoding = decoding and dataclasses.asdict(decoding)
    checkout = str(pathlib.Path(__file__).parents[2])
    found = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps([str(file), how, decoding]),
        text=True,
        capture_output=True,
        env=os.environ
        | {
            "KERAS_BACKEND": "tensorflow",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "CUDA_VISIBLE_DEVICES": "",  # whose memory JAX has
            "PYTHONPATH": os.pathsep.join(filter(None, [checkout, os.environ.get("PYTHONPATH")])),
        },
    )
    if found.returncode:
        print()
        *_, line = ["no message", *found.stderr.strip().splitlines()]
        raise OSError(f"TensorFlow could not export {file}: {line.removeprefix('error: ')}")
    print(f"{time.monotonic() - started:.0f} s")


def _main():
    """Reads from the standard input what `export` says, and does it."""
    file, how, decoding = json.load(sys.stdin)
    try:
        backbone = load_model("backbone", file)
        saved_model.export_saved_model(backbone, *how, decoding and Decoding(**decoding))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {first_line(error)}")


if __name__ == "__main__":
    _main()
