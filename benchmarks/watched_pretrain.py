"""`trainers.pretrain` with clocks around its input: a process of `benchmarks.end_to_end`.

The command itself runs, with the command line given here and four things replaced:

- Each step of `model.fit` first fetches its batch, between two readings of the clock, and then
  trains on it; Keras does both in one graph. The difference is how long the training loop waited.
- The monitors are a single callback, which takes orders from standard input: after the first step
  it waits for a line, measures the requested steps, answers, and waits again.
- Data that the benchmark has made are not cached: they stand for more than fits in memory.
- If the accelerator is simulated, a step sleeps instead of training. That takes no host core.

The run ends when its standard input does, which is up to the reader of the answers.
"""

import dataclasses
import functools
import json
import os
import runpy
import sys
import time


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a watched process.

    Attributes:
        cores: Number of host cores it may use; 0 for all.
        simulated: Whether a step sleeps instead of training.
        from_memory: Whether the first batch is fed over and over.
        cache: Whether the source may cache decoded images, as in `trainers.pretrain`.
    """

    cores: int = 0
    simulated: bool = False
    from_memory: bool = False
    cache: bool = False


@dataclasses.dataclass(frozen=True)
class Order:
    """A request to measure.

    Attributes:
        skip: Steps to skip first.
        steps: Minimum number of steps to measure.
        seconds: Minimum duration of the measurement.
        asleep: Duration of a simulated step, in seconds.
    """

    skip: int
    steps: int
    seconds: float = 0.0
    asleep: float = 0.0


@dataclasses.dataclass(frozen=True)
class Reading:
    """A measurement: totals over all steps, in seconds.

    Attributes:
        steps: Number of steps.
        elapsed: From the end of the step before the first to the end of the last one.
        waited: Spent waiting for batches.
        asleep: Spent in simulated steps.
        cpu: CPU time of this process, over all cores.
    """

    steps: int
    elapsed: float
    waited: float
    asleep: float
    cpu: float


def pin(cores):
    """Pins this process to its first cores if the system can; must precede TensorFlow's start."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


class Watch:
    """State shared by the replaced parts: the totals so far, and how long a step sleeps."""

    def __init__(self):
        self.waited = self.asleep = 0.0
        self.seconds = 0.0  # duration of the next simulated steps

    def fetch(self, batches):
        """Returns the next batch of an iterator."""
        started = time.perf_counter()
        batch = next(batches)
        self.waited += time.perf_counter() - started
        return batch

    def sleep(self):
        """Simulates a step."""
        started = time.perf_counter()
        time.sleep(self.seconds)
        self.asleep += time.perf_counter() - started

    def reading(self, steps=0):
        """Returns the totals so far."""
        times = time.perf_counter(), self.waited, self.asleep, time.process_time()
        return Reading(steps, *times)

    def since(self, start, steps):
        """Returns the totals since an earlier reading."""
        now, start = (dataclasses.asdict(reading) for reading in (self.reading(steps), start))
        return Reading(**{name: now[name] - start[name] for name in now})

    def course(self, orders, answer):
        """Follows order after order, as a generator to resume at the end of every step."""
        for line in orders:
            order = Order(**json.loads(line))
            self.seconds = order.asleep
            for _ in range(order.skip):
                yield
            start, steps = self.reading(), 0
            while steps < order.steps or time.perf_counter() - start.elapsed < order.seconds:
                yield
                steps += 1
            answer(dataclasses.asdict(self.since(start, steps)))


def replace_parts(options, watch, answer):
    """Replaces the parts of the trainer's modules that the head of this file lists."""
    import keras
    import tensorflow as tf

    from benchmarks import tensorflow_device
    from keras_bt import data
    from trainers.runs import monitors, pretraining

    distribute_batches = pretraining.distribute_batches

    def chosen_batches(*args):
        batches = distribute_batches(*args)
        if options.cores:
            threads = tf.data.Options()
            threads.threading.private_threadpool_size = options.cores
            batches = batches.with_options(threads)
        return batches.take(1).cache().repeat() if options.from_memory else batches

    class Turns(keras.callbacks.Callback):
        """Resumes the course of the measurement at the end of every step."""

        _course = None

        def on_train_batch_end(self, batch, logs=None):
            if self._course is None:
                device = tensorflow_device.gpu_name() or "CPU"
                answer({"device": device, "precision": keras.config.dtype_policy().name})
                self._course = watch.course(sys.stdin, answer)
            if next(self._course, "over") == "over":
                os._exit(0)  # nothing to keep, and shutting a pipeline down may take long

    class Watched(pretraining.Pretraining.model_class):
        """A model whose steps are watched, or simulated."""

        def make_train_function(self, force=False):
            if self.train_function is not None and not force:
                return
            super().make_train_function(force)
            train = self.train_function

            def watched(batches):
                batch = watch.fetch(batches)
                if not options.simulated:
                    return train([batch])
                watch.sleep()
                self.optimizer.iterations.assign_add(1)  # the steps that the callbacks count
                return {"loss": 0.0}

            self.train_function = watched

    pretraining.distribute_batches = chosen_batches
    monitors.monitors = lambda *_: [Turns()]
    pretraining.Pretraining.model_class = Watched
    if not options.cache:
        data.open_source = functools.partial(data.open_source, cache_bytes=0)


def main(options, arguments):
    """Runs the trainer with these arguments until standard input ends."""
    pin(options.cores)
    # The reader of the answers must not see what the trainer prints.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def answer(entries):
        print(json.dumps(entries), file=answers, flush=True)

    from trainers.cli import command

    with command.quiet_start():
        replace_parts(options, Watch(), answer)
    sys.argv = ["trainers.pretrain", *arguments]
    runpy.run_module("trainers.pretrain", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(Options(**json.loads(sys.argv[1])), sys.argv[2:])
