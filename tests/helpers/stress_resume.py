"""Kills a training run with SIGKILL at random moments, again and again, and lets it resume.

    python tests/helpers/stress_resume.py --kills=30

A checkpoint is written after every step, so many kills come while one is being written; others
come while the program starts. Half of them come after the training, when the backbone is measured,
drawn and exported. In the end every weight and every variable of the optimizer must be, to the last
bit, what the same run has that nobody interrupted, and so must the backbone, the SavedModel and the
figures; and of the kills nothing may be left over. `test_stress_resume.py` is the short version of
it, without the final phase. Flags of `trainers.pretrain` may follow.
"""

import argparse
import contextlib
import pathlib
import random
import re
import shutil
import signal
import tempfile
import time

import keras
import numpy as np
import processes
import safetensors.numpy
import script
import tensorflow as tf

from keras_bt.checkpoint import VARIABLES, checkpoints
from keras_bt.workdir import Workdir

STEPS = 81  # of an epoch
# What the final phase writes, in this order.
MARKS = ("backbone.keras", "plots/loss.png", "plots/correlation.png", "plots/features.png")
MARKS += ("saved_model", "saved_model/*.partial*", "saved_model/1", "summary.json")
TIMES = {"images_per_second", "seconds_of_last_call"}  # of a summary; another call has others
# Of a step: a difference of means over the epoch so far, so known to 81 steps times 1e-7.
LOGGED = {"loss", "excess"}
EXPORTED = "saved_model/1/variables/variables"
FLAGS = ["--width=4", "--projector=16-16", "--batch_size=16", "--noevaluate", "--log_every=1"]
FLAGS += ["--precision=float32"]


def start(workdir, epochs, *flags):
    """Starts the run, in a process of its own."""
    return processes.start(["-m", "trainers.pretrain", *arguments(workdir, epochs, *flags)])


def arguments(workdir, epochs, *flags):
    return [f"--workdir={workdir}", f"--epochs={epochs}", *FLAGS, *flags]


def newest(workdir):
    """The step of the newest checkpoint, 0 without one."""
    return next((int(path.name) for path in checkpoints(workdir / "checkpoints")), 0)


def kill_at_a_random_moment(process, workdir, draw):
    """Kills it, and says whether it was starting, training or saving; None if it was too late."""
    began, left_over = newest(workdir), partials(workdir)
    if draw.random() < 0.2:
        time.sleep(draw.uniform(0, 8))
    else:
        while newest(workdir) == began and process.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 1.5))
    if process.poll() is not None:
        processes.finish(process)  # over, and not by an error
        return None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if partials(workdir) - left_over:
        return "saving"
    return "training" if newest(workdir) > began else "starting"


def partials(workdir):
    """Checkpoints that are being written, or were when the process was killed."""
    return {path.name for path in (workdir / "checkpoints").glob("*.partial*")}


def variables(checkpoint):
    """All that a checkpoint holds, by name."""
    return safetensors.numpy.load_file(checkpoint / VARIABLES)


def tensors_of(reader):
    names = [name for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name]
    return {name: reader.get_tensor(name) for name in names}


def kill_in_the_final_phase(process, workdir, draw, seconds):
    """Kills it when a random file of its end appears, or soon after; says when, None if too late.

    `seconds` is how long its final phase takes.
    """
    before = written(workdir)
    mark, delay = draw.choice(MARKS), draw.choice([0, draw.uniform(0, 0.3)])
    if draw.random() < 0.4:
        mark, delay = MARKS[0], draw.uniform(0, seconds)
    while written(workdir).get(mark, 0) == before.get(mark, 0) and process.poll() is None:
        time.sleep(0.005)
    time.sleep(delay)
    if process.poll() is not None:
        processes.finish(process)
        return None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    new = [name for name, when in written(workdir).items() if when != before.get(name)]
    return f"{mark} + {delay:.1f} s" if mark in new else "before the end"


def written(workdir):
    """When each of `MARKS` that there is was written."""
    found = {}
    for mark in MARKS:
        for path in workdir.glob(mark):
            with contextlib.suppress(FileNotFoundError):  # a partial one that has become another
                found[mark] = path.stat().st_mtime_ns
    return found


