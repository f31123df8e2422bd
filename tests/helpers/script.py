"""Calls a command as `python -m` does, but within this process, which saves TensorFlow's start."""

import importlib
import sys
from unittest import mock

import keras
import pytest


def call(name, *arguments, package="trainers"):
    """Does what `python -m PACKAGE.NAME ARGUMENTS` does.

    Raises:
        SystemExit: if it ends with a mistake.
    """
    policy = keras.config.dtype_policy()
    arguments = [str(argument) for argument in arguments]
    try:
        with mock.patch.object(sys, "argv", [name, *arguments]):  # some record their command line
            importlib.import_module(f"{package}.{name}").main()
    finally:
        keras.config.set_dtype_policy(policy)


def mistake(capsys, name, *arguments, package="trainers"):
    """Calls a command that must end with status 1 and one line, which is returned."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        call(name, *arguments, package=package)
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    return line
