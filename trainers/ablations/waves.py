"""Makes the runs of sweeps as processes: first those that train, then those that use a backbone."""

import os
import queue
import shlex
import subprocess
import threading
import time
from concurrent import futures

from keras_bt import workdir


class Waves:
    """Makes runs, `jobs` at a time, which divide the cores among them.

    Attributes:
        failed: list of the runs that ended with an error, or could not begin.
    """

    def __init__(self, jobs):
        self.failed = []
        self._jobs = jobs
        self._processes, self._stopping, self._lock = [], False, threading.Lock()
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self._shares = queue.SimpleQueue()
        for place in range(jobs):
            self._shares.put(cores[place::jobs])

    def make(self, runs):
        """Makes runs, each in a folder of its own, and prints a line as each begins and ends.

        Raises:
            KeyboardInterrupt: if interrupted, once the processes have saved their state and ended.
        """
        for wave in ([r for r in runs if not r.needs], [r for r in runs if r.needs]):
            with futures.ThreadPoolExecutor(self._jobs) as pool:
                try:
                    list(pool.map(self._make, wave))
                except BaseException:  # an interrupt, above all
                    self._stop()
                    raise

    def _make(self, run):
        if run.lacks_backbone:
            self._fail(run, f"skipped, as {run.needs.name} has no backbone")
            return
        cores = self._shares.get()
        try:
            self._make_on(run, cores)
        finally:  # whatever happens, or a run that waits for them waits for ever
            self._shares.put(cores)

    def _make_on(self, run, cores):
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        log, record = run.beside("log"), run.record()
        workdir.write_record(run.beside("json"), record)
        with open(log, "a", encoding="utf-8") as output, self._lock:
            if self._stopping:
                return
            print("$", shlex.join(run.command()), file=output, flush=True)
            started = time.monotonic()
            process = subprocess.Popen(
                run.command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches it through `_stop`, and only once
            )
            self._processes.append(process)
        if cores:
            os.sched_setaffinity(process.pid, cores)
        _say(run, f"started; see {log}")
        process.wait()
        record["seconds"] = round(record["seconds"] + time.monotonic() - started, 2)
        workdir.write_record(run.beside("json"), record)
        measures = run.measures() if process.returncode == 0 else None
        if self._stopping:
            _say(run, "stopped")
        elif measures is None:
            last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
            self._fail(run, f"failed, {last.strip()}; see {log}")
        else:
            found = ", ".join(f"{name} {100 * value:.1f}" for name, value in measures.items())
            _say(run, f"{found} ({record['seconds']:.0f} s)")

    def _fail(self, run, reason):
        self.failed.append(run)
        _say(run, reason)

    def _stop(self):
        """Terminates what runs, and lets nothing more begin."""
        with self._lock:
            self._stopping = True
            for process in self._processes:
                process.terminate()


def _say(run, text):
    print(f"{run.folder.name}: {text}\n", end="", flush=True)  # in one piece
