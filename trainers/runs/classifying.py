"""What runs that train a classifier have in common."""

import contextlib
import math
import re
import time

import keras

from keras_bt import augmentations, data, workdir
from keras_bt.callbacks.metrics_log import read_metrics
from keras_bt.callbacks.training_progress import TrainingProgress
from keras_bt.checkpoint import Interruption, RunCheckpoint
from keras_bt.evaluation import linear_protocol
from keras_bt.strategy import choose_strategy
from trainers.runs import measuring, run_page, running, skipped_images, subject
from trainers.runs.labelled import labelled_part

# What the terminal shows of an epoch, the most important first; all is in metrics.jsonl.
FIGURES = {"loss": "loss", "top1": "top-1", "val_top1": "test top-1", "val_top5": "test top-5"}
FIGURES |= {"val_loss": "test loss"}


def training_view(image_size, min_area, flip, mean=data.IMAGENET_MEAN, std=data.IMAGENET_STD):
    """Returns the view that classifiers train on: a random crop, resized bilinearly, and a flip."""
    aspect = augmentations.aspect_of_views((3 / 4, 4 / 3), image_size)
    return augmentations.View(
        [
            augmentations.RandomResizedCrop(
                image_size, (min_area, 1.0), aspect, interpolation="bilinear"
            ),
            augmentations.RandomFlip(flip),
            augmentations.Normalize(mean, std),
        ]
    )


def classify(kind, settings):
    """Trains a classifier, measures it and writes everything to the workdir.

    `kind` is a subclass of `ClassifierRun`.
    """
    started = time.monotonic()
    what = subject.read(settings)
    if what.train.multilabel:
        raise ValueError(
            "Training a classifier requires images with one label each; for several, there is "
            f"trainers.linear_probe --fast. Received: {what.data}."
        )
    images = {"training": what.train, "test": what.test}
    carry_out(kind, settings, what, labelled_part(what, settings), images, started)


def carry_out(kind, settings, what, train, sources, started):
    """Trains, measures and writes everything to the workdir, unless that is done already.

    Args:
        kind: subclass of `ClassifierRun`.
        settings: its settings.
        what: `trainers.runs.subject.Subject`.
        train: what is trained on, for `kind`.
        sources: dict, what the run must find again when it goes on, see `running.images`.
        started: `time.monotonic()` when the command began.
    """
    given, settings = settings, kind.settled(settings, what, train)
    identity = settings.identity() | what.identity()
    run = workdir.Workdir(settings.workdir or what.folder / folder_for(kind, what, settings))
    run.check(identity)
    images = running.images(**sources)
    run.check(identity, images)
    if running.is_finished(run, identity, lambda: images):
        return
    running.make_deterministic(settings.deterministic, settings.strategy)
    strategy = settings.strategy
    if strategy == "auto" and keras.backend.backend() == "jax":
        strategy = "one"  # several would have to divide the short last batch, too
    strategy = choose_strategy(strategy, one_process=True)
    job = kind(settings, what, train, strategy, run)
    job.given = given
    running.note_unrecorded_images(run)
    with running.interruptions_explained(run), run.claimed(identity, images):
        first_epoch = job.restore()
        print(job.description())
        if first_epoch:
            print(f"Continuing after epoch {first_epoch} of {settings.epochs}")
        with skipped_images.noted(run.path, *job.sources):
            if first_epoch < settings.epochs:
                progress = job.progress(first_epoch)
                with contextlib.closing(progress), job.interruption.watched():
                    job.fit(first_epoch, progress)
                job.interruption.take_effect()
            report = job.finish(started)
            page = run_page.of_classifier(job, report)
            skipped = skipped_images.write(run.path, *job.sources)
            print("\n".join([report, page, *skipped_images.closing_lines(run.path, skipped)]))


def folder_for(kind, what, settings):
    """Returns the name of a run's folder beside the backbone: finetune_1pct_seed=1, say.

    It tells the share or number of labels, and what of the data, its preparation and the seed is
    not the default, so that each has a folder of its own.
    """
    every = settings.labels == kind.labels_without_name
    labels = "" if every else "_" + re.sub(r"[^\w.-]+", "_", settings.labels.replace("%", "pct"))
    suffix = measuring.suffix(measuring.differences(what, settings, ("seed",)))
    return kind.name + labels + suffix + kind.ending(settings)


