"""Processes of `benchmarks.watched_pretrain` that take turns, for `benchmarks.end_to_end`."""

import contextlib
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile

from benchmarks.watched_pretrain import Reading


def progress(text):
    """Reports progress to the terminal."""
    print(text, file=sys.stderr, flush=True)


class Process:
    """A watched `trainers.pretrain`; it stops after its first step and waits for orders.

    Args:
        options: `Options`.
        arguments: list of str, the trainer's command line.
    """

    def __init__(self, options, arguments):
        script = [sys.executable, "-m", "benchmarks.watched_pretrain"]
        environment = dict(os.environ, TF_FORCE_GPU_ALLOW_GROWTH="true")  # two share a GPU
        if options.simulated:
            environment["CUDA_VISIBLE_DEVICES"] = "-1"
        self._notes = tempfile.TemporaryFile("w+")  # noqa: SIM115  mostly TensorFlow's notes
        self.popen = subprocess.Popen(
            [*script, json.dumps(dataclasses.asdict(options)), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._notes,
            text=True,
            env=environment,
        )
        self._ready = None

    @property
    def ready(self):
        """Waits for the first step; a dict of the device and precision of the training."""
        self._ready = self._ready or self._answer()
        return self._ready

    def turn(self, order):
        """Has the process measure once; returns a `Reading`."""
        self.popen.stdin.write(json.dumps(dataclasses.asdict(order)) + "\n")
        self.popen.stdin.flush()
        return Reading(**self._answer())

    def _answer(self):
        answer = self.popen.stdout.readline()
        if not answer:
            status = self.popen.wait()
            self._notes.seek(0)
            notes = self._notes.read().splitlines()
            # A negative status is a signal: 9 if the system ran out of memory.
            end = f"error: trainers.pretrain ended with status {status}."
            mistakes = [note for note in notes if note.startswith("error: ")]
            raise SystemExit("\n".join(mistakes or [*notes, end]))
        return json.loads(answer)

    def end(self):
        """Kills the process, which has nothing left to write."""
        self.popen.kill()
        self.popen.communicate()
        self._notes.close()


@contextlib.contextmanager
def started(settings):
    """Starts a trainer for each of the settings, name → (options, arguments).

    All start at once, before any measurement, and end with the block.
    """
    processes = {}
    try:
        for name, setting in settings.items():
            processes[name] = Process(*setting)
        for i, (name, process) in enumerate(processes.items(), start=1):
            progress(f"starting {i} of {len(processes)}: {name}")
            process.ready  # noqa: B018  waits
        yield processes
    finally:
        for process in processes.values():
            process.end()


def in_turns(processes, orders, rounds):
    """Has all processes follow all orders, in turn.

    Args:
        processes: dict, name → `Process`.
        orders: dict, name → `Order`.
        rounds: int.

    Returns:
        dict, (name of process, name of order) → list of `Reading`, one per round.
    """
    readings = {names: [] for names in itertools.product(processes, orders)}
    for i in range(rounds):
        for name, process in processes.items():
            progress(f"round {i + 1} of {rounds}: {name}")
            for kind, order in orders.items():
                readings[name, kind].append(process.turn(order))
    return readings
