"""How time and memory grow: `python -m benchmarks.growth --out growth.png`.

They grow with the batch n and the width d in both forms of the objective (loss and gradients); with
the image side and the batch in a whole training step of a small ResNet-18; and with the number of
replicas, which are logical devices of this machine and share its cores. Over each range, a power
law y = a·x^b is fitted by least squares in the logarithms. The expected exponent beside the
measured one is fitted in the same way to counts: the operations and bytes of
`keras_bt.objectives.costs` for the objective, pixels for the step. Nothing else should be running
on the machine.
"""

import dataclasses

import numpy as np
from absl import app, flags, logging

from benchmarks import objective, replicas
from benchmarks.input_pipeline import available_cores
from benchmarks.knn import machine
from benchmarks.objective import REDUNDANCY_WEIGHT, TensorFlow
from benchmarks.turns import answer_turns
from trainers.cli import command

QUANTITIES = ("time", "memory")
STEP = "step"
_MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Series:
    """Time and memory as functions of one variable.

    Attributes:
        variable: Name of x.
        name: Name of what is measured.
        x: The values of the variable.
        measured: dict from "time" (seconds) and "memory" (bytes) to one number per x.
        counted: The same for what is expected, in arbitrary units.
    """

    variable: str
    name: str
    x: list
    measured: dict
    counted: dict


class TrainStep(TensorFlow):
    """A training step of a quarter-width ResNet-18, on one batch of square images."""

    def __init__(self, threads, tf32):
        super().__init__(threads, tf32)
        import keras_bt

        backbone = keras_bt.resnet(18, "small", 16, input_shape=(None, None, 3))
        projector = keras_bt.projector((256, 256), input_dim=128)
        self._twins = keras_bt.BarlowTwins(backbone, projector, REDUNDANCY_WEIGHT)
        self._twins.compile(keras_bt.LARS(0.1))
        self._twins.optimizer.build(self._twins.trainable_variables)

    def steps(self, batch_size, image_size):
        """Returns, by the only form, a function that takes a step and returns the loss."""
        tf, shape = self._tf, (batch_size, image_size, image_size, 3)
        views = [tf.random.stateless_normal(shape, [0, seed]) for seed in range(2)]
        step = tf.function(lambda *views: self._twins.train_step(views)["loss"])
        return {STEP: lambda: step(*views)}


def exponent(x, y):
    """Returns the b of the power law a·x^b fitted to y by least squares in the logarithms.

    NaN if a y is not positive: allocators report 0 for what is too small for them.
    """
    return float(np.polyfit(np.log(x), np.log(y), 1)[0]) if min(y) > 0 else float("nan")


def objective_series(turn, variable, x, fixed, form):
    """Measures the objective for every x; `variable` is "n" or "d", `fixed` is the other one."""
    other = {"n": "d", "d": "n"}[variable]
    sizes = [{variable: value, other: fixed} for value in x]
    costs = [replicas.formulas().objective_cost(**size, replicas=1, form=form) for size in sizes]
    answers = [turn(**size, form=form) for size in sizes]
    return Series(
        {"n": "batch n", "d": "width d"}[variable],
        f"{form}, {other} = {fixed}",
        x,
        _measured(answers),
        {"time": [cost.work for cost in costs], "memory": [cost.memory for cost in costs]},
    )


def step_series(turn, variable, x, fixed):
    """Measures the training step for every x, which is the image side or the batch."""
    sides = variable == "image side"
    sizes = [(fixed, value) if sides else (value, fixed) for value in x]
    answers = [turn(n=n, d=side, form=STEP) for n, side in sizes]
    pixels = [n * side**2 for n, side in sizes]
    name = f"training step, {f'batch {fixed}' if sides else f'{fixed} × {fixed}'}"
    return Series(variable, name, x, _measured(answers), dict.fromkeys(QUANTITIES, pixels))


