"""Fine-tunes a backbone with few labels: python -m trainers.finetune --backbone=RUN --labels=1%.

This is the paper's semi-supervised protocol: backbone and a new linear head are trained together on
1%, 10% or any other share of the labels. With --from_scratch the same network starts from random
weights, with the same labels and steps, to show what pretraining is worth. The same command
continues an interrupted run.
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
    "Labels to train with: a share such as 1%, or a number of images such as 600; the same number "
    "from each class. For tfds:imagenet2012, 1% and 10% are the official subsets.",
)
flags.DEFINE_bool("from_scratch", False, "Start from random weights, for comparison.")
flags.DEFINE_string("workdir", None, "Folder of the run. Default: finetune_… beside the backbone.")

flags.DEFINE_string(
    "schedule",
    "cosine",
    "Schedule of the learning rates, which change once per epoch: cosine (published code), or step "
    "(paper), × 0.2 after epochs 12 and 16 of 20.",
)
flags.DEFINE_float(
    "backbone_rate",
    None,
    "Initial learning rate of the backbone. Default: 0.005 with cosine, 0.002 with step.",
)
flags.DEFINE_float("head_rate", None, "Initial learning rate of the head. Default: 0.5.")
# The best of 0.02, 0.05, 0.1, 0.2 and 0.5 on held-out training images, both for 1% of Fashion-MNIST
# and for the digits (batch size 256, 20 epochs, a ResNet-18 of width 16).
flags.DEFINE_float(
    "scratch_rate", 0.5, "Initial learning rate of the whole network with --from_scratch."
)
flags.DEFINE_integer("epochs", 20, "Total number of training epochs.", lower_bound=1)
flags.DEFINE_integer(
    "batch_size",
    256,
    "Images per step, over all replicas together; capped at the number of training images.",
    1,
)
flags.DEFINE_integer(
    "measure_every",
    1,
    "Epochs between measurements on the test images, which take longer than training when labels "
    "are few; the last epoch is always measured.",
    lower_bound=1,
)


def main():
    """Fine-tunes, measures on the test images and writes everything to the workdir."""
    started = time.time()
    # Imported only once the flags are known to be valid: TensorFlow takes seconds.
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
    """Returns the initial learning rates (backbone, head); those not given are the published ones.

    Raises:
        ValueError: if a rate is out of range, or flags do not go together.
    """
    from keras_bt.evaluation.finetune import PUBLISHED_RATES, SCHEDULES

    if FLAGS.schedule not in SCHEDULES:
        raise ValueError(
            f"--schedule must be one of {', '.join(SCHEDULES)}. "
            f"Received: --schedule={FLAGS.schedule}"
        )
    given = {"backbone_rate": FLAGS.backbone_rate, "head_rate": FLAGS.head_rate}
    given = {name: rate for name, rate in given.items() if rate is not None}
    if FLAGS.from_scratch:
        if given:
            raise ValueError(
                "--from_scratch takes a single rate, --scratch_rate. "
                f"Received: {', '.join(f'--{name}={rate}' for name, rate in given.items())}"
            )
        backbone_rate = head_rate = FLAGS.scratch_rate
        rule, received = "--scratch_rate must be a number > 0", f"--scratch_rate={head_rate}"
    else:
        published = PUBLISHED_RATES[FLAGS.schedule]
        backbone_rate = given.get("backbone_rate", published[0])
        head_rate = given.get("head_rate", published[1])
        rule = "--head_rate must be a number > 0, and --backbone_rate one ≥ 0"
        received = f"--head_rate={head_rate}, --backbone_rate={backbone_rate}"
    if not (0 < head_rate < float("inf") and 0 <= backbone_rate < float("inf")):
        raise ValueError(f"{rule}. Received: {received}")
    return backbone_rate, head_rate


def read_settings(what, rates):
    """Returns the settings that determine the run, as JSON values."""
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
    """Returns the name of the run's folder, after the labels: finetune_1pct, say."""
    labels = re.sub(r"[^\w.-]+", "_", FLAGS.labels.replace("%", "pct"))
    return f"finetune_{labels}" + ("_from_scratch" if FLAGS.from_scratch else "")


if __name__ == "__main__":
    command.run(main)