def check_same(run, whole):
    """Checks that a finished run is the one that nobody killed, and that nothing is left over.

    Raises:
        AssertionError: if not.
    """
    ours, theirs = (variables(checkpoints(r / "checkpoints")[0]) for r in (run, whole))
    assert_same(ours, theirs)
    backbones = [keras.models.load_model(r / "backbone.keras", compile=False) for r in (run, whole)]
    assert_same(*({w.path: w.numpy() for w in backbone.weights} for backbone in backbones))
    exported = [tf.train.load_checkpoint(str(r / EXPORTED)) for r in (run, whole)]
    assert_same(*map(tensors_of, exported))
    ours, theirs = (Workdir(r).read_summary() for r in (run, whole))
    for name in LOGGED:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, err_msg=name)
    others = ours.keys() - TIMES - LOGGED
    assert ours.keys() == theirs.keys()
    assert {k: ours[k] for k in others} == {k: theirs[k] for k in others}
    assert names(run) == names(whole), sorted(names(run) ^ names(whole))


def names(workdir):
    """The files and folders of a run, but those whose names depend on when it was started."""
    paths = {str(path.relative_to(workdir)) for path in workdir.rglob("*")}
    return {p for p in paths if not re.match(r"(tensorboard|checkpoints/\d+)/|checkpoints/\d+$", p)}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def stress(folder, kills, epochs, seed=0, flags=(), late=0):
    """Runs, kills, resumes and compares.

    Args:
        folder: an empty folder.
        kills: number of kills.
        epochs: of the run.
        seed: of the moments.
        flags: further flags.
        late: how many of the kills come after the training, which then has its evaluation.

    Returns:
        dict: how often each moment was hit, and how many resumptions began within an epoch.

    Raises:
        AssertionError: if a variable differs or anything is left over.
    """
    draw = random.Random(seed)
    flags = [*flags, "--evaluate"] if late else flags
    # What nobody kills runs in this process, which saves TensorFlow's start.
    script.call("pretrain", *arguments(folder / "whole", epochs, *flags))
    workdir = folder / "killed"
    moments = {"starting": 0, "training": 0, "saving": 0, "within an epoch": 0}
    done = 0
    while done < kills - late:
        process = start(workdir, epochs, "--checkpoint_minutes=0", *flags)
        moment = kill_at_a_random_moment(process, workdir, draw)
        if moment is None:
            break
        done += 1
        moments[moment] += 1
        moments["within an epoch"] += newest(workdir) % STEPS != 0
        print(f"kill {done}: {moment}, at step {newest(workdir)}", flush=True)
    if late:
        done += kill_late(folder, workdir, late, draw, arguments(workdir, epochs, *flags))
    script.call("pretrain", *arguments(workdir, epochs, *flags))
    check_same(workdir, folder / "whole")
    return moments | {"kills": done, "of these late": late}


def kill_late(folder, workdir, kills, draw, flags):
    """Kills a run in its final phase, which begins anew when it has come to its end."""
    files = written(folder / "whole")
    seconds = (files["summary.json"] - files["backbone.keras"]) / 1e9
    done = 0
    while done < kills:
        process = processes.start(["-m", "trainers.pretrain", *flags])
        moment = kill_in_the_final_phase(process, workdir, draw, seconds)
        if moment:
            done += 1
            print(f"late kill {done}: {moment}", flush=True)
        if (workdir / "summary.json").exists():
            check_same(workdir, folder / "whole")
            print("The run is finished, and the same: its final phase begins anew.", flush=True)
            shutil.rmtree(workdir / "saved_model")
            for path in (path for mark in MARKS for path in workdir.glob(mark)):
                path.unlink()
    return done


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--late", type=int, help="after the training; default: half of the kills")
    parser.add_argument("--epochs", type=int, help="of 81 steps; default: a third of the kills")
    parser.add_argument("--seed", type=int, default=0)
    arguments, flags = parser.parse_known_args()
    folder = pathlib.Path(tempfile.mkdtemp())
    try:
        epochs = arguments.epochs or max(3, arguments.kills // 3)
        late = arguments.kills // 2 if arguments.late is None else arguments.late
        found = stress(folder, arguments.kills, epochs, arguments.seed, flags, late)
        print(found)
        if found["kills"] < arguments.kills:
            raise SystemExit("The run was over too soon: take more --epochs.")
        print("All variables and figures equal those of the run that was not interrupted, bit for")
        print("bit, and nothing is left over.")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
