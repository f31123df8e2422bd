"""Both forms of the objective by number of replicas: `python -m benchmarks.replicas`.

Time and memory of a step, which is the objective and its gradient alone: without a strategy, and on
1, 2 and 4 logical devices of this machine under MirroredStrategy. Each has a process of its own and
they take turns; beside the medians stands what `keras_bt.objectives.costs` says. Nothing else
should be running on the machine. Logical devices share its cores and its memory: their times tell
how much work there is in all, and what they send one another is copied, not sent.

`--model` measures nothing: it prints by formula what many replicas send.
"""

import contextlib
import dataclasses
import itertools
import statistics
import time

from absl import app, flags, logging

from benchmarks.knn import machine, peak_gib
from benchmarks.turns import answer_turns, taking_turns
from trainers.cli import command

FORMS = ("correlation", "gram")
PLAIN = 0  # in place of a number of replicas: no strategy
PARAMETERS = 23_508_032 + 151_027_712  # ResNet-50 without its classifier; 2048-8192-8192-8192
_MIB = 2**20
_MIB_PER_GIB = 2**10


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is measured: n images in all, embeddings of width d, replicas (or PLAIN), form."""

    n: int
    d: int
    replicas: int
    form: str


def prepare(replicas):
    """Divides the processor into so many logical devices.

    Returns:
        function (n, d) → the embeddings of both views, n/replicas rows on each.
        function (za, zb, form) → one step on each.
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


def measure(setting, steps):
    """Answers turns with seconds, those of all cores, and MiB beside the inputs.

    The first turn is answered when everything is ready, and means nothing.
    """
    embeddings, step = prepare(setting.replicas)
    step(*embeddings(8, 8), setting.form)  # what TensorFlow allocates once
    inputs = embeddings(setting.n, setting.d)
    start = peak_gib()
    step(*inputs, setting.form)  # traces

    def turn(_):
        seconds, cpu_started = [], time.process_time()
        for _ in range(steps):
            started = time.perf_counter()
            step(*inputs, setting.form)
            seconds.append(time.perf_counter() - started)
        cpu = (time.process_time() - cpu_started) / steps
        return statistics.median(seconds), cpu, _MIB_PER_GIB * (peak_gib() - start)

    answer_turns(turn)


def started(setting, steps):
    """Starts `measure` in a process; gives a function that has it measure once."""
    arguments = [f"--{name}={value}" for name, value in dataclasses.asdict(setting).items()]
    return taking_turns("benchmarks.replicas", ["--child", f"--steps={steps}", *arguments])


def measured(settings, rounds, steps):
    """Dict from setting to a list of (seconds, CPU seconds, MiB), one per round."""
    with contextlib.ExitStack() as stack:
        turns = {}
        for setting in settings:
            turns[setting] = stack.enter_context(started(setting, steps))
            turns[setting]()  # waits, so that they do not start all at once
        results = {setting: [] for setting in settings}
        for _, setting in itertools.product(range(rounds), settings):
            results[setting].append(turns[setting]())
    return results


def formulas():
    """`keras_bt.objectives.costs`."""
    with command.quiet_start():  # the package brings TensorFlow along
        from keras_bt.objectives import costs
    return costs


def measured_rows(results):
    """Rows of numbers as text, one per setting."""
    costs, rows = formulas(), []
    for setting, values in results.items():
        replicas = setting.replicas or 1
        cost = costs.objective_cost(setting.n, setting.d, replicas, setting.form)
        choice = costs.cheaper_form(setting.n, setting.d, replicas)
        seconds, cpu, mib = zip(*values, strict=True)
        least, most = 1000 * min(seconds), 1000 * max(seconds)
        rows.append(
            [
                f"{setting.n} × {setting.d}",
                "none" if setting.replicas == PLAIN else str(replicas),
                setting.form + " *" * (setting.form == choice),
                f"{1000 * statistics.median(seconds):.0f} ({least:.0f}–{most:.0f})",
                f"{1000 * statistics.median(cpu):.0f}",
                f"{max(mib):.0f}",
                f"{replicas * cost.memory / _MIB:.0f}",
                f"{cost.work / 1e9:.2f}",
                f"{cost.sent / 1e6:.2f}",
            ]
        )
    return rows