def _measured(answers):
    return {
        "time": [answer["seconds"] for answer in answers],
        "memory": [answer["memory"] for answer in answers],
    }


def replica_series(counts, n, d, form, rounds):
    """Measures the objective on these numbers of logical devices: CPU time and memory of all."""
    settings = [replicas.Setting(n, d, count, form) for count in counts]
    results = replicas.measured(settings, rounds, steps=3)
    costs = {count: replicas.formulas().objective_cost(n, d, count, form) for count in counts}
    return Series(
        "replicas",
        f"{form}, n = {n}, d = {d}",
        counts,
        {
            "time": [min(cpu for _, cpu, _ in results[s]) for s in settings],
            "memory": [max(mib for *_, mib in results[s]) * _MIB for s in settings],
        },
        {
            "time": [count * cost.work for count, cost in costs.items()],
            "memory": [count * cost.memory for count, cost in costs.items()],
        },
    )


def rows(series):
    """Formats the rows of the table."""
    found = []
    for one in series:
        for quantity in QUANTITIES:
            y, unit = one.measured[quantity], {"time": 1e-3, "memory": _MIB}[quantity]
            measured = exponent(one.x, y)
            expected = exponent(one.x, one.counted[quantity])
            found.append(
                [
                    one.variable,
                    f"{one.x[0]}–{one.x[-1]}",
                    one.name,
                    {"time": "ms", "memory": "MiB"}[quantity],
                    f"{y[0] / unit:.3g}–{y[-1] / unit:.3g}",
                    _shown(measured),
                    _shown(expected),
                ]
            )
    return found


