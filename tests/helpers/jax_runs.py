"""Runs of commands on JAX, in one process: a program, for `test_on_jax.py`.

    KERAS_BACKEND=jax python tests/helpers/jax_runs.py FOLDER FLAG …

FOLDER/begun holds a finished run. The flags are those of all runs.
"""

import contextlib
import io
import pathlib
import shutil
import sys
from unittest import mock

import pytest
import script

from keras_bt.checkpoint import RunCheckpoint

STEPS = 20  # of an epoch


def stopped_at(step):
    """A context in which training ends before this step is over, as if killed."""
    original = RunCheckpoint.on_train_batch_end

    def stop(self, batch, logs=None):
        if self._epoch_start + batch + 1 == step:
            raise KeyboardInterrupt
        original(self, batch, logs)

    return mock.patch.object(RunCheckpoint, "on_train_batch_end", stop)


def stop(step, *arguments):
    """Calls `trainers.pretrain` until a step."""
    with stopped_at(step), pytest.raises(SystemExit) as ended:
        script.call("pretrain", *arguments)
    assert ended.value.code == 130


def refuse(folder):
    """Mistakes that only this backend, or several devices, make one; each ends in one line."""
    for flag, words in (("--strategy=mirrored", "auto, one"), ("--batch_size=30", "evenly")):
        with (
            contextlib.redirect_stderr(io.StringIO()) as errors,
            pytest.raises(SystemExit) as ended,
        ):
            script.call("pretrain", flag, f"--workdir={folder}")
        assert ended.value.code == 1
        (line,) = errors.getvalue().strip().splitlines()
        assert line.startswith("error: ")
        assert words in line
        assert not folder.exists()


def main(folder, *flags):
    from trainers.runs import exporting

    refuse(folder / "wrong")
    script.call("knn", f"--backbone={folder / 'begun'}", "--k=1")
    with mock.patch.object(exporting, "export"):  # once is enough
        script.call("pretrain", *flags, f"--workdir={folder / 'whole'}")
        killed = [*flags, f"--workdir={folder / 'killed'}", "--checkpoint_minutes=0"]
        stop(STEPS + 7, *killed)
        shutil.copytree(folder / "killed", folder / "left")  # which TensorFlow ends
        script.call("pretrain", *killed)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), *sys.argv[2:])
