"""Pretrains a backbone with Barlow Twins: python -m trainers.pretrain --data=SOURCE --workdir=DIR.

Without flags it pretrains on scikit-learn's handwritten digits, which takes about two minutes on a
CPU. The same command continues an interrupted run. Recipes: --flagfile=trainers/recipes/NAME.flags.
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
    "Images to train on: digits, idx:DIR (MNIST-style files), folder:DIR (image files) or "
    "tfds:NAME[:SPLIT]. The prefix heldout: sets part of the training images aside to serve as the "
    "test images.",
)
flags.DEFINE_string("data_dir", None, "Folder where tfds keeps its data sets. Default: tfds's own.")
flags.DEFINE_string(
    "workdir", None, "Folder of the run. Default: a folder in runs/ named after the data."
)

flags.DEFINE_string(
    "backbone",
    "resnet18",
    "Network to pretrain: resnet18, resnet34, resnet50, resnet101, resnet152, or a .keras file of "
    "a model from images to vectors.",
)
flags.DEFINE_enum(
    "stem",
    "small",
    ["imagenet", "small"],
    "Stem of the ResNet: imagenet, or small for images of about 32 pixels.",
)
flags.DEFINE_integer("width", 16, "Channels of the ResNet's first stage.", lower_bound=1)
flags.DEFINE_string(
    "projector", "512-512-512", "Widths of the projector's layers, joined by hyphens."
)
flags.DEFINE_integer("image_size", 32, "Side of the square views in pixels.", lower_bound=1)

flags.DEFINE_integer("epochs", 100, "Total number of training epochs.", lower_bound=1)
flags.DEFINE_integer(
    "batch_size", 256, "Images per step, over all replicas together.", lower_bound=2
)
flags.DEFINE_float("redundancy_weight", 0.0051, "Weight λ of the objective's redundancy term.")
flags.DEFINE_enum(
    "form",
    "auto",
    ["auto", "correlation", "gram"],
    "Matrix that the objective is computed from: the d × d cross-correlation, n × n Gram matrices, "
    "or whichever is cheaper.",
)
flags.DEFINE_float("rate", 0.2, "Peak learning rate of kernels per 256 images of a batch.")
flags.DEFINE_float(
    "bias_rate_ratio",
    0.024,
    "Learning rate of biases and BatchNormalization's vectors relative to that of kernels.",
    0,
)
flags.DEFINE_float("weight_decay", 1e-6, "Weight decay of kernels.", 0)
flags.DEFINE_float(
    "warmup_epochs",
    None,
    "Epochs of linear warm-up. Default: a tenth of all epochs, at most 10.",
    0,
)

flags.DEFINE_float(
    "min_area", 0.08, "Smallest fraction of an image's area that a crop takes.", 0, 1
)
flags.DEFINE_float("flip", 0.5, "Probability of a horizontal flip.", 0, 1)
flags.DEFINE_float("jitter", 0.8, "Probability of color jitter.", 0, 1)
flags.DEFINE_float("brightness", 0.4, "Strength of the color jitter's brightness change.", 0)
flags.DEFINE_float("contrast", 0.4, "Strength of the color jitter's contrast change.", 0)
flags.DEFINE_float("saturation", 0.2, "Strength of the color jitter's saturation change.", 0)
flags.DEFINE_float("hue", 0.1, "Strength of the color jitter's hue shift.", 0, 0.5)
flags.DEFINE_float("grayscale", 0.2, "Probability of converting a view to grayscale.", 0, 1)
flags.DEFINE_float("blur_a", 1.0, "Probability of blurring view A.", 0, 1)
flags.DEFINE_float("blur_b", 0.1, "Probability of blurring view B.", 0, 1)
flags.DEFINE_float(
    "blur_sigma", 2.0, "Largest standard deviation of the blur in pixels; the smallest is 0.1.", 0.1
)
flags.DEFINE_float("solarize_a", 0.0, "Probability of solarizing view A.", 0, 1)
flags.DEFINE_float("solarize_b", 0.2, "Probability of solarizing view B.", 0, 1)
flags.DEFINE_float("rotation", 0.0, "Largest rotation angle in degrees (not in the paper).", 0)
flags.DEFINE_float("shear", 0.0, "Largest shear angle in degrees (not in the paper).", 0, 89)

flags.DEFINE_enum(
    "augment_on",
    "host",
    ["host", "device"],
    "Where views are made: on the host, or on the training device, with the host only decoding and "
    "cropping.",
)
flags.DEFINE_bool(
    "compile_views",
    None,
    "Compile the views on the host with XLA. Default: for views of 64 × 64 pixels or more.",
)
flags.DEFINE_enum(
    "strategy",
    "auto",
    ["auto", "one", "mirrored", "multiworker", "tpu"],
    "Devices to train on: one, all of this machine (mirrored), those of every worker that "
    "TF_CONFIG or SLURM names (multiworker), a TPU, or what is available (auto).",
)
flags.DEFINE_enum(
    "precision",
    "float32",
    ["float32", "bfloat16", "float16"],
    "Data type that the network computes in; the weights stay in float32.",
)
flags.DEFINE_bool(
    "remat",
    False,
    "Recompute the backbone's activations in the backward pass instead of keeping them: more "
    "images fit into memory, but a step takes about a third longer.",
)
flags.DEFINE_enum(
    "on_nonfinite",
    "stop",
    ["stop", "skip"],
    "Response to a step whose loss or gradient is not finite: stop the run, or skip the step and "
    "count it.",
)
flags.DEFINE_integer(
    "seed", 0, "Seed for weight initialization, data order and views.", 0, 2**31 - 1
)
flags.DEFINE_bool(
    "deterministic",
    None,
    "Make runs with the same seed agree bit for bit. Default: on CPUs only, where the sole cost is "
    "that image files are decoded one at a time.",
)
flags.DEFINE_integer(
    "steps_per_execution",
    1,
    "Steps per compiled call; metrics are read only between calls.",
    lower_bound=1,
)
flags.DEFINE_integer("log_every", 10, "Steps between lines of metrics.jsonl.", lower_bound=1)
flags.DEFINE_integer("checkpoint_every", 1, "Epochs between checkpoints.", lower_bound=1)
flags.DEFINE_float("checkpoint_minutes", 5.0, "Minutes between checkpoints within an epoch.", 0)
flags.DEFINE_integer(
    "monitor_every",
    1,
    "Epochs between checks of the representation's health, and of its accuracy where there are "
    "labels; 0 for none.",
    lower_bound=0,
)
flags.DEFINE_integer(
    "monitor_images",
    5000,
    "Labeled training images for measuring accuracy during training; 0 for none.",
    lower_bound=0,
)
flags.DEFINE_bool("evaluate", True, "Measure the backbone's accuracy after training.")

# Flags that may change when a run continues: they affect where and how, not what is computed.
FREE = {"workdir", "data_dir", "strategy", "steps_per_execution", "log_every", "checkpoint_every"}
FREE |= {"deterministic", "evaluate", "monitor_every", "monitor_images"}
FREE |= {"checkpoint_minutes", "on_nonfinite", "remat"}


def main(pretraining_class=None):
    """Trains, evaluates and writes everything to the workdir.

    Args:
        pretraining_class: function that returns a subclass of
            `trainers.runs.pretraining.Pretraining` to use in its place. It is called only once
            TensorFlow may be imported.
    """
    started = time.time()
    # Imported only once the flags are known to be valid: TensorFlow takes seconds.
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
    """Returns the flags that determine the run, as JSON values.

    Raises:
        ValueError: if a flag is out of range.
    """
    module = FLAGS.find_module_defining_flag("redundancy_weight")  # its name depends on the caller
    names = {flag.name for flag in FLAGS.flags_by_module_dict()[module]} - FREE
    settings = {name: FLAGS[name].value for name in sorted(names)}
    if FLAGS.warmup_epochs is None:
        settings["warmup_epochs"] = min(10.0, FLAGS.epochs / 10)
    for name in ("redundancy_weight", "rate"):
        if not 0 < settings[name] < float("inf"):
            raise ValueError(f"--{name} must be a number > 0. Received: --{name}={settings[name]}")
    if not re.fullmatch(r"[1-9]\d*(-[1-9]\d*)*", FLAGS.projector):
        raise ValueError(
            "--projector must be layer widths such as 8192-8192-8192. "
            f"Received: --projector={FLAGS.projector}"
        )
    if settings["warmup_epochs"] >= FLAGS.epochs:
        raise ValueError(
            "--warmup_epochs must be less than --epochs. "
            f"Received: --warmup_epochs={FLAGS.warmup_epochs}, --epochs={FLAGS.epochs}"
        )
    return settings


def default_workdir():
    """Returns a folder in runs/ named after the data."""
    return "runs/" + re.sub(r"[^\w.-]+", "_", FLAGS.data).strip("_")


def default_recipe(arguments):
    """Returns the recipe for the digits; other data get the flags' defaults, sized for a laptop."""
    given = [a.split("=", 1)[1] for a in arguments if re.match("--?data=", a)]
    return "digits" if given in ([], ["digits"]) else None


if __name__ == "__main__":
    command.run(main, default_recipe)
