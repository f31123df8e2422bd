"""The example for users, in a process that cannot import keras_bt."""

import re
import subprocess
import sys

import pytest
from exported import tiny_backbone
from places import ROOT

from keras_bt.saved_model import export_saved_model

SCRIPT = ROOT / "examples" / "transfer.py"
# Runs a script with the project out of reach, though it is installed, once for each group of flags.
ALONE = """
import runpy, sys
sys.modules |= dict.fromkeys(["keras_bt", "trainers", "export"])
script, *groups = sys.argv[1:]
for flags in groups:
    sys.argv = [script, *flags.split()]
    runpy.run_path(script, run_name="__main__")
"""


def run(folder, *groups):
    """What the example prints."""
    result = subprocess.run(
        [sys.executable, "-c", ALONE, SCRIPT, *groups],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("example")
    export_saved_model(tiny_backbone(), folder / "saved_model", image_size=8)
    return folder


@pytest.fixture(scope="module")
def output(folder):
    return run(folder, "--saved_model=saved_model/1 --labels_per_class=3 --epochs=2")


@pytest.mark.slow
def test_measures_both_ways(output):
    assert output.startswith("30 labeled images; accuracy in percent on 500 others:")
    found = dict(re.findall(r"(frozen|fine-tuned) +([\d.]+)", output))
    assert float(found["frozen"]) > 15  # four features of random weights; guessing gives 10
    assert float(found["fine-tuned"]) > 15  # two steps from there may leave it where it was


@pytest.mark.slow
def test_predicts_the_label_of_a_jpeg(output, folder):
    said = re.search(r"frozen takes digit.jpg for a (\d)\.", output)[1]
    # A new process, without the backbone.
    (folder / "saved_model").rename(folder / "moved")
    jpeg = "--jpeg=classifier/digit.jpg"
    found = run(folder, jpeg, f"{jpeg} --classifier=classifier/fine_tuned")
    assert re.fullmatch(rf"{said}\n\d\n", found)
