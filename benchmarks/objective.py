"""The objective and its gradient, beside the published formula: `python -m benchmarks.objective`.

Measures time and peak memory of the loss and its gradients with respect to both embeddings: in both
forms, and as published in PyTorch (`benchmarks.torch_barlow_twins`) where that is installed, in
float32, on a GPU if TensorFlow sees one. Each framework has one process, with the same number of
threads; they take turns, and must compute the same loss for the same embeddings. Nothing else
should be running on the machine.

Memory is what is needed beyond the inputs, gradients included, according to the framework's
allocator. PyTorch's has no statistics on CPUs: there it is the growth of the process, on Linux.
"""

import contextlib
import ctypes
import dataclasses
import functools
import importlib.util
import itertools
import os
import pathlib
import statistics
import sys
import time

import numpy as np

from benchmarks import costs, tensorflow_device
from benchmarks.costs import FORMS
from benchmarks.report import MOST_THREADS, aligned, available_cores, machine, peak_gib
from benchmarks.turns import in_turns, own_process
from trainers.cli import command
from trainers.runs.fields import Settings, setting

TORCH = "PyTorch"
REDUNDANCY_WEIGHT = 0.0051
TORCH_MATRICES = 6  # d × d at once in PyTorch: C, its off-diagonal part, squares, gradients
_MIB, _GIB = 2**20, 2**30
_TURN_SECONDS = 0.2  # a turn has as many steps as fit, at least one
_CELL_SECONDS = 20  # no further round starts once a cell has taken this long


def embeddings(n, d):
    """Draws two related views of n images, float32 (2, n, d), the same in every process."""
    views = np.random.default_rng(0).standard_normal((2, n, d), dtype=np.float32)
    views[1] += views[0]
    return views


class Framework:
    """Measures what a subclass computes, for one size at a time, in one process.

    Subclasses have `gpu`, its name or None, and `steps`, `wait` and `memory`.
    """

    _size, _steps, _first = None, {}, {}

    def measure(self, n, d, form):
        """Measures for some tenths of a second.

        Returns:
            dict: "loss"; "memory", the bytes beyond the inputs, or None; "seconds" of a step; and
            "process", the peak GiB of the process so far. The first two are from the first call
            for this size and form, which also warms up.
        """
        if self._size != (n, d):
            self._steps = {}  # frees the old inputs before the new ones are made
            self._size, self._steps, self._first = (n, d), self.steps(n, d), {}

        def step():
            loss = self._steps[form]()
            self.wait()
            return float(loss)

        if form not in self._first:
            loss = step()
            self._first[form] = {"loss": loss, "memory": peak_memory(step, self.memory)}
        seconds, deadline = [], time.perf_counter() + _TURN_SECONDS
        while not seconds or time.perf_counter() < deadline:
            started = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - started)
        return self._first[form] | {"seconds": statistics.median(seconds), "process": peak_gib()}


class TensorFlow(Framework):
    """This project's objective."""

    def __init__(self, threads):
        # Whose allocator counts; TensorFlow's own choice is to do without unless there is AVX-512.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
        self.gpu = tensorflow_device.prepare(threads)
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(False)
        self._tf = tf

    def steps(self, n, d):
        """Returns, by form, functions that compute loss and gradients and return the loss."""
        from keras_bt.objectives.barlow_twins import barlow_twins_loss

        tf, views = self._tf, [self._tf.constant(z) for z in embeddings(n, d)]

        def step(form):
            @tf.function(input_signature=[tf.TensorSpec((n, d))] * 2)
            def loss_and_gradients(za, zb):
                with tf.GradientTape() as tape:
                    tape.watch([za, zb])
                    loss = barlow_twins_loss(za, zb, REDUNDANCY_WEIGHT, form)
                return loss, *tape.gradient(loss, [za, zb])

            return lambda: loss_and_gradients(*views)[0]

        return {form: step(form) for form in FORMS}

    def wait(self):
        """Waits until the device has computed everything."""
        self._tf.test.experimental.sync_devices()

    def memory(self, reset):
        """Returns the bytes in use now, and at the peak since the last reset."""
        device = "GPU:0" if self.gpu else "CPU:0"
        try:
            if reset:
                self._tf.config.experimental.reset_memory_stats(device)
            memory = self._tf.config.experimental.get_memory_info(device)
        except ValueError:  # only oneDNN's allocator counts
            return process_memory(reset)
        return memory["current"], memory["peak"]


