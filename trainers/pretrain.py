"""Pretrains a backbone with Barlow Twins: python -m trainers.pretrain --data=SOURCE --workdir=DIR.

Without flags: on scikit-learn's handwritten digits, on a CPU, in about two minutes. Run again with
the same flags, it continues where it stopped. Recipes: --flagfile=trainers/recipes/NAME.flags.
"""

import contextlib
import re
import time

from absl import flags

from trainers.cli import command

FLAGS = flags.FLAGS

flags.DEFINE_string(
    "data",
    "digits",
    "What to train on: digits, idx:DIR (MNIST-style files), folder:DIR (image files) or "
    "tfds:NAME[:SPLIT]. After heldout: a part of the training images takes the test images' place.",
)
flags.DEFINE_string("data_dir", None, "Where the data sets of tfds lie.")
flags.DEFINE_string("workdir", None, "Folder of the run. Default: runs/ and the name of the data.")

flags.DEFINE_string(
    "backbone", "resnet18", "resnet18, 34, 50, 101 or 152; or a .keras file, images → vectors."
)
flags.DEFINE_enum("stem", "small", ["imagenet", "small"], "Stem of the ResNet.")
flags.DEFINE_integer("width", 16, "Channels of the ResNet's first stage.", lower_bound=1)
flags.DEFINE_string("projector", "512-512-512", "Widths of the projector's layers.")
flags.DEFINE_integer("image_size", 32, "Side of the views in pixels.", lower_bound=1)

flags.DEFINE_integer("epochs", 100, "Epochs in all.", lower_bound=1)
flags.DEFINE_integer("batch_size", 256, "Images per step, on all replicas together.", lower_bound=2)
flags.DEFINE_float("redundancy_weight", 0.0051, "λ of the objective.")
flags.DEFINE_enum("form", "auto", ["auto", "correlation", "gram"], "Form of the objective.")
flags.DEFINE_float("rate", 0.2, "Highest rate of kernels per 256 images of a batch.")
flags.DEFINE_float("bias_rate_ratio", 0.024, "Rate of vectors over that of kernels.", 0)
flags.DEFINE_float("weight_decay", 1e-6, "Weight decay of kernels.", 0)
flags.DEFINE_float(
    "warmup_epochs", None, "Epochs of linear warm-up. Default: a tenth of all, at most 10.", 0
)

flags.DEFINE_float("min_area", 0.08, "Least part of an image that a crop takes.", 0, 1)
flags.DEFINE_float("flip", 0.5, "Probability of mirroring left to right.", 0, 1)
flags.DEFINE_float("jitter", 0.8, "Probability of the color jitter.", 0, 1)
flags.DEFINE_float("brightness", 0.4, "Strength in the color jitter.", 0)
flags.DEFINE_float("contrast", 0.4, "Strength in the color jitter.", 0)
flags.DEFINE_float("saturation", 0.2, "Strength in the color jitter.", 0)
flags.DEFINE_float("hue", 0.1, "Strength in the color jitter.", 0, 0.5)
flags.DEFINE_float("grayscale", 0.2, "Probability of losing the colors.", 0, 1)
flags.DEFINE_float("blur_a", 1.0, "Probability of blurring view A.", 0, 1)
flags.DEFINE_float("blur_b", 0.1, "Probability of blurring view B.", 0, 1)
flags.DEFINE_float("blur_sigma", 2.0, "Greatest deviation of the blur in pixels (least: 0.1).", 0.1)
flags.DEFINE_float("solarize_a", 0.0, "Probability of solarizing view A.", 0, 1)
flags.DEFINE_float("solarize_b", 0.2, "Probability of solarizing view B.", 0, 1)
flags.DEFINE_float("rotation", 0.0, "Greatest turn in degrees (not in the paper).", 0)
flags.DEFINE_float("shear", 0.0, "Greatest slant in degrees (not in the paper).", 0, 89)

flags.DEFINE_enum(
    "augment_on",
    "host",
    ["host", "device"],
    "Where views are made: on the host, or (all but decoding and cropping) on the device that "
    "trains.",
)
flags.DEFINE_bool(
    "compile_views",
    None,
    "Whether XLA compiles the views on the host. Default: from 64 × 64 pixels on.",
)
flags.DEFINE_enum(
    "strategy",
    "auto",
    ["auto", "one", "mirrored", "multiworker", "tpu"],
    "Devices to train on: one, all of this machine, those of every worker that TF_CONFIG or SLURM "
    "names, a TPU; or what there is.",
)
flags.DEFINE_enum("precision", "float32", ["float32", "bfloat16", "float16"], "Of the network.")
flags.DEFINE_bool(
    "remat",
    False,
    "Whether to compute activations of the backbone again in the backward pass instead of keeping "
    "them: more images fit into memory, a step takes about a third longer.",
)
flags.DEFINE_enum(
    "on_nonfinite",
    "stop",
    ["stop", "skip"],
    "What to do about a step whose loss or gradient is not finite: end the run, or leave the step "
    "out and count it.",
)
flags.DEFINE_integer("seed", 0, "Of weights, order and views.", 0, 2**31 - 1)
flags.DEFINE_bool(
    "deterministic",
    None,
    "Whether two runs with one seed agree to the last bit. Default: on CPUs, where all it costs is "
    "that image files are decoded one at a time.",
)
flags.DEFINE_integer("steps_per_execution", 1, "Steps between looks at the metrics.", lower_bound=1)
flags.DEFINE_integer("log_every", 10, "Steps between lines of metrics.jsonl.", lower_bound=1)
flags.DEFINE_integer("checkpoint_every", 1, "Epochs between checkpoints.", lower_bound=1)
flags.DEFINE_float(
    "checkpoint_minutes", 5.0, "Minutes after which one is written within an epoch too.", 0
)
flags.DEFINE_integer(
    "monitor_every",
    1,
    "Epochs between looks at the health of the representation, and at its accuracy where there "
    "are labels; 0 for none.",
    lower_bound=0,
)
flags.DEFINE_integer(
    "monitor_images",
    5000,
    "Labeled training images for the accuracy while training; 0 for none.",
    lower_bound=0,
)
flags.DEFINE_bool("evaluate", True, "Whether to measure the backbone at the end.")

