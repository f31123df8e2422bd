"""The fine-tuning run behind `trainers.finetune`."""

import dataclasses
import math
import pathlib
import shlex

import keras

from keras_bt import data, workdir
from keras_bt.evaluation import finetune
from keras_bt.evaluation.features import extract_features
from keras_bt.evaluation.report import percent
from keras_bt.messages import say
from keras_bt.strategy import on_accelerator
from trainers.runs import classifying, closing_words, opening

EVALUATION_BATCH = 256
MEASURED_FOR_RATE = 256  # images
RATES = {"backbone_rate", "head_rate", "scratch_rate"}
_FROM_SCRATCH = "_from_scratch"
# Settings that two runs must share to be compared: the same labels and the same work.
BUDGET = ("data", "labels", "seed", "epochs", "batch_size", "image_size", "resize", "min_area")
BUDGET += ("flip", "backbone_sha256", *opening.FIELDS)


class Finetuning(classifying.ClassifierRun):
    """A fine-tuning run: classifier, data, training and report."""

    name = "finetune"

    @staticmethod
    def ending(settings):
        """Returns the end of the folder's name, by which the counterpart is found."""
        return _FROM_SCRATCH if settings.from_scratch else ""

    @staticmethod
    def settled(settings, subject, train):
        """Chooses batch size, epochs, crops and the backbone's rate, unless they are given."""
        views = {"min_area": 0.08, "flip": 0.5} | subject.views
        for name in views:
            if getattr(settings, name) is not None:
                views[name] = getattr(settings, name)
        images = train.num_examples
        batch_size = settings.batch_size or finetune.batch_for(images)
        epochs = settings.epochs or finetune.epochs_for(images, min(batch_size, images))
        rate = settings.backbone_rate
        if rate is None:
            rate = finetune.backbone_rate_for(images, settings.schedule)
        return dataclasses.replace(
            settings, batch_size=batch_size, epochs=epochs, backbone_rate=rate, **views
        )

    def __init__(self, settings, subject, train, strategy, run):
        super().__init__(settings, subject, train, strategy, run)
        self.batch_size = self.even(min(settings.batch_size, train.num_examples), "batch_size")
        self.test_batch_size = self.even(
            min(EVALUATION_BATCH, self.test.num_examples), "The number of test images"
        )
        self.steps_per_epoch = math.ceil(train.num_examples / self.batch_size)
        data.check_labelled(train)  # before anything is made
        s = settings
        self.head_rate = s.head_rate or self.fitting_head_rate()
        keras.utils.set_random_seed(s.seed)
        with self.strategy.scope():
            self.model = finetune.classifier(
                subject.backbone, len(train.class_names), s.from_scratch
            )
            rates = finetune.epoch_rates(s.schedule, self.head_rate, s.epochs)
            schedule = finetune.rate_schedule(rates, self.steps_per_epoch)
            finetune.compile_classifier(self.model, schedule, s.backbone_rate / self.head_rate)

    def fitting_head_rate(self):
        """Chooses the head's rate by the features of some training images."""
        some = self.train.sample(MEASURED_FOR_RATE, self.settings.seed)
        batches = data.evaluation_batches(
            some,
            self.subject.image_size,
            EVALUATION_BATCH,
            self.subject.resize,
            *self.subject.normalization,
        )
        features, _ = extract_features(self.subject.backbone, batches)
        return finetune.head_rate_for(features, len(self.train.class_names))

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
        kind = "GPU" if on_accelerator() else "CPU"
        devices = f"{replicas} replicas" if replicas > 1 else "one device"
        start = "random weights" if s.from_scratch else str(self.subject.file)
        rates = f"rate {self.head_rate:g}"
        if not s.from_scratch:
            rates = f"rates {s.backbone_rate:g} (backbone) and {self.head_rate:g} (head)"
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
                monitors=[WarnOfRates(self)],
            ),
        )

    def finish(self, started):
        """Writes the classifier and the summary, and returns the closing message."""
        run = self.run
        # Without optimizer, loss and metrics, so that plain Keras can load it.
        plain = keras.Model(self.model.input, self.model.output, name=self.model.name)
        workdir.save_model(plain, run.path / "classifier.keras")
        accuracies = self.history()
        found = {
            "last": {
                "epoch": self.settings.epochs,
                "top1": accuracies["top1"],
                "top5": accuracies["top5"],
            },
            "best": {
                "top1": accuracies["best_top1"],
                "top5": accuracies["best_top5"],
                "epoch": accuracies["best_epoch"],
            },
        }
        found["rates"] = {"backbone": self.settings.backbone_rate, "head": self.head_rate}
        found["steps"] = self.settings.epochs * self.steps_per_epoch
        summary = self.write_summary(found, started)
        other = sibling_summary(run.path, summary["settings"])
        return closing_message(run, summary, other, counterpart(self))


