"""The training of a Siamese network behind `trainers.siamese`."""

import dataclasses
import math
import pathlib
import re
import shlex
import time

import keras
import numpy as np

import keras_bt
from keras_bt import data, workdir
from keras_bt.evaluation import finetune, verification
from keras_bt.evaluation.features import feature_batches
from keras_bt.strategy import describe
from trainers.runs import backbones, classifying, opening
from trainers.runs import subject as subjects

FIGURES = {"loss": "loss", "distance_same": "same", "distance_different": "different"}
# Chosen on classes held out from training images: docs/verification.md.
RATE, FINE_TUNING_RATE = 1e-3, 3e-5
LEAST = {"steps": 1_000, "epochs": 5}
LEAST_PRETRAINED = {"steps": 200, "epochs": 1}
EVALUATION_BATCH = 256
_WARMUP = 0.1  # of all steps


def train(settings):
    """Trains a Siamese network, measures it and writes everything to the workdir."""
    started = time.monotonic()
    if settings.backbone is None:
        what = untrained(settings)
        parts = subjects.divided(settings, what.train, what.test)
        what = dataclasses.replace(what, test=parts.test.source, where=parts.where)
    else:
        settings = subjects.of_the_run(settings)
        what, parts = subjects.read_pairs(settings)
    sources = {"training": parts.train, "validation": parts.validation, "test": parts.test}
    classifying.carry_out(Siamese, settings, what, parts, sources, started)


def untrained(settings):
    """Returns the `Subject` of settings without a backbone: a ResNet, and the images as opened."""
    if settings.data is None:
        raise ValueError("--data is needed without --backbone.")
    image_size = settings.image_size or 32
    train, test = opening.open_data(settings.data, settings)
    reading = opening.reading(settings, {})
    network = backbones.build(
        settings.network,
        settings.stem,
        settings.width,
        image_size,
        train.channels,
        reading["normalize"],
    )
    name = re.sub(r"[^\w.-]+", "_", settings.data).strip("_")
    folder = pathlib.Path("runs") / f"{name}_pairs"
    return subjects.Subject(
        backbone=network,
        file=None,
        folder=folder,
        data=settings.data,
        train=train,
        test=test,
        where="",
        image_size=image_size,
        resize=settings.resize,
        cache=folder / "features",
        reading=reading,
        of_run={},
        views={},
    )


class Siamese(classifying.ClassifierRun):
    """A run that trains a Siamese network: model, pairs, training and report."""

    name = "siamese"
    figures = FIGURES
    labels_without_name = "100%"

    @staticmethod
    def ending(settings):
        """Returns the end of the folder's name."""
        return "_from_scratch" if settings.from_scratch else "_frozen" if settings.frozen else ""

    @staticmethod
    def settled(settings, subject, parts):
        """Chooses the rate and the number of epochs, unless they are given."""
        least = LEAST if settings.from_scratch else LEAST_PRETRAINED
        steps = steps_per_epoch(parts.train, settings.batch_size)
        rate = RATE if settings.from_scratch or settings.frozen else FINE_TUNING_RATE
        return dataclasses.replace(
            settings,
            rate=settings.rate or rate,
            epochs=settings.epochs or max(least["epochs"], math.ceil(least["steps"] / steps)),
        )

    def __init__(self, settings, subject, parts, strategy, run):
        super().__init__(settings, subject, parts.train.source, strategy, run)
        data.check_paired(parts.train.source, parts.train.pairs)  # before anything is made
        self.parts, self.batch_size = parts, 2 * settings.batch_size  # images
        every = (part.source for part in (parts.train, parts.validation, parts.test))
        self.sources = list({id(source): source for source in every}.values())
        if settings.batch_size % strategy.num_replicas_in_sync:
            raise ValueError(
                "--batch_size must divide evenly across replicas. Received: --batch_size="
                f"{settings.batch_size}, replicas={strategy.num_replicas_in_sync}"
            )
        self.steps_per_epoch = steps_per_epoch(parts.train, settings.batch_size)
        s, steps = settings, settings.epochs * self.steps_per_epoch
        keras.utils.set_random_seed(s.seed)
        with strategy.scope():
            network = embedding(subject.backbone, s.head, s.from_scratch, s.frozen)
            self.model = keras_bt.Siamese(network, margin=s.margin, form=s.form)
            rate = keras_bt.warmup_cosine(s.rate, steps, int(_WARMUP * steps))
            self.model.compile(keras.optimizers.Adam(rate))

    def batches(self, first_epoch):
        """Returns the run's training batches from an epoch on."""
        s = self.settings
        view = classifying.training_view(
            self.subject.image_size, s.min_area, s.flip, *self.subject.normalization
        )
        first_step = first_epoch * self.steps_per_epoch
        pairs = self.parts.train.pairs
        return data.paired_views(self.train, view, s.batch_size, s.seed, first_step, pairs)

    def description(self):
        """Describes the run before it starts, for the terminal."""
        s, pairs = self.settings, self.parts.train.pairs
        what = f"{self.train.num_examples:,} labeled images (--labels={s.labels})"
        if pairs is not None:
            what = f"{len(pairs):,} pairs of {self.train.num_examples:,} images"
        start = "random weights" if s.from_scratch else str(self.subject.file)
        head = f"a linear layer to {s.head}" if s.head else "no head"
        frozen = ", the backbone frozen" if s.frozen else ""
        remarks = opening.remarks(*self.sources).splitlines()
        remarks += [line for one in self.parts.remarks if (line := f"  {one}") not in remarks]
        return "\n".join(
            [
                f"Data: {self.subject.data}, {what} to train on; judged on {self.parts.where}",
                *remarks,
                f"Network: {self.subject.backbone.name} and {head}, from {start}{frozen}",
                f"Training: {s.epochs} epochs of {self.steps_per_epoch:,} steps, "
                f"{s.batch_size} pairs a step, peak rate {s.rate:g}, {s.form} loss, on "
                f"{describe(self.strategy)}",
                f"Everything is written to {self.run.path}",
            ]
        )

    def fit(self, first_epoch, progress):
        """Trains to the last epoch."""
        self.model.fit(
            self.batches(first_epoch),
            initial_epoch=first_epoch,
            epochs=self.settings.epochs,
            steps_per_epoch=self.steps_per_epoch,
            shuffle=False,  # the batches are shuffled already
            verbose=0,
            callbacks=self.callbacks(
                first_epoch, progress, "Most likely the rate is too high (--rate)."
            ),
        )

    def finish(self, started):
        """Writes the network and the summary, and returns the closing message."""
        run, s = self.run, self.settings
        of_validation, of_test = map(self.distances, (self.parts.validation, self.parts.test))
        threshold = verification.choose_threshold(*of_validation)
        judged = verification.verify(*of_test, threshold)
        # Without the optimizer.
        plain = keras_bt.Siamese(self.model.backbone, margin=s.margin, form=s.form)
        plain.calibrate(threshold)
        workdir.save_model(plain, run.path / "siamese.keras")
        workdir.save_model(plain.backbone, run.backbone)
        found = {
            "verification": dataclasses.asdict(judged),
            "validation_pairs": len(of_validation[1]),
            "test_pairs": len(of_test[1]),
            "steps": s.epochs * self.steps_per_epoch,
        }
        summary = self.write_summary(found, started)
        return closing_message(run, judged, summary)

    def distances(self, part):
        """Returns the distances of a part's pairs and whether each is the same, (n,) both.

        Pairs with an image that cannot be read are left out.
        """
        size = self.subject.image_size
        # One resizing for all parts, as in trainers.verify.
        resize = self.subject.resize or data.evaluation_resize(self.train, size)
        batches = data.evaluation_batches(
            part.source, size, EVALUATION_BATCH, resize, *self.subject.normalization, keys=True
        )
        embeddings, _, numbers = zip(
            *feature_batches(self.model.backbone, batches, keys=True), strict=True
        )
        pairs = part.pairs.among(np.concatenate(numbers))
        return verification.distances(np.concatenate(embeddings), pairs), pairs.same

    def about(self):
        """See `ClassifierRun.about`; the backbone's path holds from everywhere, for comparisons."""
        return {
            "measured_on": self.parts.where,
            "images": self.train.num_examples,
            "backbone": self.subject.file and str(self.subject.file.resolve()),
        }


