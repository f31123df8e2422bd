"""What the benchmarks share around their numbers: the machine, and tables."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import resource
import statistics
import sys

MOST_THREADS = 4096
PACKAGES = ("keras_bt", "keras", "tensorflow", "torch")


def available_cores():
    """Returns the number of cores that this process may use, or of all if the system cannot say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def machine(cores=None, packages=PACKAGES):
    """Describes the machine in two lines: date and processor; versions."""
    name = platform.processor() or platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [s for s in cpuinfo.read_text().splitlines() if s.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    versions = [f"Python {platform.python_version()}"]
    for package in packages:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {package}")
    cores = cores or available_cores()
    return f"{datetime.date.today()}, {cores} cores of {name}\n{', '.join(versions)}"


def peak_gib():
    """Returns the peak memory of this process so far, in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def spread(values, digits):
    """Formats the median and, in parentheses, the extremes.

    >>> spread([3, 1, 2.5], digits=1)
    '2.5 (1.0–3.0)'
    """
    median, least, most = (
        f"{x:.{digits}f}" for x in (statistics.median(values), min(values), max(values))
    )
    return f"{median} ({least}–{most})"


def aligned(header, rows):
    """Formats a Markdown table whose columns are aligned in a terminal too."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * (width - 1) + ":" for width in widths], *rows]
    return "\n".join(
        f"| {' | '.join(x.rjust(width) for x, width in zip(line, widths, strict=True))} |"
        for line in lines
    )
