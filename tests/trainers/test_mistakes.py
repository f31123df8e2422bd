"""A mistake is one line in a real terminal too, where TensorFlow's notes on starting would show."""

import os
import subprocess
import sys

import pytest
from places import ROOT

COMMANDS = [
    ("trainers.knn", "--backbone=nothing"),
    ("trainers.linear_probe", "--backbone=nothing"),
    ("trainers.finetune", "--backbone=nothing"),
    ("trainers.plot", "nothing"),
    ("export.export_saved_model", "--backbone=nothing"),
    ("export.export_portable", "--backbone=nothing"),
    ("export.convert_torch", "--source=nothing"),
]
# Each starts TensorFlow, for seconds: one of each package is in the fast set.
FAST = ("trainers.knn", "export.convert_torch")


@pytest.mark.parametrize(
    ("script", "flag"),
    [pytest.param(*c, marks=[] if c[0] in FAST else pytest.mark.slow) for c in COMMANDS],
)
def test_nothing_but_the_line_is_printed(script, flag):
    result = subprocess.run(
        [sys.executable, "-m", script, flag],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert not result.stdout
