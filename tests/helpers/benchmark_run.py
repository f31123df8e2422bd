"""Runs a benchmark as its user does, and reads its tables."""

import contextlib
import io
import subprocess
import sys
import types
from unittest import mock

import script
from places import ROOT

from benchmarks import tensorflow_device


def run(name, *arguments):
    """The finished `python -m benchmarks.NAME ARGUMENTS`, with what it printed as text."""
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def call(name, *arguments):
    """Does the same in this process, which saves TensorFlow's start.

    Not for memory, of which this process has had more before.

    Returns:
        What it printed: `stdout` and `stderr`, without those of processes that it starts.
    """
    with (
        contextlib.redirect_stdout(io.StringIO()) as output,
        contextlib.redirect_stderr(io.StringIO()) as errors,
        # Here TensorFlow has started, and its threads can no longer be set.
        mock.patch.object(tensorflow_device, "prepare", return_value=None),
    ):
        script.call(name, *arguments, package="benchmarks")
    return types.SimpleNamespace(stdout=output.getvalue(), stderr=errors.getvalue())


def cells(text):
    """The cells of tables of one width, without header and rule."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1  # aligned
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
