"""Makes the runs of sweeps, several at a time, and reports progress."""

import contextlib
import dataclasses
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

from tqdm import tqdm

from keras_bt import workdir
from trainers.ablations import sweeps

_PAUSE = 0.2  # seconds between looks at the processes


@dataclasses.dataclass
class Queue:
    """A queue of runs.

    Args:
        runs: list of `trainers.ablations.sweeps.Run`s.
        jobs: int, concurrent processes, which the cores are divided among.

    Attributes:
        failed: list of runs that ended with an error.
    """

    runs: list
    jobs: int = 1

    def __post_init__(self):
        self.failed = []
        self._running = {}  # place among the jobs → Job

    def work(self):
        """Makes all unfinished runs.

        Raises:
            KeyboardInterrupt: if interrupted or terminated, once the processes have saved.
        """
        self.failed.clear()
        unique = {run.folder: run for run in self.runs}
        waiting = [run for run in unique.values() if run.measures() is None]
        bar = tqdm(
            total=len(unique),
            initial=len(unique) - len(waiting),
            unit="run",
            file=sys.stdout,
            dynamic_ncols=True,
            # In a file every update is a line of its own.
            mininterval=0.1 if sys.stdout.isatty() else 60,
        )
        with _signals_interrupt(), bar:
            try:
                while waiting or self._running:
                    for place in set(range(self.jobs)) - self._running.keys():
                        if (run := self._next(waiting)) is not None:
                            waiting.remove(run)
                            self._start(place, run, bar)
                    self._look(bar)
                    time.sleep(_PAUSE)
            finally:
                self._stop()

    def _next(self, waiting):
        """Returns the first run that need not wait for another's backbone, or None."""
        unfinished = {run.folder for run in waiting}
        unfinished |= {job.run.folder for job in self._running.values()}
        return next((run for run in waiting if run.needs not in unfinished), None)

    def _start(self, place, run, bar):
        if run.needs and not run.backbone_file.exists():
            self.failed.append(run)
            tqdm.write(
                f"{run.folder.name}: skipped, as {run.needs.name} has no backbone", file=sys.stdout
            )
            bar.update()
            return
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        workdir.write_json(run.record_file, run.record())
        with open(log_file(run), "a", encoding="utf-8") as output:
            print("$", shlex.join(run.command()), file=output, flush=True)
            process = subprocess.Popen(
                run.command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a keyboard interrupt reaches it through `_stop`
            )
        self._running[place] = Job(run, process, time.time())
        if sys.stdout.isatty():
            tqdm.write(f"{run.folder.name}: started; tail -f {shlex.quote(str(log_file(run)))}")
        if self.jobs > 1 and hasattr(os, "sched_setaffinity"):
            cores = sorted(os.sched_getaffinity(0))[place :: self.jobs]
            if cores:
                os.sched_setaffinity(process.pid, cores)

    def _look(self, bar):
        """Reports the processes that have ended."""
        for place, job in list(self._running.items()):
            if job.process.poll() is None:
                continue
            del self._running[place]
            seconds = job.note_time()
            measures = job.run.measures() if job.process.returncode == 0 else None
            if measures is None:
                self.failed.append(job.run)
                outcome = f"failed, {last_line(job.run)}; see {log_file(job.run)}"
            else:
                found = ", ".join(f"{name} {100 * value:.1f}" for name, value in measures.items())
                outcome = f"{found} ({seconds:.0f} s)"
            tqdm.write(f"{job.run.folder.name}: {outcome}", file=sys.stdout)
            bar.update()
        if sys.stdout.isatty():
            bar.refresh()  # its clock

    def _stop(self):
        """Terminates what still runs, and waits until it has saved its state."""
        for job in self._running.values():
            job.process.terminate()
        for job in self._running.values():
            job.process.wait()
            job.note_time()


@dataclasses.dataclass(frozen=True)
class Job:
    """A run, the process that makes it, and when that began, in seconds since 1970."""

    run: sweeps.Run
    process: subprocess.Popen
    began: float

    def note_time(self):
        """Adds the time of the process to that of the run, and returns the sum in seconds."""
        record = self.run.record()
        record["seconds"] = round(record["seconds"] + time.time() - self.began, 1)
        workdir.write_json(self.run.record_file, record)
        return record["seconds"]


@contextlib.contextmanager
def _signals_interrupt():
    """Treats SIGTERM, and SIGHUP unless it is ignored, like Ctrl-C."""
    numbers = [signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {n: signal.signal(n, signal.default_int_handler) for n in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def last_line(run):
    """Returns the last line that a run printed, most likely why it failed."""
    lines = log_file(run).read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


def log_file(run):
    """Returns the file of a run's output, beside its folder, which does not exist at the start."""
    return pathlib.Path(f"{run.folder}.log")