class WarnOfRates(keras.callbacks.Callback):
    """Warns if the training loss says that the head's rate is too high, and prints what to try.

    The rate that a head tolerates falls with the square of its features' size, which grows with the
    rates of pretraining, above all with that of biases and γ (docs/experiments.md).
    """

    def __init__(self, job):
        super().__init__()
        self.job, self.losses, self.warned = job, [], False

    def on_epoch_end(self, epoch, logs=None):
        """Judges the epochs so far."""
        job, classes = self.job, len(self.job.train.class_names)
        self.losses.append(logs["loss"])
        finished = epoch + 1 == job.settings.epochs
        if self.warned or not finetune.rate_was_too_high(self.losses, classes, finished):
            return
        self.warned, far = True, self.losses[-1] > 10 * math.log(classes)
        name = "scratch_rate" if job.settings.from_scratch else "head_rate"
        ruined = "" if job.settings.from_scratch else " and may have ruined the backbone"
        say(
            f"\nwarning: The loss is {self.losses[-1]:.3g} after epoch {epoch + 1}, but guessing "
            f"gives {math.log(classes):.1f}: --{name}={job.head_rate:g} is too high{ruined}. Try\n"
            f"  {with_another_rate(job, name, 100 if far else 10)}"
        )


def with_another_rate(job, name, divisor):
    """Returns the command of the same run at a lower rate, in a folder of its own."""
    rate = float(f"{job.head_rate / divisor:.2g}")
    path = job.run.path
    if path.name.endswith(_FROM_SCRATCH):  # by this ending runs are compared
        folder = path.with_name(f"{path.name.removesuffix(_FROM_SCRATCH)}_{name}={rate:g}")
        folder = folder.with_name(folder.name + _FROM_SCRATCH)
    else:
        folder = path.with_name(f"{path.name}_{name}={rate:g}")
    return command(job.given, **{name: rate, "workdir": str(folder)})


def counterpart(job):
    """Returns the command of the run that this one is to be compared with."""
    folder = job.given.workdir
    if job.settings.from_scratch:
        changed = {"from_scratch": False}
        folder = folder and folder.removesuffix(_FROM_SCRATCH)
        if folder == job.given.workdir:  # of a name of its own: what pretrained lacks
            folder = folder and f"{folder}_pretrained"
    else:
        changed = {"from_scratch": True}
        folder = folder and folder + _FROM_SCRATCH
    return command(job.given, workdir=folder, **changed)


def command(settings, **changed):
    """Returns the command of a run with some settings changed, as it can be typed."""
    from_scratch = changed.get("from_scratch", settings.from_scratch)
    # Rates that the other start does not have are refused there.
    kept = {"scratch_rate"} if from_scratch else {"backbone_rate", "head_rate"}
    kept = kept if from_scratch == settings.from_scratch else set()
    flags = settings.as_flags(tuple(RATES - kept - changed.keys()), **changed)
    return shlex.join(["python", "-m", "trainers.finetune", *flags])


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
        summary = workdir.Workdir(file.parent).read_summary()
        theirs = summary["settings"]
        comparable = all(theirs[key] == settings[key] for key in BUDGET)
        comparable &= theirs["from_scratch"] != settings["from_scratch"]
        return summary if comparable and summary["last"]["top1"] is not None else None
    except (ValueError, KeyError, TypeError):  # from another program or version
        return None


def closing_message(run, summary, other, tip):
    """Returns the report that ends the run.

    `other` is the summary to compare with, or None, and `tip` the command that would make it.
    """
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
        accuracies = (rows[name]["last"]["top1"] for name in names)
        drawn = None if summary["settings"]["labels"] == "100%" else summary["images"]
        lines.append(closing_words.beside(*accuracies, names, summary["test_images"], drawn))
    else:
        lines.append(f"What pretraining is worth, this command shows:\n  {tip}")
    return "\n".join([*lines, f"The classifier is in {run.path / 'classifier.keras'}"])