# What may differ when a run is continued: it changes where and how, not what is computed.
FREE = {"workdir", "data_dir", "strategy", "steps_per_execution", "log_every", "checkpoint_every"}
FREE |= {"deterministic", "evaluate", "monitor_every", "monitor_images"}
FREE |= {"checkpoint_minutes", "on_nonfinite", "remat"}


def main(pretraining_class=None):
    """Trains, evaluates and writes everything into the workdir.

    Args:
        pretraining_class: function that returns a subclass of
            `trainers.runs.pretraining.Pretraining` to be used instead of it, called when
            TensorFlow may be imported.
    """
    started = time.time()
    # Imported when the flags are known to be right: TensorFlow takes seconds.
    with command.quiet_start():
        import keras

        from keras_bt import data, workdir
        from keras_bt.strategy import choose_strategy, lost_workers_reported, worker_number
        from trainers.runs import monitors, pretraining, running, skipped_images

    with command.mistakes, contextlib.ExitStack() as held:
        settings = read_settings()
        run = workdir.Workdir(FLAGS.workdir or default_workdir())
        run.check(settings)
        if running.is_finished(run):
            return
        running.make_deterministic(FLAGS.deterministic, FLAGS.strategy)
        strategy = choose_strategy(FLAGS.strategy)
        held.enter_context(lost_workers_reported(strategy))
        train, test = data.open_source(FLAGS.data, FLAGS.data_dir)
        precision = "float32" if FLAGS.precision == "float32" else f"mixed_{FLAGS.precision}"
        keras.config.set_dtype_policy(precision)
        new = pretraining_class() if pretraining_class else pretraining.Pretraining
        job = new(settings, train, test, strategy, run, FLAGS.on_nonfinite, FLAGS.remat)
        if job.leads:
            held.enter_context(run.claimed(settings))
        steps = job.restore(FLAGS.checkpoint_every, FLAGS.checkpoint_minutes)
        print(job.description())

        with skipped_images.noted(run.path, *job.sources, worker=worker_number(strategy)):
            watching = monitors.monitors(job, FLAGS.monitor_every, FLAGS.monitor_images)
            with job.interruption.watched():
                job.fit(steps, FLAGS.log_every, FLAGS.steps_per_execution, watching)
        job.wait_for_the_others()
        if job.leads:
            with skipped_images.noted(run.path, *job.sources):
                print(job.finish(FLAGS.evaluate, started))
        job.wait_for_the_others()


def read_settings():
    """The flags that determine the run, as JSON values."""
    module = FLAGS.find_module_defining_flag("redundancy_weight")  # its name depends on the caller
    names = {flag.name for flag in FLAGS.flags_by_module_dict()[module]} - FREE
    settings = {name: FLAGS[name].value for name in sorted(names)}
    if FLAGS.warmup_epochs is None:
        settings["warmup_epochs"] = min(10.0, FLAGS.epochs / 10)
    for name in ("redundancy_weight", "rate"):
        if not 0 < settings[name] < float("inf"):
            raise ValueError(f"{name} must be a number > 0. Received: --{name}={settings[name]}")
    if not re.fullmatch(r"[1-9]\d*(-[1-9]\d*)*", FLAGS.projector):
        raise ValueError(
            f"projector must be widths such as 8192-8192-8192. Received: {FLAGS.projector}"
        )
    if settings["warmup_epochs"] >= FLAGS.epochs:
        raise ValueError(
            "warmup_epochs must be less than epochs. "
            f"Received: --warmup_epochs={FLAGS.warmup_epochs}, --epochs={FLAGS.epochs}"
        )
    return settings


def default_workdir():
    """A folder below runs/, named after the data."""
    return "runs/" + re.sub(r"[^\w.-]+", "_", FLAGS.data).strip("_")


def default_recipe(arguments):
    """Digits have their recipe by default; other data the flags' defaults, sized for a laptop."""
    given = [a.split("=", 1)[1] for a in arguments if re.match("--?data=", a)]
    return "digits" if given in ([], ["digits"]) else None


if __name__ == "__main__":
    command.run(main, default_recipe)