class PyTorch(Framework):
    """The published formula, whose only form is `TORCH`."""

    def __init__(self, threads):
        os.environ["OMP_NUM_THREADS"] = str(threads)  # read when PyTorch is imported
        import torch

        self._torch = torch
        torch.set_num_threads(threads)
        self.gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None

    def steps(self, n, d):
        """Returns the same as `TensorFlow.steps`."""
        from benchmarks.torch_barlow_twins import published_loss

        device = "cuda" if self.gpu else "cpu"
        views = [self._torch.from_numpy(z).to(device) for z in embeddings(n, d)]
        views = [z.clone().requires_grad_() for z in views]  # frees the NumPy array
        normalize = self._torch.nn.BatchNorm1d(d, affine=False).to(device)

        def step():
            loss = published_loss(*views, normalize, REDUNDANCY_WEIGHT)
            gradients = self._torch.autograd.grad(loss, views)
            del gradients
            return loss.detach()

        return {TORCH: step}

    def wait(self):
        """Waits until the device has computed everything."""
        if self.gpu:
            self._torch.cuda.synchronize()

    def memory(self, reset):
        """Returns the same as `TensorFlow.memory`, or None where it is not known."""
        if not self.gpu:
            return process_memory(reset)
        if reset:
            self._torch.cuda.reset_peak_memory_stats()
        return self._torch.cuda.memory_allocated(), self._torch.cuda.max_memory_allocated()


@functools.cache
def started(framework, threads):
    """Returns this process's instance of a subclass of `Framework`."""
    return framework(threads)


def gpu_of(*start):
    """Returns the name of the GPU that `started(*start)` uses, or None."""
    return started(*start).gpu


def measure(start, *cell):
    """Returns `started(*start).measure(*cell)`."""
    return started(*start).measure(*cell)


def process_memory(reset):
    """Returns this process's bytes now and at the peak since the last reset; None unless Linux."""
    if not sys.platform.startswith("linux"):
        return None
    if reset:
        with contextlib.suppress(OSError, AttributeError):  # a C library that is not glibc
            ctypes.CDLL(None).malloc_trim(0)  # returns freed memory to the system
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    status = dict(s.split(":") for s in pathlib.Path("/proc/self/status").read_text().splitlines())
    return [1024 * int(status[name].split()[0]) for name in ("VmRSS", "VmHWM")]


def peak_memory(step, memory):
    """Returns the bytes that a step needs at its peak beyond those in use, or None if unknown."""
    start = memory(reset=True)
    step()
    return None if start is None else memory(reset=False)[1] - start[0]


def expected_bytes(n, d, form):
    """Estimates what a form needs beyond the inputs."""
    if form != TORCH:
        return costs.objective_cost(n, d, 1, form).memory
    return costs.NUMBER * (TORCH_MATRICES * d * d + costs.ARRAYS_OF_ROWS * n * d)


def measured_cell(calls, n, d, forms, rounds):
    """Measures a cell: a dict from form to its answers, with the median of their seconds."""
    turns = {form: functools.partial(calls[form], n, d, form) for form in forms}
    return {
        form: answers[0] | {"seconds": statistics.median(x["seconds"] for x in answers)}
        for form, answers in in_turns(turns, rounds, _CELL_SECONDS).items()
    }


def check_losses(n, d, cell):
    """Raises RuntimeError unless the forms, and PyTorch, have the same loss."""
    losses = {form: result["loss"] for form, result in cell.items()}
    if max(losses.values()) - min(losses.values()) > 1e-4 * abs(min(losses.values())):
        raise RuntimeError(f"All must compute the same loss for {n} × {d}. Received: {losses}.")


