"""Runs a benchmark as its user does, and reads its tables."""

import subprocess
import sys

from places import ROOT


def run(name, *arguments, env=None):
    """The finished `python -m benchmarks.NAME ARGUMENTS`, with what it printed as text."""
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env=env,
    )


def cells(text):
    """The cells of tables of one width, without header and rule."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1  # aligned
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
