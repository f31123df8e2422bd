"""Calls a script as `python -m` does, but within this process, which saves TensorFlow's start.

No test module imports a script: two scripts may give a flag the same name, so the flags of one are
forgotten before the next is called.
"""

import runpy
import sys
from unittest import mock

import keras
import pytest
from absl import flags
from absl.testing import flagsaver


def call(name, *arguments, package="trainers"):
    """Runs `python -m PACKAGE.NAME ARGUMENTS`.

    Raises:
        SystemExit: if it ends with another status than 0.
    """
    policy = keras.config.dtype_policy()
    defined_before = _modules_with_flags()
    with mock.patch.object(sys, "argv", [name, *map(str, arguments)]), flagsaver.flagsaver():
        try:
            runpy.run_module(f"{package}.{name}", run_name="__main__", alter_sys=True)
        except SystemExit as end:
            if end.code:
                raise
        finally:
            keras.config.set_dtype_policy(policy)
            # `flagsaver` deletes the new flags; the modules must define them again next time.
            for module in _modules_with_flags() - defined_before:
                if sys.modules.pop(module, None):
                    parent, _, child = module.rpartition(".")
                    delattr(sys.modules[parent], child)  # or `from parent import child` finds it


def mistake(capsys, name, *arguments, package="trainers"):
    """Runs a script that must end with status 1 and one line, which is returned."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        call(name, *arguments, package=package)
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    return line


def _modules_with_flags():
    return {module for module, defined in flags.FLAGS.flags_by_module_dict().items() if defined}