def row(n, d, cell, chosen):
    """Makes a row of the table, for the measured forms, of which auto takes `chosen`."""
    seconds = {form: result["seconds"] for form, result in cell.items()}
    memory = {f: result["memory"] for f, result in cell.items() if result["memory"] is not None}
    better = min(seconds[form] for form in FORMS if form in seconds)

    def cells(values, unit):
        star = {chosen: " *"}
        texts = {
            form: f"{x / unit:.3g}" if x < 999 * unit else f"{x / unit:.0f}"
            for form, x in values.items()
        }
        shown = [texts[f] + star.get(f, "") if f in texts else "–" for f in (*FORMS, TORCH)]
        known = TORCH in values and values.get(chosen)
        return [*shown, f"{values[TORCH] / values[chosen]:.1f}" if known else "–"]

    worse = f"{seconds[chosen] / better:.2f}"
    return [f"{n} × {d}", *cells(seconds, 1e-3), worse, *cells(memory, _MIB)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveSettings(Settings):
    """The flags."""

    n: tuple[int, ...] = setting((64, 128, 256, 512, 1024, 2048), "Batch sizes n.", least=2)
    d: tuple[int, ...] = setting(
        (512, 2048, 8192, 16384, 65536), "Embedding widths d.", least=2, most=2**24
    )
    rounds: int = setting(5, "Turns of each form at each size.", least=1)
    max_gib: float = setting(12.0, "Skip what is expected to need more memory, in GiB.", least=0)
    threads: int = setting(
        available_cores(), "Threads of each framework on the CPU.", least=1, most=MOST_THREADS
    )


def print_measured(args):
    """Measures and prints."""
    calls, gpus = {}, {}
    with contextlib.ExitStack() as stack:
        for framework, forms in ((TensorFlow, FORMS), (PyTorch, [TORCH])):
            if framework is TensorFlow or importlib.util.find_spec("torch"):
                call = stack.enter_context(own_process())
                gpus[framework] = call(gpu_of, framework, args.threads)
                turn = functools.partial(call, measure, (framework, args.threads))
                calls |= dict.fromkeys(forms, turn)
        gpu = gpus[TensorFlow]
        print(f"{machine()}\n{gpu or f'CPU, {args.threads} threads'}; float32")
        print(
            f"Loss and gradients. ms: median of up to {args.rounds} rounds; MiB: peak beyond the "
            "inputs. *: what auto chooses"
        )
        if PyTorch not in gpus:
            print(f"{TORCH} is left out: it is not installed.")
        elif bool(gpus[PyTorch]) != bool(gpu):
            print(f"{TORCH} is left out: of the two, only one sees a GPU.")
            del calls[TORCH]
        print(flush=True)
        rows, skipped, processes = [], [], {}
        for d, n in itertools.product(args.d, args.n):
            forms = [f for f in calls if expected_bytes(n, d, f) <= args.max_gib * _GIB]
            skipped += [f"{form} at {n} × {d}" for form in calls if form not in forms]
            chosen = costs.chosen_form(n, d)  # what auto takes
            if chosen not in forms:
                continue
            cell = measured_cell(calls, n, d, forms, args.rounds)
            check_losses(n, d, cell)
            rows.append(row(n, d, cell, chosen))
            for form, result in cell.items():
                processes[TORCH if form == TORCH else "TensorFlow"] = result["process"]
            print(" | ".join(rows[-1]), file=sys.stderr)  # the table itself comes at the end
    if rows:
        ms, mib = ([f"{form}, {unit}" for form in (*FORMS, TORCH)] for unit in ("ms", "MiB"))
        ratio = f"{TORCH} / auto"
        print(aligned(["n × d", *ms, ratio, "auto / better", *mib, ratio], rows))
        found = [f"{name} {gib:.2f} GiB" for name, gib in processes.items()]
        print(f"\nPeak memory of each whole process over all of these: {', '.join(found)}.")
    if skipped:
        print(f"\nNot measured (need more than {args.max_gib:g} GiB): {', '.join(skipped)}.")


def main():
    """Runs the command."""
    command.run(print_measured, ObjectiveSettings)


if __name__ == "__main__":
    main()
