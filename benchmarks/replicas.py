"""Both forms of the objective by number of replicas: `python -m benchmarks.replicas`.

Measures time and memory of a step, here only the objective and its gradient: without a strategy,
and on 1, 2 and 4 logical devices of this machine under MirroredStrategy. Each has its own process
and they take turns; `benchmarks.costs` gives the numbers beside the medians. Nothing else should be
running on the machine. Logical devices share its cores and memory: their times show the total
amount of work, and what they send one another is copied, not sent.

`--model` measures nothing: it prints by formula what many replicas send.
"""

import contextlib
import dataclasses
import functools
import itertools
import re
import statistics
import time
import typing

from benchmarks import costs
from benchmarks.costs import FORMS
from benchmarks.report import aligned, machine, peak_gib, spread
from benchmarks.turns import in_turns, own_process
from trainers.cli import command
from trainers.runs import fields

WIDTH = 8192  # d of the published model, for --model
PLAIN = 0  # in place of a number of replicas: no strategy
PARAMETERS = 23_508_032 + 151_027_712  # ResNet-50 without its classifier; 2048-8192-8192-8192
_MIB = 2**20
_MIB_PER_GIB = 2**10


class Setting(typing.NamedTuple):
    """A measurement: n images in all, embeddings of width d, replicas (or PLAIN), form."""

    n: int
    d: int
    replicas: int
    form: str


