"""How a command ends whose output cannot be written as it is, or not at all."""

import dataclasses
import io
import os
import re
import sys

import pytest

from trainers.cli import command
from trainers.runs.fields import Settings, setting

TEXT = "Measuring – 80 ± 2 × 3 … → ä"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Few(Settings):
    """A command's settings."""

    count: int = setting(3, "A count – of what?", least=1)


def ended(monkeypatch, stdout, *argv, text=TEXT, **settings):
    """Runs a command that prints; returns its status, None if all went well."""
    written = []

    def main(_):
        with command.mistakes:
            print(text)
            written.append(True)

    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "argv", ["command", *argv])
    monkeypatch.setattr(main, "__module__", __name__)
    try:
        command.run(main, Few, **settings)
    except SystemExit as end:
        return end.code
    return None


def ascii_terminal():
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii")


def test_what_a_terminal_cannot_show_is_spelled_out(monkeypatch):
    stdout = ascii_terminal()
    assert ended(monkeypatch, stdout) is None
    assert stdout.buffer.getvalue() == b"Measuring - 80 +/- 2 x 3 ... -> ?\n"
    stdout = ascii_terminal()
    assert ended(monkeypatch, stdout, "--help") is None
    assert b"A count - of what? (>= 1; default 3)" in stdout.buffer.getvalue()
    monkeypatch.setattr(sys, "stderr", ascii_terminal())
    assert ended(monkeypatch, stdout, "--count=½") == 1
    assert sys.stderr.buffer.getvalue() == (
        b"error: --count must be a whole number. Received: --count=?\n"
    )


@pytest.mark.parametrize("text", [TEXT, TEXT * 1000], ids=["at the end", "at once"])
@pytest.mark.parametrize("argv", [[], ["--help"]], ids=["print", "help"])
def test_a_full_disk_is_one_line(monkeypatch, capsys, argv, text):
    with open("/dev/full", "w", encoding="utf-8") as stdout:
        assert ended(monkeypatch, stdout, *argv, text=text) == 1
    (line,) = capsys.readouterr().err.splitlines()  # and nothing on closing
    assert line.startswith("error: ")
    assert "No space left on device" in line


def test_a_reader_that_has_seen_enough_ends_the_command_quietly(monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as stdout:
        assert ended(monkeypatch, stdout) == 141
    assert not capsys.readouterr().err


def test_a_mistake_can_be_told_to_nobody(monkeypatch):
    with open("/dev/full", "w", encoding="utf-8") as nowhere:
        monkeypatch.setattr(sys, "stderr", nowhere)
        assert ended(monkeypatch, nowhere, "--count=0") == 1


def test_closed_outputs_do_no_harm(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert ended(monkeypatch, None) is None
    for stream in (sys.stdout, sys.stderr):
        assert stream.name == os.devnull
        stream.close()


@pytest.mark.parametrize(
    ("backend", "backends", "line"),
    [
        ("torch", command.BACKENDS, "with KERAS_BACKEND=tensorflow or jax. Received: .*=torch"),
        ("jax", ("tensorflow",), "with KERAS_BACKEND=tensorflow. Received: KERAS_BACKEND=jax"),
        ("jax", command.BACKENDS, r'needs JAX: pip install "keras_bt\[jax\]". Received: an env'),
    ],
)
def test_a_wrong_backend_is_one_line(backend, backends, line, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", backend)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # JAX is not installed
    assert ended(monkeypatch, sys.stdout, backends=backends) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert re.match(f"error: .*{line}", error)
