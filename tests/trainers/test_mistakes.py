"""A mistake is one line in a real terminal too, where TensorFlow's notes on starting would show."""

import importlib.util
import os
import subprocess
import sys

import pytest
import script
from places import HELPERS, ROOT

# Each is wrong in a way that shows only after the start of TensorFlow.
COMMANDS = {
    "trainers.pretrain": ["--data=folder:nothing"],
    "trainers.knn": ["--backbone=nothing"],
    "trainers.features": ["--backbone=nothing"],
    "trainers.search": ["--backbone=nothing", "--query=nothing.png"],
    "trainers.duplicates": ["--backbone=nothing"],
    "trainers.linear_probe": ["--backbone=nothing"],
    "trainers.finetune": ["--backbone=nothing"],
    "trainers.siamese": ["--backbone=nothing"],
    "trainers.verify": ["--backbone=nothing"],
    "trainers.explore": ["--backbone=nothing"],
    "trainers.plot": ["nothing"],
    "trainers.preview_views": ["--data=folder:nothing"],
    "export.export_saved_model": ["--backbone=nothing"],
    "export.export_portable": ["--backbone=nothing", "--target=nothing.onnx"],
    "export.convert_torch": [f"--source={ROOT / 'README.md'}", "--target=nothing.keras"],
}


def python(*arguments):
    """Runs Python as a user does."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
        | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


# It starts TensorFlow, for seconds: one for all. Nor does `trainers.knn` print more (test_knn.py).
@pytest.mark.slow
def test_nothing_but_the_line_is_printed():
    name = "export.convert_torch"
    result = python("-m", name, *COMMANDS[name])
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert not result.stdout


@pytest.mark.slow
def test_every_command_hides_what_tensorflow_says():
    given = ["\n".join([name, *flags]) for name, flags in COMMANDS.items()]
    if importlib.util.find_spec("torch"):
        given.append("benchmarks.same_training")
    result = python(HELPERS / "first_import.py", *given)
    expected = [f"{line.splitlines()[0]} hidden" for line in given]
    assert result.stdout.splitlines() == expected, result.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_a_mistake_after_the_start_is_one_line(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    package, command = name.split(".")
    script.mistake(capsys, command, *COMMANDS[name], package=package)
    assert not capsys.readouterr().out
    assert not list(tmp_path.iterdir())
