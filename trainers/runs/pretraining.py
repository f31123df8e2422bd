"""Pretraining runs, behind `trainers.pretrain` and for use from Python."""

import contextlib
import dataclasses
import functools
import math
import time

import keras
import numpy as np

from keras_bt import data, plots, workdir
from keras_bt.callbacks.training_progress import TrainingProgress
from keras_bt.checkpoint import Interruption, RunCheckpoint
from keras_bt.model import BarlowTwins, backend, projector
from keras_bt.objectives import BarlowTwinsObjective
from keras_bt.optimizer import LARS
from keras_bt.schedule import warmup_cosine
from keras_bt.strategy import (
    choose_strategy,
    describe,
    distribute_batches,
    has_bfloat16,
    lost_workers_reported,
    one_device,
    sum_over_workers,
    worker_count,
    worker_number,
)
from trainers.runs import (
    backbones,
    memory,
    monitors,
    objectives,
    opening,
    pretraining_report,
    recipe_views,
    running,
    skipped_images,
)

# Largest number of view pairs examined before, during and after training, out of one batch. In 8192
# dimensions the singular values for the monitors then take about a second.
FIRST_PAIRS = 512
# What the terminal shows of an epoch, the most important first; all is in metrics.jsonl.
FIGURES = {
    **{"loss": "loss", "excess": "excess", "knn_accuracy": "kNN", "linear_accuracy": "linear"},
    **{"feature_rankme": "RankMe", "diagonal_mean": "diagonal", "off_diagonal_rms": "off-diagonal"},
}
CAUSES = (
    "Most likely the rate is too high (--rate) or the warm-up too short (--warmup_epochs); with "
    "float16, try bfloat16."
)


def schedule(settings, steps, warmup_steps):
    """Returns the published schedule, at the settings' rate; arguments as in `lars`."""
    return warmup_cosine(settings.rate * settings.batch_size / 256, steps, warmup_steps)


def lars(settings, steps, warmup_steps):
    """Returns the published optimizer and schedule, at the settings' rates.

    Args:
        settings: `PretrainingSettings`.
        steps: steps of the whole run.
        warmup_steps: those of the warm-up.
    """
    rate = schedule(settings, steps, warmup_steps)
    return LARS(rate, settings.bias_rate_ratio, settings.weight_decay)


def pretrain(settings, objective=None, projector=projector, optimizer=lars):
    """Trains, evaluates and writes everything to the folder `settings.workdir`.

    What `python -m trainers.pretrain` does. The same call continues an interrupted run; a finished
    one is left as it is.

    Args:
        settings: `PretrainingSettings`.
        objective: as in `Pretraining`.
        projector: as in `Pretraining`.
        optimizer: as in `Pretraining`.

    Returns:
        `keras_bt.workdir.Workdir`, which knows where everything is.

    Raises:
        ValueError: if settings, data and folder do not go together, or the loss is not finite.
        OSError: if something cannot be read or written.
    """
    started = time.monotonic()
    run = workdir.Workdir(settings.workdir, objectives.UNRECORDED)
    s = _with_recorded_precision(settings, run)
    identity = s.identity()
    if objective is not None and s.objective != "barlow_twins":
        raise ValueError(
            "An objective is given by the settings or as an argument. "
            f"Received: objective={s.objective!r} in the settings, and {objective!r}."
        )
    if type(objective) not in (type(None), BarlowTwinsObjective):
        identity["objective"] = {"name": type(objective).__name__, **objective.get_config()}
    run.check(identity)
    if running.is_finished(run, identity, lambda: images_of(opening.open_data(s.data, s)[0])):
        return run
    running.make_deterministic(s.deterministic, s.strategy)
    with contextlib.ExitStack() as held:
        held.enter_context(running.interruptions_explained(run))
        strategy = choose_strategy(s.strategy)
        held.enter_context(lost_workers_reported(strategy))
        if s.precision == "auto":
            s = dataclasses.replace(s, precision=best_precision(strategy))
            identity["precision"] = s.precision
        train, test = opening.open_data(s.data, s)
        held.callback(keras.config.set_dtype_policy, keras.config.dtype_policy())
        keras.config.set_dtype_policy(s.policy)
        images = images_of(train)
        run.check(identity, images)
        job = Pretraining(s, train, test, strategy, run, objective, projector, optimizer)
        job.check_images(images)
        if job.leads:
            running.note_unrecorded_images(run)
            held.enter_context(run.claimed(identity, images))
        steps = job.restore()
        print(job.description())

        with skipped_images.noted(run.path, *job.sources, worker=worker_number(strategy)):
            watching = monitors.monitors(job)
            job.fit(steps, watching)
        job.wait_for_the_others()
        if job.leads:
            # What is built from here on is this worker's own: on JAX all of them place a shared
            # variable together.
            with one_device().scope(), skipped_images.noted(run.path, *job.sources):
                print(pretraining_report.finish(job, started))
        job.wait_for_the_others()
    return run


