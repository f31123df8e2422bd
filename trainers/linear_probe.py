"""Measures a backbone with a linear probe: python -m trainers.linear_probe --backbone=RUN.

By default this is the paper's protocol: the backbone is frozen, and a linear classifier is trained
on its features of randomly cropped and flipped images for 100 epochs of SGD. The same command
continues an interrupted run.

With --fast it takes seconds instead of hours: features are extracted once, without augmentation,
kept on disk and classified by multinomial logistic regression, whose regularization is tuned on
part of the training images. Images with several labels (VOC07) get one linear support vector
machine per class instead, and the mean average precision is reported.
"""

import contextlib
import re
import sys
import time

from absl import flags

from trainers.cli import classifier_flags, command, subject

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(classifier_flags)  # so that --help lists them
flags.adopt_module_key_flags(subject)

flags.DEFINE_string(
    "labels",
    "100%",
    "Labels to train with: a share such as 10%, or a number of images such as 600; the same number "
    "from each class.",
)
flags.DEFINE_integer("epochs", 100, "Total number of training epochs.", lower_bound=1)
flags.DEFINE_integer("batch_size", 256, "Images per step, over all replicas together.", 1)
flags.DEFINE_float("rate", 0.3, "Initial learning rate, independent of the batch size.")
flags.DEFINE_float("weight_decay", 1e-6, "Weight decay of the classifier's kernel and bias.", 0)
flags.DEFINE_enum(
    "schedule",
    "cosine",
    ["cosine", "step"],
    "Schedule of the learning rate, which changes once per epoch.",
)
flags.DEFINE_list(
    "milestones", [], "Epochs after which --schedule=step lowers the learning rate: 7,14,21, say."
)
flags.DEFINE_float("decay", 0.1, "Factor on the learning rate at each of the --milestones.", 0, 1)

flags.DEFINE_bool(
    "fast", False, "Fit a logistic regression to features kept on disk instead of training by SGD."
)
flags.DEFINE_integer(
    "draws",
    1,
    "Random draws of the labels with --fast; their mean and standard deviation are reported.",
    1,
)
flags.DEFINE_bool("raw_pixels", False, "Measure raw pixels as well, with --fast.")

flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run. Default: linear_probe/ beside the backbone, or evaluation/ with --fast.",
)


def main():
    """Trains the classifier, measures it and writes everything to the workdir."""
    started = time.time()
    with command.mistakes, contextlib.ExitStack() as held:
        milestones = read_milestones()
        # Imported only once the flags are known to be valid: TensorFlow takes seconds.
        with command.quiet_start():
            from keras_bt import workdir
            from trainers.runs import fast_probe, linear_probing, running, skipped_images

        measured = subject.read()
        if FLAGS.fast:
            folder = FLAGS.workdir or measured.folder / "evaluation"
            settings = {name: FLAGS[name].value for name in ("labels", "draws", "seed")}
            print(measured)
            print(fast_probe.run(measured, settings, FLAGS.raw_pixels, folder, started))
            return
        settings = read_settings(measured, milestones)
        run = workdir.Workdir(FLAGS.workdir or measured.folder / default_name())
        run.check(settings)
        if running.is_finished(run):
            return
        running.make_deterministic(FLAGS.deterministic, FLAGS.strategy)
        job = linear_probing.LinearProbing(settings, measured, FLAGS.strategy, run, FLAGS.data_dir)
        held.enter_context(run.claimed(settings))
        first_epoch = job.restore()
        print(measured)
        print(job)
        with skipped_images.noted(run.path, *job.sources):
            with job.interruption.watched():
                job.fit(first_epoch, FLAGS.log_every, verbose=1 if sys.stdout.isatty() else 2)
            print(job.finish(started))


def read_milestones():
    """Returns the epochs of --milestones.

    Raises:
        ValueError: if they are not epochs, or flags do not go together.
    """
    for name in ("draws", "raw_pixels"):
        if FLAGS[name].value != FLAGS[name].default and not FLAGS.fast:
            raise ValueError(f"--{name} requires --fast. Received: --{name} without it.")
    if not 0 < FLAGS.rate < float("inf"):
        raise ValueError(f"--rate must be a number > 0. Received: --rate={FLAGS.rate}")
    given = ",".join(FLAGS.milestones)
    if (FLAGS.schedule == "step") != bool(given):
        raise ValueError(
            "--schedule=step and --milestones must be given together. "
            f"Received: --schedule={FLAGS.schedule}, --milestones={given}"
        )
    if not re.fullmatch(r"(\d+(,\d+)*)?", given):
        raise ValueError(f"--milestones must be epochs such as 7,14,21. Received: {given}")
    return [int(epoch) for epoch in FLAGS.milestones]


def read_settings(measured, milestones):
    """Returns the settings that determine the run, as JSON values.

    Raises:
        ValueError: if images have several labels.
    """
    if measured.train.multilabel:
        raise ValueError(
            "Images with several labels require --fast. "
            f"Received: --data={measured.data} without it."
        )
    names = ("labels", "epochs", "batch_size", "rate", "weight_decay", "schedule", "decay")
    names += ("min_area", "flip", "seed")
    return {
        **{name: FLAGS[name].value for name in names},
        "milestones": milestones,
        "backbone_sha256": measured.digest,
        "data": measured.data,
        "image_size": measured.image_size,
        "resize": measured.resize,
    }


def default_name():
    """Returns the name of the run's folder: linear_probe, plus the labels unless all are used."""
    labels = re.sub(r"[^\w.-]+", "_", FLAGS.labels.replace("%", "pct"))
    return "linear_probe" if FLAGS.labels == "100%" else f"linear_probe_{labels}"


if __name__ == "__main__":
    command.run(main)
