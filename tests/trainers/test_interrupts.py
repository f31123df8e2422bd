"""Ctrl-C ends every command in one line and status 130, whatever it is doing."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import script
import small_network
import undrawn
from places import ROOT

from keras_bt.checkpoint import RunCheckpoint
from trainers.cli import STOPPED, command
from trainers.runs import classifying, nearest_neighbors, opening, pretraining, pretraining_report

FLAGS = ["--projector=16", "--batch_size=512", "--epochs=2", "--noevaluate", "--monitor_every=0"]
FLAGS += small_network.PLAIN_VIEWS
# Python ignores Ctrl-C if it is started in the background of a shell, as tests may be.
START = (
    "import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "module = sys.argv.pop(1); runpy.run_module(module, run_name='__main__', alter_sys=True)"
)


@pytest.fixture(autouse=True)
def _as_in_the_foreground():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return small_network.save(tmp_path_factory.mktemp("backbone") / "small.keras")


def strike(*args, **kwargs):
    signal.raise_signal(signal.SIGINT)


def strike_as_another_error(*args, **kwargs):
    """As where a library turns what its Python code raises into an error of its own."""
    try:
        strike()
    except KeyboardInterrupt as error:
        raise ValueError("PyObject_Call failed") from error


def interrupted(capfd, *arguments):
    """Calls a command that Ctrl-C must end, and returns the line."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        script.call(*arguments)
    assert ended.value.code == 130
    (line,) = capfd.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("place", "name", "function", "kept"),
    [
        (opening, "open_data", strike, "holds no checkpoint yet"),
        (opening, "open_data", strike_as_another_error, "goes on from what was saved"),
        (pretraining.Pretraining, "draw_views", strike, "holds no checkpoint yet"),
        *(
            pytest.param(pretraining_report, name, strike, "holds step 4", marks=pytest.mark.slow)
            for name in ("metrics_of_steps", "export")
        ),
    ],
)
def test_pretraining(place, name, function, kept, backbone, tmp_path, capfd, monkeypatch):
    run = f"--workdir={tmp_path / 'run'}"
    with undrawn.pictures(), monkeypatch.context() as patched:
        patched.setattr(place, name, function)
        if name != "open_data":  # nothing is trained then
            patched.setattr(pretraining.Pretraining, "_fit", save_at_the_end)
        line = interrupted(capfd, "pretrain", run, *FLAGS, backbone)
    assert line.startswith("Stopped by SIGINT")
    assert kept in line
    assert "same command" in line


def save_at_the_end(job, *_):
    job.checkpoint._step = job.settings.epochs * job.steps_per_epoch
    job.checkpoint.save()


@pytest.mark.slow
def test_a_second_one_while_it_trains(backbone, tmp_path, capfd, monkeypatch):
    def twice(*args, **kwargs):
        strike()
        strike()

    monkeypatch.setattr(RunCheckpoint, "on_train_batch_begin", twice)
    arguments = [f"--workdir={tmp_path / 'run'}", *FLAGS, backbone]
    capfd.readouterr()
    with pytest.raises(SystemExit, match="130"):
        script.call("pretrain", *arguments)
    stopping, line = capfd.readouterr().err.strip().splitlines()
    assert "send it again to stop at once" in stopping
    assert "holds no checkpoint yet. To continue, run the same command again." in line


@pytest.mark.parametrize(
    ("name", "place", "function", "arguments"),
    [
        ("knn", nearest_neighbors, "run", ()),
        ("linear_probe", classifying.ClassifierRun, "restore", ()),
        ("finetune", classifying, "labelled_part", ()),
        ("preview_views", opening, "open_data", ()),
    ],
)
def test_other_commands(name, place, function, arguments, backbone, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(place, function, strike)
    if name == "preview_views":
        arguments = [f"--out={tmp_path / 'views.png'}"]
    else:
        arguments = [backbone, "--data=digits", "--image_size=32", f"--cache_dir={tmp_path}"]
    line = interrupted(capfd, name, *arguments)
    assert line.startswith("Stopped by SIGINT")
    assert "same command" in line


def test_what_is_swallowed_acts_the_second_time(monkeypatch, capfd):
    def leave(status):
        raise SystemExit(status)

    def swallow():
        with contextlib.suppress(KeyboardInterrupt):
            strike()
        strike()

    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(SystemExit, match="130"), command.Interrupts():
        swallow()
    assert capfd.readouterr().err.strip() == STOPPED


def test_where_it_is_ignored_it_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with command.Interrupts():
        strike()


@pytest.mark.skipif(not pathlib.Path("/proc/self/maps").exists(), reason="needs Linux")
def test_while_tensorflow_is_imported():
    process = subprocess.Popen(
        [sys.executable, "-c", START, "trainers.knn", "--backbone=nothing"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    maps = pathlib.Path(f"/proc/{process.pid}/maps")
    while "tensorflow" not in maps.read_text() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, (out, err)
    assert err == f"{STOPPED}\n"


def test_before_a_command_watches_for_it():
    code = "import trainers.cli; raise KeyboardInterrupt"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == -signal.SIGINT  # which shells call 130
    assert result.stderr == f"{STOPPED}\n"


def test_a_reader_that_has_seen_enough():
    """`--help | head`: the pipe is closed before anything is written."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as gone:
        result = subprocess.run(
            [sys.executable, "-m", "trainers.pretrain", "--help"],
            cwd=ROOT,
            stdout=gone,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert result.stderr == ""
    assert result.returncode == 141
