"""The pretraining run behind `trainers.pretrain`."""

import dataclasses
import functools
import math
import sys
import time

import keras
import numpy as np
import tensorflow as tf

from keras_bt import augmentations, data, plots, saved_model, workdir
from keras_bt.callbacks.metrics_log import read_metrics
from keras_bt.checkpoint import Interruption, RunCheckpoint
from keras_bt.evaluation import report
from keras_bt.evaluation.features import extract_features
from keras_bt.model import BarlowTwins, keras_fixes, projector
from keras_bt.objectives import cross_correlation, loss_floor
from keras_bt.optimizer import LARS
from keras_bt.schedule import warmup_cosine
from keras_bt.strategy import (
    describe,
    distribute_batches,
    is_chief,
    sum_over_workers,
    worker_count,
)
from trainers.runs import backbones, running, skipped_images
from trainers.runs.labelled import labelled_halves

EVALUATION_BATCH = 256
# Largest number of view pairs examined before, during and after training, out of one batch. In 8192
# dimensions the singular values for the monitors then take about a second.
FIRST_PAIRS = 512
CAUSES = (
    "Most likely the rate is too high (--rate) or the warm-up too short (--warmup_epochs); with "
    "float16, try bfloat16."
)


class Pretraining:
    """A pretraining run: model, data, training and report.

    Args:
        settings: dict, the flags of `trainers.pretrain` that determine the run.
        train: `keras_bt.data.Source` to train on.
        test: labeled source to measure on, or None.
        strategy: `tf.distribute.Strategy`.
        run: `keras_bt.workdir.Workdir`.
        on_nonfinite: as in `BarlowTwins`.
        remat: as in `BarlowTwins`.

    Raises:
        ValueError: if settings and data do not go together.
    """

    # Overridden in experiments: see trainers.ablations.
    model_class = BarlowTwins
    projector = staticmethod(projector)

    def __init__(self, settings, train, test, strategy, run, on_nonfinite="stop", remat=False):
        self.settings = settings
        self.on_nonfinite, self.remat = on_nonfinite, remat
        self.train, self.test = train, test
        self.sources = [source for source in (train, test) if source is not None]
        self.strategy = strategy
        self.leads = is_chief(strategy)  # of several workers, only one writes and prints
        self.run = run
        batch_size, replicas = settings["batch_size"], strategy.num_replicas_in_sync
        if batch_size % replicas:
            raise ValueError(
                "batch_size must divide evenly across replicas. "
                f"Received: batch_size={batch_size}, replicas={replicas}."
            )
        self.views = make_views(settings)
        self.batches(first_step=0)  # refuses a batch larger than the data, before anything is made
        self.steps_per_epoch = train.num_examples // batch_size
        self.model = self.build(strategy)

    def build(self, strategy):
        """Builds the compiled model at the start of training, the same on every call."""
        s = self.settings
        keras.utils.set_random_seed(s["seed"])
        with strategy.scope():
            backbone = backbones.build(s["backbone"], s["stem"], s["width"], s["image_size"])
            widths = [int(width) for width in s["projector"].split("-")]
            features = backbone.output_shape[-1] if len(backbone.output_shape) == 2 else 1
            rest = [v.rest for v in self.views] if s["augment_on"] == "device" else None
            model = self.model_class(
                backbone,
                self.projector(widths, features),
                s["redundancy_weight"],
                s["form"],
                rest,
                self.on_nonfinite,
                self.remat,
            )
            steps = s["epochs"] * self.steps_per_epoch
            warmup_steps = min(round(s["warmup_epochs"] * self.steps_per_epoch), steps - 1)
            rate = warmup_cosine(s["rate"] * s["batch_size"] / 256, steps, warmup_steps)
            optimizer = LARS(rate, s["bias_rate_ratio"], s["weight_decay"])
            model.compile(optimizer)
        return model

    def batches(self, first_step, shard_index=0, num_shards=1):
        """Returns the run's batches from a step on: view pairs, or crops for the device."""
        s = self.settings
        placement = {name: s[name] for name in ("augment_on", "compile_views")}
        return data.pretraining_views(
            self.train,
            *self.views,
            s["batch_size"],
            s["seed"],
            first_step,
            shard_index=shard_index,
            num_shards=num_shards,
            **placement,
        )

    @functools.cached_property
    def first_views(self):
        """The first view pairs of the first step, (view_a, view_b) as NumPy arrays.

        Augmentation on the device uses the first replica's seed. Made once, as opening the pipeline
        may take XLA seconds.
        """
        views = self.model.two_views(next(iter(self.batches(first_step=0))))
        return tuple(np.array(view[:FIRST_PAIRS]) for view in views)

    def restore(self, checkpoint_every=1, checkpoint_minutes=None):
        """Restores the newest checkpoint and returns the number of steps done.

        Args:
            checkpoint_every: int, epochs between checkpoints.
            checkpoint_minutes: float, minutes between checkpoints within an epoch, or None.

        Raises:
            ValueError: if the checkpoint is not of this model, or workers found different ones.
            OSError: if no checkpoint can be read.
        """
        several = worker_count(self.strategy) > 1
        self.interruption = Interruption()
        with self.strategy.scope():
            self.checkpoint = RunCheckpoint(
                self.run.checkpoints,
                self.model,
                self.steps_per_epoch,
                every=checkpoint_every,
                minutes=checkpoint_minutes,
                writes=self.leads,
                interruption=self.interruption,
                agree=functools.partial(sum_over_workers, self.strategy) if several else None,
            )
        steps = self.checkpoint.restore()
        if sum_over_workers(self.strategy, steps) != steps * worker_count(self.strategy):
            raise ValueError(
                "All workers must see the same workdir, on a file system that they share. "
                f"Received: {self.run.checkpoints} with different checkpoints, here step {steps}."
            )
        return steps

    def description(self):
        """Describes the run before it starts, for the terminal."""
        s = self.settings
        if not self.leads:
            return f"One of {describe(self.strategy)}; the first worker reports the rest"
        d, n = self.model.embedding_dim, s["batch_size"]
        parameters = sum(math.prod(v.shape) for v in self.model.backbone.trainable_variables)
        return (
            f"Data: {s['data']}, {self.train.num_examples:,} images to train on\n"
            f"Backbone: {self.model.backbone.name}, {parameters / 1e6:.2f} million parameters; "
            f"projector {s['projector']}\n"
            f"Training: {s['epochs']} epochs of {self.steps_per_epoch} steps, batch size {n}, on "
            f"{describe(self.strategy)} in {s['precision']}; the smallest possible loss is "
            f"{loss_floor(n, d, s['redundancy_weight']):.1f}\n"
            f"Everything is written to {self.run.path}"
        )

    def wait_for_the_others(self):
        """Waits until every worker gets here: one that leaves early looks as if it had failed."""
        sum_over_workers(self.strategy, 0)

    def fit(self, steps, log_every, steps_per_execution=1, monitors=()):
        """Trains to the last epoch.

        Args:
            steps: int, steps already done.
            log_every: int, steps between lines of metrics.jsonl.
            steps_per_execution: int, largest number of steps per compiled call.
            monitors: Keras callbacks that add what they measure to `logs`.
        """
        s, run = self.settings, self.run
        epoch, done = divmod(steps, self.steps_per_epoch)
        if steps and self.leads:
            within = f" and {done} of {self.steps_per_epoch} steps of the next" if done else ""
            print(f"Continuing after epoch {epoch}{within}, of {s['epochs']} epochs")
        if epoch >= s["epochs"]:
            return
        if steps == 0 and self.leads:
            self.draw_views()
        # Keras always executes exactly this many steps at once, so they must divide what is left.
        at_once = keras_fixes.steps_per_execution(steps_per_execution, self.strategy)
        at_once = largest_divisor(math.gcd(self.steps_per_epoch, done), at_once)
        if at_once < steps_per_execution and self.leads:
            print(f"Steps per execution: {at_once} instead of {steps_per_execution}")
        self.model.compile(self.model.optimizer, steps_per_execution=at_once)
        callbacks = running.callbacks(
            run,
            self.checkpoint,
            log_every,
            steps,
            s["batch_size"],
            CAUSES,
            monitors,
            writes=self.leads,
            guards=running.pretraining_guards(self, CAUSES),
        )
        batches = distribute_batches(
            self.strategy, functools.partial(self.batches, steps), s["batch_size"]
        )
        if done:  # first the rest of the epoch
            self._fit(batches, epoch, epoch + 1, self.steps_per_epoch - done, callbacks)
            epoch += 1
            batches = distribute_batches(
                self.strategy,
                functools.partial(self.batches, epoch * self.steps_per_epoch),
                s["batch_size"],
            )
        if epoch < s["epochs"]:
            self._fit(batches, epoch, s["epochs"], self.steps_per_epoch, callbacks)

    def _fit(self, batches, first_epoch, last_epoch, steps, callbacks):
        """Trains the epochs from `first_epoch` to `last_epoch`, of `steps` steps each."""
        verbose = (1 if sys.stdout.isatty() else 2) if self.leads else 0
        self.model.fit(
            batches,
            initial_epoch=first_epoch,
            epochs=last_epoch,
            steps_per_epoch=steps,
            shuffle=False,  # the batches are shuffled already
            # Made here, so that callbacks are told the number of epochs of the whole run.
            callbacks=keras.callbacks.CallbackList(
                callbacks,
                add_history=True,
                add_progbar=verbose > 0,
                model=self.model,
                verbose=verbose,
                epochs=self.settings["epochs"],
                steps=steps,
            ),
        )

    def finish(self, evaluate, started):
        """Writes backbone, plots, SavedModel and summary, and returns the closing message."""
        run = self.run
        # Measured is exactly what is exported: in float32, for one device.
        backbone = saved_model.plain_copy(self.model.backbone)
        workdir.save_model(backbone, run.backbone)
        metrics = metrics_of_steps(run)
        if any(math.isfinite(entry["loss"]) for entry in metrics):
            plots.loss_curve(run.plots / "loss.png", metrics)
        view_a, view_b = (view[:EVALUATION_BATCH] for view in self.first_views)
        untrained = self.build(tf.distribute.get_strategy())
        matrices = {
            name: np.asarray(cross_correlation(model.embed(view_a), model.embed(view_b)))
            for name, model in (("untrained", untrained), ("trained", self.model))
        }
        plots.correlation(run.plots / "correlation.png", matrices)
        accuracies, where = None, "not measured (--noevaluate)"
        if evaluate:
            accuracies, where = self.measure(untrained.backbone, backbone)

        skipped = skipped_images.write(run.path, *self.sources)
        seconds = time.time() - started
        final = {name: finite_or_none(metrics, name) for name in ("loss", "excess")}
        n, d = self.settings["batch_size"], self.model.embedding_dim
        floor = loss_floor(n, d, self.settings["redundancy_weight"])
        speeds = [m.get("images_per_second", math.nan) for m in metrics]
        speed = float(np.nanmedian(speeds)) if np.isfinite(speeds).any() else None
        rows = accuracies and {name: dataclasses.asdict(row) for name, row in accuracies.items()}
        summary = {
            **final,
            "floor": float(floor),
            "accuracies": rows,
            "measured_on": where,
            "images_per_second": speed,
            "seconds_of_last_call": round(seconds, 1),
            "skipped_images": sorted(line.split("\t")[1] for line in skipped),
        }
        self.export(backbone, summary)
        workdir.write_json(run.summary, summary)  # last: a run with a summary is finished
        message = closing_message(run, final, accuracies, where, seconds)
        return "\n".join([message, *skipped_images.closing_lines(run.path, skipped)])

    def export(self, backbone, summary):
        """Writes the SavedModel, unless an earlier call did before it was stopped."""
        if (self.run.saved_model / "1").exists():
            return
        image_size = self.settings["image_size"]
        saved_model.export_saved_model(
            backbone,
            self.run.saved_model,
            image_size,
            data.evaluation_resize(self.train, image_size),
            card=saved_model.run_card(self.settings, summary),
        )

    def measure(self, untrained, trained):
        """Measures the accuracies of raw pixels and both backbones, or says why it cannot."""
        train, test, where = labelled_halves(self.train, self.test, self.settings["seed"])
        if train is None:
            return None, where
        if train.multilabel:
            return None, "not measured: several labels per image (use trainers.linear_probe --fast)"
        image_size = self.settings["image_size"]
        backbones.switch_blocks_on(untrained)
        rows, mapped = {}, None
        for name, backbone in (
            ("raw pixels", None),
            ("untrained backbone", untrained),
            ("Barlow Twins", trained),
        ):
            started = time.time()
            print(f"Measuring {name} … ", end="", flush=True)
            parts = []
            for source in (train, test):
                if backbone is None:
                    parts += data.raw_pixels(source)
                else:
                    batches = data.evaluation_batches(source, image_size, EVALUATION_BATCH)
                    parts += extract_features(backbone, batches)
            rows[name] = report.measure(*parts, seed=self.settings["seed"])
            mapped = parts[2:]
            print(f"{time.time() - started:.0f} s")
        plots.feature_map(
            self.run.plots / "features.png", *mapped, train.class_names, seed=self.settings["seed"]
        )
        return rows, where

    def draw_views(self):
        """Draws some view pairs, to inspect while training runs."""
        view_a, view_b = self.first_views
        path = self.run.plots / "views.png"
        plots.view_pairs(path, view_a, view_b, data.IMAGENET_MEAN, data.IMAGENET_STD)
        print(f"What the model sees: {path}")


