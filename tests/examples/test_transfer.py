"""The example for users, in a process that cannot import keras_bt."""

import re
import runpy
import subprocess
import sys

import pytest
from exported import tiny_backbone
from places import ROOT

from keras_bt.saved_model import export_saved_model

SCRIPT = ROOT / "examples" / "transfer.py"
# Runs a script with the project out of reach, though it is installed.
ALONE = """
import runpy, sys
sys.modules |= dict.fromkeys(["keras_bt", "trainers", "export"])
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
FLAGS = ["--saved_model=saved_model/1", "--labels_per_class=3", "--epochs=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("example")
    export_saved_model(tiny_backbone(), folder / "saved_model", image_size=8)
    return folder


@pytest.fixture(scope="module")
def output(folder):
    """What the example prints."""
    result = subprocess.run(
        [sys.executable, "-c", ALONE, SCRIPT, *FLAGS],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
def test_measures_both_ways(output):
    assert output.startswith("30 labeled images; accuracy in percent on 500 others:")
    found = dict(re.findall(r"(frozen|fine-tuned) +([\d.]+)", output))
    assert float(found["frozen"]) > 15  # four features of random weights; guessing gives 10
    assert float(found["fine-tuned"]) > 15  # two steps from there may leave it where it was


@pytest.mark.slow
def test_predicts_the_label_of_a_jpeg(output, folder, monkeypatch, capsys):
    said = re.search(r"frozen takes digit.jpg for a (\d)\.", output)[1]
    # Another process than that which trained them, without the backbone.
    (folder / "saved_model").rename(folder / "moved")
    monkeypatch.chdir(folder)
    for more in ([], ["--classifier=classifier/fine_tuned"]):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--jpeg=classifier/digit.jpg", *more])
        runpy.run_path(SCRIPT, run_name="__main__")
    assert re.fullmatch(rf"{said}\n\d\n", capsys.readouterr().out)
