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
import undrawn

from keras_bt.checkpoint import RunCheckpoint

STEPS = 20  # of an epoch


def copied_at(step, *folders):
    """A context in which a run is copied to folders after this step, as if killed there."""
    original = RunCheckpoint.on_train_batch_end

    def copy(self, batch, logs=None):
        original(self, batch, logs)
        if self._step == step:
            for folder in folders:
                shutil.copytree(self._directory.parent, folder)

    return mock.patch.object(RunCheckpoint, "on_train_batch_end", copy)


def refuse(folder):
    """Mistakes that only this backend, or several devices, make one; each ends in one line."""
    for flag, words in (("--strategy=mirrored", "auto, one"), ("--batch_size=31", "evenly")):
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
    refuse(folder / "wrong")
    script.call("knn", f"--backbone={folder / 'begun'}", "--k=1")
    flags = [*flags, "--checkpoint_minutes=0"]
    killed, left = folder / "killed", folder / "left"  # which TensorFlow ends
    with undrawn.runs():
        with copied_at(STEPS + 7, killed, left):
            script.call("pretrain", *flags, f"--workdir={folder / 'whole'}")
        script.call("pretrain", *flags, f"--workdir={killed}")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), *sys.argv[2:])