def metrics_of_steps(run):
    """Reads the lines of metrics.jsonl about training steps; none if the file has been removed.

    Lines that hold only what was measured at the end of an epoch are left out.
    """
    if not run.metrics.exists():
        return []
    return [entry for entry in read_metrics(run.metrics) if "loss" in entry]


def finite_or_none(metrics, name):
    """Returns the last value of a metric, or None if it is unknown or not finite."""
    value = metrics[-1].get(name, math.nan) if metrics else math.nan
    return value if math.isfinite(value) else None


def largest_divisor(number, most):
    """Returns the largest divisor of `number` that is at most `most`."""
    return next(k for k in range(min(number, most), 0, -1) if number % k == 0)


def make_views(settings):
    """Returns the two views with the settings' probabilities and strengths."""
    s = settings
    same = ("flip", "jitter", "brightness", "contrast", "saturation", "hue", "grayscale")
    same += ("rotation", "shear")
    return augmentations.barlow_twins_views(
        s["image_size"],
        area=(s["min_area"], 1.0),
        blur=(s["blur_a"], s["blur_b"]),
        blur_sigma=(0.1, s["blur_sigma"]),
        solarize=(s["solarize_a"], s["solarize_b"]),
        **{name: s[name] for name in same},
    )


def closing_message(run, final, accuracies, where, seconds):
    """Returns the report that ends the run.

    Args:
        run: `keras_bt.workdir.Workdir`.
        final: dict of the last `loss` and `excess`, None where unknown.
        accuracies: dict from names to `keras_bt.evaluation.report` rows, or None.
        where: string, what was measured on, or why nothing was.
        seconds: float, duration of this call.
    """
    lines = [
        "",
        f"Finished in {seconds:.0f} s. "
        + (
            f"The loss is not known: {run.metrics} does not hold it."
            if None in final.values()
            else f"Loss {final['loss']:.2f}, {final['excess']:.2f} above the smallest possible."
        ),
    ]
    if accuracies:
        ours, pixels = accuracies["Barlow Twins"], accuracies["raw pixels"]
        untrained = accuracies["untrained backbone"]
        lines += [f"Accuracy in percent on {where}:", "", report.table(accuracies), ""]
        if ours.few_labels is not None:
            gain = 100 * (ours.few_labels - pixels.few_labels)
            over_untrained = 100 * (ours.few_labels - untrained.few_labels)
            lines.append(
                f"With 5 labels per class the pretrained backbone classifies "
                f"{100 * ours.few_labels:.1f}% of the images correctly, {abs(gain):.1f} points "
                f"{'more' if gain >= 0 else 'less'} than raw pixels and "
                f"{abs(over_untrained):.1f} {'more' if over_untrained >= 0 else 'less'} than "
                "before training."
            )
            if gain <= 0 or over_untrained <= 0:
                lines.append("It has not learned much yet: train longer, or check the views.")
    else:
        lines.append(f"Accuracy: {where}.")
    pictures = ", ".join(sorted(path.stem for path in run.plots.glob("*.png")))
    lines += [
        "",
        f"  {run.backbone}    the backbone, for fine-tuning: keras.models.load_model",
        f"  {run.saved_model / '1'}    the backbone with its preprocessing, for serving",
        f"  {run.plots}/    plots: {pictures}",
        f"  {run.summary}    these results;  {run.metrics}  those of every step",
        f"  tensorboard --logdir={run.tensorboard}",
    ]
    return "\n".join(lines)
