"""Makes the runs of sweeps, some at a time, and says how far it has come."""

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

_PAUSE = 0.2  # seconds between looks at the processes


@dataclasses.dataclass
class Queue:
    """What is to be run.

    Args:
        runs: list of `trainers.ablations.sweeps.Run`.
        jobs: int, processes at a time; the cores are divided among them.

    Attributes:
        failed: list of runs that ended with an error.
    """

    runs: list
    jobs: int = 1

    def __post_init__(self):
        self.failed = []
        self._running = {}  # place among the jobs → (run, process, when it began)

    def work(self):
        """Makes all runs that are not finished.

        Raises:
            KeyboardInterrupt: it was interrupted or terminated; the processes have saved and ended.
        """
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
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
        with bar:
            try:
                while waiting or self._running:
                    for place in set(range(self.jobs)) - self._running.keys():
                        if (run := self._next(waiting)) is not None:
                            waiting.remove(run)
                            self._start(place, run)
                    self._look(bar)
                    time.sleep(_PAUSE)
            finally:
                self._stop()
                signal.signal(signal.SIGTERM, before)

    def _next(self, waiting):
        """The first run that need not wait for the backbone of another, or None."""
        unfinished = {str(run.folder) for run in waiting}
        unfinished |= {str(run.folder) for run, *_ in self._running.values()}
        return next((run for run in waiting if run.flags.get("backbone") not in unfinished), None)

    def _start(self, place, run):
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        workdir.write_json(run.record, run.flags)
        log = log_file(run)
        with open(log, "a", encoding="utf-8") as output:
            print("$", shlex.join(run.command()), file=output, flush=True)
            process = subprocess.Popen(
                run.command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # an interrupt from the keyboard reaches it through `_stop`
            )
        if self.jobs > 1 and hasattr(os, "sched_setaffinity"):
            cores = sorted(os.sched_getaffinity(0))[place :: self.jobs]
            if cores:
                os.sched_setaffinity(process.pid, cores)
        self._running[place] = (run, process, time.time())

    def _look(self, bar):
        """Takes note of the processes that have ended."""
        for place, (run, process, started) in list(self._running.items()):
            if process.poll() is None:
                continue
            del self._running[place]
            measures = run.measures() if process.returncode == 0 else None
            if measures is None:
                self.failed.append(run)
                tqdm.write(f"{run.folder.name}: failed, see {log_file(run)}", file=sys.stdout)
            else:
                text = ", ".join(f"{name} {100 * value:.1f}" for name, value in measures.items())
                seconds = time.time() - started
                tqdm.write(f"{run.folder.name}: {text} ({seconds:.0f} s)", file=sys.stdout)
            bar.update()

    def _stop(self):
        """Ends what still runs, and waits until it has saved its state."""
        for _, process, _ in self._running.values():
            process.terminate()
        for _, process, _ in self._running.values():
            process.wait()


def log_file(run):
    """Where a run's output goes: beside its folder, which is not there yet when it begins."""
    return pathlib.Path(f"{run.folder}.log")