def _with_recorded_precision(settings, run):
    """Returns the settings, with the precision that the run has so far where they leave it open."""
    if settings.precision != "auto" or not run.config.exists():
        return settings
    recorded = run.read_settings().get("precision", settings.precision)
    return dataclasses.replace(settings, precision=recorded)


def best_precision(strategy):
    """Returns "bfloat16" if the devices of all workers multiply in it, otherwise "float32"."""
    workers = sum_over_workers(strategy, int(has_bfloat16(strategy)))
    return "bfloat16" if workers == worker_count(strategy) else "float32"


def images_of(train):
    """Returns what identifies the images of a run, see `Workdir.check`."""
    return running.images(training=train)


class Pretraining:
    """A pretraining run: model, data and training.

    Args:
        settings: `PretrainingSettings`.
        train: `keras_bt.data.Source` to train on.
        test: labeled source to measure on, or None.
        strategy: what `choose_strategy` returned.
        run: `keras_bt.workdir.Workdir`.
        objective: `keras_bt.objectives.Objective`; if None the one that the settings name.
        projector: function of the layers' widths and the length of the features that builds the
            projector.
        optimizer: function that builds the optimizer, called like `lars`. Like the projector, it is
            not recorded: a run must go on with the same.

    Raises:
        ValueError: if settings and data do not go together.
    """

    def __init__(
        self,
        settings,
        train,
        test,
        strategy,
        run,
        objective=None,
        projector=projector,
        optimizer=lars,
    ):
        self.settings = settings
        self.train, self.test = train, test
        self.sources = [source for source in (train, test) if source is not None]
        self.strategy = strategy
        self.leads = worker_number(strategy) == 0  # of several workers, only one writes and prints
        self.run = run
        self.objective = objective or objectives.make(settings)
        self.projector, self.optimizer = projector, optimizer
        batch_size, replicas = settings.batch_size, strategy.num_replicas_in_sync
        if batch_size % replicas:
            raise ValueError(
                "batch_size must divide evenly across replicas. "
                f"Received: batch_size={batch_size}, replicas={replicas}."
            )
        self.views = recipe_views.make(settings, train)
        self.augment_on = recipe_views.place(settings.augment_on)
        self.mean, self.std = data.normalization(settings.normalize, train.channels)
        if test is not None and test.channels != train.channels:
            raise ValueError(
                "Images to train on and to measure on must have equally many channels. "
                f"Received: {train.channels} and {test.channels}."
            )
        data.check_pretraining(train, batch_size)  # before anything is made
        count = 2 if self.objective.mixing_seed is None else 3
        memory.check(settings, train.channels, worker_count(strategy), count)
        self.steps_per_epoch = train.num_examples // batch_size
        self.model = self.build(strategy)

    def build(self, strategy):
        """Builds the compiled model at the start of training, the same on every call."""
        s = self.settings
        keras.utils.set_random_seed(s.seed)
        with strategy.scope():
            backbone = backbones.build(
                s.backbone, s.stem, s.width, s.image_size, self.train.channels, s.normalize
            )
            features = backbone.output_shape[-1] if len(backbone.output_shape) == 2 else 1
            model = BarlowTwins(
                backbone,
                self.projector(s.widths, features),
                objective=self.objective,
                views=[v.rest for v in self.views] if self.augment_on == "device" else None,
                on_nonfinite=s.on_nonfinite,
                remat=s.remat,
            )
            steps = s.epochs * self.steps_per_epoch
            warmup_steps = round(s.warmup_epochs * self.steps_per_epoch)
            model.compile(self.optimizer(s, steps, warmup_steps))
        return model

    def batches(self, first_step, shard_index=0, num_shards=1):
        """Returns the run's batches from a step on: view pairs, or crops for the device."""
        s = self.settings
        return data.pretraining_views(
            self.train,
            *self.views,
            s.batch_size,
            s.seed,
            first_step,
            shard_index=shard_index,
            num_shards=num_shards,
            augment_on=self.augment_on,
            compile_views=s.compile_views,
        )

    @functools.cached_property
    def all_batches(self):
        """`batches` from the first step on, opened once: to trace the views takes seconds."""
        return self.batches(first_step=0)

    @functools.cached_property
    def first_views(self):
        """The first view pairs of the first step, (view_a, view_b) as NumPy arrays.

        Augmentation on the device uses the first replica's seed. Made once, as XLA may take seconds
        to compile the views.
        """
        batch = next(iter(self.all_batches))
        pairs = keras.tree.map_structure(lambda x: x[:FIRST_PAIRS], batch)
        return tuple(map(np.array, self.model.two_views(pairs)))

    def check_images(self, images):
        """Checks that all workers have opened the same images, as the first records its own."""
        number = int(images["training"]["fingerprint"][:12], 16)
        workers = worker_count(self.strategy)
        if sum_over_workers(self.strategy, number) != number * workers:
            raise ValueError(
                "All workers must train on the same images. "
                f"Received: {self.settings.data}, which differs on some worker; this one found "
                f"{self.train.num_examples:,} images."
            )

    def restore(self):
        """Restores the newest checkpoint and returns the number of steps done.

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
                every=self.settings.checkpoint_every,
                minutes=self.settings.checkpoint_minutes,
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
        d, n = self.model.embedding_dim, s.batch_size
        floor = float(self.model.objective.floor(n, d))
        bound = f"; the loss cannot fall below {floor:.4g}" if floor else ""
        parameters = sum(math.prod(v.shape) for v in self.model.backbone.trainable_variables)
        return (
            f"Data: {s.data}, {self.train.num_examples:,} images to train on\n"
            f"{opening.remarks(*self.sources, image_size=s.image_size)}"
            f"Backbone: {self.model.backbone.name}, {parameters / 1e6:.2f} million parameters; "
            f"projector {s.projector}\n"
            f"Training: {self.objective.title}, {s.epochs} epochs of "
            f"{self.steps_per_epoch} steps, batch "
            f"size {n}, on {describe(self.strategy)} in {s.precision}{bound}\n"
            f"Everything is written to {self.run.path}"
        )

    def wait_for_the_others(self):
        """Waits until every worker gets here: one that leaves early looks as if it had failed."""
        sum_over_workers(self.strategy, 0)

    def fit(self, steps, monitors=()):
        """Trains to the last epoch.

        Args:
            steps: int, steps already done.
            monitors: Keras callbacks that add what they measure to `logs`.
        """
        s, run = self.settings, self.run
        epoch, done = divmod(steps, self.steps_per_epoch)
        if steps and self.leads:
            within = f" and {done} of {self.steps_per_epoch} steps of the next" if done else ""
            print(f"Continuing after epoch {epoch}{within}, of {s.epochs} epochs")
        if epoch >= s.epochs:
            return
        if steps == 0 and self.leads:
            self.draw_views()
        # Keras always executes exactly this many steps at once, so they must divide what is left.
        at_once = backend.steps_per_execution(s.steps_per_execution, self.strategy)
        at_once = largest_divisor(math.gcd(self.steps_per_epoch, done), at_once)
        if at_once < s.steps_per_execution and self.leads:
            print(f"Steps per execution: {at_once} instead of {s.steps_per_execution}")
        self.model.compile(self.model.optimizer, steps_per_execution=at_once)
        with contextlib.ExitStack() as shown:
            progress = None
            if self.leads:
                progress = TrainingProgress(
                    FIGURES,
                    s.epochs,
                    self.steps_per_epoch,
                    steps,
                    s.batch_size,
                    running.advice_on_speed(s.width),
                )
                shown.callback(progress.close)
            callbacks = running.callbacks(
                run,
                self.checkpoint,
                s.log_every,
                steps,
                s.batch_size,
                running.pretraining_guards(self, CAUSES),
                progress,
                monitors,
            )
            with self.interruption.watched():
                if done:  # first the rest of the epoch
                    self._fit(steps, epoch, epoch + 1, self.steps_per_epoch - done, callbacks)
                    epoch += 1
                if epoch < s.epochs:
                    first_step = epoch * self.steps_per_epoch
                    self._fit(first_step, epoch, s.epochs, self.steps_per_epoch, callbacks)
        self.interruption.take_effect()

    def _fit(self, first_step, first_epoch, last_epoch, steps, callbacks):
        """Trains the epochs from `first_epoch` to `last_epoch`, of `steps` steps each."""

        def batches(*shard):
            all_on_one = first_step == 0 and self.strategy.num_replicas_in_sync == 1
            return self.all_batches if all_on_one else self.batches(first_step, *shard)

        self.model.fit(
            distribute_batches(self.strategy, batches, self.settings.batch_size),
            initial_epoch=first_epoch,
            epochs=last_epoch,
            steps_per_epoch=steps,
            shuffle=False,  # the batches are shuffled already
            # Made here, so that callbacks are told the number of epochs of the whole run.
            callbacks=keras.callbacks.CallbackList(
                callbacks,
                add_history=True,
                model=self.model,
                verbose=0,
                epochs=self.settings.epochs,
                steps=steps,
            ),
        )

    def draw_views(self):
        """Draws some view pairs, to inspect while training runs."""
        view_a, view_b = self.first_views
        path = self.run.plots / "views.png"
        plots.view_pairs(path, view_a, view_b, self.mean, self.std)
        print(f"What the model sees: {path}")


def largest_divisor(number, most):
    """Returns the largest divisor of `number` that is at most `most`."""
    return next(k for k in range(min(number, most), 0, -1) if number % k == 0)