def picture(series):
    """Draws a figure with a column of panels per variable: time above, memory below."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

    from keras_bt.plots import figures

    variables = list(dict.fromkeys(one.variable for one in series))
    columns = len(variables)
    figure, panels = figures.new(3.4 * columns, 7.5, 2, columns)
    for index, panel in enumerate(panels):
        quantity, variable = QUANTITIES[index // columns], variables[index % columns]
        unit = {"time": 1e-3, "memory": _MIB}[quantity]
        shown = [one for one in series if one.variable == variable]
        for number, one in enumerate(shown):
            x, y = np.array(one.x), np.array(one.measured[quantity]) / unit
            if min(y) <= 0:
                continue
            color = figures.COLORS[number]
            slopes = exponent(x, y), exponent(x, one.counted[quantity])
            center = np.exp(np.mean(np.log(x))), np.exp(np.mean(np.log(y)))
            label = f"{one.name}\n{_shown(slopes[0])}, expected {_shown(slopes[1])}"
            panel.plot(x, y, figures.MARKS[number], color=color, markersize=6, label=label)
            for slope, style in zip(slopes, ("-", "--"), strict=True):
                panel.plot(x, center[1] * (x / center[0]) ** slope, style, color=color, lw=1.3)
        panel.set_xlabel(variable)
        panel.set_xscale("log")
        if not panel.lines:
            continue
        panel.set_yscale("log")
        low, high = panel.get_ylim()
        panel.set_ylim(low, high * (high / low) ** 0.45)  # room for the legend
        ticks = sorted({value for one in shown for value in one.x})
        panel.xaxis.set_major_locator(FixedLocator(ticks))
        panel.xaxis.set_major_formatter(FuncFormatter(_short))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.xaxis.set_minor_locator(FixedLocator([]))
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.grid(alpha=0.25)
        if index % columns == 0:
            panel.set_ylabel({"time": "milliseconds", "memory": "peak MiB"}[quantity])
        if variable == "replicas":
            panel.set_title({"time": "all cores together", "memory": "all replicas"}[quantity])
        figures.legend(panel, loc="upper left", fontsize=8, frameon=False)
    figure.suptitle("Measured points, fitted powers (lines), expected slopes (dashed)")
    return figure


def _shown(slope):
    return f"{round(slope, 2) + 0:.2f}"  # never -0.00


def _short(value, _):
    return f"{value / 1024:g}k" if value >= 1024 else f"{value:g}"


def measured(args):
    """Measures all series."""
    sizes = [[int(x) for x in xs] for xs in (args.n, args.d, args.sides, args.batches, args.counts)]
    batches, widths, sides, step_batches, counts = sizes
    series, start = [], (args.threads, False)
    with objective.started("TensorFlow", *start) as (turn, _):
        for variable, x, fixed in (("n", batches, args.fixed_d), ("d", widths, args.fixed_n)):
            for form in replicas.FORMS:
                series.append(objective_series(turn, variable, x, fixed, form))
    with objective.started(STEP, *start, module="benchmarks.growth") as (turn, _):
        series.append(step_series(turn, "image side", sides, args.step_batch))
        series.append(step_series(turn, "batch of the step", step_batches, args.side))
    for form in replicas.FORMS:
        series.append(replica_series(counts, args.replicas_n, args.replicas_d, form, args.rounds))
    return series


def check(args):
    """Raises ValueError unless every range can be measured and fitted."""
    for name in ("n", "d", "sides", "batches", "counts"):
        values = getattr(args, name)
        if len(values) < 2 or not all(x.isdecimal() and int(x) > 0 for x in values):
            raise ValueError(f"{name} must be two whole numbers or more. Received: {values}.")
    for count in args.counts:
        if args.replicas_n % int(count):
            raise ValueError(
                "Replicas must divide the batch evenly. "
                f"Received: {args.replicas_n} images, {count} replicas."
            )


def main(_):
    """Measures, prints and draws."""
    args = flags.FLAGS
    logging.set_verbosity(logging.WARNING)
    if args.child:
        answer_turns(objective.answers(TrainStep(args.threads, args.tf32)))
        return
    with command.mistakes:
        check(args)
    print(machine())
    print(f"{args.threads} threads; float32\n", flush=True)
    series = measured(args)
    header = ["grows with", "from–to", "what", "unit", "first–last", "exponent", "expected"]
    print(replicas.aligned(header, rows(series)))
    if args.out:
        from keras_bt.plots import figures

        figures.save(picture(series), args.out)
        print(f"\nPicture: {args.out}")


if __name__ == "__main__":
    flags.DEFINE_list("n", ["256", "512", "1024", "2048", "4096"], "Batches of the objective.")
    flags.DEFINE_integer("fixed_d", 2048, "Width of the objective while its batch varies.", 2)
    flags.DEFINE_list("d", ["512", "1024", "2048", "4096", "8192"], "Widths of the objective.")
    flags.DEFINE_integer("fixed_n", 512, "Batch of the objective while its width varies.", 2)
    flags.DEFINE_list("sides", ["32", "48", "64", "96"], "Image sides of the training step.")
    flags.DEFINE_integer("step_batch", 16, "Batch of the training step while the side varies.", 2)
    flags.DEFINE_list("batches", ["16", "32", "64", "128"], "Batches of the training step.")
    flags.DEFINE_integer("side", 32, "Image side of the training step while its batch varies.", 16)
    flags.DEFINE_list("counts", ["1", "2", "4", "8"], "Numbers of replicas.")
    flags.DEFINE_integer("replicas_n", 512, "Global batch while the number of replicas varies.", 2)
    flags.DEFINE_integer("replicas_d", 2048, "Width while the number of replicas varies.", 2)
    flags.DEFINE_integer("rounds", 3, "Measurements of each number of replicas.", 1)
    flags.DEFINE_string("out", None, "PNG file for the picture. Default: none.")
    flags.DEFINE_integer("threads", available_cores(), "Threads of TensorFlow on the CPU.", 1)
    flags.DEFINE_bool("tf32", False, "Set by the benchmark itself.")
    flags.DEFINE_enum("child", None, [STEP], "Set by the benchmark itself.")
    app.run(main)
