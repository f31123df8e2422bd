"""Fine-tunes a backbone with few labels: python -m trainers.finetune --backbone=RUN --labels=1%.

The semi-supervised protocol of the paper: backbone and a new linear head are trained together on
1%, 10% or any other part of the labels. With --from_scratch the same network starts from random
weights, with the same labels and steps, so that one sees what pretraining is worth. Run again with
the same flags, it continues where it stopped.
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
    "1%",
    "How many labels to train with: a share such as 1%, or a number of images such as 600; as many "
    "of each class. Of tfds:imagenet2012, 1% and 10% are the official subsets.",
)
flags.DEFINE_bool("from_scratch", False, "Whether to start from random weights, for comparison.")
flags.DEFINE_string("workdir", None, "Folder of the run. Default: finetune_… beside the backbone.")

flags.DEFINE_string(
    "schedule",
    "cosine",
    "Of the rates, per epoch: cosine (published code), or step (paper), × 0.2 after epochs 12 and "
    "16 of 20.",
)
flags.DEFINE_float(
    "backbone_rate",
    None,
    "First rate of the backbone. Default: 0.005 with cosine, 0.002 with step.",
)
flags.DEFINE_float("head_rate", None, "First rate of the head. Default: 0.5.")
# Of 0.02, 0.05, 0.1, 0.2 and 0.5 the best on held-out training images, for 1% of Fashion-MNIST and
# for the digits (batch 256, 20 epochs, a ResNet-18 of width 16).
flags.DEFINE_float("scratch_rate", 0.5, "First rate of everything with --from_scratch.")
flags.DEFINE_integer("epochs", 20, "Epochs in all.", lower_bound=1)
flags.DEFINE_integer(
    "batch_size", 256, "Images per step, on all replicas together; at most all there are.", 1
)
flags.DEFINE_integer(
    "measure_every",
    1,
    "Epochs between measurements on the test images, which with few labels take longer than the "
    "training. After the last epoch there always is one.",
    lower_bound=1,
)


def main():
    """Fine-tunes, measures after epochs and writes everything into the workdir."""
    started = time.time()
    # Imported when the flags are known to be right: TensorFlow takes seconds.
    with command.quiet_start():
        from keras_bt import workdir
        from keras_bt.strategy import choose_strategy
        from trainers.runs import finetuning, labelled, running, skipped_images

    with command.mistakes, contextlib.ExitStack() as held:
        rates = read_rates()
        what = subject.read()
        settings = read_settings(what, rates)
        run = workdir.Workdir(FLAGS.workdir or what.folder / default_name())
        run.check(settings)
        if running.is_finished(run):
            return
        running.make_deterministic(FLAGS.deterministic, FLAGS.strategy)
        strategy = choose_strategy(FLAGS.strategy, one_process=True)
        train = labelled.labelled_part(what, FLAGS.labels, FLAGS.seed, FLAGS.data_dir)
        job = finetuning.Finetuning(settings, what, train, strategy, run)
        held.enter_context(run.claimed(settings))
        first_epoch = job.restore()
        print(job.description())
        with skipped_images.noted(run.path, *job.sources):
            with job.interruption.watched():
                job.fit(
                    first_epoch,
                    FLAGS.log_every,
                    FLAGS.measure_every,
                    verbose=1 if sys.stdout.isatty() else 2,
                )
            print(job.finish(started))


def read_rates():
    """The first rates (backbone, head), those not given being the published ones."""
    from keras_bt.evaluation.finetune import PUBLISHED_RATES, SCHEDULES

    if FLAGS.schedule not in SCHEDULES:
        raise ValueError(
            f"schedule must be one of {', '.join(SCHEDULES)}. Received: --schedule={FLAGS.schedule}"
        )
    given = {"backbone_rate": FLAGS.backbone_rate, "head_rate": FLAGS.head_rate}
    given = {name: rate for name, rate in given.items() if rate is not None}
    if FLAGS.from_scratch:
        if given:
            raise ValueError(
                "--from_scratch has one rate, --scratch_rate. "
                f"Received: {', '.join(f'--{name}={rate}' for name, rate in given.items())}"
            )
        backbone_rate = head_rate = FLAGS.scratch_rate
        rule, received = "scratch_rate must be a number > 0", f"--scratch_rate={head_rate}"
    else:
        published = PUBLISHED_RATES[FLAGS.schedule]
        backbone_rate = given.get("backbone_rate", published[0])
        head_rate = given.get("head_rate", published[1])
        rule = "head_rate must be a number > 0, and backbone_rate one ≥ 0"
        received = f"--head_rate={head_rate}, --backbone_rate={backbone_rate}"
    if not (0 < head_rate < float("inf") and 0 <= backbone_rate < float("inf")):
        raise ValueError(f"{rule}. Received: {received}")
    return backbone_rate, head_rate


def read_settings(what, rates):
    """What determines the run, as JSON values."""
    names = ("labels", "from_scratch", "schedule", "epochs", "batch_size", "min_area", "flip")
    return {
        **{name: FLAGS[name].value for name in (*names, "seed")},
        "backbone_sha256": what.digest,
        "backbone_rate": rates[0],
        "head_rate": rates[1],
        "data": what.data,
        "image_size": what.image_size,
        "resize": what.resize,
    }


def default_name():
    """Name of the run's folder, after the labels: finetune_1pct, say."""
    labels = re.sub(r"[^\w.-]+", "_", FLAGS.labels.replace("%", "pct"))
    return f"finetune_{labels}" + ("_from_scratch" if FLAGS.from_scratch else "")


if __name__ == "__main__":
    command.run(main)
