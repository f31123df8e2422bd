"""The fine-tuning run behind `trainers.finetune`."""

import json
import math
import pathlib

import keras
import tensorflow as tf

from keras_bt import data, workdir
from keras_bt.evaluation import finetune
from keras_bt.evaluation.report import percent
from keras_bt.progress import say
from trainers.runs import classifying, opening

EVALUATION_BATCH = 256
_FROM_SCRATCH = "_from_scratch"
# Settings that two runs must share to be compared: the same labels and the same work.
BUDGET = ("data", "labels", "seed", "epochs", "batch_size", "image_size", "resize", "min_area")
BUDGET += ("flip", "backbone_sha256", *opening.FIELDS)


class Finetuning(classifying.ClassifierRun):
    """A fine-tuning run: classifier, data, training and report."""

    def __init__(self, settings, subject, train, strategy, run):
        super().__init__(settings, subject, train, strategy, run)
        self.batch_size = self.even(min(settings.batch_size, train.num_examples), "batch_size")
        self.test_batch_size = self.even(
            min(EVALUATION_BATCH, self.test.num_examples), "The number of test images"
        )
        self.steps_per_epoch = math.ceil(train.num_examples / self.batch_size)
        data.check_labelled(train)  # before anything is made
        s = settings
        keras.utils.set_random_seed(s.seed)
        with self.strategy.scope():
            self.model = finetune.classifier(
                subject.backbone, len(train.class_names), s.from_scratch
            )
            rates = finetune.epoch_rates(s.schedule, s.head_rate, s.epochs)
            schedule = finetune.rate_schedule(rates, self.steps_per_epoch)
            finetune.compile_classifier(self.model, schedule, s.backbone_rate / s.head_rate)

    def even(self, count, name):
        """Rounds `count` down to a number, not 0, that divides evenly across replicas."""
        replicas = self.strategy.num_replicas_in_sync
        if count < replicas:
            raise ValueError(
                f"{name} must be at least the number of replicas. "
                f"Received: {count}, replicas={replicas}."
            )
        return count - count % replicas

    def description(self):
        """Describes the run before it starts, for the terminal."""
        s = self.settings
        replicas = self.strategy.num_replicas_in_sync
        kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
        devices = f"{replicas} replicas" if replicas > 1 else "one device"
        start = "random weights" if s.from_scratch else str(self.subject.file)
        rates = f"rate {s.head_rate:g}"
        if not s.from_scratch:
            rates = f"rates {s.backbone_rate:g} (backbone) and {s.head_rate:g} (head)"
        lines = [
            f"Data: {self.subject.data}, {self.train.num_examples:,} labeled images to train on "
            f"(--labels={s.labels}), {len(self.train.class_names):,} classes; measured on "
            f"{self.subject.where}",
            *opening.remarks(self.train, self.test).splitlines(),
            f"Network: {self.subject.backbone.name} and a linear head, from {start}",
            f"Training: {s.epochs} epochs of {self.steps_per_epoch} steps, batch size "
            f"{self.batch_size}, {rates}, {s.schedule} schedule, on {devices} ({kind})",
        ]
        if self.batch_size < s.batch_size:
            lines.append(
                f"The batch size is cut to {self.batch_size} images, from {s.batch_size}: "
                + (
                    "there are no more images."
                    if s.batch_size > self.train.num_examples
                    else "more would not divide evenly across replicas."
                )
            )
        return "\n".join([*lines, f"Everything is written to {self.run.path}"])

    def fit(self, first_epoch, progress):
        """Trains to the last epoch; measures every `measure_every` epochs and after the last."""
        s = self.settings
        self.model.fit(
            self.batches(first_epoch),
            initial_epoch=first_epoch,
            epochs=s.epochs,
            steps_per_epoch=self.steps_per_epoch,
            shuffle=False,  # the batches are shuffled already
            verbose=0,
            validation_data=self.test_batches(self.test_batch_size),
            # The data set does not know its length, and Keras would warn at its end.
            validation_steps=math.ceil(self.test.num_examples / self.test_batch_size),
            validation_freq=[*range(s.measure_every, s.epochs, s.measure_every), s.epochs],
            callbacks=self.callbacks(
                first_epoch,
                progress,
                "Most likely a rate is too high (--backbone_rate, --head_rate; --scratch_rate from "
                "scratch).",
                monitors=[WarnOfRates(math.log(max(2, len(self.train.class_names))), s)],
            ),
        )

    def finish(self, started, skipped):
        """Writes the classifier and the summary, and returns the closing message."""
        run = self.run
        # Without optimizer, loss and metrics, so that plain Keras can load it.
        plain = keras.Model(self.model.input, self.model.output, name=self.model.name)
        workdir.save_model(plain, run.path / "classifier.keras")
        epochs, accuracies = self.history()
        found = {
            "last": {"epoch": epochs[-1], "top1": accuracies["top1"], "top5": accuracies["top5"]},
            "best": {
                "top1": accuracies["best_top1"],
                "top5": accuracies["best_top5"],
                "epoch": epochs[accuracies["best_epoch"] - 1],
            },
        }
        summary = self.write_summary(found, started, skipped)
        return closing_message(run, summary, sibling_summary(run.path, summary["settings"]))


