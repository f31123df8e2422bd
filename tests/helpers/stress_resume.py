"""Kills a training run with SIGKILL at random moments, again and again, and lets it resume.

    python tests/helpers/stress_resume.py --kills=30

A checkpoint is written after every step, so many kills come while one is being written; others
come while the program starts. In the end every weight and every variable of the optimizer must be,
to the last bit, what the same run has that nobody interrupted. `test_stress_resume.py` is the short
version of it. Flags of `trainers.pretrain` may follow.
"""

import argparse
import pathlib
import random
import shutil
import signal
import tempfile
import time

import numpy as np
import processes
import script
import tensorflow as tf

from keras_bt.checkpoint import VARIABLES, checkpoints

FLAGS = ["--width=4", "--projector=16-16", "--batch_size=16", "--noevaluate", "--log_every=1"]


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
    return {path.name for path in (workdir / "checkpoints").glob("*.partial")}


def variables(checkpoint):
    """All that a checkpoint holds, by name."""
    reader = tf.train.load_checkpoint(str(checkpoint / VARIABLES))
    names = [name for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name]
    return {name: reader.get_tensor(name) for name in names}


def stress(folder, kills, epochs, seed=0, flags=()):
    """Runs, kills, resumes and compares.

    Returns:
        dict: how often each moment was hit, and how many resumptions began within an epoch.

    Raises:
        AssertionError: if a variable differs.
    """
    draw = random.Random(seed)
    # What nobody kills runs in this process, which saves TensorFlow's start.
    script.call("pretrain", *arguments(folder / "whole", epochs, *flags))
    workdir = folder / "killed"
    moments = {"starting": 0, "training": 0, "saving": 0, "within an epoch": 0}
    done = 0
    while done < kills:
        process = start(workdir, epochs, "--checkpoint_minutes=0", *flags)
        moment = kill_at_a_random_moment(process, workdir, draw)
        if moment is None:
            break
        done += 1
        moments[moment] += 1
        moments["within an epoch"] += newest(workdir) % 81 != 0
        print(f"kill {done}: {moment}, at step {newest(workdir)}", flush=True)
    script.call("pretrain", *arguments(workdir, epochs, *flags))
    ours, theirs = (
        variables(checkpoints(run / "checkpoints")[0]) for run in (workdir, folder / "whole")
    )
    assert ours.keys() == theirs.keys()
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    return moments | {"kills": done}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--epochs", type=int, help="of 81 steps; default: a third of the kills")
    parser.add_argument("--seed", type=int, default=0)
    arguments, flags = parser.parse_known_args()
    folder = pathlib.Path(tempfile.mkdtemp())
    try:
        epochs = arguments.epochs or max(3, arguments.kills // 3)
        found = stress(folder, arguments.kills, epochs, arguments.seed, flags)
        print(found)
        if found["kills"] < arguments.kills:
            raise SystemExit("The run was over too soon: take more --epochs.")
        print("All variables equal those of the run that was not interrupted, bit for bit.")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