def prepare(replicas):
    """Divides the CPU into logical devices, one per replica.

    Returns:
        function (n, d) → the embeddings of both views, n/replicas rows on each device.
        function (za, zb, form) → one step on each device.
    """
    with command.quiet_start():
        import tensorflow as tf

        from keras_bt import strategy
        from keras_bt.objectives import barlow_twins as objective

    tf.config.set_visible_devices([], "GPU")
    cpu = tf.config.list_physical_devices("CPU")[0]
    devices = [tf.config.LogicalDeviceConfiguration()] * (replicas or 1)
    tf.config.set_logical_device_configuration(cpu, devices)
    chosen = tf.distribute.get_strategy()
    if replicas != PLAIN:
        chosen = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])

    def embeddings(n, d):
        def rows(context):
            seed = [context.replica_id_in_sync_group, 0]
            return tf.random.stateless_normal([n // context.num_replicas_in_sync, d], seed)

        return [chosen.experimental_distribute_values_from_function(rows) for _ in range(2)]

    def share_and_gradient(za, zb, form):
        with tf.GradientTape() as tape:
            tape.watch([za, zb])
            terms = objective.barlow_twins_terms(za, zb, form, strategy.current_replicas())
            share = terms[0] + 5.1e-3 * terms[1]
        return share, *tape.gradient(share, [za, zb])

    def on_all(za, zb, form):
        return chosen.run(share_and_gradient, (za, zb, form))

    return embeddings, tf.function(share_and_gradient if replicas == PLAIN else on_all)


@functools.cache
def ready(setting):
    """Returns a function that takes one step, traced, and the peak GiB before its trace."""
    embeddings, step = prepare(setting.replicas)
    step(*embeddings(8, 8), setting.form)  # for what TensorFlow allocates once
    inputs = embeddings(setting.n, setting.d)
    start = peak_gib()
    step(*inputs, setting.form)
    return lambda: step(*inputs, setting.form), start


def measure(setting, steps):
    """Returns seconds, CPU seconds of all cores, and MiB beyond the inputs."""
    step, start = ready(setting)
    seconds, cpu_started = [], time.process_time()
    for _ in range(steps):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    cpu = (time.process_time() - cpu_started) / steps
    return statistics.median(seconds), cpu, _MIB_PER_GIB * (peak_gib() - start)


def measured(settings, rounds, steps):
    """Measures; returns a dict from setting to (seconds, CPU seconds, MiB) of each round."""
    with contextlib.ExitStack() as stack:
        turns = {
            setting: functools.partial(stack.enter_context(own_process()), measure, setting, steps)
            for setting in settings
        }
        in_turns(turns, 1)  # starts one after the other
        return in_turns(turns, rounds)


def measured_rows(results):
    """Formats the table's rows, one per setting."""
    rows = []
    for setting, values in results.items():
        replicas = setting.replicas or 1
        cost = costs.objective_cost(setting.n, setting.d, replicas, setting.form)
        choice = costs.chosen_form(setting.n, setting.d)
        seconds, cpu, mib = zip(*values, strict=True)
        rows.append(
            [
                f"{setting.n} × {setting.d}",
                "none" if setting.replicas == PLAIN else str(replicas),
                setting.form + " *" * (setting.form == choice),
                spread([1000 * x for x in seconds], digits=0),
                f"{1000 * statistics.median(cpu):.0f}",
                f"{max(mib):.0f}",
                f"{replicas * cost.memory / _MIB:.0f}",
                f"{(cost.forward + cost.backward) / 1e9:.2f}",
                f"{cost.sent / 1e6:.2f}",
            ]
        )
    return rows


def model_table(batch_size, replicas, bandwidth):
    """Formats a row per number of replicas; `batch_size` is a function of that number.

    Every replica sends `bandwidth` GB/s.
    """
    rows = []
    for count in replicas:
        n = batch_size(count)
        sent = [costs.objective_cost(n, WIDTH, count, form).sent for form in FORMS]
        sent.append(costs.summed(PARAMETERS, count))
        texts = [f"{x / 1e6:.1f} ({x / bandwidth / 1e6:.1f})" for x in sent]
        rows.append([str(count), str(n), *texts, costs.chosen_form(n, WIDTH)])
    return aligned(["replicas", "n", *FORMS, "gradients", "auto"], rows)


def print_model(args):
    print(
        f"Megabytes that each replica sends per step, and in parentheses milliseconds at "
        f"{args.bandwidth:g} GB/s; d = {WIDTH}, {PARAMETERS:,} parameters, float32"
    )
    for batch_size in (lambda count: 2048, lambda count: 16 * count):
        print("\n" + model_table(batch_size, args.model_replicas, args.bandwidth))


def settings_for(size, counts):
    """Returns the settings of a size "NxD": the counts of replicas, and without a strategy."""
    if not re.fullmatch("[1-9][0-9]{0,8}x[1-9][0-9]{0,8}", size):
        raise ValueError(f"--sizes must be NxD, two whole numbers each. Received: {size}.")
    n, d = size.split("x")
    for count in counts:
        if int(n) % count:
            raise ValueError(
                "Replicas must divide the global batch evenly. "
                f"Received: {n} images, {count} replicas."
            )
    return [Setting(int(n), int(d), *rest) for rest in itertools.product([PLAIN, *counts], FORMS)]


def print_measured(args):
    sizes = [settings_for(size, args.counts) for size in args.sizes]
    print(machine())
    print(
        f"ms: median of {args.rounds} rounds (min–max). CPU ms: all cores. MiB: all replicas, "
        "beyond their inputs. *: what auto chooses\n",
        flush=True,
    )
    results = {}
    for settings in sizes:  # one size at a time, to need less memory
        results |= measured(settings, args.rounds, args.steps)
    header = ["n × d", "replicas", "form", "ms per step", "CPU ms", "MiB", "MiB by formula"]
    header += ["GFLOP per replica", "MB sent per replica"]
    print(aligned(header, measured_rows(results)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplicasSettings(fields.Settings):
    """The flags."""

    sizes: tuple[str, ...] = fields.setting(
        ("256x4096", "4096x1024"), "Sizes to measure, NxD: global batch and width."
    )
    counts: tuple[int, ...] = fields.setting(
        (1, 2, 4), "Numbers of replicas under MirroredStrategy.", least=1, most=1024
    )
    rounds: int = fields.setting(3, "Measurements of each setting.", least=1)
    steps: int = fields.setting(3, "Steps per measurement; their median counts.", least=1)
    model: bool = fields.setting(False, "Print the communication by formula instead of measuring.")
    model_replicas: tuple[int, ...] = fields.setting(
        (8, 16, 32, 64, 128, 256), "Numbers of replicas, for --model.", least=1
    )
    bandwidth: float = fields.setting(
        25.0, "Bandwidth of a replica in GB/s, for --model.", least=0.001
    )

    def __post_init__(self):
        super().__post_init__()
        for size in () if self.model else self.sizes:
            settings_for(size, self.counts)


def measure_or_model(args):
    """Measures or models, and prints."""
    if args.model:
        print_model(args)
    else:
        print_measured(args)


def main():
    """Runs the command."""
    command.run(measure_or_model, ReplicasSettings)


if __name__ == "__main__":
    main()