class ClassifierRun:
    """Base of runs that train a classifier; subclasses add the model, `fit` and `finish`.

    Attributes:
        name: beginning of the folder's name.
        labels_without_name: `--labels` that the folder's name does not tell.
        given: the settings before `settled`.
        batch_size: images per step.
        figures: what the terminal shows of an epoch.
    """

    name: str
    figures = FIGURES
    labels_without_name: str | None = None

    @staticmethod
    def ending(settings):
        """Returns the end of the folder's name."""
        return ""

    @staticmethod
    def settled(settings, subject, train):
        """Returns the settings, those filled in that depend on the run or the training images."""
        return settings

    def __init__(self, settings, subject, train, strategy, run):
        self.settings, self.subject, self.run = settings, subject, run
        self.train, self.test = train, subject.test
        self.sources = [self.train, self.test]
        self.strategy = strategy

    def batches(self, first_epoch):
        """Returns the run's training batches from an epoch on."""
        s = self.settings
        view = training_view(
            self.subject.image_size, s.min_area, s.flip, *self.subject.normalization
        )
        return data.labelled_views(self.train, view, self.batch_size, s.seed, first_epoch)

    def test_batches(self, batch_size):
        """Returns the batches of the test images."""
        return data.evaluation_batches(
            self.test,
            self.subject.image_size,
            batch_size,
            self.subject.resize,
            *self.subject.normalization,
        )

    def restore(self):
        """Restores the newest checkpoint and returns the number of finished epochs."""
        self.interruption = Interruption()
        with self.strategy.scope():
            self.checkpoint = RunCheckpoint(
                self.run.checkpoints,
                self.model,
                self.steps_per_epoch,
                interruption=self.interruption,
            )
        return self.checkpoint.restore() // self.steps_per_epoch

    def progress(self, first_epoch):
        """Returns the callback that shows how far the run is."""
        first_step = first_epoch * self.steps_per_epoch
        return TrainingProgress(
            self.figures, self.settings.epochs, self.steps_per_epoch, first_step, self.batch_size
        )

    def callbacks(self, first_epoch, progress, advice, monitors=()):
        """Returns the callbacks for `fit`, see `trainers.runs.running.callbacks`."""
        return running.callbacks(
            self.run,
            self.checkpoint,
            self.settings.log_every,
            first_epoch * self.steps_per_epoch,
            self.batch_size,
            [running.StopOnNonFinite(advice, self.run.checkpoints)],
            progress,
            monitors,
        )

    def history(self):
        """Returns a summary of the measured epochs, see `linear_protocol.summarize`.

        Measures the last epoch again if its line of metrics.jsonl is gone.
        """
        lines = read_metrics(self.run.metrics) if self.run.metrics.exists() else []
        measured = [line for line in lines if "val_top1" in line]
        s = self.settings
        if not measured or measured[-1]["epoch"] != s.epochs:
            print(f"{self.run.metrics} lacks the last epoch, which is measured again.")
            measured.append({"epoch": s.epochs, **self.measure()})
        first = measured[0]["epoch"]
        if first > min(s.epochs, getattr(s, "measure_every", 1)):
            print(f"The best epoch is sought among those that are known, from {first} on.")
        names = [name for name in ("val_top1", "val_top5") if name in measured[-1]]
        accuracies = {name: [line[name] for line in measured] for name in names}
        found = linear_protocol.summarize(accuracies)
        return found | {"best_epoch": measured[found["best_epoch"] - 1]["epoch"]}

    def measure(self):
        """Measures the classifier on the test images as `fit` does after an epoch."""
        batches = self.test_batches(self.test_batch_size)
        steps = math.ceil(self.test.num_examples / self.test_batch_size)
        found = self.model.evaluate(batches, steps=steps, verbose=0, return_dict=True)
        return {f"val_{name}": value for name, value in found.items()}

    def differences(self):
        """Returns all in which the run differs from the one that the command makes by default."""
        names = self.given.identity().keys() - self.subject.identity().keys() - {"from_scratch"}
        return measuring.differences(self.subject, self.given, sorted(names))

    def skipped(self):
        """Returns the names of the images that could not be read, sorted; the list has them all."""
        lines = skipped_images.write(self.run.path, *self.sources)
        return sorted(line.split("\t")[1] for line in lines)

    def about(self):
        """Returns for the summary which images and backbone it is about."""
        return {
            "measured_on": self.subject.where,
            "test_images": self.test.num_examples,
            "images": self.train.num_examples,
            "classes": len(self.train.class_names),
            "backbone": str(self.subject.file),
        }

    def write_summary(self, found, started):
        """Writes what was found, and what about; returns both as a dict."""
        summary = {
            **found,
            **self.about(),
            "settings": self.settings.identity() | self.subject.identity(),
            "differs_in": self.differences(),
            "seconds_of_last_call": round(time.monotonic() - started, 1),
            "skipped_images": self.skipped(),
        }
        self.run.write_summary(summary)
        return summary
