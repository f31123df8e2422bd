"""Memory and time of the nearest-neighbor search: `python -m benchmarks.knn`.

Random features, 200,000 for training and 10,000 queries of 2048 numbers each, once memory-mapped
from files in a temporary folder and once read into memory. Each case runs in its own process, whose
peak memory the system reports (`getrusage`); it includes Python with keras_bt and TensorFlow, and
those pages of mapped files that the system did not evict. The features need 1.7 GB of disk.
"""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import app, flags

from trainers.cli import command

PLACES = ("memory-mapped", "in memory")
_GIB = 2**30
_ROWS = 4096  # per write


def write_features(path, n, width, seed):
    """Writes n random vectors in pieces, to keep this process small.

    The peak of a child process is never below that of its parent.
    """
    random = np.random.default_rng(seed)
    header = {"descr": "<f4", "fortran_order": False, "shape": (n, width)}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, n, _ROWS):
            rows = min(_ROWS, n - start)
            file.write(random.standard_normal((rows, width), dtype=np.float32).data)


def peak_gib():
    """Returns the peak memory of this process so far, in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _GIB


def measure(folder, place, k, classes):
    """Searches and votes; prints GiB at the start and at the peak, seconds and CPU seconds."""
    with command.quiet_start():
        from keras_bt.evaluation.knn import knn_accuracies

    start = peak_gib()
    mode = "r" if place == "memory-mapped" else None
    train, queries = (
        np.load(pathlib.Path(folder) / f"{name}.npy", mmap_mode=mode) for name in ("train", "test")
    )
    random = np.random.default_rng(2)
    labels, right = (random.integers(0, classes, len(x)) for x in (train, queries))
    started, cpu_started = time.perf_counter(), time.process_time()
    knn_accuracies(train, labels, queries, right, (20, k) if k > 20 else (k,))
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    print(start, peak_gib(), seconds, cpu_seconds)


def measured(folder, place, k, classes):
    """Runs `measure` in a fresh process and returns what it prints."""
    arguments = [f"--folder={folder}", f"--place={place}", f"--k={k}", f"--classes={classes}"]
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.knn", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [float(number) for number in result.stdout.split()]


def machine():
    """Describes the machine in two lines: date and processor; versions."""
    name = platform.processor() or platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [s for s in cpuinfo.read_text().splitlines() if s.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = [f"{p} {importlib.metadata.version(p)}" for p in ("numpy", "tensorflow")]
    python = f"Python {platform.python_version()}"
    return f"{datetime.date.today()}, {cores} cores of {name}\n{', '.join([python, *versions])}"


def main(_):
    """Measures and prints."""
    args = flags.FLAGS
    if args.place:
        measure(args.folder, args.place, args.k, args.classes)
        return
    print(machine())
    print(
        f"{args.train:,} training features and {args.queries:,} queries of {args.width:,} numbers, "
        f"k = {args.k}, {args.classes:,} classes\n"
    )
    print("| features | GiB at the start | GiB at the peak | seconds | CPU seconds, all cores |")
    print("| --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        write_features(pathlib.Path(folder) / "train.npy", args.train, args.width, 0)
        write_features(pathlib.Path(folder) / "test.npy", args.queries, args.width, 1)
        for place in PLACES:
            start, peak, seconds, cpu = measured(folder, place, args.k, args.classes)
            row = f"| {place} | {start:.2f} | {peak:.2f} | {seconds:.0f} | {cpu:.0f} |"
            print(row, flush=True)


if __name__ == "__main__":
    flags.DEFINE_integer("train", 200_000, "Number of training features.", 2)
    flags.DEFINE_integer("queries", 10_000, "Number of queries.", 1)
    flags.DEFINE_integer("width", 2048, "Dimension of the features.", 1)
    flags.DEFINE_integer("k", 200, "Number of neighbors that vote.", 1)
    flags.DEFINE_integer("classes", 1000, "Number of classes.", 2)
    flags.DEFINE_string("folder", None, "Folder to write features to. Default: the system's.")
    flags.DEFINE_enum("place", None, PLACES, "Set by the benchmark itself, for one measurement.")
    app.run(main)
