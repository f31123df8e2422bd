"""`trainers.pretrain` with clocks around its input: a process of `benchmarks.end_to_end`.

The script itself is run, on the command line that it is given here, with four things replaced:

- Each step of `model.fit` fetches its batch by itself, between two readings of the clock, and then
  trains on it; Keras has both in one graph. The difference is what the training loop waited.
- The monitors are one callback, which takes its orders from the standard input: after the first
  step it waits for a line, measures so many steps, answers, and waits again.
- Data that the benchmark has made are not kept in memory: they stand for more than fits.
- If the accelerator is simulated, a step sleeps instead of training. That takes no host core.

Whoever reads the answers decides when the run ends: with its standard input.
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
    """What a process is to watch.

    Attributes:
        cores: int, the host cores it may use; 0 for all.
        simulated: bool, whether a step is to sleep instead of training.
        from_memory: bool, whether the first batch is to be fed again and again.
        cache: bool, whether the source may keep decoded images, as in `trainers.pretrain`.
    """

    cores: int = 0
    simulated: bool = False
    from_memory: bool = False
    cache: bool = False


@dataclasses.dataclass(frozen=True)
class Order:
    """What to measure.

    Attributes:
        skip: int, steps to leave out first.
        steps: int, steps to measure, or more of them
        seconds: float, until so many seconds are over.
        asleep: float, seconds that a simulated step takes.
    """

    skip: int
    steps: int
    seconds: float = 0.0
    asleep: float = 0.0


@dataclasses.dataclass(frozen=True)
class Reading:
    """What was measured, over all steps: seconds, and CPU seconds of all cores.

    Attributes:
        steps: int.
        elapsed: float, from the end of the step before to the end of the last one.
        waited: float, for batches.
        asleep: float, in simulated steps.
        cpu: float, of this process.
    """

    steps: int
    elapsed: float
    waited: float
    asleep: float
    cpu: float


def pin(cores):
    """Confines this process to its first cores, where the system can; before TensorFlow starts."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


class Watch:
    """What the replaced parts have in common: the sums so far, and what a step is to sleep."""

    def __init__(self):
        self.waited = self.asleep = 0.0
        self.seconds = 0.0  # that the next steps sleep

    def fetch(self, batches):
        """Returns the next batch of an iterator."""
        started = time.perf_counter()
        batch = next(batches)
        self.waited += time.perf_counter() - started
        return batch

    def sleep(self):
        """Takes the time of a step."""
        started = time.perf_counter()
        time.sleep(self.seconds)
        self.asleep += time.perf_counter() - started

    def reading(self, steps=0):
        """The sums so far."""
        times = time.perf_counter(), self.waited, self.asleep, time.process_time()
        return Reading(steps, *times)

    def since(self, start, steps):
        """The sums since an earlier reading."""
        now, start = (dataclasses.asdict(reading) for reading in (self.reading(steps), start))
        return Reading(**{name: now[name] - start[name] for name in now})

    def course(self, orders, answer):
        """A generator to be resumed at the end of every step; follows one order after another."""
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
    """Puts what is described above into the trainer's modules."""
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
        """Lets the course of the measurement go on at the end of every step."""

        _course = None

        def on_train_batch_end(self, batch, logs=None):
            if self._course is None:
                device = tensorflow_device.gpu_name() or "CPU"
                answer({"device": device, "precision": keras.config.dtype_policy().name})
                self._course = watch.course(sys.stdin, answer)
            if next(self._course, "over") == "over":
                os._exit(0)  # nothing is to be kept, and to take a pipeline down may take long

    class Watched(pretraining.Pretraining.model_class):
        """The model, whose steps are watched, or slept through."""

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
    """Runs the trainer on these arguments until the standard input ends."""
    pin(options.cores)
    # What the trainer prints is not meant for the reader of the answers.
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