def steps_per_epoch(part, batch_size):
    """Returns the number of steps of an epoch on a `PairedPart`, of so many pairs each."""
    count = part.num_examples if part.pairs is None else len(part.pairs)
    return data.pairs_per_epoch(count, batch_size) // batch_size


def embedding(backbone, width, from_scratch=False, frozen=False):
    """Builds the network from images to embeddings of length 1, of core layers, in float32.

    Args:
        backbone: `keras.Model` (b, h, w, c) → (b, features), which is copied.
        width: int, length of the embedding; 0 for the features themselves.
        from_scratch: bool, whether the copy is randomly initialized.
        frozen: bool, whether the copy is not trained.

    Returns:
        `keras.Model` (b, h, w, c) → (b, width).
    """
    copy = finetune.copy_of(backbone, from_scratch)
    for layer in copy._flatten_layers():  # one by one: setting the model's own may change nothing
        layer.trainable = not frozen
    images = keras.layers.Input(copy.input_shape[1:], name="images")
    z = copy(images)
    if width:
        z = keras.layers.Dense(width, name="embedding")(z)
    z = keras.layers.UnitNormalization(name="unit")(z)
    return keras.Model(images, z, name="siamese_embedding")


def closing_message(run, judged, summary):
    """Returns the report that ends the run."""
    return "\n".join(
        [
            "",
            f"Finished; this call took {summary['seconds_of_last_call']:.0f} s. Judged on "
            f"{summary['test_pairs']:,} pairs of {summary['measured_on']}:",
            "",
            f"  AUC {judged.auc:.4f}, equal error rate {100 * judged.eer:.1f}%",
            *(
                f"  {100 * rate:.1f}% true accepts at {100 * false:g}% false accepts"
                for false, rate in judged.true_accepts.items()
                if rate is not None
            ),
            f"  {100 * judged.accuracy:.1f}% right at the threshold {judged.threshold:.3f}, chosen "
            f"on {summary['validation_pairs']:,} validation pairs",
            "",
            f"  {run.path / 'siamese.keras'}    the network and its threshold, keras_bt.Siamese",
            f"  {run.backbone}    its embedding, for all commands that take --backbone",
            f"  {run.summary}    these results;  {run.metrics}  those of every step",
            f"Beside the backbone alone and raw pixels: python -m trainers.verify "
            f"--backbone={shlex.quote(str(run.path))}",
        ]
    )
