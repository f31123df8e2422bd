"""Contestants that take turns, so that they are measured under the same conditions."""

import concurrent.futures
import contextlib
import math
import multiprocessing
import time


@contextlib.contextmanager
def own_process():
    """Yields a function `(function, *arguments)` that calls functions in one new process.

    What they cache there stays for the next call. Flags are not parsed there.
    """
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:

        def call(function, *arguments):
            try:
                return pool.submit(function, *arguments).result()
            except concurrent.futures.process.BrokenProcessPool:
                raise SystemExit("error: A process was ended: out of memory?") from None

        yield call


def in_turns(turns, rounds, seconds=math.inf):
    """Calls functions in turns.

    Args:
        turns: dict from name to function without arguments.
        rounds: int, number of turns of each.
        seconds: float; no further round starts once this time has passed.

    Returns:
        dict from name to the list of what the function returned.
    """
    started, results = time.perf_counter(), {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            results[name].append(turn())
        if time.perf_counter() - started > seconds:
            break
    return results