def model_rows(batch_size, d, replicas, parameters, bandwidth):
    """Rows for numbers of replicas; `bandwidth` in GB/s, `batch_size` a function of replicas."""
    costs, rows = formulas(), []
    for count in replicas:
        n = batch_size(count)
        sent = [costs.objective_cost(n, d, count, form).sent for form in FORMS]
        sent.append(costs.summed(parameters, count))
        rows.append(
            [
                str(count),
                str(n),
                *(f"{x / 1e6:.1f} ({x / bandwidth / 1e6:.1f})" for x in sent),
                costs.cheaper_form(n, d, count),
            ]
        )
    return rows


def aligned(header, rows):
    """A Markdown table whose columns are aligned in a terminal as well."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * (width - 1) + ":" for width in widths], *rows]
    return "\n".join(
        f"| {' | '.join(x.rjust(width) for x, width in zip(line, widths, strict=True))} |"
        for line in lines
    )


def print_model(args):
    print(
        f"Megabytes that each replica sends per step, and in parentheses milliseconds at "
        f"{args.bandwidth:g} GB/s; d = {args.model_width}, {args.parameters:,} parameters, float32"
    )
    header = ["replicas", "n", *FORMS, "gradients", "auto"]
    counts = [int(count) for count in args.model_replicas]
    for batch_size in (lambda count: args.model_batch, lambda count: 16 * count):
        rows = model_rows(batch_size, args.model_width, counts, args.parameters, args.bandwidth)
        print()
        print(aligned(header, rows))


def settings_for(size, counts):
    """What is to be measured at a size "NxD"; counts of replicas, and without a strategy."""
    n, cross, d = size.partition("x")
    if not (cross and n.isdecimal() and d.isdecimal()):
        raise ValueError(f"A size must be NxD, two whole numbers. Received: {size}.")
    for count in counts:
        if count < 1 or int(n) % count:
            raise ValueError(
                "Replicas must divide the global batch evenly. "
                f"Received: {n} images, {count} replicas."
            )
    return [Setting(int(n), int(d), *rest) for rest in itertools.product([PLAIN, *counts], FORMS)]


def print_measured(args):
    with command.mistakes:
        counts = [int(count) for count in args.counts]
        sizes = [settings_for(size, counts) for size in args.sizes]
    print(machine())
    print(
        f"ms: median of {args.rounds} rounds (least–greatest). CPU ms: of all cores. MiB: of all "
        "replicas, beside their inputs. * what auto chooses\n",
        flush=True,
    )
    results = {}
    for settings in sizes:  # these alone at once, to need less memory
        results |= measured(settings, args.rounds, args.steps)
    rows = measured_rows(results)
    header = ["n × d", "replicas", "form", "ms per step", "CPU ms", "MiB", "MiB by formula"]
    print(aligned([*header, "GFLOP per replica", "MB sent per replica"], rows))


def main(_):
    """Measures, or models, and prints."""
    args = flags.FLAGS
    logging.set_verbosity(logging.WARNING)
    if args.child:
        measure(Setting(args.n, args.d, args.replicas, args.form), args.steps)
    elif args.model:
        print_model(args)
    else:
        print_measured(args)


if __name__ == "__main__":
    flags.DEFINE_list("sizes", ["256x4096", "4096x1024"], "Global batch n x width d to measure.")
    flags.DEFINE_list("counts", ["1", "2", "4"], "Numbers of replicas under MirroredStrategy.")
    flags.DEFINE_integer("rounds", 3, "Measurements of each.", 1)
    flags.DEFINE_integer("steps", 3, "Steps in a measurement, whose median counts.", 1)
    flags.DEFINE_bool("model", False, "Print the formulas' communication instead of measuring.")
    flags.DEFINE_list("model_replicas", ["8", "16", "32", "64", "128", "256"], "For --model.")
    flags.DEFINE_integer("model_batch", 2048, "Global batch of the first table of --model.", 2)
    flags.DEFINE_integer("model_width", 8192, "Width d, for --model.", 1)
    flags.DEFINE_integer("parameters", PARAMETERS, "Trained numbers of the model, for --model.", 0)
    flags.DEFINE_float("bandwidth", 25.0, "GB/s that a replica sends, for --model.", 0.001)
    flags.DEFINE_bool("child", False, "Set by the benchmark itself, for one process.")
    flags.DEFINE_integer("n", 2, "Set by the benchmark itself.")
    flags.DEFINE_integer("d", 1, "Set by the benchmark itself.")
    flags.DEFINE_integer("replicas", 1, "Set by the benchmark itself.")
    flags.DEFINE_enum("form", FORMS[0], FORMS, "Set by the benchmark itself.")
    app.run(main)