class WarnOfRates(keras.callbacks.Callback):
    """Warns after the first epoch if the loss is far above that of guessing.

    The rate that a head tolerates falls with the square of its features' size, which grows with the
    rates of pretraining, above all with that of biases and γ (docs/experiments.md).
    """

    def __init__(self, guessing, settings):
        super().__init__()
        self.guessing = guessing
        name = "scratch_rate" if settings.from_scratch else "head_rate"
        self.flag, self.rate = f"--{name}", settings.head_rate

    def on_epoch_end(self, epoch, logs=None):
        """Checks the first epoch's loss."""
        loss = logs["loss"]
        if epoch == 0 and loss > 10 * self.guessing:
            say(
                f"\nwarning: The loss is {loss:.0f}, but guessing gives {self.guessing:.1f}: "
                f"{self.flag}={self.rate:g} is too high for these features and may have ruined the "
                f"backbone. Try {self.flag}={self.rate / 100:g}, in another --workdir."
            )


def sibling_summary(path, settings):
    """Reads the summary of this run's counterpart: from scratch if it is pretrained, or vice versa.

    Returns None if there is no such run, it is not finished, or its budget differs.
    """
    name = path.absolute().name
    other = name.removesuffix(_FROM_SCRATCH) if settings["from_scratch"] else name + _FROM_SCRATCH
    file = pathlib.Path(path).absolute().with_name(other) / "summary.json"
    if other == name or not file.is_file():
        return None
    try:
        summary = json.loads(file.read_text())
        theirs = summary["settings"]
        comparable = all(theirs[key] == settings[key] for key in BUDGET)
        comparable &= theirs["from_scratch"] != settings["from_scratch"]
        return summary if comparable and summary["last"]["top1"] is not None else None
    except (ValueError, KeyError, TypeError):  # from another program or version
        return None


def closing_message(run, summary, other):
    """Returns the report that ends the run; `other` is the summary to compare with, or None."""
    from_scratch = summary["settings"]["from_scratch"]
    names = ["pretrained", "from scratch"]
    rows = {names[from_scratch]: summary}
    if other is not None:
        rows[names[not from_scratch]] = other
    best = summary["best"]
    lines = [
        "",
        f"Finished; this call took {summary['seconds_of_last_call']:.0f} s. Trained on "
        f"{summary['images']:,} labeled images ({summary['settings']['labels']} of the labels).",
        f"Accuracy in percent on {summary['measured_on']}, after the last epoch:",
        "",
        f"{'':24}{'top-1':>8}{'top-5':>8}",
        *(
            f"{name:24}{percent(rows[name]['last']['top1']):>8}"
            f"{percent(rows[name]['last']['top5']):>8}"
            for name in sorted(rows, key=names.index, reverse=True)
        ),
        "",
        f"Best over the epochs: top-1 {percent(best['top1'])} (epoch {best['epoch']}), top-5 "
        f"{percent(best['top5'])}. The best epoch is chosen on the images measured on, which "
        "flatters it; the last is not.",
    ]
    if other is not None:
        gain = rows["pretrained"]["last"]["top1"] - rows["from scratch"]["last"]["top1"]
        effect = "Pretraining gains" if gain >= 0 else "Pretraining hurts:"
        lines.append(f"{effect} {100 * gain:+.1f} points of top-1 here.")
    elif from_scratch:
        lines.append("The same command without --from_scratch shows what pretraining is worth.")
    else:
        lines.append("The same command with --from_scratch shows what pretraining is worth.")
    return "\n".join([*lines, f"The classifier is in {run.path / 'classifier.keras'}"])
